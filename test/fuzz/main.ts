/**
 * The entry of `make fuzz`: all targets, two at a time, each for its share of the time; or one target,
 * or one input. Ends with a table and 1 when an invariant broke.
 *
 *   node test/fuzz/main.ts [--seconds 600] [--workers 2] [--target NAME] [--seed N] [--keep]
 *   node test/fuzz/main.ts --target NAME --input FILE
 *
 * A run is a function of the seed and the kept corpus, but for the time it had. `--keep` replaces the
 * kept corpus by the smallest inputs that cover what old and new ones do.
 */
import { spawnSync } from "node:child_process";
import { createHash, randomInt } from "node:crypto";
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { facts, targetNames } from "./facts.ts";
import type { TargetFacts } from "./target.ts";
import type { Outcome } from "./watch.ts";
import { runWorker } from "./watch.ts";
import type { Order } from "./worker.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "600" },
    workers: { type: "string", default: "2" },
    target: { type: "string", default: "" },
    input: { type: "string", default: "" },
    seed: { type: "string", default: "" },
    keep: { type: "boolean", default: false },
  },
});
const root = join(import.meta.dirname, "../..");
const work = join(root, ".moorage/fuzz");
const names = values.target === "" ? targetNames : values.target.split(",");
const unknown = names.find((name) => !Object.hasOwn(facts, name));
if (unknown !== undefined) {
  console.error(`There is no target "${unknown}"; there are ${targetNames.join(", ")}`);
  process.exit(2);
}
if (values.input !== "") process.exit(replayOne(names[0] as string, values.input));

const workers = Number(values.workers);
const share = (Number(values.seconds) * Math.min(workers, names.length)) / names.length;
const seed = values.seed === "" ? randomInt(1, 2 ** 31) : Number(values.seed);
if (!(share > 0) || !Number.isSafeInteger(seed)) {
  console.error("SECONDS and WORKERS must be positive numbers, SEED an integer");
  process.exit(2);
}

/** Runs one input in a process of its own, so that whatever it does shows as an exit status. */
function replayOne(name: string, file: string): number {
  const args = ["--disable-warning=ExperimentalWarning", join(import.meta.dirname, "replay.ts"), name, file];
  const run = spawnSync(process.execPath, args, { stdio: "inherit" });
  if (run.status === 0) console.log(`"${name}" holds on ${file}`);
  else console.error(`"${name}" breaks on ${file} (${run.signal ?? `code ${run.status}`})`);
  return run.status ?? 1;
}

function orderOf(name: string): Order {
  const dir = join(work, name);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir, { recursive: true });
  return {
    target: name,
    mode: "fuzz",
    seconds: share,
    seed,
    dirs: [join(import.meta.dirname, "corpus", name)],
    out: join(dir, "found"),
    current: join(dir, "current"),
  };
}

/** Replaces the kept corpus of a target by a cover of what it and the run have. */
async function keepCorpus(order: Order, of: TargetFacts): Promise<void> {
  const out = join(work, order.target, "cover");
  const dirs = [...order.dirs, order.out];
  const { failure } = await runWorker({ ...order, mode: "cover", dirs, out }, of);
  if (failure !== undefined) throw new Error(`Cannot keep the corpus of "${order.target}": ${failure.error}`);
  const kept = order.dirs[0] as string;
  rmSync(kept, { recursive: true, force: true });
  cpSync(out, kept, { recursive: true });
}

function tell(name: string, { failure }: Outcome): void {
  if (failure === undefined) return;
  const file = join(
    work,
    name,
    `crash-${createHash("sha256").update(failure.input).digest("hex").slice(0, 16)}`,
  );
  writeFileSync(file, failure.input);
  const shown = relative(root, file);
  console.error(
    `\nTarget "${name}" broke with seed ${seed}:\n${failure.error}\nInput (${failure.input.length} bytes): ${shown}\nReplay: make fuzz TARGET=${name} INPUT=${shown}\nAgain:  make fuzz TARGET=${name} SEED=${seed} SECONDS=${Math.ceil(share)}\n`,
  );
}

console.log(
  `Fuzzing ${names.length} targets for ${share.toFixed(0)} s each, ${workers} at a time, seed ${seed}`,
);
const outcomes = new Map<string, Outcome>();
const waiting = [...names];
async function workOff(): Promise<void> {
  for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
    const order = orderOf(name);
    const of = facts[name] as TargetFacts;
    const outcome = await runWorker(order, of);
    outcomes.set(name, outcome);
    tell(name, outcome);
    if (values.keep && outcome.failure === undefined) await keepCorpus(order, of);
  }
}
await Promise.all(Array.from({ length: workers }, workOff));

const cell = (text: string | number, width: number) => String(text).padStart(width);
console.log(`\n${"target".padEnd(10)} executions  a second  branches  inputs  result`);
let total = 0;
for (const name of names) {
  const { report, seconds, failure } = outcomes.get(name) as Outcome;
  total += report.executions;
  const rate = (report.executions / seconds).toFixed(0);
  console.log(
    `${name.padEnd(10)} ${cell(report.executions, 10)}  ${cell(rate, 8)}  ${cell(report.edges, 8)}  ${cell(report.kept, 6)}  ${failure === undefined ? "ok" : "BROKEN"}`,
  );
}
const broken = names.filter((name) => outcomes.get(name)?.failure !== undefined);
console.log(`\n${total} executions, ${broken.length} of ${names.length} targets broken, seed ${seed}`);
process.exit(broken.length === 0 ? 0 : 1);
