/**
 * Which deletions of local resources are orders. Whoever deletes our namespace or a definition deletes every
 * resource in it: that is the end of the agent and not of the workload. Until the API server has told one
 * from the other nothing of a deletion shows. All that is open is answered at once, so that no tenant is
 * seen to go before its applications are.
 */
import type { Clock } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { backoffSleep } from "@moorage/shared/service";
import { pool } from "../apply/pool.ts";
import type { AgentSession } from "../kube/client.ts";
import { isNotFound, KubeError } from "../kube/errors.ts";
import type { MirrorKind } from "./mirror.ts";
import type { Entry } from "./record.ts";
import { recordRef } from "./writer.ts";

/** Between tries of a question that failed: an answer that was not had is no answer. */
const BACKOFF = { baseMs: 200, capMs: 10_000 };
/** Questions about single records under way at a time. */
const WIDTH = 16;

/** What the questions need of the mirror. */
export interface LocalDeletionsDeps {
  session: AgentSession;
  namespace: string;
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Resolves once all records were read: what was being deleted before is asked about together. */
  whenSynced(signal: AbortSignal): Promise<void>;
  entry(uid: string): Entry | undefined;
  /** The deletion is an order: it may show. */
  ordered(entry: Entry): void;
  /** The agent's home goes: the resource is let go, and its workload stays. */
  letGo(entry: Entry): Promise<void>;
}

/** See the module's text. */
export class LocalDeletions {
  readonly #deps: LocalDeletionsDeps;
  /** Asked about and not answered, by uid. */
  readonly #open = new Set<string>();
  /** Answered: an order. A deletion is never taken back, so that one answer holds for good. */
  readonly #orders = new Set<string>();
  #asking = false;

  constructor(deps: LocalDeletionsDeps) {
    this.#deps = deps;
  }

  /** Whether the deletion of `uid` was found to be an order. */
  isOrder(uid: string): boolean {
    return this.#orders.has(uid);
  }

  /** The resource is no longer there. */
  forget(uid: string): void {
    this.#open.delete(uid);
    this.#orders.delete(uid);
  }

  /** Finds out about the deletion of `uid`; resolves when nothing is open, at once if that is waited for already. */
  async ask(uid: string, signal: AbortSignal): Promise<void> {
    if (this.#orders.has(uid)) return;
    this.#open.add(uid);
    if (this.#asking) return;
    this.#asking = true;
    try {
      await this.#deps.whenSynced(signal);
      for (let failures = 0; this.#open.size > 0;) {
        try {
          await this.#answer();
          failures = 0;
        } catch (error) {
          if (!(error instanceof KubeError)) throw error;
          this.#deps.log.warn("it is not known whether a deletion is an order, it is asked again", { error });
          await backoffSleep(BACKOFF, failures++, { ...this.#deps, signal });
        }
      }
    } finally {
      this.#asking = false;
    }
  }

  async #answer(): Promise<void> {
    const { session, namespace, log } = this.#deps;
    const open = [...this.#open];
    const asked = open.flatMap((uid) => this.#deps.entry(uid) ?? []);
    const leaving = new Set<MirrorKind>();
    for (const kind of new Set(asked.map((e) => e.record.kind)))
      if (await homeGoes(session, namespace, kind)) leaving.add(kind);
    const rest = asked.filter((e) => !leaving.has(e.record.kind));
    // Last, since a definition that is gone took its resources with it: no order is left then.
    const there = await pool(rest, WIDTH, (entry) => this.#isThere(entry));
    for (const entry of asked.filter((e) => leaving.has(e.record.kind))) {
      log.warn("agent is being uninstalled, the workload stays", { name: entry.record.name });
      await this.#deps.letGo(entry);
    }
    const now = rest.filter((e, i) => there[i] === true && this.#deps.entry(e.record.uid) !== undefined);
    for (const { record } of now) this.#orders.add(record.uid);
    for (const uid of open) this.#open.delete(uid);
    for (const { record } of now) {
      const entry = this.#deps.entry(record.uid);
      if (entry !== undefined) this.#deps.ordered(entry);
    }
  }

  async #isThere(entry: Entry): Promise<boolean> {
    try {
      const ref = recordRef(entry, this.#deps.namespace);
      const found = await this.#deps.session.get(ref, { metadataOnly: true });
      return found.metadata.uid === entry.metadata.uid;
    } catch (thrown) {
      if (isNotFound(thrown)) return false;
      throw thrown;
    }
  }
}

/** Whether our namespace or the definition of `kind` is being deleted: then no deletion in it is an order. */
async function homeGoes(session: AgentSession, namespace: string, kind: MirrorKind): Promise<boolean> {
  const plural = `${kind.toLowerCase()}s.moorage.dev`;
  const refs = [
    { apiVersion: "v1", kind: "Namespace", name: namespace },
    { apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition", name: plural },
  ];
  for (const ref of refs) {
    try {
      const object = await session.get(ref, { metadataOnly: true });
      if (object.metadata.deletionTimestamp !== undefined) return true;
    } catch (thrown) {
      if (isNotFound(thrown)) continue;
      throw thrown;
    }
  }
  return false;
}
