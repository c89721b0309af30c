/**
 * The live objects of all members: one watch a kind, reduced on arrival, shared by all tenants and
 * applications. A kind that the agent may not watch (a tenant's Secrets, unless the customer grants
 * more) is read object by object through the applier instead.
 */
import type { Clock } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { LiveCache, reduceMember } from "../apply/live.ts";
import type { ReduceContext } from "../apply/live.ts";
import { MANAGED_BY, MANAGED_BY_LABEL } from "../apply/labels.ts";
import { pool } from "../apply/pool.ts";
import { atServedVersion } from "../apply/served.ts";
import { idKey } from "../apply/types.ts";
import type { InventoryEntry, LiveState, LiveView, ObjectId } from "../apply/types.ts";
import type { AgentSession, KubeClient, KubeSession } from "../kube/client.ts";
import { isKubeError, isNotFound } from "../kube/errors.ts";
import type { KindRef, KubeObject } from "../kube/object.ts";
import { groupOf } from "../kube/object.ts";
import { createReflector } from "../kube/reflector.ts";
import type { Reflector } from "../kube/reflector.ts";

/** What is kept of an object: the engine's reduction, and the whole for the few kinds that a fence is read from. */
interface Kept {
  live: LiveState;
  labels: Readonly<Record<string, string>>;
  object: KubeObject | undefined;
}

/** A change of a live object, with its labels from before or after, whichever exist. */
export interface LiveChange {
  id: ObjectId;
  labels: Readonly<Record<string, string>>;
  before: LiveState | undefined;
  after: LiveState | undefined;
}

/** Kinds kept whole, and whether only objects of ours are watched. */
const whole: Record<string, { all: boolean }> = {
  "/Namespace": { all: false },
  "/ResourceQuota": { all: false },
  // All of them: a foreign policy in a tenant's namespace can widen its fence.
  "networking.k8s.io/NetworkPolicy": { all: true },
};

/** How long a kind's first list may take before a run goes on without it. */
const SYNC_MS = 20_000;
/** A kind that could not be watched is tried again after this time. */
const UNWATCHED_RETRY_MS = 10 * 60_000;

/** Reads of unwatched members at a time. */
const READS = 8;

interface Watched {
  kind: KindRef;
  reflector: Reflector<Kept>;
  end: AbortController;
}

/** See the module's text. Ends with the signal given to the constructor. */
export class LiveObjects {
  readonly cache: LiveCache;
  readonly reduce: ReduceContext;
  readonly #deps: { kube: KubeClient; clock: Clock; rng: Rng; log: Logger; signal: AbortSignal };
  readonly #watched = new Map<string, Watched>();
  readonly #unwatched = new Map<string, number>();
  readonly #starting = new Map<string, Promise<void>>();
  readonly #listeners = new Set<(change: LiveChange) => void>();

  constructor(deps: { kube: KubeClient; clock: Clock; rng: Rng; log: Logger; signal: AbortSignal }) {
    this.#deps = deps;
    this.reduce = {
      now: () => deps.clock.now(),
      crdHasStatus: (apiVersion, kind) => deps.kube.discovery.cached({ apiVersion, kind })?.hasStatus,
    };
    this.cache = new LiveCache({
      session: deps.kube.asAgent(),
      discovery: deps.kube.discovery,
      reduce: this.reduce,
    });
  }

