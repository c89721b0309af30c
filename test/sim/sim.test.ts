import { describe, expect, it } from "vitest";
import { unpacked } from "./bundles.ts";
import { faultTable, missingKinds } from "./faults.ts";
import { runSeeds, SEEDS } from "./seeds.ts";
import { runWorld } from "./world.ts";

// oxlint-disable-next-line -- the one switch of this suite, set by `make sim SEED=n`
const only = process.env["MOORAGE_SIM_SEED"] ?? "";

const bundles = await unpacked();

const one = () => {
  it(`keeps every invariant with seed ${only}`, { timeout: 600_000 }, async () => {
    const outcome = await runWorld({
      seed: Number(only),
      bundles,
      trace: (line) => console.log(line),
    });
    console.log(outcome);
    expect(outcome.violations).toEqual([]);
  });
};

const many = () => {
  it("are equal for equal seeds and differ for others", async () => {
    const first = await runWorld({ seed: 1, bundles });
    expect((await runWorld({ seed: 1, bundles })).hash).toBe(first.hash);
    expect((await runWorld({ seed: 2, bundles })).hash).not.toBe(first.hash);
    expect(first.acknowledged).toBeGreaterThan(10);
  });

  it(
    `keep every invariant with seeds 1 to ${SEEDS}, under every kind of fault`,
    { timeout: 1_800_000 },
    async () => {
      const totals = await runSeeds(1, SEEDS);
      const { seeds, virtualHours, events, acknowledged, faults, scenarios, broken } = totals;
      console.log(
        `${seeds} seeds, ${virtualHours.toFixed(1)} virtual hours, ${acknowledged} acknowledged writes, ${events} events\n` +
          `worlds: ${JSON.stringify(scenarios)}\n${faultTable(faults)}`,
      );
      expect(broken).toEqual([]);
      expect(seeds).toBe(SEEDS);
      expect(missingKinds(faults)).toEqual([]);
    },
  );
};

if (only === "") describe("simulated worlds", many);
else describe("one simulated world", one);
