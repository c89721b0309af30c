/** G10: a list of 6,000 resources in the view BASIC over gRPC, until its last page is there: cold and warm. */
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { ApiClients } from "../world/world.ts";
import { connectApis } from "./bench-hub.ts";
import { startFleetWorld } from "./fleet-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { median, round, spread } from "./stats.ts";

const RESOURCES = 6_000;
const AGENTS = 20;
const GOAL_MS = 150;
const WARM_RUNS = 15;
const COLD_RUNS = 3;
const PAGE = 1_000;

/** Measures G10 on a hub whose tenants all have a status. */
export async function g10(lab: Lab): Promise<GoalReport> {
  const resources = lab.scaled(RESOURCES);
  const agents = Math.min(AGENTS, resources);
  const world = await startFleetWorld(lab, {
    name: "g10",
    agents,
    tenants: Math.ceil(resources / agents),
    processes: 1,
  });
  await world.settle(agents);
  await world.fleet.disconnect(Array.from({ length: agents }, (_, i) => i));
  const warmMs: number[] = [];
  const coldMs: number[] = [];
  const list = async (api: ApiClients): Promise<number> => {
    const start = lab.clock.monotonicMs();
    let listed = 0;
    let pageToken = "";
    do {
      const page = await api.tenants.listTenants({ pageSize: PAGE, pageToken, view: View.BASIC });
      listed += page.tenants.length;
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    if (listed < resources) throw new Error(`${listed} of ${resources} resources were listed`);
    return lab.clock.monotonicMs() - start;
  };
  lab.progress(
    `listing ${resources} tenants, ${COLD_RUNS} times on a fresh process, ${WARM_RUNS} times warm`,
  );
  for (let i = 0; i < COLD_RUNS; i++) {
    await world.crash();
    const { apis, close } = connectApis(world.hub, 1);
    const api = apis[0] as ApiClients;
    // The connection stands before the clock starts: cold is the hub, not TLS.
    await api.dataPlanes.getDataPlane({ name: "dataPlanes/fleet-0" });
    coldMs.push(await list(api));
    if (i === COLD_RUNS - 1) for (let n = 0; n < WARM_RUNS; n++) warmMs.push(await list(api));
    close();
  }
  const warm = median(warmMs.slice(3));
  const cold = median(coldMs);
  return goalReport({
    id: "G10",
    figures: `${round(warm, 0)} ms warm, ${round(cold, 0)} ms cold for ${resources} resources (goal ${GOAL_MS})`,
    more: `warm ${spread(warmMs.slice(3), 0)} ms in ${WARM_RUNS - 3} runs, cold ${spread(coldMs, 0)} ms in ${COLD_RUNS}; pages of ${PAGE}, one after the other`,
    value: round(warm, 1),
    unit: "ms",
    baseline: null,
    ratio: null,
    goal: GOAL_MS,
    met: warm <= GOAL_MS && cold <= GOAL_MS,
    scale: lab.scale,
    detail: { resources, cold_ms: round(cold, 1), warm_min_ms: round(Math.min(...warmMs), 1) },
  });
}
