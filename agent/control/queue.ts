import type { Clock, Timer } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { backoffMs, type Backoff } from "@moorage/shared/service";

/**
 * The keyed work queue. A key, never an event or an object, goes in; reconcile reads all it needs.
 *
 * Law:
 * - A key is handed out to one worker at a time. An add while it is being worked on marks it dirty:
 *   it comes back after `done`.
 * - On merge the higher priority and the shorter delay win (controller-runtime `priorityqueue`).
 * - Order: priority, then round-robin over tenants, then first come.
 * - Back-off per key: full jitter, 1 s x2 to 5 min; `forget` resets it.
 */
export interface WorkQueue {
  /** Adds or merges `key`. `delayMs` defaults to 0. */
  add(key: string, options?: AddOptions): void;
  /** Adds `key` after its next back-off, at least `minDelayMs`. */
  addAfterFailure(key: string, options?: AddOptions & { minDelayMs?: number }): void;
  /** Resets the back-off of `key`: a new generation, or a success. */
  forget(key: string): void;
  /** Drops a waiting key and its back-off: its resource is gone. One under way stays until `done`. */
  remove(key: string): void;
  /** The next key, as soon as there is one; undefined once the queue is closed. */
  next(): Promise<QueueItem | undefined>;
  /** Ends the turn that `next` began. */
  done(key: string): void;
  /** Keys that are ready, delayed, or under way. */
  readonly size: number;
  /** Keys that are ready now. */
  readonly depth: number;
  /** No further keys: pending `next` calls answer undefined. */
  close(): void;
}

/** Why a key is there; a lower number goes first. */
export const Priority = { command: 0, spec: 1, drift: 2, health: 3, resync: 4 } as const;
/** One of {@link Priority}'s values. `command` is also deletion. */
export type Priority = (typeof Priority)[keyof typeof Priority];

/** How a key is added. */
export interface AddOptions {
  /** Default `spec`. */
  priority?: Priority;
  delayMs?: number;
  /** Fairness group; default `""`. The last add's value holds. */
  tenant?: string;
}

/** A key that was handed out. */
export interface QueueItem {
  key: string;
  priority: Priority;
  /** How long the key was ready before it was taken. */
  waitedMs: number;
}

/** Back-off of a failing key. */
export const QUEUE_BACKOFF: Backoff = { baseMs: 1_000, capMs: 300_000 };

interface Entry {
  key: string;
  priority: Priority;
  tenant: string;
  /** Monotonic time at which it becomes (or became) ready. */
  dueMs: number;
  state: "delayed" | "ready" | "processing";
  /** Added again while processing. */
  dirty: { priority: Priority; dueMs: number } | undefined;
}

/** A queue on `clock` and `rng`. */
export function createQueue(deps: { clock: Clock; rng: Rng; backoff?: Backoff }): WorkQueue {
  return new KeyedQueue(deps);
}

/** Ready keys of one priority: tenants in turn, each a FIFO. */
class Lane {
  #tenants = new Map<string, Set<Entry>>();
  size = 0;

  push(entry: Entry): void {
    let fifo = this.#tenants.get(entry.tenant);
    if (fifo === undefined) this.#tenants.set(entry.tenant, (fifo = new Set()));
    fifo.add(entry);
    this.size++;
  }

  delete(entry: Entry): void {
    const fifo = this.#tenants.get(entry.tenant);
    if (fifo?.delete(entry) !== true) return;
    this.size--;
    if (fifo.size === 0) this.#tenants.delete(entry.tenant);
  }

  /** Takes from the tenant whose turn it is, and sends that tenant to the back. */
  shift(): Entry | undefined {
    for (const [tenant, fifo] of this.#tenants) {
      for (const entry of fifo) {
        fifo.delete(entry);
        this.size--;
        this.#tenants.delete(tenant);
        if (fifo.size > 0) this.#tenants.set(tenant, fifo);
        return entry;
      }
    }
    return undefined;
  }
}

class KeyedQueue implements WorkQueue {
  #clock: Clock;
  #rng: Rng;
  #backoff: Backoff;
  #entries = new Map<string, Entry>();
  #failures = new Map<string, number>();
  #lanes: Lane[] = Object.values(Priority).map(() => new Lane());
  #takers: ((item: QueueItem | undefined) => void)[] = [];
  #timer: { dueMs: number; timer: Timer } | undefined;
  #delayed = new Set<Entry>();
  #closed = false;

  constructor(deps: { clock: Clock; rng: Rng; backoff?: Backoff }) {
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    this.#backoff = deps.backoff ?? QUEUE_BACKOFF;
  }

