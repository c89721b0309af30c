import { describe, expect, it } from "vitest";
import { unpacked } from "./bundles.ts";
import { endingOf, runWorld } from "./world.ts";

const SEEDS = 200;
const CHUNK = 10;
// oxlint-disable-next-line -- the one switch of this suite, set by `make sim SEED=n`
const only = process.env["MOORAGE_SIM_SEED"] ?? "";

const bundles = await unpacked();

const world = (seed: number, trace?: (line: string) => void) =>
  runWorld({ seed, bundles, ending: endingOf(seed), ...(trace === undefined ? {} : { trace }) });

/** Runs seeds; answers a line for each that broke an invariant. */
async function broken(seeds: readonly number[]): Promise<string[]> {
  const out: string[] = [];
  for (const seed of seeds) {
    const { violations } = await world(seed);
    for (const v of violations.slice(0, 5))
      out.push(`seed ${seed} (replay: make sim SEED=${seed}): ${v.invariant}: ${v.message}`);
  }
  return out;
}

const one = () => {
  it(`keeps every invariant with seed ${only}`, async () => {
    const outcome = await world(Number(only), (line) => console.log(line));
    console.log(outcome);
    expect(outcome.violations).toEqual([]);
  });
};

const many = () => {
  it("are equal for equal seeds and differ for others", async () => {
    const first = await world(1);
    expect((await world(1)).hash).toBe(first.hash);
    expect((await world(2)).hash).not.toBe(first.hash);
    expect(first.acknowledged).toBeGreaterThan(10);
  });

  for (let from = 1; from <= SEEDS; from += CHUNK) {
    const seeds = Array.from({ length: CHUNK }, (_, i) => from + i);
    it(`keep every invariant with seeds ${from} to ${from + CHUNK - 1}`, async () => {
      expect(await broken(seeds)).toEqual([]);
    });
  }
};

if (only === "") describe("simulated worlds", many);
else describe("one simulated world", one);
