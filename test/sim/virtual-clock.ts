/**
 * Time that moves only when the simulation says so. Timers are ordered by (due time, order of
 * setting); between two timers the event loop gets its turn, so that every promise that can settle
 * has settled before time moves on. Nothing in a simulated world may leave the event loop (sockets,
 * threads, file I/O, WebCrypto): what returns from there does so at a turn that no seed controls.
 */
import type { Clock, Timer } from "@moorage/shared/clock";

interface Pending {
  dueMs: number;
  seq: number;
  fn: () => void;
}

/** A clock for simulations and for tests of anything that waits. */
export class VirtualClock implements Clock {
  #nowMs: number;
  readonly #startMs: number;
  #seq = 0;
  /** A binary heap, earliest first. */
  readonly #heap: Pending[] = [];
  readonly #cancelled = new Set<number>();
  /** Timers that fired. */
  fired = 0;

  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#startMs = startMs;
    this.#nowMs = startMs;
  }

  now(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs - this.#startMs;
  }

  setTimer(delayMs: number, fn: () => void): Timer {
    const seq = ++this.#seq;
    // Whole milliseconds, as Date.now gives; never early.
    this.#push({ dueMs: this.#nowMs + Math.ceil(Math.max(0, delayMs)), seq, fn });
    return { cancel: () => void this.#cancelled.add(seq) };
  }

  /** A view of this clock that is off by `offsetMs` in wall time: a host whose clock is wrong. */
  skewed(offsetMs: number): Clock {
    return {
      now: () => this.now() + offsetMs,
      monotonicMs: () => this.monotonicMs(),
      setTimer: (d, f) => this.setTimer(d, f),
    };
  }

  /** Timers that are set. */
  get pending(): number {
    return this.#heap.length;
  }

  /**
   * Runs every timer that is due within `durationMs` and ends at that time. Settles early when `until`
   * says so, which is asked after each timer; answers whether it did.
   */
  async advance(durationMs: number, until?: () => boolean): Promise<boolean> {
    const end = this.#nowMs + durationMs;
    await turn();
    if (until?.() === true) return true;
    for (let next = this.#heap[0]; next !== undefined && next.dueMs <= end; next = this.#heap[0]) {
      this.#pop();
      if (this.#cancelled.delete(next.seq)) continue;
      this.#nowMs = Math.max(this.#nowMs, next.dueMs);
      this.fired++;
      next.fn();
      await turn();
      if (until?.() === true) return true;
    }
    this.#nowMs = end;
    return until?.() === true;
  }

  #push(item: Pending): void {
    const heap = this.#heap;
    heap.push(item);
    let i = heap.length - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(heap[i] as Pending, heap[parent] as Pending)) break;
      [heap[i], heap[parent]] = [heap[parent] as Pending, heap[i] as Pending];
      i = parent;
    }
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (heap.length === 0 || last === undefined) return;
    heap[0] = last;
    for (let i = 0; ;) {
      const left = 2 * i + 1;
      let least = i;
      for (const child of [left, left + 1]) {
        if (child < heap.length && before(heap[child] as Pending, heap[least] as Pending)) least = child;
      }
      if (least === i) break;
      [heap[i], heap[least]] = [heap[least] as Pending, heap[i] as Pending];
      i = least;
    }
  }
}

const before = (a: Pending, b: Pending): boolean =>
  a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.seq < b.seq);

/** One turn of the event loop: all microtasks, and what they queued for it. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
