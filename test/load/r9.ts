/**
 * R9: an agent that reads nothing (its process is stopped) while thousands of updates hit its set. The
 * hub must not keep them for it, others must not feel it, and afterwards it gets the newest of each
 * object, once. Runs with a healthy reader and with the stopped one alternate; the first is the baseline.
 */
import { availableParallelism } from "node:os";
import { limits } from "@moorage/shared/limits";
import type { ApiClients } from "../world/world.ts";
import { paced } from "./api-probe.ts";
import { connectApis, fleetTarget } from "./bench-hub.ts";
import type { Fleet } from "./fleet/fleet.ts";
import { startFleet } from "./fleet/fleet.ts";
import type { Received } from "./fleet/protocol.ts";
import type { FleetWorld } from "./fleet-world.ts";
import { firstN, startFleetWorld } from "./fleet-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { hostClock } from "./host-clock.ts";
import { createDataPlanes, createTenants, dataPlaneName, spreadCalls, tenantName } from "./provision.ts";
import { median, quantile, round, spread } from "./stats.ts";
import { driverLimit, loadNote } from "./verdict.ts";

const UPDATES = 10_000;
/** Below what the hub can take, so that a difference shows and is not hidden by saturation. */
const UPDATES_PER_SECOND = 400;
const OTHERS = 20;
const OTHERS_PER_SECOND = 25;
/** Objects of the reader: more than a window, or nothing would be left for afterwards. */
const OBJECTS = 600;
const PAIRS = 3;
const GOAL_MIB = 2;
const GOAL_P99_CHANGE = 0.1;
const MIB = 1_024 * 1_024;
const PATIENCE_MS = 60_000;

/** One run of updates: growth of the hub's memory and what others felt. */
interface Run {
  rssMib: number;
  heapMib: number;
  othersP99Ms: number;
  othersN: number;
}

/** Measures R9. */
export async function r9(lab: Lab): Promise<GoalReport> {
  const world = await startFleetWorld(lab, {
    name: "r9",
    agents: OTHERS,
    tenants: 1,
    processes: 1,
    record: true,
  });
  await world.settle(OTHERS);
  const { apis, close } = connectApis(world.hub, 4);
  lab.defer(() => Promise.resolve(close()));
  const reader = await startReader(lab, world, apis);
  const updates = lab.scaled(UPDATES);
  const uids = await othersUids(apis);
  const one = (stopped: boolean): Promise<Run> => run({ world, apis, updates, reader, uids, stopped });
  lab.progress("warming up");
  await one(false);
  const healthy: Run[] = [];
  const stopped: Run[] = [];
  let again = 0;
  await world.mark();
  for (let i = 0; i < PAIRS; i++) {
    lab.progress(`${updates} updates with a healthy reader, then with one at 0 B/s (${i + 1} of ${PAIRS})`);
    healthy.push(await one(false));
    stopped.push(await one(true));
    again += repeated(await resume(world, reader));
  }
  return report(lab, { healthy, stopped, again, updates, load: await world.load() });
}

/** The agent that will read nothing: a process of its own. */
async function startReader(
  lab: Lab,
  world: FleetWorld,
  apis: ApiClients[],
): Promise<{ fleet: Fleet; uid: string }> {
  const fleet = await startFleet({
    dir: lab.dir,
    name: "reader",
    processes: 1,
    target: fleetTarget(world.hub),
    reports: false,
    record: true,
  });
  lab.defer(() => fleet.stop());
  const seeds = await createDataPlanes(apis, { from: OTHERS, to: OTHERS + 1 });
  await createTenants(apis, { from: OTHERS, to: OTHERS + 1, each: OBJECTS });
  const uid = (await fleet.enrol(seeds)).get(OTHERS) ?? "";
  await fleet.connect([OTHERS]);
  return { fleet, uid };
}

async function othersUids(apis: readonly ApiClients[]): Promise<Map<string, number>> {
  const uids = new Map<string, number>();
  await spreadCalls(apis, OTHERS, async (api, i) => {
    uids.set((await api.tenants.getTenant({ name: tenantName(i, 0) })).uid, i);
  });
  return uids;
}

