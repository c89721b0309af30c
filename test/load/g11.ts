/** G11: a new agent, from its Enrol call to the end of its first sync. One after the other, over mTLS. */
import { join } from "node:path";
import { connectApis, fleetTarget, startBenchHub } from "./bench-hub.ts";
import { Driver } from "./fleet/driver.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { createDataPlanes, createTenants } from "./provision.ts";
import { quantile, round } from "./stats.ts";

const AGENTS = 40;
const TENANTS = 19;
const GOAL_MS = 1_000;
const PATIENCE_MS = 10_000;

/** Measures G11. */
export async function g11(lab: Lab): Promise<GoalReport> {
  const hub = await startBenchHub(join(lab.dir, "g11"));
  lab.defer(() => hub.stop());
  const agents = Math.max(10, lab.scaled(AGENTS));
  const { apis, close } = connectApis(hub, 2);
  const seeds = await createDataPlanes(apis, { from: 0, to: agents });
  await createTenants(apis, { from: 0, to: agents, each: TENANTS });
  close();
  lab.progress(`enrolling ${agents} agents, one after the other`);
  const driver = new Driver({ target: fleetTarget(hub), reports: true, record: false });
  lab.defer(() => Promise.resolve(driver.disconnect(seeds.map((s) => s.index))));
  const tookMs: number[] = [];
  const enrolMs: number[] = [];
  for (const seed of seeds) {
    driver.mark();
    const start = lab.clock.monotonicMs();
    await driver.enrol([seed], 1);
    enrolMs.push(lab.clock.monotonicMs() - start);
    await driver.connect([seed.index], { perSecond: 1_000_000, timeoutMs: PATIENCE_MS });
    tookMs.push(Math.max(...driver.stats().initialEndMs) - start);
  }
  const p99 = quantile(tookMs, 0.99);
  const p50 = quantile(tookMs, 0.5);
  return goalReport({
    id: "G11",
    figures: `p50 ${round(p50, 0)} ms, p99 ${round(p99, 0)} ms from Enrol to the end of the first sync (goal ${GOAL_MS})`,
    more: `Enrol with its key and its connection ${round(quantile(enrolMs, 0.5), 0)} ms; ${TENANTS + 1} resources each; n=${agents}`,
    value: round(p99, 1),
    unit: "ms",
    baseline: null,
    ratio: null,
    goal: GOAL_MS,
    met: p99 <= GOAL_MS,
    detail: { p50_ms: round(p50, 1), enrol_p50_ms: round(quantile(enrolMs, 0.5), 1), samples: agents },
  });
}
