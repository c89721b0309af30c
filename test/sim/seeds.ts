/** Many worlds over all cores: child processes share the seeds and report a line each. */
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";
import type { FaultHits } from "./faults.ts";
import { addHits } from "./faults.ts";
import type { ScenarioName } from "./scenarios.ts";
import type { Outcome } from "./world.ts";

/** Seeds of the simulation in CI: 1 to this one. */
export const SEEDS = 1_000;

/** What all worlds together gave. */
export interface Totals {
  seeds: number;
  virtualHours: number;
  events: number;
  acknowledged: number;
  faults: FaultHits;
  /** Worlds by scenario. */
  scenarios: Partial<Record<ScenarioName, number>>;
  /** A line for each broken invariant, with the command that runs its world again. */
  broken: string[];
}

/** Runs the seeds `from` to `to`. */
export async function runSeeds(from: number, to: number): Promise<Totals> {
  const totals: Totals = {
    seeds: 0,
    virtualHours: 0,
    events: 0,
    acknowledged: 0,
    faults: {},
    scenarios: {},
    broken: [],
  };
  const step = Math.max(1, Math.min(availableParallelism(), to - from + 1));
  await Promise.all(Array.from({ length: step }, (_, i) => runChild([from + i, to, step], totals)));
  return totals;
}

async function runChild(range: readonly number[], totals: Totals): Promise<void> {
  const script = new URL("run-seeds.ts", import.meta.url).pathname;
  const child = spawn(process.execPath, [script, ...range.map(String)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
  let last = "none";
  for await (const line of createInterface({ input: child.stdout })) {
    const outcome = JSON.parse(line) as Outcome & { seed: number };
    last = String(outcome.seed);
    take(outcome, totals);
  }
  const code = await ended;
  // 1: an invariant broke, which its line has told already.
  if (code !== 0 && code !== 1)
    totals.broken.push(`a process over ${range.join(", ")} ended with ${code} after seed ${last}`);
}

function take(outcome: Outcome & { seed: number }, totals: Totals): void {
  totals.seeds++;
  totals.virtualHours += outcome.virtualMs / 3_600_000;
  totals.events += outcome.events;
  totals.acknowledged += outcome.acknowledged;
  addHits(totals.faults, outcome.faults);
  totals.scenarios[outcome.scenario] = (totals.scenarios[outcome.scenario] ?? 0) + 1;
  for (const v of outcome.violations)
    totals.broken.push(
      `seed ${outcome.seed} (${outcome.scenario}, hash ${outcome.hash.slice(0, 12)}; replay: make sim SEED=${outcome.seed}): ${v.invariant}: ${v.message}`,
    );
}
