import type { GoalReport, Lab } from "./goal.ts";
import { latencyReport } from "./latency.ts";

/** G1: the hub's write call starts -> the changed object is visible in the data plane, one agent. */
export async function g1(lab: Lab): Promise<GoalReport> {
  const run = await lab.latency();
  return latencyReport(run, { id: "G1", samples: run.visible, p50: 2.3, p99: 3.5 });
}
