/** Writes of the mirror's custom resources: one call at a time for a record, a bounded number over all. */
import type { Clock } from "@moorage/shared/clock";
import { REMOVAL_FINALIZER } from "@moorage/shared/install/crds";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { backoffMs } from "@moorage/shared/service";
import { API_VERSION } from "@moorage/shared/install/crds";
import type { AgentSession } from "../kube/client.ts";
import { isKubeError, isNotFound, KubeError } from "../kube/errors.ts";
import type { KubeObject, ObjectRef } from "../kube/object.ts";
import { newestRevision } from "./plan.ts";
import type { Entry } from "./record.ts";
import { fromObject, toObject } from "./record.ts";

/** Calls under way at a time. */
const CALLS = 32;
/** Between tries of a write that cannot be made yet; an event that cures it comes first. */
const BACKOFF = { baseMs: 200, capMs: 10_000 };

/** Reason of a rejection that comes from the API server. */
export const RECORD_REFUSED = "RecordRefused";

/** What a write needs. */
export interface WriterDeps {
  session: AgentSession;
  namespace: string;
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** False while another process may hold the Lease: asked right before each call. */
  mayWrite(): boolean;
}

/** See the module's text. */
export class RecordWriter {
  readonly #deps: WriterDeps;
  #free = CALLS;
  readonly #queue: (() => void)[] = [];
  readonly #locks = new Map<string, Promise<unknown>>();
  /** Whoever waits for a custom resource to go, by its name. */
  readonly #waiting = new Map<string, Set<() => void>>();

  constructor(deps: WriterDeps) {
    this.#deps = deps;
  }

