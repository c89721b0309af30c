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

/** One process of an agent: its id in hex, and the generation of its Lease. */
export interface Instance {
  instance: string;
  generation: bigint;
}

interface Seen extends Instance {
  atMs: number;
}

/** Remembers which agents had streams. Forgets by itself. */
export class Twins {
  readonly #clock: Clock;
  /** Those whose newest stream is the oldest come first. */
  readonly #seen = new Map<string, Seen[]>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Data planes remembered. */
  get size(): number {
    return this.#seen.size;
  }

  /** Whether a stream of `by` must not take over from a live one, because both agents live. */
  refuses(dataPlaneUid: string, by: Instance): boolean {
    const recent = this.#recent(dataPlaneUid);
    const last = recent.at(-1);
    if (last === undefined || last.instance === by.instance) return false;
    const returns = countReturns([...recent.map((s) => s.instance), by.instance]);
    return returns >= TURNS || (returns > 0 && last.generation === by.generation);
  }

  /** A stream came up. */
  opened(dataPlaneUid: string, by: Instance): void {
    const atMs = this.#clock.monotonicMs();
    const recent = this.#recent(dataPlaneUid);
    const others = recent.at(-1)?.instance === by.instance ? recent.slice(0, -1) : recent;
    this.#seen.delete(dataPlaneUid);
    this.#seen.set(dataPlaneUid, [...others, { ...by, atMs }].slice(-KEPT));
    for (const uid of this.#seen.keys()) {
      if (this.#recent(uid).length > 0) break;
      this.#seen.delete(uid);
    }
  }

  #recent(dataPlaneUid: string): Seen[] {
    const nowMs = this.#clock.monotonicMs();
    return (this.#seen.get(dataPlaneUid) ?? []).filter((s) => nowMs - s.atMs < WINDOW_MS);
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
