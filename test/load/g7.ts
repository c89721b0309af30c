/** G7: memory of the hub for each idle agent: the slope over three numbers of agents, after full collections. */
import { availableParallelism } from "node:os";
import { sleep } from "@moorage/shared/clock";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { rssMb } from "./procfs.ts";
import { round, slope } from "./stats.ts";
import { loadNote } from "./verdict.ts";

const STEPS = [1_000, 2_000, 5_000];
const GOAL_KIB = 120;
const KIB = 1_024;
/** After the last agent is in sync: late acks, status, the event loop's garbage. */
const SETTLE_MS = 5_000;

/** Measures G7 on a hub process that has done nothing else. */
export async function g7(lab: Lab): Promise<GoalReport> {
  const world = await lab.fleet();
  await world.settle(0);
  await world.crash();
  await world.mark();
  const points: { agents: number; rss: number; heap: number; external: number }[] = [];
  for (const size of STEPS) {
    const agents = lab.scaled(size);
    await world.settle(agents);
    await sleep(lab.clock, SETTLE_MS);
    const memory = await world.hub.ask({ do: "collect" });
    points.push({
      agents,
      rss: rssMb(world.hub.pid()) * 1e6,
      heap: memory.heapUsed,
      external: memory.external,
    });
    lab.progress(`${agents} agents: RSS ${round((points.at(-1)?.rss ?? 0) / 1e6, 0)} MB`);
  }
  const kib = (of: (p: (typeof points)[0]) => number): number =>
    slope(points.map((p) => ({ x: p.agents, y: of(p) / KIB })));
  const rss = kib((p) => p.rss);
  return goalReport({
    id: "G7",
    figures: `${round(rss, 0)} KiB of RSS an idle agent (goal ${GOAL_KIB})`,
    more: `RSS ${points.map((p) => `${round(p.rss / 1e6, 0)} MB at ${p.agents}`).join(", ")}; of the slope ${round(
      kib((p) => p.heap),
      0,
    )} KiB is JS heap, ${round(
      kib((p) => p.external),
      0,
    )} KiB external`,
    notes: [
      `each agent holds ${world.resources} resources`,
      loadNote(await world.load(), availableParallelism()),
    ],
    value: round(rss, 1),
    unit: "KiB",
    baseline: null,
    ratio: null,
    goal: GOAL_KIB,
    met: rss <= GOAL_KIB,
    scale: lab.scale,
    detail: {
      heap_kib: round(
        kib((p) => p.heap),
        1,
      ),
      external_kib: round(
        kib((p) => p.external),
        1,
      ),
      ...Object.fromEntries(points.map((p) => [`rss_at_${p.agents}_mb`, round(p.rss / 1e6, 1)])),
    },
  });
}
