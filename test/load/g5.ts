/**
 * G5 and R12: the hub is killed and started again with all its agents connected. From the kill to the
 * last `initial_end`, what was sent again, and what others felt meanwhile.
 */
import { availableParallelism } from "node:os";
import { sleep } from "@moorage/shared/clock";
import { connectApis } from "./bench-hub.ts";
import { startApiProbe } from "./api-probe.ts";
import type { FleetWorld } from "./fleet-world.ts";
import { firstN } from "./fleet-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { middleRate, quantile, round } from "./stats.ts";
import { driverLimit, loadNote } from "./verdict.ts";

const SIZES = [
  { agents: 1_000, goalMs: 10_000 },
  { agents: 5_000, goalMs: 45_000 },
];
const PATIENCE_MS = 240_000;
/** For all agents to notice the kill; a run in which some did not is invalid. */
const NOTICE_MS = 15_000;
const LOOK_MS = 200;
const PROBE_EVERY_MS = 20;
/** Data planes that the probe reads and writes: a second passes before one has its next turn. */
const PROBES = Array.from({ length: 25 }, (_, i) => `probe-${i}`);
/** R12. */
const GOAL_API_P99_MS = 250;
const GOAL_HANDSHAKES = 150;
const MOST_REFUSALS_RUNNING = 1;

/** Measures G5 for each size. */
export async function g5(lab: Lab): Promise<GoalReport[]> {
  const world = await lab.fleet();
  const { apis, close } = connectApis(world.hub, 1);
  for (const dataPlaneId of PROBES)
    await apis[0]?.dataPlanes
      .createDataPlane({ dataPlaneId, dataPlane: { spec: {} } })
      .catch(() => undefined);
  close();
  const reports: GoalReport[] = [];
  for (const size of SIZES) reports.push(await measure(lab, world, size));
  return reports;
}

/** Until each agent has noticed that its stream is gone: before, the fleet still looks in sync. */
async function allLost(lab: Lab, world: FleetWorld, agents: number): Promise<void> {
  const start = lab.clock.monotonicMs();
  while ((await world.fleet.stats()).counts.lost < agents) {
    if (lab.clock.monotonicMs() - start > NOTICE_MS) return;
    await sleep(lab.clock, LOOK_MS);
  }
}

async function measure(
  lab: Lab,
  world: FleetWorld,
  size: { agents: number; goalMs: number },
): Promise<GoalReport> {
  const agents = lab.scaled(size.agents);
  const indices = firstN(agents);
  await world.settle(agents);
  lab.progress(`killing the hub with ${agents} agents connected`);
  await world.fleet.mark();
  const { killedMs, readyMs } = await world.crash();
  await world.hub.ask({ do: "mark" });
  const { apis, close } = connectApis(world.hub, 1);
  const stopProbe = startApiProbe(apis[0] as (typeof apis)[0], {
    names: PROBES.map((id) => `dataPlanes/${id}`),
    everyMs: PROBE_EVERY_MS,
  });
  let late: string | undefined;
  await allLost(lab, world, agents);
  await world.fleet.awaitSync(indices, PATIENCE_MS).catch((error: unknown) => (late = String(error)));
  const load = await world.load();
  const probe = await stopProbe();
  close();
  const { stats } = load;
  const { counts } = stats;
  const doneMs = Math.max(...stats.initialEndMs) - killedMs;
  const p99 = quantile(probe.tookMs, 0.99);
  const rate = middleRate(stats.handshakeMs);
  const missing = agents - stats.inSync;
  const met =
    missing === 0 &&
    doneMs <= size.goalMs &&
    counts.updates === 0 &&
    p99 <= GOAL_API_P99_MS &&
    rate >= GOAL_HANDSHAKES &&
    stats.refusedRunning <= MOST_REFUSALS_RUNNING;
  const perAgent = counts.frameBytes / agents;
  return goalReport({
    id: `G5-${size.agents}`,
    figures: `${round(doneMs / 1_000, 1)} s until all ${agents} agents are in sync (goal ${size.goalMs / 1_000}), ${counts.updates} resources sent again (goal 0), API p99 ${round(p99, 0)} ms (goal ${GOAL_API_P99_MS}), ${round(rate, 0)} handshakes/s (goal ${GOAL_HANDSHAKES}), refused at most ${stats.refusedRunning} times running (goal ${MOST_REFUSALS_RUNNING})`,
    more: `hub ready after ${round((readyMs - killedMs) / 1_000, 1)} s; ${counts.delta} delta, ${counts.compare} compare, ${counts.snapshot} snapshot; ${counts.closedBeforeTls} closed before TLS, ${counts.refused} refused, ${counts.unanswered} unanswered; ${round(perAgent, 0)} B of changes an agent; API n=${probe.tookMs.length}, ${probe.failed} failed`,
    notes: [
      ...(late === undefined ? [] : [late]),
      ...(stats.reasons === "" ? [] : [`streams ended or refused: ${stats.reasons}`]),
      loadNote(load, availableParallelism()),
    ],
    value: round(doneMs / 1_000, 2),
    unit: "s",
    baseline: null,
    ratio: null,
    goal: size.goalMs / 1_000,
    met,
    limit: driverLimit(load),
    invalid:
      counts.lost < agents
        ? `only ${counts.lost} of ${agents} streams were up when the hub was killed`
        : undefined,
    scale: lab.scale,
    detail: {
      agents,
      resources_each: world.resources,
      resent: counts.updates,
      api_p50_ms: round(quantile(probe.tookMs, 0.5)),
      api_p99_ms: round(p99),
      handshakes_per_s: round(rate, 1),
      refused_running: stats.refusedRunning,
      hub_ready_s: round((readyMs - killedMs) / 1_000, 2),
      delta: counts.delta,
      compare: counts.compare,
      closed_before_tls: counts.closedBeforeTls,
      refused: counts.refused,
      missing,
    },
  });
}
