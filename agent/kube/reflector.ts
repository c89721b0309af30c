import type { Clock, Timer } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { backoffSleep, type Backoff, type Service } from "@moorage/shared/service";
import type { KubeSession } from "./client.ts";
import { errorFromStatus, isExpired, KubeError } from "./errors.ts";
import { parseJson } from "./json.ts";
import { asMap, dig, type KindRef, type KubeObject, wholeNumber } from "./object.ts";

/**
 * Keeps a reduced copy of one kind's objects, after client-go tools/cache/reflector.go: a streaming
 * list (KEP-3157) or pages of 500, then a watch that resumes from the last resourceVersion, bookmarks
 * included; 410 means list anew. Objects are reduced on arrival: what `reduce` returns is all that is
 * kept. A key stays in the cache until the server says that it is gone.
 */
export interface Reflector<T> extends Service {
  /** True once the first complete list is in; stays true through reconnects. */
  readonly synced: boolean;
  /** Resolves when synced; rejects with the signal's reason. */
  whenSynced(signal: AbortSignal): Promise<void>;
  get(namespace: string | undefined, name: string): T | undefined;
  values(): IterableIterator<T>;
  readonly size: number;
  /** Lists anew at the next turn of the loop: for the full compare, and in doubt. */
  relist(): void;
}

/** A change of the cache. `key` is `namespace/name`, or `/name`. */
export type ReflectorEvent<T> =
  | { type: "set"; key: string; value: T; old: T | undefined }
  | { type: "delete"; key: string; old: T }
  /** A complete list has been taken in: the first one, and after each relist. */
  | { type: "synced" };

/** Counters; all monotonic. */
export interface ReflectorStats {
  lists: number;
  watches: number;
  events: number;
  unparsable: number;
  failures: number;
}

/** What a reflector watches, and with what. */
export interface ReflectorOptions<T> {
  session: KubeSession;
  kind: KindRef;
  /** Absent: all namespaces. */
  namespace?: string;
  labelSelector?: string;
  fieldSelector?: string;
  metadataOnly?: boolean;
  /** Must not keep the object. An exception ends the service. */
  reduce(object: KubeObject): T;
  /** Called after the cache changed, in the server's order; must not throw. */
  onEvent(event: ReflectorEvent<T>): void;
  /** Told of each failure that is retried. */
  onError?(thrown: unknown): void;
  clock: Clock;
  rng: Rng;
  /** Updated in place. */
  stats?: ReflectorStats;
}

/** Objects a page, as client-go. */
const PAGE_SIZE = 500;
/** A watch asks to be ended at a random point of this range, so that reconnects spread. */
const WATCH_TIMEOUT_S = { min: 300, span: 300 };
/** Longer than the server's bookmark period of 60 s. */
const IDLE_MS = 90_000;
/** client-go's: 0.8 s doubling to 30 s, reset after two quiet minutes. */
const BACKOFF: Backoff = { baseMs: 800, capMs: 30_000 };
const BACKOFF_RESET_MS = 120_000;
/** Longest run of lines without giving way to other work. */
const SLICE_MS = 5;

/** Counters at zero. */
export function reflectorStats(): ReflectorStats {
  return { lists: 0, watches: 0, events: 0, unparsable: 0, failures: 0 };
}

/** A reflector; nothing happens before `run`. */
export function createReflector<T>(options: ReflectorOptions<T>): Reflector<T> {
  return new KindReflector(options);
}

/** The signal that a line could not be read: the cache may lack an event. */
class UnparsableLine extends Error {
  override readonly name = "UnparsableLine";
}

class KindReflector<T> implements Reflector<T> {
  readonly name: string;
  #o: ReflectorOptions<T>;
  #stats: ReflectorStats;
  #cache = new Map<string, T>();
  #synced = false;
  #waiters: (() => void)[] = [];
  /** Where to resume; undefined: list first. */
  #resourceVersion: string | undefined;
  /** The server refused a streaming list once. */
  #paged = false;
  #restart: (() => void) | undefined;

  constructor(options: ReflectorOptions<T>) {
    this.#o = options;
    this.#stats = options.stats ?? reflectorStats();
    this.name = `reflector ${options.kind.apiVersion} ${options.kind.kind}`;
  }

  get synced(): boolean {
    return this.#synced;
  }

  get size(): number {
    return this.#cache.size;
  }

