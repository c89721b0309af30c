import type { Clock } from "@moorage/shared/clock";

/**
 * Two live agents with one identity. One process keeps its instance id for life, and a process that was
 * replaced for good never comes back: the order A, B, A of instance ids within {@link WINDOW_MS} is
 * proof of two. With equal generations no Lease stands between them, as in a cloned cluster; with rising
 * ones two replicas may merely have taken turns, so that it takes {@link TURNS} of them.
 */

/** Time in which an instance id that comes again counts. */
const WINDOW_MS = 5 * 60_000;
/** Returns of replaced instances that are no mere failover any more. */
const TURNS = 3;
/** Instances remembered for a data plane. */
const KEPT = 8;

interface Seen {
  instance: string;
  generation: bigint;
  atMs: number;
}

/** Remembers who replaced whom. Forgets by itself. */
export class Twins {
  readonly #clock: Clock;
  readonly #seen = new Map<string, Seen[]>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * A stream of `by` is about to take over from a live one; true when it must be refused because both
   * live. Remembers it otherwise.
   */
  replaces(dataPlaneUid: string, by: { instance: string; generation: bigint }): boolean {
    const nowMs = this.#clock.monotonicMs();
    const recent = (this.#seen.get(dataPlaneUid) ?? []).filter((s) => nowMs - s.atMs < WINDOW_MS);
    const last = recent.at(-1);
    const returns = countReturns([...recent.map((s) => s.instance), by.instance]);
    const back = last !== undefined && last.instance !== by.instance && returns > 0;
    const equal = back && last.generation === by.generation;
    if (equal || (back && returns >= TURNS)) {
      this.#seen.set(dataPlaneUid, recent);
      return true;
    }
    this.#seen.set(dataPlaneUid, [...recent, { ...by, atMs: nowMs }].slice(-KEPT));
    return false;
  }

  /** A stream came up where none was. */
  opened(dataPlaneUid: string, by: { instance: string; generation: bigint }): void {
    const nowMs = this.#clock.monotonicMs();
    const recent = (this.#seen.get(dataPlaneUid) ?? []).filter((s) => nowMs - s.atMs < WINDOW_MS);
    if (recent.at(-1)?.instance === by.instance) return;
    this.#seen.set(dataPlaneUid, [...recent, { ...by, atMs: nowMs }].slice(-KEPT));
  }

  /** Forgets a data plane. */
  forget(dataPlaneUid: string): void {
    this.#seen.delete(dataPlaneUid);
  }
}

/** How often an instance comes again after another one came in between. */
function countReturns(instances: readonly string[]): number {
  const known = new Set<string>();
  let returns = 0;
  instances.forEach((instance, i) => {
    if (known.has(instance) && instances[i - 1] !== instance) returns++;
    known.add(instance);
  });
  return returns;
}
