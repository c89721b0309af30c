/**
 * The agent's half of G8: what an idle data plane of 300 applications costs: the agent's memory and CPU,
 * and every write call but the Lease's, counted in the API server's audit log.
 */
import { readFileSync } from "node:fs";
import { sleep } from "@moorage/shared/clock";
import { createBenchApplication, startBenchWorld } from "./bench-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { patiently } from "./patience.ts";
import { cpuSeconds, rssMb } from "./procfs.ts";
import { round } from "./stats.ts";

const APPLICATIONS = 300;
/** Creates under way at a time. */
const AT_A_TIME = 16;
/** After the last one is Ready: late events, compactions, collections. */
const SETTLE_MS = 15_000;
/** The goal speaks of ten minutes; one full compare falls into four. */
const IDLE_MS = 270_000;
const GOAL_RSS_MB = 90;
const GOAL_CPU_PERCENT = 0.2;

/** Measures G8 on a world of its own. */
export async function g8(lab: Lab): Promise<GoalReport> {
  const world = await startBenchWorld(lab, { audit: true });
  const applications = lab.scaled(APPLICATIONS);
  lab.progress(`creating ${applications} applications`);
  const started = lab.clock.monotonicMs();
  const ids = Array.from({ length: applications }, (_, i) => `app-${i}`);
  const worker = async (): Promise<void> => {
    for (let id = ids.shift(); id !== undefined; id = ids.shift()) {
      const name = await createBenchApplication(world, id);
      await patiently(() => world.hub.api.wait.waitFor({ name, timeout: { seconds: 120n } }));
    }
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
  const readyMs = lab.clock.monotonicMs() - started;
  await sleep(lab.clock, SETTLE_MS);
  lab.progress(`idle for ${IDLE_MS / 1_000} s`);
  const { pid } = world.agent.child;
  const lines = (): string[] => readFileSync(world.cluster.auditLogPath, "utf8").split("\n");
  const before = { cpu: cpuSeconds(pid), lines: lines().length };
  await sleep(lab.clock, IDLE_MS);
  const cpuPercent = ((cpuSeconds(pid) - before.cpu) / (IDLE_MS / 1_000)) * 100;
  const calls = lines()
    .slice(before.lines - 1)
    .filter((l) => l.includes("system:serviceaccount:moorage-system:moorage-agent"));
  const writes = calls.filter(
    (l) =>
      /"verb":"(create|update|patch|delete)"/.test(l) &&
      !/"resource":"(leases|selfsubjectaccessreviews)"/.test(l),
  ).length;
  const gets = calls.filter((l) => l.includes('"verb":"get"') && !l.includes('"resource":"leases"')).length;
  const rss = rssMb(pid);
  const hubRss = rssMb(world.hub.child.pid);
  return goalReport({
    id: "G8",
    figures: `agent RSS ${round(rss, 0)} MB (goal ${GOAL_RSS_MB}), CPU ${round(cpuPercent)} % (goal ${GOAL_CPU_PERCENT}), ${writes} write calls (goal 0)`,
    more: `${applications} applications Ready in ${round(readyMs / 1_000, 1)} s; ${IDLE_MS / 1_000} s idle; hub RSS ${round(hubRss, 0)} MB; ${gets} GETs`,
    notes: ["the agent reads token and CA from files, as in a pod"],
    value: round(rss, 1),
    unit: "MB",
    baseline: null,
    ratio: null,
    goal: GOAL_RSS_MB,
    met: rss <= GOAL_RSS_MB && cpuPercent <= GOAL_CPU_PERCENT && writes === 0,
    scale: lab.scale,
    detail: {
      cpu_percent: round(cpuPercent, 3),
      cpu_goal_percent: GOAL_CPU_PERCENT,
      write_calls: writes,
      get_calls: gets,
      applications,
      hub_rss_mb: round(hubRss, 1),
      all_ready_seconds: round(readyMs / 1_000, 1),
    },
  });
}