  get(namespace: string | undefined, name: string): T | undefined {
    return this.#cache.get(`${namespace ?? ""}/${name}`);
  }

  values(): IterableIterator<T> {
    return this.#cache.values();
  }

  whenSynced(signal: AbortSignal): Promise<void> {
    if (this.#synced) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = () => reject(signal.reason as Error);
      if (signal.aborted) return onAbort();
      signal.addEventListener("abort", onAbort, { once: true });
      this.#waiters.push(() => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      });
    });
  }

  relist(): void {
    this.#resourceVersion = undefined;
    this.#restart?.();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, rng } = this.#o;
    let attempt = 0;
    while (!signal.aborted) {
      const started = clock.monotonicMs();
      let failure: unknown;
      try {
        await this.#turn(signal);
      } catch (thrown) {
        failure = thrown;
      }
      if (signal.aborted) return;
      const lasted = clock.monotonicMs() - started;
      if (lasted >= BACKOFF_RESET_MS) attempt = 0;
      if (failure === undefined) {
        // A server that closes at once must not be called in a loop.
        if (lasted >= 1_000) continue;
      } else if (!(failure instanceof Restart)) {
        this.#failed(failure);
      } else {
        continue;
      }
      try {
        await backoffSleep(BACKOFF, attempt++, { clock, rng, signal });
      } catch (thrown) {
        if (signal.aborted) return;
        throw thrown;
      }
    }
  }

  #failed(thrown: unknown): void {
    if (!(thrown instanceof KubeError) && !(thrown instanceof UnparsableLine)) throw thrown;
    this.#stats.failures++;
    if (thrown instanceof UnparsableLine) {
      this.#stats.unparsable++;
      this.#resourceVersion = undefined;
    } else if (isExpired(thrown)) {
      this.#resourceVersion = undefined;
    }
    this.#o.onError?.(thrown);
  }

  /** One list (if due) and one watch. */
  async #turn(signal: AbortSignal): Promise<void> {
    if (this.#resourceVersion === undefined && this.#paged) await this.#listPages(signal);
    try {
      await this.#stream(signal);
    } catch (thrown) {
      if (!(thrown instanceof KubeError) || this.#resourceVersion !== undefined || this.#paged) throw thrown;
      // A server without streaming lists says so with 400 or 422; anything else is a real failure.
      if (thrown.status !== 400 && thrown.status !== 422) throw thrown;
      this.#paged = true;
      await this.#listPages(signal);
      await this.#stream(signal);
    }
  }

  async #listPages(signal: AbortSignal): Promise<void> {
    this.#stats.lists++;
    const seen = new Set<string>();
    let next: string | undefined;
    let resourceVersion: string;
    do {
      const page = await this.#o.session.list(this.#o.kind, {
        ...this.#scope(),
        limit: PAGE_SIZE,
        signal,
        ...(next === undefined ? {} : { continue: next }),
      });
      for (const object of page.items) this.#set(object, seen);
      next = page.continue;
      resourceVersion = page.resourceVersion;
    } while (next !== undefined);
    this.#resourceVersion = resourceVersion;
    this.#listed(seen);
  }

  #scope() {
    const { namespace, labelSelector, fieldSelector, metadataOnly } = this.#o;
    return {
      ...(namespace === undefined ? {} : { namespace }),
      ...(labelSelector === undefined ? {} : { labelSelector }),
      ...(fieldSelector === undefined ? {} : { fieldSelector }),
      ...(metadataOnly === undefined ? {} : { metadataOnly }),
    };
  }

  /** A watch; without a resourceVersion it opens with the whole set. */
  async #stream(outer: AbortSignal): Promise<void> {
    const { clock, rng, session, kind } = this.#o;
    const controller = new AbortController();
    const onAbort = () => controller.abort(outer.reason);
    outer.addEventListener("abort", onAbort, { once: true });
    this.#restart = () => controller.abort(new Restart());
    let lastLine = clock.monotonicMs();
    let timer: Timer;
    const check = () => {
      const left = IDLE_MS - (clock.monotonicMs() - lastLine);
      if (left > 0) timer = clock.setTimer(left, check);
      else
        controller.abort(
          new KubeError(`Cannot watch ${kind.apiVersion} ${kind.kind}: nothing came for ${IDLE_MS} ms`, {
            status: 0,
            reason: "Idle",
          }),
        );
    };
    timer = clock.setTimer(IDLE_MS, check);
    this.#stats.watches++;
    let seen = this.#resourceVersion === undefined ? new Set<string>() : undefined;
    if (seen !== undefined) this.#stats.lists++;
    try {
      let sliceStart = clock.monotonicMs();
      for await (const line of session.watch(kind, {
        ...this.#scope(),
        signal: controller.signal,
        timeoutSeconds: WATCH_TIMEOUT_S.min + Math.floor(rng.float() * WATCH_TIMEOUT_S.span),
        ...(this.#resourceVersion === undefined
          ? { sendInitialEvents: true }
          : { resourceVersion: this.#resourceVersion }),
      })) {
        lastLine = clock.monotonicMs();
        if (line !== "" && this.#line(line, seen)) seen = undefined;
        if (controller.signal.aborted) throw controller.signal.reason as Error;
        if (clock.monotonicMs() - sliceStart > SLICE_MS) {
          await sleep(clock, 0);
          sliceStart = clock.monotonicMs();
        }
      }
      if (controller.signal.aborted) throw controller.signal.reason as Error;
    } finally {
      this.#restart = undefined;
      timer.cancel();
      outer.removeEventListener("abort", onAbort);
    }
  }

  /** Takes one line in; true when it ended the initial events. */
  #line(line: string, seen: Set<string> | undefined): boolean {
    let frame: Record<string, unknown> | undefined;
    try {
      frame = asMap(parseJson(line));
    } catch (cause) {
      throw new UnparsableLine(
        `Cannot read a watch line of ${this.#o.kind.kind}: ${line.length} characters`,
        { cause },
      );
    }
    const object = asMap(frame?.["object"]) as KubeObject | undefined;
    if (object === undefined)
      throw new UnparsableLine(`Cannot read a watch line of ${this.#o.kind.kind}: no object`);
    this.#stats.events++;
    const resourceVersion = dig(object, "metadata", "resourceVersion");
    const type = frame?.["type"];
    if (type !== "ERROR" && type !== "BOOKMARK" && typeof dig(object, "metadata", "name") !== "string")
      throw new UnparsableLine(`Cannot read a watch line of ${this.#o.kind.kind}: the object has no name`);
    switch (type) {
      case "ADDED":
      case "MODIFIED":
        this.#set(object, seen);
        break;
      case "DELETED":
        this.#delete(keyOf(object));
        break;
      case "BOOKMARK":
        if (typeof resourceVersion === "string" && seen === undefined)
          this.#resourceVersion = resourceVersion;
        if (
          seen === undefined ||
          dig(object, "metadata", "annotations", "k8s.io/initial-events-end") !== "true"
        )
          return false;
        this.#resourceVersion = resourceVersion as string;
        this.#listed(seen);
        return true;
      case "ERROR":
        throw errorFromStatus(`Cannot watch ${this.#o.kind.kind}`, {
          status: wholeNumber(object["code"]) ?? 500,
          body: object,
        });
      default:
        throw new UnparsableLine(`Cannot read a watch line of ${this.#o.kind.kind}: type "${String(type)}"`);
    }
    // While the initial events come in, no version is a point to resume from.
    if (typeof resourceVersion === "string" && seen === undefined) this.#resourceVersion = resourceVersion;
    return false;
  }

  #set(object: KubeObject, seen: Set<string> | undefined): void {
    object.apiVersion = this.#o.kind.apiVersion;
    object.kind = this.#o.kind.kind;
    const key = keyOf(object);
    seen?.add(key);
    const old = this.#cache.get(key);
    const value = this.#o.reduce(object);
    this.#cache.set(key, value);
    this.#o.onEvent({ type: "set", key, value, old });
  }

  #delete(key: string): void {
    const old = this.#cache.get(key);
    if (old === undefined) return;
    this.#cache.delete(key);
    this.#o.onEvent({ type: "delete", key, old });
  }

  /** Ends a complete list: what it did not hold is gone. */
  #listed(seen: ReadonlySet<string>): void {
    for (const key of [...this.#cache.keys()]) if (!seen.has(key)) this.#delete(key);
    this.#synced = true;
    this.#o.onEvent({ type: "synced" });
    for (const wake of this.#waiters.splice(0)) wake();
  }
}

/** The abort reason of a relist that was asked for. */
class Restart extends Error {
  override readonly name = "Restart";
}

function keyOf(object: KubeObject): string {
  return `${object.metadata.namespace ?? ""}/${object.metadata.name}`;
}
