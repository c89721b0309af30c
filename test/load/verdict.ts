/** What a figure is worth: pure rules, so that no goal decides it for itself. */
import type { MeterReading } from "./meter.ts";

/**
 * - `met`, `missed`: the figure against the goal.
 * - `driver-limited`: missed, but the driver was saturated and the hub was not: nothing is known.
 * - `invalid`: the load that the goal asks for was not reached, or the run broke a rule.
 */
export type Verdict = "met" | "missed" | "driver-limited" | "invalid";

/** From this share of time on a process has nothing left to give. */
const SATURATED = 0.9;
/** An event loop of the driver that is later than this stamps and answers too late. */
const LATE_MS = 100;

/** What the driver's processes and the hub had left. */
export interface Load {
  drivers: readonly MeterReading[];
  /** Share of one core that the hub's main thread was busy; undefined when it is not known. */
  hubBusy: number | undefined;
}

/** Why the driver, not the hub, was the limit; undefined when it was not. */
export function driverLimit(load: Load): string | undefined {
  if (load.hubBusy !== undefined && load.hubBusy >= SATURATED) return undefined;
  for (const d of load.drivers) {
    if (d.busy >= SATURATED) return `driver process ${d.pid} was busy for ${percent(d.busy)} of the time`;
    if (d.loopDelayP99Ms > LATE_MS)
      return `driver process ${d.pid} was late by ${Math.round(d.loopDelayP99Ms)} ms (p99)`;
  }
  return undefined;
}

/**
 * The verdict. A saturated driver can only make times longer and rates lower, so a goal that is met
 * all the same is met.
 */
export function verdictOf(run: {
  met: boolean;
  limit: string | undefined;
  invalid: string | undefined;
}): Verdict {
  if (run.invalid !== undefined) return "invalid";
  if (run.met) return "met";
  return run.limit === undefined ? "missed" : "driver-limited";
}

/** One note about the load, printed below every figure of a fleet. */
export function loadNote(load: Load, cpus: number): string {
  const cores = load.drivers.reduce((sum, d) => sum + d.cores, 0);
  const late = Math.max(0, ...load.drivers.map((d) => d.loopDelayP99Ms));
  const busy = Math.max(0, ...load.drivers.map((d) => d.busy));
  const hub = load.hubBusy === undefined ? "" : `; hub's event loop busy ${percent(load.hubBusy)}`;
  return `driver: ${load.drivers.length} processes, ${cores.toFixed(2)} of ${cpus} cores, busiest ${percent(busy)}, loop p99 ${late.toFixed(0)} ms${hub}; all on this machine`;
}

const percent = (share: number): string => `${Math.round(share * 100)} %`;
