/**
 * The Lease that fences two agents of one cluster (coordination.k8s.io/v1): taken, renewed, given up.
 *
 * - Duration 15 s, renewed every 5 s, given up 10 s after the last success by the monotonic clock: the
 *   holder stops before another may start. No wall clock of another host is compared; a foreign Lease
 *   is dead once it stood unchanged for its duration on our monotonic clock.
 * - The term grows with each holder: above the Lease's transitions and above every term that anything
 *   durable names, so that a deleted Lease or a restored cluster locks nobody out.
 */
import type { Clock, Timer } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { AgentSession } from "../kube/client.ts";
import { isKubeError, isNotFound } from "../kube/errors.ts";
import type { KubeObject } from "../kube/object.ts";
import { dig, wholeNumber } from "../kube/object.ts";

export const LEASE_DURATION_MS = 15_000;
export const RENEW_MS = 5_000;
export const GIVE_UP_MS = 10_000;

const apiVersion = "coordination.k8s.io/v1";
const kind = "Lease";

/** What the Lease needs. */
export interface LeaseDeps {
  session: AgentSession;
  namespace: string;
  name: string;
  /** Pod uid and instance id: no two processes ever share one. */
  holder: string;
  clock: Clock;
  log: Logger;
  /** The highest term that anything durable names (SyncState, inventories, a hub's refusal). */
  highestTerm(): Promise<number>;
}

/** A held term. */
export interface Held {
  term: number;
  /** Aborts when the Lease is lost or released: everything that writes must stop. */
  lost: AbortSignal;
  /** Stops renewing and lets the next one start at once. */
  release(): Promise<void>;
}

/** See the module's text. */
export class Lease {
  readonly #deps: LeaseDeps;
  #until = -Infinity;
  #term = 0;

  constructor(deps: LeaseDeps) {
    this.#deps = deps;
  }

  /** True while no other agent can hold it. */
  isHeld(): boolean {
    return this.#deps.clock.monotonicMs() < this.#until;
  }

  /** The term held, or the last one. */
  get term(): number {
    return this.#term;
  }

  /** Resolves once the Lease is ours; rejects when `signal` aborts. */
  async acquire(signal: AbortSignal): Promise<Held> {
    const { clock, log } = this.#deps;
    let seen: { version: string; at: number } | undefined;
    for (;;) {
      signal.throwIfAborted();
      try {
        const lease = await this.#read();
        const version = lease?.metadata.resourceVersion ?? "";
        if (seen?.version !== version) seen = { version, at: clock.monotonicMs() };
        const durationMs =
          (wholeNumber(dig(lease, "spec", "leaseDurationSeconds")) ?? 0) * 1000 || LEASE_DURATION_MS;
        const free = lease === undefined || holderOf(lease) === "" || holderOf(lease) === this.#deps.holder;
        if (free || clock.monotonicMs() - seen.at >= durationMs) return await this.#take(lease, signal);
      } catch (thrown) {
        if (signal.aborted) throw thrown;
        if (!isKubeError(thrown, 409))
          log.warn("lease could not be taken, it is tried again", { error: thrown });
      }
      await sleep(clock, RENEW_MS / 2, signal);
    }
  }

  async #read(): Promise<KubeObject | undefined> {
    try {
      return await this.#deps.session.get({
        apiVersion,
        kind,
        namespace: this.#deps.namespace,
        name: this.#deps.name,
      });
    } catch (thrown) {
      if (isNotFound(thrown)) return undefined;
      throw thrown;
    }
  }

  async #take(old: KubeObject | undefined, signal: AbortSignal): Promise<Held> {
    const { clock, log } = this.#deps;
    const transitions = wholeNumber(dig(old, "spec", "leaseTransitions")) ?? 0;
    const term = Math.max(transitions, await this.#deps.highestTerm()) + 1;
    const asked = clock.monotonicMs();
    let current = await this.#write(old, { term, taken: true });
    this.#term = term;
    this.#until = asked + GIVE_UP_MS;
    log.info("lease taken", { term });
    const controller = new AbortController();
    let timer: Timer;
    let released = false;
    const lose = (why: string) => {
      timer.cancel();
      this.#until = -Infinity;
      if (!controller.signal.aborted) controller.abort(new DOMException(why, "AbortError"));
    };
    const renew = async (): Promise<void> => {
      const started = clock.monotonicMs();
      try {
        current = await this.#renewed(current, term);
        if (released || controller.signal.aborted) return;
        this.#until = started + GIVE_UP_MS;
        timer = clock.setTimer(RENEW_MS, () => void renew());
      } catch (thrown) {
        if (released || controller.signal.aborted) return;
        if (thrown instanceof Taken) {
          log.error("lease was taken by another agent, this one stops writing", { holder: thrown.holder });
          return lose("The lease was taken by another agent");
        }
        log.warn("lease could not be renewed, it is tried again", { error: thrown });
        timer = clock.setTimer(1_000, () => void renew());
      }
    };
    // The deadline is watched apart from the calls: one that hangs must not keep the Lease.
    const watch = () => {
      if (controller.signal.aborted) return;
      const left = this.#until - clock.monotonicMs();
      if (left <= 0) {
        log.error("lease was not renewed in time, this agent stops writing", {});
        lose("The lease was not renewed in time");
      } else clock.setTimer(left, watch);
    };
    timer = clock.setTimer(RENEW_MS, () => void renew());
    watch();
    signal.addEventListener("abort", () => lose("The agent stops"), { once: true });
    return {
      term,
      lost: controller.signal,
      release: async () => {
        released = true;
        lose("The lease was released");
        await this.#write(current, { term, taken: false }).catch((error: unknown) =>
          log.warn("lease could not be released, it runs out", { error }),
        );
      },
    };
  }

  /** Renews; a Lease that somebody deleted is made again, one of another holder is lost. */
  async #renewed(current: KubeObject, term: number): Promise<KubeObject> {
    try {
      return await this.#write(current, { term, taken: true });
    } catch (thrown) {
      if (!isKubeError(thrown, 409) && !isNotFound(thrown)) throw thrown;
    }
    const found = await this.#read();
    if (found !== undefined && holderOf(found) !== this.#deps.holder) throw new Taken(holderOf(found));
    return this.#write(found, { term, taken: true });
  }

  async #write(old: KubeObject | undefined, to: { term: number; taken: boolean }): Promise<KubeObject> {
    const { session, namespace, name, holder, clock } = this.#deps;
    const now = `${new Date(clock.now()).toISOString().slice(0, -1)}000Z`;
    const mine = holderOf(old) === holder;
    const object = {
      apiVersion,
      kind,
      metadata: { ...old?.metadata, name, namespace },
      spec: {
        holderIdentity: to.taken ? holder : "",
        leaseDurationSeconds: LEASE_DURATION_MS / 1000,
        acquireTime: mine ? (dig(old, "spec", "acquireTime") ?? now) : now,
        renewTime: now,
        leaseTransitions: to.term,
      },
    } as KubeObject;
    delete object.metadata.managedFields;
    return (old === undefined ? await session.create(object) : await session.update(object)).object;
  }
}

/** Another agent holds the Lease. */
class Taken extends Error {
  override readonly name = "Taken";
  readonly holder: string;
  constructor(holder: string) {
    super(`The lease is held by "${holder}"`);
    this.holder = holder;
  }
}

function holderOf(lease: KubeObject | undefined): string {
  const holder = dig(lease, "spec", "holderIdentity");
  return typeof holder === "string" ? holder : "";
}
