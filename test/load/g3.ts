/**
 * G3: G1 and G2 on one data plane while 1,000 others are connected and changes go to them, against the
 * same on the same data plane with none (A-B-A in one run).
 */
import { availableParallelism } from "node:os";
import { startBenchWorld } from "./bench-world.ts";
import { paced } from "./api-probe.ts";
import type { HubAddress } from "./bench-hub.ts";
import { connectApis, fleetTarget } from "./bench-hub.ts";
import { startFleet } from "./fleet/fleet.ts";
import { firstN } from "./fleet-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import type { Latencies } from "./latency.ts";
import { openLatencyProbe } from "./latency.ts";
import { cpuSeconds } from "./procfs.ts";
import { createDataPlanes, createTenants, tenantName } from "./provision.ts";
import { quantile, round } from "./stats.ts";
import { driverLimit, loadNote } from "./verdict.ts";

const AGENTS = 1_000;
const CHANGES_PER_SECOND = 20;
const SAMPLES_ALONE = 100;
const SAMPLES_LOADED = 200;
const WARM_UP = 30;
const GOAL = 2;
/** Part of the load that must have been made and received. */
const LEAST_LOAD = 0.9;
const SETTLE_MS = 60_000;

/** Measures G3 on a world of its own. */
export async function g3(lab: Lab): Promise<GoalReport> {
  const world = await startBenchWorld(lab, { audit: false });
  const agents = lab.scaled(AGENTS);
  const { fleet, apis } = await startOthers(lab, world.hub, agents);
  const probe = await openLatencyProbe(lab, world);
  await probe.measure(WARM_UP);
  lab.progress(`${SAMPLES_ALONE} changes with no other agent`);
  const before = await probe.measure(SAMPLES_ALONE);
  lab.progress(`connecting ${agents} agents`);
  await fleet.connect(firstN(agents));
  await fleet.awaitReported(firstN(agents), SETTLE_MS);
  lab.progress(`${SAMPLES_LOADED} changes while ${CHANGES_PER_SECOND}/s go to ${agents} agents`);
  await fleet.mark();
  const start = { ms: lab.clock.monotonicMs(), cpu: cpuSeconds(world.hub.child.pid) };
  const seconds = (SAMPLES_LOADED * 2 * 110) / 1_000;
  const others = paced(
    { count: Math.floor(seconds * CHANGES_PER_SECOND), perSecond: CHANGES_PER_SECOND, mostUnderWay: 64 },
    (i) =>
      (apis[i % apis.length] as (typeof apis)[0]).tenants.updateTenant({
        tenant: { name: tenantName((i * 7) % agents, 0), labels: { at: `${i}` } },
        updateMask: { paths: ["labels"] },
      }),
  );
  const loaded = await probe.measure(SAMPLES_LOADED);
  const hubBusy =
    (cpuSeconds(world.hub.child.pid) - start.cpu) / ((lab.clock.monotonicMs() - start.ms) / 1_000);
  const stats = await fleet.stats();
  const made = await others;
  await fleet.disconnect(firstN(agents));
  lab.progress(`${SAMPLES_ALONE} changes without them again`);
  const after = await probe.measure(SAMPLES_ALONE);
  return report(lab, { before, loaded, after, agents, hubBusy, stats, made, seconds });
}

async function startOthers(lab: Lab, hub: HubAddress, agents: number) {
  lab.progress(`creating ${agents} data planes with a tenant and enrolling their agents`);
  const { apis, close } = connectApis(hub, 4);
  lab.defer(() => Promise.resolve(close()));
  const fleet = await startFleet({
    dir: lab.dir,
    name: "others",
    processes: 2,
    target: fleetTarget(hub),
    reports: true,
  });
  lab.defer(() => fleet.stop());
  await fleet.enrol(await createDataPlanes(apis, { from: 0, to: agents }));
  await createTenants(apis, { from: 0, to: agents, each: 1 });
  return { fleet, apis };
}

function report(
  lab: Lab,
  run: {
    before: Latencies;
    loaded: Latencies;
    after: Latencies;
    agents: number;
    hubBusy: number;
    stats: Awaited<ReturnType<Awaited<ReturnType<typeof startFleet>>["stats"]>>;
    made: { failed: number };
    seconds: number;
  },
): GoalReport {
  const { before, loaded, after, agents, stats } = run;
  const part = (of: (l: Latencies) => number[], q: number) => {
    const alone = quantile([...of(before), ...of(after)], q);
    const ratio = quantile(of(loaded), q) / alone;
    return { ms: quantile(of(loaded), q), alone, ratio };
  };
  const visible = part((l) => l.visible, 0.5);
  const visible99 = part((l) => l.visible, 0.99);
  const ready = part((l) => l.ready, 0.5);
  const ready99 = part((l) => l.ready, 0.99);
  const raw = part((l) => l.raw, 0.5);
  const worst = Math.max(visible.ratio, visible99.ratio, ready.ratio, ready99.ratio);
  const wanted = Math.floor(run.seconds * CHANGES_PER_SECOND);
  const load = { drivers: stats.drivers, hubBusy: run.hubBusy };
  const enough = stats.connected >= agents && stats.counts.updates >= LEAST_LOAD * wanted * 0.8;
  const x = (r: { ratio: number }): string => `${r.ratio.toFixed(2)}x`;
  return goalReport({
    id: "G3",
    figures: `visible p50 ${x(visible)} p99 ${x(visible99)}, Ready p50 ${x(ready)} p99 ${x(ready99)} of the same without others (goal ${GOAL}x)`,
    more: `${agents} agents, ${stats.counts.updates} changes to them; visible p50 ${round(visible.ms, 1)} ms (alone ${round(visible.alone, 1)}), p99 ${round(visible99.ms, 1)} (${round(visible99.alone, 1)}); Ready p50 ${round(ready.ms, 1)} (${round(ready.alone, 1)}), p99 ${round(ready99.ms, 1)} (${round(ready99.alone, 1)}); raw apply p50 ${x(raw)}; n=${loaded.ready.length}`,
    notes: [loadNote(load, availableParallelism())],
    value: round(ready.ms, 3),
    unit: "ms",
    baseline: round(ready.alone, 3),
    ratio: round(ready.ratio, 3),
    goal: GOAL,
    met: worst <= GOAL,
    limit: driverLimit(load),
    invalid: enough
      ? undefined
      : `${stats.connected} of ${agents} agents were connected and got ${stats.counts.updates} of about ${wanted} changes`,
    scale: lab.scale,
    detail: {
      agents,
      visible_p50_ratio: round(visible.ratio, 3),
      visible_p99_ratio: round(visible99.ratio, 3),
      ready_p50_ratio: round(ready.ratio, 3),
      ready_p99_ratio: round(ready99.ratio, 3),
      raw_p50_ratio: round(raw.ratio, 3),
      changes_to_others: stats.counts.updates,
      failed_changes: run.made.failed,
    },
  });
}
