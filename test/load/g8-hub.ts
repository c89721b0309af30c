/** The hub's half of G8: what connected agents cost when nothing happens: commits, disk and bytes on the wire. */
import { readFileSync } from "node:fs";
import { sleep } from "@moorage/shared/clock";
import { startCountingProxy } from "./counting-proxy.ts";
import type { CountingProxy } from "./counting-proxy.ts";
import { startFleetWorld } from "./fleet-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { round } from "./stats.ts";

const AGENTS = 200;
const TENANTS = 19;
/** Two bookmarks (60 s with jitter), six heartbeats, four pings. */
const IDLE_MS = 130_000;
const GOAL_BYTES = 1_024;

/** Measures the hub's half of G8. */
export async function g8Hub(lab: Lab): Promise<GoalReport> {
  const agents = lab.scaled(AGENTS);
  let proxy: CountingProxy | undefined;
  const world = await startFleetWorld(lab, {
    name: "g8-hub",
    agents,
    tenants: TENANTS,
    processes: 1,
    agentPort: async (hub) => {
      proxy = await startCountingProxy(hub.ports.agent);
      const { close } = proxy;
      lab.defer(() => close());
      return proxy.port;
    },
  });
  await world.settle(agents);
  lab.progress(`${agents} agents idle for ${IDLE_MS / 1_000} s`);
  await world.mark();
  const before = {
    written: writtenBytes(world.hub.pid()),
    revision: (await world.hub.ask({ do: "read" })).revision,
  };
  proxy?.reset();
  await sleep(lab.clock, IDLE_MS);
  const bytes = proxy?.bytes() ?? { toHub: Number.NaN, toAgents: Number.NaN };
  const { commits, revision, meter } = await world.hub.ask({ do: "read" });
  const written = writtenBytes(world.hub.pid()) - before.written;
  const { counts, connected } = (await world.load()).stats;
  const perMinute = (bytes.toHub + bytes.toAgents) / agents / (IDLE_MS / 60_000);
  return goalReport({
    id: "G8-hub",
    figures: `${commits} commits (goal 0), ${round(perMinute, 0)} B/min an idle agent on the wire (goal ${GOAL_BYTES})`,
    more: `${agents} agents, ${IDLE_MS / 1_000} s; ${round(bytes.toHub / agents, 0)} B up, ${round(bytes.toAgents / agents, 0)} B down an agent; ${counts.heartbeats} heartbeats, ${counts.bookmarks} bookmarks; ${written} B written to disk; hub CPU ${round(meter.cores * 100, 2)} % of a core`,
    notes: ["bytes of TLS records at a proxy, without the headers of TCP and IP"],
    value: round(perMinute, 1),
    unit: "B/min",
    baseline: null,
    ratio: null,
    goal: GOAL_BYTES,
    met: commits === 0 && revision === before.revision && perMinute <= GOAL_BYTES,
    invalid:
      connected < agents ? `only ${connected} of ${agents} agents were connected at the end` : undefined,
    scale: lab.scale,
    detail: {
      commits,
      agents,
      up_bytes: round(bytes.toHub / agents, 1),
      down_bytes: round(bytes.toAgents / agents, 1),
      disk_bytes: written,
      hub_cpu_percent: round(meter.cores * 100, 3),
    },
  });
}

/** Bytes that a process caused to be written to disks (/proc/<pid>/io). */
function writtenBytes(pid: number): number {
  return Number(/^write_bytes: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, "utf8"))?.[1] ?? Number.NaN);
}
