/** The benchmark's own hub process: started, asked, killed, started again. */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { connect } from "@moorage/shared/grpc/client";
import { apiLimits } from "@moorage/shared/grpc/options";
import type { Link } from "@moorage/shared/grpc/types";
import { freePort } from "../cluster/processes.ts";
import type { ApiClients } from "../world/world.ts";
import type { AskedChild } from "./child.ts";
import { startChild } from "./child.ts";
import type { FleetTarget } from "./fleet/protocol.ts";
import { hostClock } from "./host-clock.ts";
import type { HubAnswers, HubCommand } from "./hub-commands.ts";

/** Whatever can be connected to: this hub or a world's. */
export interface HubAddress {
  ports: { api: number; agent: number; enrolment: number };
  caPem: string;
  adminKey: string;
}

/** A hub with its data directory and ports; the process behind it may be another one after a restart. */
export interface BenchHub extends HubAddress {
  dataDir: string;
  pid(): number;
  ask: AskedChild<HubCommand, HubAnswers & Record<string, unknown>>["ask"];
  /** SIGKILL, as a crash. */
  kill(): Promise<void>;
  /** Starts it again on the same ports; ready when this resolves. */
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a hub in `dir`. */
export async function startBenchHub(
  dir: string,
  { args = [], env = {} }: { args?: readonly string[]; env?: Readonly<Record<string, string>> } = {},
): Promise<BenchHub> {
  mkdirSync(dir, { recursive: true });
  const [api = 0, agent = 0, enrolment = 0, ops = 0] = await Promise.all(
    Array.from({ length: 4 }, () => freePort()),
  );
  const dataDir = join(dir, "hub");
  const run = async () => {
    const child = startChild<HubCommand, HubAnswers & Record<string, unknown>>({
      script: fileURLToPath(new URL("./hub-child.ts", import.meta.url)),
      dir,
      name: "hub",
      nodeArgs: ["--expose-gc"],
      env,
      args: [
        ...["--data-dir", dataDir, "--log-level", "warn"],
        ...["--api-address", `127.0.0.1:${api}`],
        ...["--agent-address", `127.0.0.1:${agent}`],
        ...["--enrolment-address", `127.0.0.1:${enrolment}`],
        ...["--ops-address", `127.0.0.1:${ops}`],
        ...args,
      ],
    });
    await child.ask({ do: "ready" });
    return child;
  };
  let child = await run();
  return {
    dataDir,
    ports: { api, agent, enrolment },
    caPem: readFileSync(join(dataDir, "ca.pem"), "utf8"),
    adminKey: readFileSync(join(dataDir, "admin.key"), "utf8").trim(),
    pid: () => child.pid,
    ask: (command) => child.ask(command),
    kill: () => child.kill("SIGKILL"),
    async start() {
      child = await run();
    },
    stop: () => child.kill("SIGTERM"),
  };
}

/** Where agents of a fleet find this hub. */
export const fleetTarget = (hub: HubAddress, agentPort = hub.ports.agent): FleetTarget => ({
  host: "127.0.0.1",
  agentPort,
  enrolmentPort: hub.ports.enrolment,
  serverName: "localhost",
  caPem: hub.caPem,
});

/** Clients of the API, each on a connection of its own. */
export function connectApis(hub: HubAddress, connections: number): { apis: ApiClients[]; close(): void } {
  const links = Array.from({ length: connections }, (): Link =>
    connect({
      target: { host: "127.0.0.1", port: hub.ports.api },
      tls: { caPem: hub.caPem, serverName: "localhost" },
      limits: apiLimits,
      clock: hostClock,
      headers: () => ({ authorization: `Bearer ${hub.adminKey}` }),
      ownConnection: {},
    }),
  );
  return {
    apis: links.map((link) => ({
      dataPlanes: link.client(DataPlaneService),
      tenants: link.client(TenantService),
      applications: link.client(ApplicationService),
      bundles: link.client(BundleService),
      joinTokens: link.client(JoinTokenService),
      wait: link.client(WaitService),
    })),
    close: () => links.forEach((l) => l.close()),
  };
}
