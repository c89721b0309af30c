/**
 * One fuzzing process. Its order is a JSON argument, its reports are messages to its parent: progress
 * once a second, then the result. What it keeps depends on the seed alone, not on the time it had.
 *
 *   node test/fuzz/worker.ts '{"target": ..., "seconds": ..., "seed": ..., "dirs": [...], "out": ..., ...}'
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { Coverage } from "./coverage.ts";
import { facts } from "./facts.ts";
import { currentFile, guard } from "./guard.ts";
import { loadTarget } from "./load.ts";
import { mutate } from "./mutate.ts";
import type { TargetFacts } from "./target.ts";

/** What a worker is told. */
export interface Order {
  target: string;
  /** `fuzz` for a time; `cover`: only runs the inputs, and keeps the fewest that cover what all do. */
  mode: "fuzz" | "cover";
  seconds: number;
  seed: number;
  /** Folders of inputs to begin with, beside the target's own seeds. */
  dirs: readonly string[];
  /** Where inputs that show something new are kept. */
  out: string;
  /** File of the case under way. */
  current: string;
}

/** What a worker says. */
export interface Report {
  /** Set in the last one. */
  done: boolean;
  executions: number;
  kept: number;
  edges: number;
  counters: number;
  /** Set when an invariant broke: the error, and the input as hex. */
  failure?: { error: string; inputHex: string };
}

const order = JSON.parse(process.argv[2] ?? "{}") as Order;
const of = facts[order.target] as TargetFacts;
const coverage = new Coverage();
coverage.install(["/shared/", "/hub/", "/agent/", ...of.instrument], ["/test/", "/proto/gen/", ".test.ts"]);
const target = await loadTarget(order.target);
const run = guard(order.target, { target, facts: of, current: currentFile(order.current) });
const inputs: Uint8Array[] = [];
let executions = 0;

function report(done: boolean, failure?: Report["failure"]): Promise<void> {
  const { edges, counters } = coverage;
  const message: Report = { done, executions, kept: inputs.length, edges, counters };
  if (failure !== undefined) message.failure = failure;
  return new Promise((resolve) => process.send?.(message, undefined, {}, () => resolve()) ?? resolve());
}

function keep(data: Uint8Array): void {
  inputs.push(data);
  const name = createHash("sha256").update(data).digest("hex").slice(0, 16);
  writeFileSync(join(order.out, name), data);
}

/** Runs one case; true when it showed something new. Ends the process on a broken invariant. */
async function execute(data: Uint8Array): Promise<boolean> {
  coverage.reset();
  try {
    const running = run(data);
    if (running !== undefined) await running;
  } catch (thrown) {
    const error = thrown instanceof Error ? String(thrown.stack) : String(thrown);
    await report(true, { error, inputHex: Buffer.from(data).toString("hex") });
    process.exit(1);
  }
  executions++;
  return coverage.collect(order.mode === "fuzz");
}

function given(): Uint8Array[] {
  return order.dirs
    .filter((dir) => existsSync(dir))
    .flatMap((dir) =>
      readdirSync(dir)
        .sort()
        .map((file) => new Uint8Array(readFileSync(join(dir, file)))),
    );
}

mkdirSync(order.out, { recursive: true });
const first = [...(await target.seeds()), ...given()].sort((a, b) => a.length - b.length);
for (const data of first) if (await execute(data)) keep(data);

if (order.mode === "fuzz") {
  const rng = seededRng(order.seed);
  const words = [...new Set([...of.words, ...of.words, ...coverage.texts])].map((w) => Buffer.from(w));
  const end = systemClock.monotonicMs() + order.seconds * 1_000;
  let told = systemClock.monotonicMs();
  if (inputs.length === 0) inputs.push(new Uint8Array());
  for (let now = told; now < end; now = systemClock.monotonicMs()) {
    if (now - told > 1_000) {
      told = now;
      await report(false);
    }
    // What was found last leads on most often.
    const recent = rng.float() < 0.3 ? Math.max(0, inputs.length - 16) : 0;
    const parent = inputs[recent + Math.floor(rng.float() * (inputs.length - recent))] as Uint8Array;
    const data = mutate(parent, { rng, maxBytes: of.maxBytes, inputs, words });
    if (await execute(data)) keep(data);
  }
}
await report(true);
process.exit(0);
