/**
 * Runs the worlds of some seeds in this process, a line of JSON each:
 *   node test/sim/run-seeds.ts FIRST LAST [STEP] [--scenario NAME] [--trace]
 * Ends with 1 when an invariant broke, and says how to run that world again.
 */
import { parseArgs } from "node:util";
import { unpacked } from "./bundles.ts";
import type { ScenarioName } from "./scenarios.ts";
import { scenarios } from "./scenarios.ts";
import { runWorld } from "./world.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { scenario: { type: "string" }, trace: { type: "boolean", default: false } },
});
const [first = 1, last = first, step = 1] = positionals.map(Number);
const { scenario } = values;
if (scenario !== undefined && !Object.hasOwn(scenarios, scenario))
  throw new Error(`Cannot run "${scenario}": the scenarios are ${Object.keys(scenarios).join(", ")}`);

// Faults make errors by the thousand; where they came from is asked for with --trace alone.
if (!values.trace) Error.stackTraceLimit = 1;
const bundles = await unpacked();
let broken = false;
for (let seed = first; seed <= last; seed += step) {
  const outcome = await runWorld({
    seed,
    bundles,
    ...(scenario === undefined ? {} : { scenario: scenario as ScenarioName }),
    ...(values.trace ? { trace: (line: string) => console.error(line) } : {}),
  });
  broken ||= outcome.violations.length > 0;
  console.log(JSON.stringify({ seed, ...outcome, violations: outcome.violations.slice(0, 5) }));
}
process.exitCode = broken ? 1 : 0;
