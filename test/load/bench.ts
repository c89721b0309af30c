/** Runs the goals of the design against real parts and says which are met. */
import { mkdtempSync, readdirSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "@moorage/shared/clock";
import { removeDir } from "../world/world.ts";
import { conditionsLine, readConditions } from "./conditions.ts";
import { watchOthers } from "./disturbance.ts";
import type { FleetWorld } from "./fleet-world.ts";
import { startFleetWorld } from "./fleet-world.ts";
import { g1 } from "./g1.ts";
import { g10 } from "./g10.ts";
import { g11 } from "./g11.ts";
import { g2 } from "./g2.ts";
import { g3 } from "./g3.ts";
import { g4 } from "./g4.ts";
import { g5 } from "./g5.ts";
import { g6 } from "./g6.ts";
import { g7 } from "./g7.ts";
import { g8 } from "./g8.ts";
import { g8Hub } from "./g8-hub.ts";
import type { GoalRecord, GoalReport, Lab } from "./goal.ts";
import { besideOthers } from "./goal.ts";
import { hostClock } from "./host-clock.ts";
import type { LatencyRun } from "./latency.ts";
import { runLatency } from "./latency.ts";
import { r9 } from "./r9.ts";

/** A goal with the agents that it needs of the shared fleet, if any. */
interface Goal {
  measure(lab: Lab): Promise<GoalReport | GoalReport[]>;
  fleet?: number;
}

/** The goals that can be measured, in the order in which they run; those of the shared fleet last. */
const goals: Readonly<Record<string, Goal>> = {
  G1: { measure: g1 },
  G2: { measure: g2 },
  G3: { measure: g3 },
  G6: { measure: g6 },
  G10: { measure: g10 },
  G11: { measure: g11 },
  R9: { measure: r9 },
  "G8-hub": { measure: g8Hub },
  G8: { measure: g8 },
  G7: { measure: g7, fleet: 5_000 },
  G5: { measure: g5, fleet: 5_000 },
  G4: { measure: g4, fleet: 4_000 },
};

/** A goal that takes longer has failed. */
const GOAL_LIMIT_MS = 25 * 60_000;
/** Of each agent of the shared fleet, beside its data plane. */
const FLEET_TENANTS = 19;
const FLEET_PROCESSES = 2;

/** What to measure, and where to write it. */
export interface BenchOptions {
  /** Names, comma-separated; all when empty. */
  only: string;
  /** File for the records; none when empty. */
  out: string;
  /** Share of the sizes, above 0 up to 1; 1 when empty. */
  scale: string;
}

/**
 * Measures the goals, prints a line for each and writes `{conditions, goals}` to the file `out`.
 * Answers the exit code: 0 when all were measured, met or not; 1 when one could not be; 2 for an
 * unknown name or scale.
 */
export async function bench(options: BenchOptions): Promise<number> {
  const wanted = wantedGoals(options.only);
  const scale = options.scale === "" ? 1 : Number(options.scale);
  if (!(scale > 0 && scale <= 1)) {
    console.error(`Cannot use SCALE="${options.scale}": it must be above 0 and at most 1`);
    return 2;
  }
  if (typeof wanted === "string") {
    console.error(wanted);
    return 2;
  }
  const interrupted = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => interrupted.abort());
  const fleetAgents = Math.max(0, ...wanted.map((id) => goals[id]?.fleet ?? 0));
  const { lab, end, endAll } = createLab(scale, fleetAgents);
  const records: GoalRecord[] = [];
  let failed = false;
  try {
    const conditions = readConditions(lab.dir, scale);
    console.log(conditionsLine(conditions));
    for (const id of wanted) {
      const reports = await measure(lab, id, interrupted.signal);
      failed ||= reports === undefined;
      records.push(...(reports ?? []).map((r) => r.record));
      if (options.out !== "") {
        const all = { conditions, goals: records };
        writeFileSync(options.out, `${JSON.stringify(all, undefined, 2)}\n`);
      }
      await end();
      if (interrupted.signal.aborted) break;
    }
  } finally {
    await endAll();
    removeDir(lab.dir);
  }
  return failed ? 1 : 0;
}

function wantedGoals(only: string): string[] | string {
  if (only === "") return Object.keys(goals);
  const names = new Set(only.split(",").map((id) => id.trim()));
  const unknown = [...names].filter((id) => goals[id] === undefined);
  if (unknown.length > 0)
    return `Cannot measure "${unknown.join(",")}": goals are ${Object.keys(goals).join(", ")}`;
  return Object.keys(goals).filter((id) => names.has(id));
}

/** Cores that other work used while the last run was made. */
let othersCores = 0;

/** The reports of a goal, printed; undefined when it could not be measured. */
async function measure(lab: Lab, id: string, signal: AbortSignal): Promise<GoalReport[] | undefined> {
  try {
    const others = watchOthers();
    const made = await bounded((goals[id] as Goal).measure(lab), { id, signal });
    // A goal that shares the run of the one before it takes no time of its own.
    othersCores = others() ?? othersCores;
    const on = { othersCores, cpus: availableParallelism() };
    const reports = (Array.isArray(made) ? made : [made]).map((r) => besideOthers(r, on));
    for (const report of reports) {
      console.log(`${report.record.id}  ${report.text}`);
      for (const note of report.notes) console.log(`    ${note}`);
    }
    return reports;
  } catch (error) {
    console.error(`${id}  not measured: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

function createLab(scale: number, fleetAgents: number) {
  const dir = mkdtempSync(join(tmpdir(), "moorage-bench-"));
  const ends: (() => Promise<unknown>)[] = [];
  const lastEnds: (() => Promise<unknown>)[] = [];
  let latency: Promise<LatencyRun> | undefined;
  let fleet: Promise<FleetWorld> | undefined;
  const scaled = (size: number): number => Math.max(1, Math.round(size * scale));
  const lab: Lab = {
    clock: hostClock,
    dir,
    scale,
    scaled,
    progress: (line) => console.error(`.. ${line}`),
    defer: (end) => void ends.push(end),
    latency: () => (latency ??= runLatency(lab)),
    fleet: () =>
      (fleet ??= startFleetWorld(
        lab,
        { name: "fleet", agents: scaled(fleetAgents), tenants: FLEET_TENANTS, processes: FLEET_PROCESSES },
        (fn) => void lastEnds.push(fn),
      )),
  };
  const run = async (list: (() => Promise<unknown>)[]): Promise<void> => {
    for (const e of list.splice(0).reverse())
      await e().catch((error: unknown) => console.error(`Cannot end a part: ${String(error)}`));
  };
  const end = async (): Promise<void> => {
    await run(ends);
    for (const name of readdirSync(dir)) if (name !== "fleet") removeDir(join(dir, name));
  };
  return {
    lab,
    end,
    async endAll() {
      await run(ends);
      await run(lastEnds);
    },
  };
}

/** `work`, given up at its limit or when the run is interrupted. */
async function bounded<T>(work: Promise<T>, what: { id: string; signal: AbortSignal }): Promise<T> {
  const done = new AbortController();
  const limit = sleep(hostClock, GOAL_LIMIT_MS, AbortSignal.any([done.signal, what.signal])).then(
    () => Promise.reject(new Error(`"${what.id}" took more than ${GOAL_LIMIT_MS / 60_000} min`)),
    () => Promise.reject(new Error("interrupted")),
  );
  try {
    return await Promise.race([work, limit]);
  } finally {
    done.abort();
    limit.catch(() => {});
    work.catch(() => {});
  }
}