  /** Calls `fn` after each change; returns the way out. */
  subscribe(fn: (change: LiveChange) => void): () => void {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  /** Resolves when each kind is watched and its first list is in, or is known not to be watchable. */
  async ensure(kinds: Iterable<KindRef>): Promise<void> {
    const waits: Promise<void>[] = [];
    for (const kind of kinds) {
      const key = keyOf(kind);
      if (this.#watched.get(key)?.reflector.synced === true) continue;
      const until = this.#unwatched.get(key);
      if (until !== undefined && this.#deps.clock.monotonicMs() < until) continue;
      let start = this.#starting.get(key);
      if (start === undefined) {
        start = this.#start(kind, key).finally(() => this.#starting.delete(key));
        this.#starting.set(key, start);
      }
      waits.push(start);
    }
    if (waits.length > 0) await Promise.all(waits);
  }

  /**
   * The engine's view under a session, for one run: watched kinds from the cache, all others read with
   * the session's own rights. `known` are the members so far: those of unwatched kinds are read first,
   * so that an unchanged one costs a read and no write.
   */
  async viewAs(session: KubeSession, known: readonly InventoryEntry[]): Promise<LiveView> {
    const { cache, reduce } = this;
    const { discovery } = this.#deps.kube;
    const read = new Map<string, LiveState>();
    const watched = (id: ObjectId): boolean =>
      this.#watched.get(`${id.group}/${id.kind}`)?.reflector.synced === true;
    const view: LiveView = {
      get: (id) => (watched(id) ? cache.get(id) : read.get(idKey(id))),
      async fetch(id, version) {
        const object = await atServedVersion(discovery, { id, version }, (ref) => session.get(ref));
        if (object === undefined) return undefined;
        const live = reduceMember(object, reduce);
        view.observe(live);
        return live;
      },
      observe(live) {
        if (watched(live.id)) cache.observe(live);
        else read.set(idKey(live.id), live);
      },
      forget(id, uid) {
        cache.forget(id, uid);
        read.delete(idKey(id));
      },
    };
    const unwatched = known.filter((e) => e.uid !== "" && !watched(e));
    await pool(unwatched, READS, async (e) => {
      try {
        await view.fetch(e, e.version);
      } catch (error) {
        // Without the right to read, the apply itself tells.
        if (!isKubeError(error, 403)) throw error;
      }
    });
    return view;
  }

  /** True when changes of this kind are seen by a watch. */
  isWatched(kind: KindRef): boolean {
    return this.#watched.get(keyOf(kind))?.reflector.synced === true;
  }

  /** The kinds that are watched. */
  kinds(): KindRef[] {
    return [...this.#watched.values()].map((w) => w.kind);
  }

  /** Whole objects of a kind that is kept whole, in one namespace (all when undefined). */
  objects(kind: KindRef, namespace: string | undefined): KubeObject[] {
    const out: KubeObject[] = [];
    for (const k of this.#watched.get(keyOf(kind))?.reflector.values() ?? []) {
      if (k.object !== undefined && (namespace === undefined || k.object.metadata.namespace === namespace))
        out.push(k.object);
    }
    return out;
  }

  /** The whole object, for kinds that are kept whole. */
  object(kind: KindRef, where: { namespace?: string; name: string }): KubeObject | undefined {
    return this.#watched.get(keyOf(kind))?.reflector.get(where.namespace, where.name)?.object;
  }

  /** Lists every watched kind anew: the full comparison that repairs what the watches missed. */
  relist(): void {
    for (const w of this.#watched.values()) w.reflector.relist();
  }

  /** Number of watches. */
  get size(): number {
    return this.#watched.size;
  }

  async #start(kind: KindRef, key: string): Promise<void> {
    const { kube, clock, signal } = this.#deps;
    const session = kube.asAgent();
    try {
      // One object is enough to learn whether the kind exists and may be listed.
      await session.list(kind, { limit: 1, metadataOnly: true, signal });
    } catch (error) {
      if (!isKubeError(error, 403) && !isNotFound(error)) throw error;
      this.#unwatched.set(key, clock.monotonicMs() + UNWATCHED_RETRY_MS);
      return;
    }
    this.#unwatched.delete(key);
    const watched = this.#watched.get(key) ?? this.#watch(kind, { key, session });
    const limit = AbortSignal.any([signal, watched.end.signal]);
    await Promise.race([
      watched.reflector.whenSynced(limit),
      new Promise<void>((resolve) => clock.setTimer(SYNC_MS, resolve)),
    ]);
  }

  #watch(kind: KindRef, use: { key: string; session: AgentSession }): Watched {
    const keep = whole[use.key];
    const end = new AbortController();
    const reflector = createReflector<Kept>({
      session: use.session,
      kind,
      ...(keep?.all === true ? {} : { labelSelector: `${MANAGED_BY_LABEL}=${MANAGED_BY}` }),
      clock: this.#deps.clock,
      rng: this.#deps.rng,
      reduce: (object) => ({
        live: reduceMember(object, this.reduce),
        labels: object.metadata.labels ?? {},
        object: keep === undefined ? undefined : withoutManagedFields(object),
      }),
      onEvent: (event) => {
        if (event.type === "synced") return;
        if (event.type === "set") {
          this.cache.observe(event.value.live);
          this.#tell({
            id: event.value.live.id,
            labels: event.value.labels,
            before: event.old?.live,
            after: event.value.live,
          });
        } else {
          // A lost label arrives as a deletion too: the next run reads the object and repairs it.
          this.cache.forget(event.old.live.id, "");
          this.#tell({
            id: event.old.live.id,
            labels: event.old.labels,
            before: event.old.live,
            after: undefined,
          });
        }
      },
      onError: (error) => this.#deps.log.warn("watch failed, it is tried again", { kind: use.key, error }),
    });
    const watched = { kind, reflector, end };
    this.#watched.set(use.key, watched);
    reflector.run(AbortSignal.any([this.#deps.signal, end.signal])).catch((error: unknown) => {
      if (this.#deps.signal.aborted) return;
      this.#watched.delete(use.key);
      this.#deps.log.error("watch ended", { kind: use.key, error });
    });
    return watched;
  }

  #tell(change: LiveChange): void {
    for (const fn of this.#listeners) fn(change);
  }
}

/** True when something that a reconcile looks at differs: owned fields, health, existence, foreign managers. */
export function matters(change: LiveChange): boolean {
  const { before, after } = change;
  // A fence is judged by its whole content, a quota by its status.
  if (whole[`${change.id.group}/${change.id.kind}`] !== undefined) return true;
  if (before === undefined || after === undefined) return true;
  return (
    before.uid !== after.uid ||
    before.deleting !== after.deleting ||
    before.partOf !== after.partOf ||
    before.health.status !== after.health.status ||
    before.health.message !== after.health.message ||
    JSON.stringify(before.ownHashes) !== JSON.stringify(after.ownHashes) ||
    before.formerManagers.join() !== after.formerManagers.join()
  );
}

const keyOf = (kind: KindRef): string => `${groupOf(kind.apiVersion)}/${kind.kind}`;

function withoutManagedFields(object: KubeObject): KubeObject {
  const { managedFields: _, ...metadata } = object.metadata;
  return { ...object, metadata };
}
