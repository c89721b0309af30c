/** What a benchmark of one goal answers, and what it is given. */
import type { Clock } from "@moorage/shared/clock";
import type { LatencyRun } from "./latency.ts";

/** One measured goal, as `make bench OUT=file` writes it. */
export interface GoalRecord {
  /** Name of the goal in the design, e.g. `G1`. */
  id: string;
  /** The figure itself, in `unit`. */
  value: number;
  unit: string;
  /** What the figure is held against, in the same unit, from the same run; null without one. */
  baseline: number | null;
  /** `value / baseline`; null without a baseline. */
  ratio: number | null;
  /** The bound: on `ratio` where the goal is a ratio, on `value` otherwise. */
  goal: number;
  /** Whether this bound and the others of the goal (in `detail`) hold. */
  met: boolean;
  /** Further figures of the goal; names end in their unit. */
  detail: Record<string, number | string>;
}

/** A record with the text of its line, without id and verdict. */
export interface GoalReport {
  record: GoalRecord;
  text: string;
  /** What makes the figure weaker than it looks; printed below the line. */
  notes: string[];
}

/** What the goals share. */
export interface Lab {
  clock: Clock;
  /** A folder for everything that a goal starts; removed at the end. */
  dir: string;
  /** Says how far the run is. */
  progress(line: string): void;
  /** Registers what ends a started part; ended in reverse order after each goal, also after a failure. */
  defer(end: () => Promise<unknown>): void;
  /** The latency run that G1 and G2 share: made once. */
  latency(): Promise<LatencyRun>;
}
