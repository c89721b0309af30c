/**
 * The contract of a fuzz target: a file in targets/ whose default export is one.
 *
 * - A case is a sequence of bytes and nothing else: whatever structure a target needs it draws from
 *   them ({@link "./draw.ts"}), so that one engine mutates, keeps, minimises and replays all targets.
 * - `run` throws on a broken invariant. What the code under test may answer, it must swallow itself.
 * - Equal bytes give an equal case: no chance, no clock of the machine, no state of the case before.
 */
export interface Target {
  /** Inputs from which the mutation starts, valid ones first of all. */
  seeds(): Uint8Array[] | Promise<Uint8Array[]>;
  /** One case. */
  run(data: Uint8Array): void | Promise<void>;
}

/** What is known about a target before its modules are loaded. */
export interface TargetFacts {
  /** What is attacked, and what must hold. */
  about: string;
  /** `run` returns no promise: ten times as many cases a second. */
  sync: boolean;
  /** Largest input, bytes. */
  maxBytes: number;
  /**
   * Most CPU of the JavaScript thread that one case may cost, milliseconds, without instrumentation.
   * The loop must not be blocked above 50 ms; a case of many messages may cost more in sum.
   */
  cpuMs: number;
  /** Resident memory at which the process counts as exhausted, MiB. */
  rssMb: number;
  /** Path parts of libraries whose coverage guides, beside our own folders. */
  instrument: readonly string[];
  /** Path parts left out of `instrument`. */
  exclude: readonly string[];
  /** Words that mutation inserts. */
  words: readonly string[];
}

/** A broken invariant. */
export class Broken extends Error {
  override readonly name = "Broken";
}

/** Throws {@link Broken} unless `condition` holds. */
export function hold(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Broken(what);
}