async function run(on: {
  world: FleetWorld;
  apis: readonly ApiClients[];
  updates: number;
  reader: { fleet: Fleet; uid: string };
  uids: Map<string, number>;
  stopped: boolean;
}): Promise<Run> {
  const { world, apis, updates, reader } = on;
  const before = await world.hub.ask({ do: "collect" });
  await world.fleet.mark();
  await reader.fleet.mark();
  if (on.stopped) reader.fleet.signal("SIGSTOP");
  const change = (name: string, n: number) => ({
    tenant: { name, labels: { at: `${Math.round(hostClock.monotonicMs())}-${n}` } },
    updateMask: { paths: ["labels"] },
  });
  const starts = new Map<number, number[]>();
  const api = (i: number): ApiClients => apis[i % apis.length] as ApiClients;
  await Promise.all([
    paced({ count: updates, perSecond: UPDATES_PER_SECOND, mostUnderWay: 64 }, (i) =>
      api(i).tenants.updateTenant(change(tenantName(OTHERS, i % OBJECTS), i)),
    ),
    paced(
      {
        count: Math.floor((updates / UPDATES_PER_SECOND) * OTHERS_PER_SECOND),
        perSecond: OTHERS_PER_SECOND,
        mostUnderWay: 64,
      },
      (i) => {
        const of = i % OTHERS;
        starts.set(of, [...(starts.get(of) ?? []), hostClock.monotonicMs()]);
        return api(i).tenants.updateTenant(change(tenantName(of, 0), i));
      },
    ),
  ]);
  const others = firstN(OTHERS).map((i) => world.uid(i));
  const { revision } = await world.hub.ask({ do: "read" });
  if (!on.stopped) await acked(world, [...others, reader.uid], revision);
  const after = await world.hub.ask({ do: "collect" });
  const took: number[] = [];
  for (const i of firstN(OTHERS)) {
    const got = (await world.fleet.received(i)).filter((r) => on.uids.has(r.uid));
    // Far enough apart that none is merged with the next: the n-th update received is the n-th made.
    got.forEach((r, n) => {
      const start = starts.get(i)?.[n];
      if (start !== undefined) took.push(r.atMs - start);
    });
  }
  const memory = (m: typeof before): number => m.heapUsed + m.external;
  return {
    rssMib: (after.rss - before.rss) / MIB,
    heapMib: (memory(after) - memory(before)) / MIB,
    othersP99Ms: quantile(took, 0.99),
    othersN: took.length,
  };
}

/** Lets the stopped reader go on; answers what it received, once it has all. */
async function resume(world: FleetWorld, reader: { fleet: Fleet; uid: string }): Promise<Received[]> {
  const { revision } = await world.hub.ask({ do: "read" });
  reader.fleet.signal("SIGCONT");
  await acked(world, [reader.uid], revision);
  return reader.fleet.received(OTHERS);
}

/** Until the agents hold everything; the last commit of the store need not be theirs. */
async function acked(world: FleetWorld, dps: string[], revision: number): Promise<void> {
  await Promise.race([
    world.hub.ask({ do: "awaitPosition", dps, revision }),
    new Promise((_, reject) => {
      hostClock.setTimer(PATIENCE_MS, () =>
        reject(new Error(`Agents do not hold revision ${revision} after ${PATIENCE_MS} ms`)),
      );
    }),
  ]);
}

/**
 * Objects that came more than once after the window. What was sent before the reader stopped is in its
 * window, at most `limits.windowItems`; behind it each object comes once, in its newest state.
 */
function repeated(got: readonly Received[]): number {
  const seen = new Set<string>();
  let again = 0;
  for (const r of got.slice(limits.windowItems)) {
    if (seen.has(r.uid)) again++;
    seen.add(r.uid);
  }
  return again;
}

function report(
  lab: Lab,
  run: {
    healthy: Run[];
    stopped: Run[];
    again: number;
    updates: number;
    load: Awaited<ReturnType<FleetWorld["load"]>>;
  },
): GoalReport {
  const { healthy, stopped, again } = run;
  const grown = median(stopped.map((r) => r.rssMib)) - median(healthy.map((r) => r.rssMib));
  const ratios = stopped.map((r, i) => r.othersP99Ms / (healthy[i]?.othersP99Ms ?? Number.NaN));
  const ratio = median(ratios);
  const n = stopped.reduce((sum, r) => sum + r.othersN, 0);
  const base = median(healthy.map((r) => r.othersP99Ms));
  const value = median(stopped.map((r) => r.othersP99Ms));
  return goalReport({
    id: "R9",
    figures: `hub ${round(grown, 1)} MiB above the healthy run (goal ${GOAL_MIB}), others' p99 ${round(ratio, 2)}x (goal within ${GOAL_P99_CHANGE * 100} %), ${again} objects sent again afterwards (goal 0)`,
    more: `${run.updates} updates at ${UPDATES_PER_SECOND}/s to ${OBJECTS} objects; RSS grew ${spread(stopped.map((r) => r.rssMib))} MiB, healthy ${spread(healthy.map((r) => r.rssMib))}; heap ${round(median(stopped.map((r) => r.heapMib)), 2)} MiB, healthy ${round(median(healthy.map((r) => r.heapMib)), 2)}; p99 ${round(value, 1)} ms, healthy ${round(base, 1)} ms; ratio ${spread(ratios, 2)} in ${PAIRS} pairs; n=${n}`,
    notes: [loadNote(run.load, availableParallelism())],
    value: round(value, 2),
    unit: "ms",
    baseline: round(base, 2),
    ratio: round(ratio, 3),
    goal: 1 + GOAL_P99_CHANGE,
    met: grown <= GOAL_MIB && Math.abs(ratio - 1) <= GOAL_P99_CHANGE && again === 0,
    limit: driverLimit(run.load),
    invalid: n < 100 ? `only ${n} changes of others were measured` : undefined,
    scale: lab.scale,
    detail: {
      rss_above_healthy_mib: round(grown, 2),
      rss_goal_mib: GOAL_MIB,
      heap_mib: round(median(stopped.map((r) => r.heapMib)), 2),
      sent_again: again,
      ratio_range: spread(ratios, 2),
      reader: dataPlaneName(OTHERS),
    },
  });
}
