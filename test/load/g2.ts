import type { GoalReport, Lab } from "./goal.ts";
import { latencyReport } from "./latency.ts";

/** G2: the hub's write call starts -> Ready for that generation is visible at the hub, one agent. */
export async function g2(lab: Lab): Promise<GoalReport> {
  const run = await lab.latency();
  return latencyReport(run, { id: "G2", samples: run.ready, p50: 3, p99: 4.5 });
}
