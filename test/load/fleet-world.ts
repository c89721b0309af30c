/** A hub with a fleet: data planes, tenants and agents in any number, connected as a goal needs them. */
import { join } from "node:path";
import { mkdirSync } from "node:fs";
import { sleep } from "@moorage/shared/clock";
import type { BenchHub } from "./bench-hub.ts";
import { connectApis, fleetTarget, startBenchHub } from "./bench-hub.ts";
import type { Fleet, FleetStats } from "./fleet/fleet.ts";
import { startFleet } from "./fleet/fleet.ts";
import type { Lab } from "./goal.ts";
import { createDataPlanes, createTenants } from "./provision.ts";
import { refuseUnsafe } from "./safety.ts";
import type { Load } from "./verdict.ts";

/** Connections of the driver to the API. */
const API_CONNECTIONS = 4;
/** A store without a commit for so long is at rest; silence of agents that left shows within 90 s. */
const QUIET_MS = 3_000;
const QUIET_PATIENCE_MS = 240_000;

/** What a fleet world is made of. */
export interface FleetWorldOptions {
  name: string;
  agents: number;
  /** Tenants of each data plane; with the data plane itself the resources of an agent are one more. */
  tenants: number;
  processes: number;
  record?: boolean;
  /** Agents connect here instead of to the hub: a proxy. */
  agentPort?: (hub: BenchHub) => Promise<number>;
}

/** A running one. Agents are 0 to `agents` - 1, all enrolled. */
export interface FleetWorld {
  hub: BenchHub;
  fleet: Fleet;
  agents: number;
  /** Resources that each agent holds. */
  resources: number;
  /** uid of the data plane of an agent. */
  uid(index: number): string;
  /** Connects or disconnects until exactly the first `n` stand, then waits until all is reported and stored. */
  settle(n: number): Promise<void>;
  /** Begins a span in which {@link load} is measured. */
  mark(): Promise<void>;
  /** How busy driver and hub were since the mark. */
  load(): Promise<Load & { stats: FleetStats }>;
  /** Waits until the store is at rest. */
  quiet(): Promise<void>;
  /** SIGKILL and start; resolves with both times on the host's clock when the hub is ready again. */
  crash(): Promise<{ killedMs: number; readyMs: number }>;
}

/** Indices 0 to n - 1. */
export const firstN = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Starts one; `end` is told how to end it. */
export async function startFleetWorld(
  lab: Lab,
  options: FleetWorldOptions,
  end: (fn: () => Promise<unknown>) => void = (fn) => lab.defer(fn),
): Promise<FleetWorld> {
  const { agents, tenants, name } = options;
  const dir = join(lab.dir, name);
  mkdirSync(dir, { recursive: true });
  const hub = await startBenchHub(dir);
  end(() => hub.stop());
  refuseUnsafe({ pids: [hub.pid()], dirs: [hub.dataDir] });
  const agentPort = await options.agentPort?.(hub);
  const fleet = await startFleet({
    dir,
    name: "driver",
    processes: options.processes,
    target: fleetTarget(hub, agentPort),
    reports: true,
    record: options.record ?? false,
  });
  end(() => fleet.stop());
  const uids = await provision(lab, { hub, fleet, agents, tenants });
  let connected = 0;
  const world: FleetWorld = {
    hub,
    fleet,
    agents,
    resources: tenants + 1,
    uid(index) {
      const uid = uids.get(index);
      if (uid === undefined) throw new Error(`Agent ${index} is not enrolled`);
      return uid;
    },
    async settle(n) {
      if (n > connected) lab.progress(`connecting ${n - connected} agents`);
      if (n < connected) lab.progress(`${connected - n} agents leave; the hub calls them silent within 90 s`);
      if (n < connected) await fleet.disconnect(firstN(connected).slice(n));
      if (n > connected) await fleet.connect(firstN(n).slice(connected));
      connected = n;
      await fleet.awaitReported(firstN(n), QUIET_PATIENCE_MS);
      await world.quiet();
    },
    async mark() {
      await Promise.all([fleet.mark(), hub.ask({ do: "mark" })]);
    },
    async load() {
      const [stats, read] = await Promise.all([fleet.stats(), hub.ask({ do: "read" })]);
      return { stats, drivers: stats.drivers, hubBusy: read.meter.busy };
    },
    async quiet() {
      const start = lab.clock.monotonicMs();
      let last = -1;
      for (;;) {
        const { revision } = await hub.ask({ do: "read" });
        if (revision === last) return;
        if (lab.clock.monotonicMs() - start > QUIET_PATIENCE_MS)
          throw new Error(`The store is not at rest after ${QUIET_PATIENCE_MS} ms`);
        last = revision;
        await sleep(lab.clock, QUIET_MS);
      }
    },
    async crash() {
      const killedMs = lab.clock.monotonicMs();
      await hub.kill();
      await hub.start();
      return { killedMs, readyMs: lab.clock.monotonicMs() };
    },
  };
  return world;
}

async function provision(
  lab: Lab,
  what: { hub: BenchHub; fleet: Fleet; agents: number; tenants: number },
): Promise<Map<number, string>> {
  const { hub, fleet, agents, tenants } = what;
  const { apis, close } = connectApis(hub, API_CONNECTIONS);
  try {
    lab.progress(
      `creating ${agents} data planes and ${agents * tenants} tenants, and enrolling ${agents} agents`,
    );
    const start = lab.clock.monotonicMs();
    const seeds = await createDataPlanes(apis, { from: 0, to: agents });
    const uids = await fleet.enrol(seeds);
    await createTenants(apis, { from: 0, to: agents, each: tenants });
    lab.progress(`done in ${((lab.clock.monotonicMs() - start) / 1_000).toFixed(0)} s`);
    return uids;
  } finally {
    close();
  }
}
