/** What a benchmark of one goal answers, and what it is given. */
import type { Clock } from "@moorage/shared/clock";
import type { FleetWorld } from "./fleet-world.ts";
import { disturbance } from "./disturbance.ts";
import type { LatencyRun } from "./latency.ts";
import { round } from "./stats.ts";
import type { Verdict } from "./verdict.ts";
import { verdictOf } from "./verdict.ts";

/** One measured goal, as `make bench OUT=file` writes it. */
export interface GoalRecord {
  /** Name of the goal in the design, with a size or a setting where it has several, e.g. `G5-1000`. */
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
  /** What the figure is worth; `met` alone says nothing when the run was no run. */
  verdict: Verdict;
  /** Part of the goal's size that was measured: 1 is all of it. */
  scale: number;
  /** Further figures of the goal; names end in their unit. */
  detail: Record<string, number | string>;
}

/** A record with the text of its line, without id and verdict. */
export interface GoalReport {
  record: GoalRecord;
  text: string;
  /** What makes the figure weaker than it looks; printed below the line. */
  notes: string[];
  /** What it was made of. */
  measured: Measured;
}

/** What a goal measured, before its verdict. */
export interface Measured extends Omit<GoalRecord, "verdict" | "scale"> {
  /** The figures for people, with the goals in parentheses. */
  figures: string;
  /** More for people, in brackets after the verdict. */
  more: string;
  notes?: string[];
  /** Why the driver was the limit. */
  limit?: string | undefined;
  /** Why the run does not count. */
  invalid?: string | undefined;
  /** What the goal bounds; `ratio` where there is one, unless said otherwise. */
  bounded?: "ratio" | "value";
  scale?: number;
}

/** The report of a goal: one line, one record. */
export function goalReport(m: Measured): GoalReport {
  const { figures, more, notes = [], limit, invalid, scale = 1, bounded: _, ...rest } = m;
  const verdict = verdictOf({ met: m.met, limit, invalid });
  const size = scale === 1 ? "" : ` at SCALE=${scale}`;
  const why = [
    ...(invalid === undefined ? [] : [`invalid: ${invalid}`]),
    ...(limit === undefined || m.met ? [] : [`driver-limited: ${limit}`]),
  ];
  return {
    text: `${figures}  ${verdict}${size}  [${more}]`,
    notes: [...why, ...notes],
    record: { ...rest, verdict, scale },
    measured: m,
  };
}

/** The same report in the light of what others did to the machine meanwhile. */
export function besideOthers(report: GoalReport, on: { othersCores: number; cpus: number }): GoalReport {
  const m = report.measured;
  const isRatio = (m.bounded ?? (m.ratio === null ? "value" : "ratio")) === "ratio";
  const disturbed = disturbance({ met: m.met, isRatio }, on);
  return goalReport({
    ...m,
    invalid: m.invalid ?? disturbed,
    detail: { ...m.detail, others_cores: round(on.othersCores) },
  });
}

/** What the goals share. */
export interface Lab {
  clock: Clock;
  /** A folder for everything that a goal starts; removed at the end. */
  dir: string;
  /** Share of the goals' sizes to measure, above 0 up to 1. */
  scale: number;
  /** A size of the design at this scale. */
  scaled(size: number): number;
  /** Says how far the run is. */
  progress(line: string): void;
  /** Registers what ends a started part; ended in reverse order after each goal, also after a failure. */
  defer(end: () => Promise<unknown>): void;
  /** The latency run that G1 and G2 share: made once. */
  latency(): Promise<LatencyRun>;
  /** The fleet that the goals of thousands of agents share: made once, ended with the benchmark. */
  fleet(): Promise<FleetWorld>;
}
