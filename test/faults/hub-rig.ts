/** A hub process with a data directory of its own, that dies and comes back as itself. */
import { mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { sleep, systemClock } from "@moorage/shared/clock";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits, apiLimits } from "@moorage/shared/grpc/options";
import type { Client, Link } from "@moorage/shared/grpc/types";
import { systemRng } from "@moorage/shared/rng";
import type { Child } from "../world/process.ts";
import { startNode } from "../world/process.ts";
import type { ApiClients } from "../world/world.ts";
import { httpStatus } from "../world/world.ts";

/**
 * Ports that no system hands out by itself: nobody may take those of a hub that is down.
 */
const FIRST_PORT = 12_000;
const PORTS = 18_000;

/** `n` ports below the ephemeral ones that nobody listens on. */
async function quietPorts(n: number): Promise<number[]> {
  const out: number[] = [];
  while (out.length < n) {
    const port = FIRST_PORT + Math.floor(systemRng.float() * PORTS);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free && !out.includes(port)) out.push(port);
  }
  return out;
}

/** How long a start may take. */
const START_MS = 30_000;

/** See the module's text. One life at a time. */
export class HubRig {
  readonly dataDir: string;
  readonly ports: { api: number; agent: number; enrolment: number; ops: number };
  readonly #dir: string;
  #child: Child | undefined;
  #links: Link[] = [];
  #logFrom = 0;

  private constructor(dir: string, ports: HubRig["ports"]) {
    this.#dir = dir;
    this.dataDir = join(dir, "hub");
    this.ports = ports;
  }

  static async create(dir: string): Promise<HubRig> {
    mkdirSync(dir, { recursive: true });
    const [api = 0, agent = 0, enrolment = 0, ops = 0] = await quietPorts(4);
    return new HubRig(dir, { api, agent, enrolment, ops });
  }

  /** Starts a life; false when it ended before it was ready. */
  async start(options: { failpoint?: string; env?: Record<string, string> } = {}): Promise<boolean> {
    const at = (name: keyof HubRig["ports"]) => [`--${name}-address`, `127.0.0.1:${this.ports[name]}`];
    this.#logFrom = this.#child === undefined ? 0 : this.#child.log().length;
    const child = startNode({
      dir: this.#dir,
      name: "hub",
      script: "hub/moorage-hub.mjs",
      args: [
        ...["--data-dir", this.dataDir, ...at("api"), ...at("agent"), ...at("enrolment"), ...at("ops")],
        // Agents that lost their stream come back at once: the rig waits for nothing else.
        ...["--reconnect-spread", "20ms", "--drain-time", "100ms"],
      ],
      env: {
        ...options.env,
        ...(options.failpoint === undefined ? {} : { MOORAGE_FAILPOINT: options.failpoint }),
      },
    });
    this.#child = child;
    const end = systemClock.monotonicMs() + START_MS;
    while (child.alive()) {
      if ((await httpStatus(`http://127.0.0.1:${this.ports.ops}/readyz`)) === 200) return true;
      if (systemClock.monotonicMs() > end) throw new Error(`The hub is not ready:\n${this.log()}`);
      await sleep(systemClock, 25);
    }
    return false;
  }

  get alive(): boolean {
    return this.#child?.alive() === true;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Settles with the end of this life. */
  async ended(): Promise<void> {
    await this.#child?.ended;
    for (const link of this.#links.splice(0)) link.close();
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    await this.#child?.stop(signal);
    await this.ended();
  }

  /** Output of this life. */
  log(): string {
    return this.#child?.log().slice(this.#logFrom) ?? "";
  }

  caPem(): string {
    return readFileSync(join(this.dataDir, "ca.pem"), "utf8");
  }

  #apiLink(): Link {
    const adminKey = readFileSync(join(this.dataDir, "admin.key"), "utf8").trim();
    return this.#keep(
      connect({
        target: { host: "127.0.0.1", port: this.ports.api },
        tls: { caPem: this.caPem(), serverName: "localhost" },
        limits: apiLimits,
        clock: systemClock,
        ownConnection: {},
        headers: () => ({ authorization: `Bearer ${adminKey}` }),
      }),
    );
  }

  /** A client of the hub's own service, for this life. */
  hubService(): Client<typeof HubService> {
    return this.#apiLink().client(HubService);
  }

  /** Clients of the API, for this life. */
  api(): ApiClients {
    const link = this.#apiLink();
    return {
      dataPlanes: link.client(DataPlaneService),
      tenants: link.client(TenantService),
      applications: link.client(ApplicationService),
      bundles: link.client(BundleService),
      joinTokens: link.client(JoinTokenService),
      wait: link.client(WaitService),
    };
  }

  /** A connection as an agent has it: with a certificate to the agent port, without to the enrolment port. */
  agentLink(pair?: { certPem: string; keyPem: string }): Link {
    return this.#keep(
      connect({
        target: { host: "127.0.0.1", port: pair === undefined ? this.ports.enrolment : this.ports.agent },
        tls: { caPem: this.caPem(), serverName: "localhost", ...pair },
        limits: agentLimits,
        clock: systemClock,
        ownConnection: {},
      }),
    );
  }

  #keep(link: Link): Link {
    this.#links.push(link);
    return link;
  }
}
