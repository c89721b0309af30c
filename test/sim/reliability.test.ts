/** The reliability tests that only virtual time can pay for, by their names (R6, R7, R9, R13 to R15). */
import { describe, expect, it } from "vitest";
import { unpacked } from "./bundles.ts";
import type { FaultHits, FaultKind } from "./faults.ts";
import { addHits } from "./faults.ts";
import type { ScenarioName } from "./scenarios.ts";
import type { Violation, Invariant } from "./invariants.ts";
import { runWorld } from "./world.ts";

const bundles = await unpacked();
const timeout = 600_000;

/** What some worlds of one scenario gave together. */
interface Runs {
  hits: FaultHits;
  broken: (Violation & { seed: number })[];
  stale: number;
}

/** Runs `count` worlds of a scenario, with seeds that the run over all seeds does not have. */
async function run(scenario: ScenarioName, count: number, planes?: number): Promise<Runs> {
  const out: Runs = { hits: {}, broken: [], stale: 0 };
  for (let i = 0; i < count; i++) {
    const seed = 100_000 + i;
    const outcome = await runWorld({ seed, bundles, scenario, ...(planes === undefined ? {} : { planes }) });
    addHits(out.hits, outcome.faults);
    for (const v of outcome.violations) out.broken.push({ seed, ...v });
  }
  out.stale = of(out, "single-writer").length;
  return out;
}

const of = (runs: Runs, invariant: Invariant) => runs.broken.filter((v) => v.invariant === invariant);
const hit = (runs: Runs, kind: FaultKind) => runs.hits[kind] ?? 0;

describe("R6: clocks that are 5 min or 10 years off, at the hub or an agent", () => {
  it("lose nothing, expire nothing for good, and leave the state converging", { timeout }, async () => {
    const runs = await run("clocks", 12);
    expect(runs.broken).toEqual([]);
    const jumps = hit(runs, "hub-clock-decade") + hit(runs, "agent-clock-decade");
    expect(jumps).toBeGreaterThan(0);
    expect(hit(runs, "hub-clock-off") + hit(runs, "agent-clock-off")).toBeGreaterThan(0);
  });
});

describe("R7: 24 agents cut off for an hour, then healed", () => {
  it(
    "are in sync within 10 s of their hello, for what changed and at most 1 KiB an agent",
    { timeout },
    async () => {
      const runs = await run("partition", 1, 24);
      expect(runs.broken).toEqual([]);
      expect(hit(runs, "hour-partition")).toBe(1);
    },
  );
});

describe("R9: a reader that stands still while its set changes", () => {
  it("gets the newest of each object once", { timeout }, async () => {
    const runs = await run("stalled", 6);
    expect(runs.broken).toEqual([]);
    expect(hit(runs, "reader-stalled")).toBeGreaterThan(0);
  });
});

describe("R13: a hub restored from a backup older than its agents", () => {
  it(
    "deletes and rolls back nothing before its epoch is accepted, lists what differs, and converges after",
    { timeout },
    async () => {
      const runs = await run("restored", 8);
      expect(runs.broken).toEqual([]);
      expect(hit(runs, "hub-restored")).toBe(8);
      expect(hit(runs, "epoch-accepted")).toBe(8);
    },
  );

  it(
    "does no more when it finds out from its agents that the end of its history is lost",
    { timeout },
    async () => {
      const runs = await run("historyLost", 6);
      expect(runs.broken).toEqual([]);
      expect(hit(runs, "history-lost")).toBe(6);
    },
  );
});

describe("R14: an empty or half-loaded hub store", () => {
  it("removes nothing without tombstones", { timeout }, async () => {
    for (const scenario of ["empty", "halfLoaded"] as const) {
      const runs = await run(scenario, 6);
      expect(runs.broken).toEqual([]);
      expect(hit(runs, "hub-empty") + hit(runs, "hub-half-loaded")).toBe(6);
    }
  });

  it(
    "and with tombstones more than max(5, 20 %) are held until their exact set is authorized",
    { timeout },
    async () => {
      const runs = await run("guarded", 8);
      expect(of(runs, "guard")).toEqual([]);
      expect(of(runs, "no-deletion")).toEqual([]);
      expect(hit(runs, "removals-guarded")).toBeGreaterThan(0);
      expect(hit(runs, "removals-authorized")).toBeGreaterThan(0);
    },
  );
});

describe("R15: two agents in a cluster", () => {
  it("begin no pass on a Lease that another holds: 0 stale writes in 40 runs", { timeout }, async () => {
    const runs = await run("twins", 40);
    expect(runs.stale).toBe(0);
    expect(runs.broken).toEqual([]);
    expect(hit(runs, "twin-agent")).toBe(40);
    expect(hit(runs, "agent-paused")).toBeGreaterThan(50);
  });

  it("of which one is a clone in another cluster: it gets nothing", { timeout }, async () => {
    const runs = await run("clone", 6);
    expect(runs.broken).toEqual([]);
    expect(hit(runs, "cloned-install")).toBeGreaterThan(0);
  });
});