  /**
   * Makes `entry` durable and answers it with its metadata; tries until that is done. An object of that
   * name that is being deleted, or is another resource's, is waited out. What the API server refuses
   * for good becomes a rejection. Rejects when `signal` aborts. `revive`: its status says that it is gone,
   * which is taken back first, so that no death in between leaves a wanted record that looks gone.
   */
  async write(
    entry: Entry,
    on: { metadata(): KubeObject["metadata"]; signal: AbortSignal; revive?: boolean },
  ): Promise<Entry> {
    // Set when what memory has of the object is known to be out of date.
    let found: KubeObject["metadata"] | undefined;
    for (let attempt = 0; ; attempt++) {
      on.signal.throwIfAborted();
      try {
        const answer = await this.#locked(entry.record.uid, () =>
          this.#once({ ...entry, metadata: found ?? on.metadata() }, on.revive === true),
        );
        if ("entry" in answer) return answer.entry;
        found = answer.metadata;
        if (answer.retryNow && attempt < 3) continue;
      } catch (thrown) {
        if (!(thrown instanceof KubeError)) throw thrown;
        if (refusedForGood(thrown)) return this.#refused(entry, thrown);
        this.#deps.log.warn("record could not be written, it is tried again", {
          name: entry.record.name,
          error: thrown,
        });
      }
      await this.#pause(entry.record.objectName, attempt, on.signal);
    }
  }

  async #once(
    entry: Entry,
    revive: boolean,
  ): Promise<{ entry: Entry } | { metadata: KubeObject["metadata"]; retryNow: boolean }> {
    const { session, namespace } = this.#deps;
    const object = toObject(entry, namespace);
    const fresh = { name: entry.record.objectName };
    const { resourceVersion } = entry.metadata;
    try {
      if (revive && resourceVersion !== undefined) {
        const metadata = { name: entry.record.objectName, namespace, resourceVersion };
        const answer = await session.patchStatus(
          { apiVersion: API_VERSION, kind: entry.record.kind, metadata, status: { gone: null } },
          { fieldManager: "moorage-agent", mode: "merge" },
        );
        object.metadata = { ...object.metadata, ...without(answer.object.metadata) };
      }
      const written =
        resourceVersion === undefined ? await session.create(strip(object)) : await session.update(object);
      const { metadata } = written.object;
      // An update of an object that is being deleted is answered 200 and goes with it.
      if (metadata.deletionTimestamp !== undefined) return { metadata, retryNow: false };
      return {
        entry: {
          ...entry,
          metadata: without(metadata),
          record: { ...entry.record, objectUid: metadata.uid ?? "" },
        },
      };
    } catch (thrown) {
      if (isNotFound(thrown) && resourceVersion !== undefined) return { metadata: fresh, retryNow: true };
      if (!isKubeError(thrown, 409)) throw thrown;
    }
    try {
      const found = await session.get(recordRef(entry, namespace));
      const same = fromObject(found)?.record.uid === entry.record.uid;
      if (found.metadata.deletionTimestamp !== undefined || !same)
        return { metadata: fresh, retryNow: false };
      return { metadata: found.metadata, retryNow: true };
    } catch (thrown) {
      if (isNotFound(thrown)) return { metadata: fresh, retryNow: true };
      throw thrown;
    }
  }

  #refused(entry: Entry, error: KubeError): Entry {
    this.#deps.log.error("record was refused by the API server", { name: entry.record.name, error });
    const rejected = {
      revision: newestRevision(entry),
      digest: entry.record.digest,
      reason: RECORD_REFUSED,
      message: `Cannot store "${entry.record.name}": ${error.message}`,
    };
    return { ...entry, body: undefined, rejected, record: { ...entry.record, rejected } };
  }

  /** Writes the status; undefined when the record is not there. Answers its metadata. */
  async patchStatus(
    entry: Entry,
    status: Record<string, unknown>,
  ): Promise<KubeObject["metadata"] | undefined> {
    const { kind, objectName, uid } = entry.record;
    const object = {
      apiVersion: API_VERSION,
      kind,
      metadata: { name: objectName, namespace: this.#deps.namespace },
      status,
    };
    try {
      const answer = await this.#locked(uid, () =>
        this.#deps.session.patchStatus(object, { fieldManager: "moorage-agent", mode: "merge" }),
      );
      return without(answer.object.metadata);
    } catch (thrown) {
      if (isNotFound(thrown)) return undefined;
      throw thrown;
    }
  }

  /** Deletes the record, this very object alone. */
  async remove(entry: Entry): Promise<void> {
    const { uid } = entry.record;
    const ref = recordRef(entry, this.#deps.namespace);
    try {
      const { uid: objectUid } = entry.metadata;
      await this.#locked(uid, () =>
        this.#deps.session.delete(ref, objectUid === undefined ? {} : { uid: objectUid }),
      );
    } catch (thrown) {
      if (isNotFound(thrown)) return;
      if (!isKubeError(thrown, 409)) throw thrown;
      // A refused precondition is one reason among several: only another uid is another object.
      const live = await this.#deps.session.get(ref, { metadataOnly: true }).catch((error: unknown) => {
        if (isNotFound(error)) return undefined;
        throw error;
      });
      if (live !== undefined && live.metadata.uid === entry.metadata.uid) throw thrown;
    }
  }

  /** Puts our finalizer on or takes it off; undefined when the record went. */
  async setFinalizer(entry: Entry, on: boolean): Promise<Entry | undefined> {
    const { uid } = entry.record;
    const ref = recordRef(entry, this.#deps.namespace);
    return this.#locked(uid, async () => {
      for (let tries = 0; ; tries++) {
        try {
          const found = await this.#deps.session.get(ref);
          const others = (found.metadata.finalizers ?? []).filter((f) => f !== REMOVAL_FINALIZER);
          const finalizers = on ? [...others, REMOVAL_FINALIZER] : others;
          if (finalizers.length === (found.metadata.finalizers ?? []).length) return fromObject(found);
          const answer = await this.#deps.session.update({
            ...found,
            metadata: { ...found.metadata, finalizers },
          });
          return fromObject(answer.object);
        } catch (thrown) {
          if (isNotFound(thrown)) return undefined;
          if (!isKubeError(thrown, 409) || tries >= 5) throw thrown;
        }
      }
    });
  }

  /** Tries `fn` until it succeeds or the error is not the API server's. */
  async persist(what: string, fn: () => Promise<void>): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        this.#check();
        return await fn();
      } catch (thrown) {
        if (!(thrown instanceof KubeError) || attempt > 20) throw thrown;
        this.#deps.log.warn("write failed, it is tried again", { what, error: thrown });
        await new Promise<void>((resolve) =>
          this.#deps.clock.setTimer(backoffMs(BACKOFF, attempt, this.#deps.rng), resolve),
        );
      }
    }
  }

  #check(): void {
    if (!this.#deps.mayWrite()) throw new DOMException("The Lease is not held", "AbortError");
  }

  /** A custom resource went: whoever waits for its name tries at once. */
  wentAway(objectName: string): void {
    for (const wake of this.#waiting.get(objectName) ?? []) wake();
  }

  #pause(objectName: string, attempt: number, signal: AbortSignal): Promise<void> {
    const waiting = this.#waiting.get(objectName) ?? new Set();
    this.#waiting.set(objectName, waiting);
    return new Promise((resolve, reject) => {
      const end = () => {
        timer.cancel();
        signal.removeEventListener("abort", onAbort);
        waiting.delete(end);
        if (waiting.size === 0) this.#waiting.delete(objectName);
        resolve();
      };
      const onAbort = () => {
        end();
        reject(signal.reason as Error);
      };
      const timer = this.#deps.clock.setTimer(
        BACKOFF.baseMs + backoffMs(BACKOFF, attempt, this.#deps.rng),
        end,
      );
      waiting.add(end);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** One call at a time for a record, {@link CALLS} over all. */
  async #locked<T>(uid: string, fn: () => Promise<T>): Promise<T> {
    const before = this.#locks.get(uid) ?? Promise.resolve();
    const run = before.catch(() => undefined).then(() => this.#bounded(fn));
    this.#locks.set(uid, run);
    try {
      return await run;
    } finally {
      if (this.#locks.get(uid) === run) this.#locks.delete(uid);
    }
  }

  async #bounded<T>(fn: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#queue.push(resolve));
    try {
      this.#check();
      return await fn();
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

/** The custom resource of an entry. */
export function recordRef(entry: Entry, namespace: string): ObjectRef {
  return { apiVersion: API_VERSION, kind: entry.record.kind, namespace, name: entry.record.objectName };
}

/** What a new try cannot cure: the record itself breaks the schema or a limit. */
function refusedForGood(error: KubeError): boolean {
  return error.status === 400 || error.status === 413 || error.status === 422;
}

function without(metadata: KubeObject["metadata"]): KubeObject["metadata"] {
  const { managedFields: _, ...kept } = metadata;
  return kept;
}

function strip(object: KubeObject): KubeObject {
  const { resourceVersion: _r, uid: _u, ...metadata } = object.metadata;
  return { ...object, metadata: metadata as KubeObject["metadata"] };
}
