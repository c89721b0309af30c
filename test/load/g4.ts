/**
 * G4: one change to many data planes, from its first commit to the last ack at the hub. No call of the
 * API selects many data planes, so the hub process writes the rows as a rollout does: transactions of
 * 100 rows each. The same change by single calls of the API is beside it.
 */
import { availableParallelism } from "node:os";
import { connectApis } from "./bench-hub.ts";
import type { FleetWorld } from "./fleet-world.ts";
import { firstN } from "./fleet-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { hostClock } from "./host-clock.ts";
import { spreadCalls, tenantName } from "./provision.ts";
import { median, quantile, round, spread } from "./stats.ts";
import { driverLimit, loadNote } from "./verdict.ts";

/** Fan-outs that count, after one to warm up. */
const ROUNDS = 5;
const BODY_BYTES = 2_048;
const PATIENCE_MS = 60_000;
const SIZES = [
  { agents: 1_000, goalMs: 500 },
  { agents: 4_000, goalMs: 1_500 },
];

/** Measures G4 for each size. */
export async function g4(lab: Lab): Promise<GoalReport[]> {
  const world = await lab.fleet();
  const most = Math.max(...SIZES.map((s) => lab.scaled(s.agents)));
  await world.settle(Math.max(most, (await world.fleet.stats()).connected));
  const reports: GoalReport[] = [];
  for (const size of SIZES) reports.push(await measure(lab, world, size));
  return reports;
}

async function measure(
  lab: Lab,
  world: FleetWorld,
  size: { agents: number; goalMs: number },
): Promise<GoalReport> {
  const agents = lab.scaled(size.agents);
  lab.progress(`one change to ${agents} agents, ${ROUNDS} times`);
  const tookMs: number[] = [];
  const committedMs: number[] = [];
  const ackSpreadMs: number[] = [];
  await world.mark();
  for (let round = 0; round <= ROUNDS; round++) {
    const one = await fanOut(world, agents, round);
    if (round === 0) continue;
    tookMs.push(one.tookMs);
    committedMs.push(one.committedMs);
    ackSpreadMs.push(one.p50Ms);
  }
  const load = await world.load();
  const apiMs = await byCalls(world, agents);
  const value = median(tookMs);
  return goalReport({
    id: `G4-${size.agents}`,
    figures: `${round(value, 0)} ms to the last of ${agents} acks (goal ${size.goalMs})`,
    more: `${spread(tookMs, 0)} ms in ${ROUNDS} runs; committed after ${round(median(committedMs), 0)} ms, half acked after ${round(median(ackSpreadMs), 0)} ms; by ${agents} API calls ${round(apiMs, 0)} ms`,
    notes: [
      `the change is ${Math.ceil(agents / 100)} transactions of up to 100 rows, ${BODY_BYTES} B each`,
      loadNote(load, availableParallelism()),
    ],
    value: round(value, 1),
    unit: "ms",
    baseline: null,
    ratio: null,
    goal: size.goalMs,
    met: value <= size.goalMs,
    // A fan-out is shorter than any span of a meter: its loop delay must not eat a part of the goal.
    limit: driverLimit(load),
    scale: lab.scale,
    detail: {
      agents,
      runs_ms: tookMs.map((t) => round(t, 1)).join(" "),
      committed_ms: round(median(committedMs), 1),
      half_acked_ms: round(median(ackSpreadMs), 1),
      api_calls_ms: round(apiMs, 1),
    },
  });
}

async function fanOut(
  world: FleetWorld,
  agents: number,
  round: number,
): Promise<{ tookMs: number; committedMs: number; p50Ms: number }> {
  const indices = firstN(agents);
  const dps = indices.map((i) => world.uid(i));
  await world.hub.ask({ do: "prepare", dps, bodyBytes: BODY_BYTES, round: round + Math.round(agents) });
  await world.quiet();
  const { revision } = await world.hub.ask({ do: "read" });
  const acks = await world.fleet.expectAcks(indices, revision);
  const out = await world.hub.ask({ do: "fanOut" });
  const [hub, ackMs] = await Promise.all([
    world.hub.ask({ do: "awaitAcked", dps, revision: revision + 1 }),
    acks(PATIENCE_MS),
  ]);
  const last = Math.max(...ackMs, hub.atMs);
  return {
    tookMs: last - out.startMs,
    committedMs: out.committedMs - out.startMs,
    p50Ms: quantile(ackMs, 0.5) - out.startMs,
  };
}

/** The same by one API call for each agent's tenant, from the first call to the last ack. */
async function byCalls(world: FleetWorld, agents: number): Promise<number> {
  const indices = firstN(agents);
  await world.quiet();
  const { apis, close } = connectApis(world.hub, 4);
  try {
    await Promise.all(apis.map((api) => api.dataPlanes.listDataPlanes({ pageSize: 1 })));
    const { revision } = await world.hub.ask({ do: "read" });
    const acks = await world.fleet.expectAcks(indices, revision);
    const start = hostClock.monotonicMs();
    await spreadCalls(apis, agents, (api, i) =>
      api.tenants.updateTenant({
        tenant: { name: tenantName(i, 0), labels: { filler: "x".repeat(60), at: `${Math.round(start)}` } },
        updateMask: { paths: ["labels"] },
      }),
    );
    return Math.max(...(await acks(PATIENCE_MS))) - start;
  } finally {
    close();
  }
}
