/** A hub process under attack: a good agent and a good client beside the attacker, and how the hub bears it. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";
import { createCa, createCsr, generateKeyPem, issueClientCertificate } from "@moorage/shared/x509";
import { freePort } from "../cluster/processes.ts";
import { rssMb } from "../load/procfs.ts";
import type { HubProcess } from "../world/world.ts";
import { httpText, startHubProcess } from "../world/world.ts";
import type { WireIdentity } from "../world/wire-agent.ts";
import { enrol, openStream } from "../world/wire-agent.ts";

/** What a test of the wire needs. */
export interface WireWorld {
  hub: HubProcess;
  identity: WireIdentity;
  /** TLS of an attacker who has nothing but the hub's public authority, and of the agent. */
  anyone: { ca: string };
  /** TLS of a backend on the API's port for client certificates. */
  backend: { ca: string; cert: string; key: string };
  clientCertPort: number;
  agent: { ca: string; cert: string; key: string };
  /** One change written by the client and received by the agent: the milliseconds it took. */
  round(): Promise<number>;
  /** A number from the hub's metrics page. */
  metric(name: string): Promise<number>;
  /**
   * Runs an attack while the good agent and client go on, then says what the attack cost. Rejects
   * when the hub died, or logged a failure of its own.
   */
  under(attack: () => Promise<void>): Promise<{ rounds: number; slowestMs: number; grewMb: number }>;
  close(): Promise<void>;
}

/** An authority of a vendor's backends: the hub's options for it, and a client of it that is an administrator. */
export async function vendorCa(dir: string): Promise<{ options: string[]; cert: string; key: string }> {
  const on = { clock: systemClock, rng: systemRng };
  const ca = await createCa({ name: "vendor", ttlMs: 3_600_000 }, on);
  const file = join(dir, "client-ca.pem");
  writeFileSync(file, ca.certPem);
  const { keyPem: key } = await generateKeyPem();
  const uri = "spiffe://vendor/backend";
  const cert = await issueClientCertificate({ ca, csrDer: await createCsr(key), uri, ttlMs: 3_600_000 }, on);
  return { options: ["--client-ca-file", file, "--client-cert-grants", `uri=${uri}:admin`], cert, key };
}

/** Starts a hub process with one enrolled agent whose stream is up; `args` are more options of the hub. */
export async function startWireWorld(args: readonly string[] = []): Promise<WireWorld> {
  const dir = mkdtempSync(join(tmpdir(), "moorage-wire-"));
  const { options, ...backend } = await vendorCa(dir);
  const clientCertPort = await freePort();
  const address = ["--api-client-cert-address", `127.0.0.1:${clientCertPort}`];
  const hub = await startHubProcess(dir, [...options, ...address, ...args]);
  await hub.api.dataPlanes.createDataPlane({ dataPlaneId: "good" });
  const identity = await enrol(hub, "dataPlanes/good");
  const stream = openStream(hub, identity);
  await stream.next("hello");
  const seen = new Set<string>();
  let arrived: (() => void) | undefined;
  const reading = (async () => {
    for (;;) {
      const changes = await stream.next("changes");
      for (const update of changes.updates) seen.add(update.name);
      stream.send({ case: "ack", value: { seq: changes.seq } });
      arrived?.();
    }
  })().catch(() => undefined);
  let beating = systemClock.setTimer(0, () => undefined);
  const beat = () => {
    stream.send({ case: "heartbeat", value: {} });
    beating = systemClock.setTimer(5_000, beat);
  };
  beat();
  let made = 0;
  const round = async (): Promise<number> => {
    const startMs = systemClock.monotonicMs();
    const tenantId = `t${made++}`;
    await hub.api.tenants.createTenant({ tenantId, tenant: { spec: { dataPlane: "dataPlanes/good" } } });
    while (!seen.has(`tenants/${tenantId}`)) await new Promise<void>((resolve) => (arrived = resolve));
    return systemClock.monotonicMs() - startMs;
  };
  const rss = () => (hub.child.alive() ? rssMb(hub.child.pid) : Number.NaN);
  return {
    hub,
    identity,
    clientCertPort,
    anyone: { ca: hub.caPem },
    backend: { ca: hub.caPem, ...backend },
    agent: { ca: hub.caPem, cert: identity.certPem, key: identity.keyPem },
    round,
    async metric(name) {
      const text = await httpText(`http://127.0.0.1:${hub.ports.ops}/metrics`);
      const line = text.split("\n").find((l) => l.startsWith(name));
      if (line === undefined) throw new Error(`No metric "${name}"`);
      return Number(line.slice(line.lastIndexOf(" ") + 1));
    },
    async under(attack) {
      for (let i = 0; i < 5; i++) await round();
      const logged = hub.child.log().length;
      const before = rss();
      let over = false;
      let most = before;
      const attacking = attack().finally(() => (over = true));
      attacking.catch(() => undefined);
      const times: number[] = [];
      do {
        times.push(await round());
        most = Math.max(most, rss());
      } while (!over);
      await attacking;
      times.push(await round());
      if (!hub.child.alive()) throw new Error(`The hub died:\n${hub.child.log()}`);
      const log = hub.child.log().slice(logged);
      if (/"level":"(error|fatal)"|[Uu]nhandled/.test(log)) throw new Error(`The hub failed:\n${log}`);
      return { rounds: times.length, slowestMs: Math.max(...times), grewMb: most - before };
    },
    async close() {
      beating.cancel();
      stream.close();
      await reading;
      hub.link.close();
      await hub.stop();
      rmSync(dir, { recursive: true });
    },
  };
}