  get size(): number {
    return this.#entries.size;
  }

  get depth(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.size, 0);
  }

  add(key: string, options: AddOptions = {}): void {
    if (this.#closed) return;
    const priority = options.priority ?? Priority.spec;
    const dueMs = this.#clock.monotonicMs() + Math.max(0, options.delayMs ?? 0);
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      const fresh: Entry = {
        key,
        priority,
        tenant: options.tenant ?? "",
        dueMs,
        state: "delayed",
        dirty: undefined,
      };
      this.#entries.set(key, fresh);
      this.#place(fresh);
      return;
    }
    if (entry.state === "processing") {
      if (options.tenant !== undefined) entry.tenant = options.tenant;
      const before = entry.dirty ?? { priority, dueMs };
      entry.dirty = { priority: min(before.priority, priority), dueMs: Math.min(before.dueMs, dueMs) };
      return;
    }
    this.#unplace(entry);
    entry.priority = min(entry.priority, priority);
    entry.dueMs = Math.min(entry.dueMs, dueMs);
    if (options.tenant !== undefined) entry.tenant = options.tenant;
    this.#place(entry);
  }

  addAfterFailure(key: string, options: AddOptions & { minDelayMs?: number } = {}): void {
    const attempt = this.#failures.get(key) ?? 0;
    this.#failures.set(key, attempt + 1);
    const delayMs = Math.max(backoffMs(this.#backoff, attempt, this.#rng), options.minDelayMs ?? 0);
    this.add(key, { ...options, delayMs });
  }

  forget(key: string): void {
    this.#failures.delete(key);
  }

  remove(key: string): void {
    this.#failures.delete(key);
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    if (entry.state === "processing") {
      entry.dirty = undefined;
      return;
    }
    this.#unplace(entry);
    this.#entries.delete(key);
  }

  next(): Promise<QueueItem | undefined> {
    if (this.#closed) return Promise.resolve(undefined);
    const item = this.#take();
    if (item !== undefined) return Promise.resolve(item);
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  done(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined || entry.state !== "processing") return;
    if (entry.dirty === undefined || this.#closed) {
      this.#entries.delete(key);
      return;
    }
    entry.priority = entry.dirty.priority;
    entry.dueMs = entry.dirty.dueMs;
    entry.dirty = undefined;
    this.#place(entry);
  }

  close(): void {
    this.#closed = true;
    this.#timer?.timer.cancel();
    this.#timer = undefined;
    for (const taker of this.#takers.splice(0)) taker(undefined);
  }

  #place(entry: Entry): void {
    if (entry.dueMs > this.#clock.monotonicMs()) {
      entry.state = "delayed";
      this.#delayed.add(entry);
      this.#arm(entry.dueMs);
      return;
    }
    entry.state = "ready";
    this.#lane(entry).push(entry);
    this.#hand();
  }

  #unplace(entry: Entry): void {
    if (entry.state === "delayed") this.#delayed.delete(entry);
    else this.#lane(entry).delete(entry);
  }

  #lane(entry: Entry): Lane {
    return this.#lanes[entry.priority] as Lane;
  }

  /** One timer, for the earliest delayed key. */
  #arm(dueMs: number): void {
    if (dueMs === Infinity || this.#closed) return;
    if (this.#timer !== undefined) {
      if (this.#timer.dueMs <= dueMs) return;
      this.#timer.timer.cancel();
    }
    const timer = this.#clock.setTimer(dueMs - this.#clock.monotonicMs(), () => this.#wake());
    this.#timer = { dueMs, timer };
  }

  #wake(): void {
    this.#timer = undefined;
    const now = this.#clock.monotonicMs();
    const due = [...this.#delayed].filter((entry) => entry.dueMs <= now).sort((a, b) => a.dueMs - b.dueMs);
    for (const entry of due) {
      this.#delayed.delete(entry);
      this.#place(entry);
    }
    let next = Infinity;
    for (const entry of this.#delayed) next = Math.min(next, entry.dueMs);
    this.#arm(next);
  }

  #hand(): void {
    while (this.#takers.length > 0) {
      const item = this.#take();
      if (item === undefined) return;
      this.#takers.shift()?.(item);
    }
  }

  #take(): QueueItem | undefined {
    for (const lane of this.#lanes) {
      const entry = lane.shift();
      if (entry === undefined) continue;
      entry.state = "processing";
      return { key: entry.key, priority: entry.priority, waitedMs: this.#clock.monotonicMs() - entry.dueMs };
    }
    return undefined;
  }
}

function min(a: Priority, b: Priority): Priority {
  return a < b ? a : b;
}
