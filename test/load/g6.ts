/**
 * G6: durable writes through the API, 64 clients, each waiting for its answer: label changes of data
 * planes of their own. The baseline is the store alone under the same number of clients, in this run.
 */
import { join } from "node:path";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemRng } from "@moorage/shared/rng";
import { startHub } from "./bench-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { cpuSeconds } from "./procfs.ts";
import { quantile, round } from "./stats.ts";
import { benchStore } from "./store-bench.ts";

const CLIENTS = 64;
const WARM_UP_MS = 2_000;
const MEASURE_MS = 5_000;
/** The goal: writes a second, and the p99 of one. */
const GOAL_PER_SECOND = 3_000;
const GOAL_P99_MS = 20;

/** Measures G6 on a hub process of its own. */
export async function g6(lab: Lab): Promise<GoalReport> {
  const store = await openSqliteStore({ dir: join(lab.dir, "g6-store"), clock: lab.clock, rng: systemRng });
  const alone = await benchStore(store, { clock: lab.clock, clients: CLIENTS, durationMs: MEASURE_MS });
  await store.close();
  const hub = await startHub(lab);
  const names = await Promise.all(
    Array.from({ length: CLIENTS }, async (_, i) => {
      const made = await hub.api.dataPlanes.createDataPlane({
        dataPlaneId: `g6-${i}`,
        dataPlane: { spec: {} },
      });
      return made.name;
    }),
  );
  const took: number[] = [];
  const run = async (durationMs: number): Promise<number> => {
    const start = lab.clock.monotonicMs();
    took.length = 0;
    const client = async (name: string): Promise<void> => {
      for (let i = 0; lab.clock.monotonicMs() - start < durationMs; i++) {
        const before = lab.clock.monotonicMs();
        await hub.api.dataPlanes.updateDataPlane({
          dataPlane: { name, labels: { run: `${durationMs}-${i}` } },
          updateMask: { paths: ["labels"] },
        });
        took.push(lab.clock.monotonicMs() - before);
      }
    };
    await Promise.all(names.map(client));
    return took.length / ((lab.clock.monotonicMs() - start) / 1_000);
  };
  lab.progress(`${CLIENTS} clients write for ${MEASURE_MS / 1_000} s after a warm-up`);
  await run(WARM_UP_MS);
  const cpu = cpuSeconds(hub.child.pid);
  const perSecond = await run(MEASURE_MS);
  const used = cpuSeconds(hub.child.pid) - cpu;
  const p99 = quantile(took, 0.99);
  const met = perSecond >= GOAL_PER_SECOND && p99 <= GOAL_P99_MS;
  return {
    text: `${round(perSecond, 0)} writes/s (goal ${GOAL_PER_SECOND}) p99 ${round(p99, 1)} ms (goal ${GOAL_P99_MS})  ${met ? "met" : "missed"}  [store alone ${round(alone.writesPerSecond, 0)}/s, p99 ${round(alone.p99Ms, 1)} ms; p50 ${round(quantile(took, 0.5), 1)} ms; n=${took.length}]`,
    notes: ["clients, hub and writer thread share this machine's cores"],
    record: {
      id: "G6",
      value: round(perSecond, 0),
      unit: "writes/s",
      baseline: round(alone.writesPerSecond, 0),
      ratio: round(perSecond / alone.writesPerSecond, 3),
      goal: GOAL_PER_SECOND,
      met,
      detail: {
        p50_ms: round(quantile(took, 0.5)),
        p99_ms: round(p99),
        p99_goal_ms: GOAL_P99_MS,
        clients: CLIENTS,
        hub_cpu_seconds_per_1000: round((used / took.length) * 1_000),
      },
    },
  };
}
