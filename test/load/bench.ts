/** Runs the goals of the design against real parts and says which are met. */
import { mkdtempSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { sleep, systemClock } from "@moorage/shared/clock";
import { removeDir } from "../world/world.ts";
import { g1 } from "./g1.ts";
import { g2 } from "./g2.ts";
import { g6 } from "./g6.ts";
import { g8 } from "./g8.ts";
import type { GoalRecord, GoalReport, Lab } from "./goal.ts";
import type { LatencyRun } from "./latency.ts";
import { runLatency } from "./latency.ts";

/** The goals that can be measured, in the order in which they run. */
const goals: Readonly<Record<string, (lab: Lab) => Promise<GoalReport>>> = {
  G1: g1,
  G2: g2,
  G6: g6,
  G8: g8,
};

/** A goal that takes longer has failed. */
const GOAL_LIMIT_MS = 10 * 60_000;

/**
 * Measures the goals that `only` names (comma-separated; all when empty), prints a line for each and
 * writes the records to the file `out`, when given. Answers the exit code: 0 when all were measured,
 * met or not; 1 when one could not be; 2 for an unknown name.
 */
export async function bench(options: { only: string; out: string }): Promise<number> {
  const wanted = options.only === "" ? Object.keys(goals) : options.only.split(",").map((id) => id.trim());
  const unknown = wanted.filter((id) => goals[id] === undefined);
  if (unknown.length > 0) {
    console.error(`Cannot measure "${unknown.join(",")}": goals are ${Object.keys(goals).join(", ")}`);
    return 2;
  }
  const interrupted = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => interrupted.abort());
  const { lab, end } = createLab();
  const records: GoalRecord[] = [];
  let failed = false;
  console.log(
    `Node ${process.versions.node}, ${availableParallelism()} CPUs, load ${loadavg()[0]?.toFixed(2)}; every store syncs`,
  );
  for (const id of wanted) {
    try {
      const report = await bounded((goals[id] as (typeof goals)[string])(lab), {
        id,
        signal: interrupted.signal,
      });
      console.log(`${id}  ${report.text}`);
      for (const note of report.notes) console.log(`    ${note}`);
      records.push(report.record);
    } catch (error) {
      failed = true;
      console.error(`${id}  not measured: ${error instanceof Error ? error.message : String(error)}`);
    }
    await end();
    if (interrupted.signal.aborted) break;
  }
  removeDir(lab.dir);
  if (options.out !== "") writeFileSync(options.out, `${JSON.stringify(records, undefined, 2)}\n`);
  return failed ? 1 : 0;
}

function createLab(): { lab: Lab; end(): Promise<void> } {
  const ends: (() => Promise<unknown>)[] = [];
  let latency: Promise<LatencyRun> | undefined;
  const lab: Lab = {
    clock: systemClock,
    dir: mkdtempSync(join(tmpdir(), "moorage-bench-")),
    progress: (line) => console.error(`.. ${line}`),
    defer: (end) => void ends.push(end),
    latency: () => (latency ??= runLatency(lab)),
  };
  const end = async (): Promise<void> => {
    for (const e of ends.splice(0).reverse())
      await e().catch((error: unknown) => console.error(`Cannot end a part: ${String(error)}`));
    removeDir(join(lab.dir, "world"));
  };
  return { lab, end };
}

/** `work`, given up at its limit or when the run is interrupted. */
async function bounded<T>(work: Promise<T>, what: { id: string; signal: AbortSignal }): Promise<T> {
  const done = new AbortController();
  const limit = sleep(systemClock, GOAL_LIMIT_MS, AbortSignal.any([done.signal, what.signal])).then(
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
