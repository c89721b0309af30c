/**
 * G6: durable writes through the API, 64 clients on 8 connections, each waiting for its answer: label
 * changes of data planes of their own. The baseline is the store alone under the same number of
 * clients, in this run. Repeated with a slower disk, by a shim that delays each fdatasync.
 */
import { availableParallelism } from "node:os";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemRng } from "@moorage/shared/rng";
import { Shim } from "../faults/shim/shim.ts";
import type { ApiClients } from "../world/world.ts";
import { connectApis, startBenchHub } from "./bench-hub.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { createMeter } from "./meter.ts";
import { cpuSeconds } from "./procfs.ts";
import { refuseUnsafe } from "./safety.ts";
import { quantile, round } from "./stats.ts";
import { benchStore } from "./store-bench.ts";
import { driverLimit, loadNote } from "./verdict.ts";

const CLIENTS = 64;
const CONNECTIONS = 8;
const WARM_UP_MS = 2_000;
const MEASURE_MS = 5_000;
/** The goal: writes a second, and the p99 of one. */
const GOAL_PER_SECOND = 3_000;
const GOAL_P99_MS = 20;
/** Added to each fdatasync, milliseconds. */
const DELAYS_MS = [1, 5];

/** Measures G6, on a hub process of its own for each disk. */
export async function g6(lab: Lab): Promise<GoalReport[]> {
  const store = await openSqliteStore({ dir: join(lab.dir, "g6-store"), clock: lab.clock, rng: systemRng });
  const alone = await benchStore(store, { clock: lab.clock, clients: CLIENTS, durationMs: MEASURE_MS });
  await store.close();
  const reports: GoalReport[] = [];
  for (const delayMs of [0, ...DELAYS_MS])
    reports.push(await measure(lab, { alone: alone.writesPerSecond, aloneP99Ms: alone.p99Ms, delayMs }));
  return reports;
}

async function measure(
  lab: Lab,
  on: { alone: number; aloneP99Ms: number; delayMs: number },
): Promise<GoalReport> {
  const { delayMs } = on;
  const dir = join(lab.dir, `g6-${delayMs}`);
  const shim = delayMs === 0 ? undefined : slowDisk(dir, delayMs);
  const hub = await startBenchHub(dir, shim === undefined ? {} : { env: shim.env });
  lab.defer(() => hub.stop());
  shim?.demandLoaded();
  if (delayMs === 0) refuseUnsafe({ pids: [hub.pid()], dirs: [hub.dataDir] });
  const { apis, close } = connectApis(hub, CONNECTIONS);
  lab.defer(() => Promise.resolve(close()));
  const clients = await Promise.all(
    Array.from({ length: CLIENTS }, async (_, i) => {
      const api = apis[i % CONNECTIONS] as ApiClients;
      const made = await api.dataPlanes.createDataPlane({ dataPlaneId: `g6-${i}`, dataPlane: { spec: {} } });
      return { api, name: made.name };
    }),
  );
  lab.progress(`${CLIENTS} clients write for ${MEASURE_MS / 1_000} s, ${delayMs} ms added to each fdatasync`);
  const meter = createMeter(lab.clock);
  await write(lab, clients, WARM_UP_MS);
  meter.mark();
  await hub.ask({ do: "mark" });
  const cpu = cpuSeconds(hub.pid());
  const syncs = shim?.syncs() ?? 0;
  const run = await write(lab, clients, MEASURE_MS);
  const used = cpuSeconds(hub.pid()) - cpu;
  const read = await hub.ask({ do: "read" });
  const synced =
    shim === undefined ? "" : `; ${shim.syncs() - syncs} syncs for ${read.commits} commits of the store`;
  const load = { drivers: [meter.read()], hubBusy: read.meter.busy };
  await hub.stop();
  const { perSecond, took } = run;
  const p99 = quantile(took, 0.99);
  return goalReport({
    id: delayMs === 0 ? "G6" : `G6-${delayMs}ms`,
    figures: `${round(perSecond, 0)} writes/s (goal ${GOAL_PER_SECOND}) p99 ${round(p99, 1)} ms (goal ${GOAL_P99_MS})${delayMs === 0 ? "" : ` with ${delayMs} ms added to each fdatasync`}`,
    more: `store alone ${round(on.alone, 0)}/s, p99 ${round(on.aloneP99Ms, 1)} ms; p50 ${round(quantile(took, 0.5), 1)} ms; ${CLIENTS} clients on ${CONNECTIONS} connections; hub ${round((used / took.length) * 1_000)} CPU s a 1,000 writes${synced}; n=${took.length}`,
    notes: [loadNote(load, availableParallelism())],
    value: round(perSecond, 0),
    unit: "writes/s",
    baseline: round(on.alone, 0),
    ratio: round(perSecond / on.alone, 3),
    goal: GOAL_PER_SECOND,
    bounded: "value",
    met: perSecond >= GOAL_PER_SECOND && p99 <= GOAL_P99_MS,
    limit: driverLimit(load),
    detail: {
      p50_ms: round(quantile(took, 0.5)),
      p99_ms: round(p99),
      p99_goal_ms: GOAL_P99_MS,
      clients: CLIENTS,
      connections: CONNECTIONS,
      sync_delay_ms: delayMs,
      hub_cpu_seconds_per_1000: round((used / took.length) * 1_000),
    },
  });
}

async function write(
  lab: Lab,
  clients: readonly { api: ApiClients; name: string }[],
  durationMs: number,
): Promise<{ perSecond: number; took: number[] }> {
  const start = lab.clock.monotonicMs();
  const took: number[] = [];
  const one = async ({ api, name }: { api: ApiClients; name: string }): Promise<void> => {
    for (let i = 0; lab.clock.monotonicMs() - start < durationMs; i++) {
      const before = lab.clock.monotonicMs();
      await api.dataPlanes.updateDataPlane({
        dataPlane: { name, labels: { run: `${durationMs}-${i}` } },
        updateMask: { paths: ["labels"] },
      });
      took.push(lab.clock.monotonicMs() - before);
    }
  };
  await Promise.all(clients.map(one));
  return { perSecond: took.length / ((lab.clock.monotonicMs() - start) / 1_000), took };
}

/** A shim that makes each sync of the hub's files take longer. */
function slowDisk(dir: string, delayMs: number): Shim {
  const work = join(dir, "shim");
  mkdirSync(work, { recursive: true });
  const shim = new Shim({ dir: join(dir, "hub"), work });
  shim.set("syncUs", delayMs * 1_000);
  return shim;
}
