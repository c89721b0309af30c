/**
 * Runs kept inputs once, without the engine:
 *
 *   node test/fuzz/replay.ts corpus          every input of every target's corpus, and its seeds
 *   node test/fuzz/replay.ts TARGET FILE...  these inputs
 *
 * The last line is one of JSON: inputs by target, and the failures.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { facts, targetNames } from "./facts.ts";
import { currentFile, guard } from "./guard.ts";
import { loadTarget } from "./load.ts";
import type { TargetFacts } from "./target.ts";

/** The folder of the kept corpora. */
const corpus = join(import.meta.dirname, "corpus");

interface Input {
  name: string;
  data: Uint8Array;
}

const failures: { target: string; input: string; error: string }[] = [];
const counts: Record<string, number> = {};

async function replay(name: string, inputs: readonly Input[] | undefined): Promise<void> {
  const target = await loadTarget(name);
  const run = guard(name, { target, facts: facts[name] as TargetFacts, current: currentFile(undefined) });
  const all = inputs ?? [...seedsOf(await target.seeds()), ...keptOf(name)];
  counts[name] = all.length;
  for (const input of all) {
    try {
      await run(input.data);
    } catch (thrown) {
      const error = thrown instanceof Error ? String(thrown.stack) : String(thrown);
      failures.push({ target: name, input: input.name, error });
    }
  }
}

function seedsOf(seeds: readonly Uint8Array[]): Input[] {
  return seeds.map((data, i) => ({ name: `seed ${i}`, data }));
}

function keptOf(name: string): Input[] {
  const dir = join(corpus, name);
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .sort()
    .map((file) => ({ name: file, data: new Uint8Array(readFileSync(join(dir, file))) }));
}

const [what = "corpus", ...files] = process.argv.slice(2);
const only = files.map((file) => ({ name: file, data: new Uint8Array(readFileSync(file)) }));
for (const name of what === "corpus" ? targetNames : [what]) {
  await replay(name, only.length === 0 ? undefined : only);
}
for (const f of failures) console.error(`${f.target}, ${f.input}: ${f.error}\n`);
console.log(JSON.stringify({ counts, failures: failures.map(({ target, input }) => ({ target, input })) }));
process.exit(failures.length === 0 ? 0 : 1);
