import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Hub } from "@moorage/hub/hub";
import { startHub } from "@moorage/hub/hub";
import { hubOptions } from "@moorage/hub/config";
import type { LoadSample } from "@moorage/hub/ops/shedding";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { Code, MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import type { Address } from "@moorage/shared/grpc/listener";
import { apiLimits } from "@moorage/shared/grpc/options";
import type { Client } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startProxy } from "../world/proxy.ts";
import type { WireIdentity, WireStream } from "../world/wire-agent.ts";
import { enrol, openStream } from "../world/wire-agent.ts";
import type { HubProcess } from "../world/world.ts";
import { rawConnect } from "./raw-http2.ts";
import { vendorCa } from "./wire-world.ts";

/** A hub that cannot keep up, one that everybody calls at once, and agents that do not read. */

const calm: LoadSample = { loopDelayP99Ms: 1, rssBytes: 1 };
const full: LoadSample = { loopDelayP99Ms: 1, rssBytes: Number.MAX_SAFE_INTEGER };
let load = calm;
let dir: string;
let hub: Hub;
/** The same hub, as the helpers of a hub process see it. */
let world: HubProcess;
let identity: WireIdentity;
/** A caller on the port of client certificates. */
let backend: Client<typeof TenantService>;
const undo: (() => unknown)[] = [];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "moorage-storm-"));
  const argv = ["--data-dir", dir, "--drain-time", "50ms"];
  const vendor = await vendorCa(dir);
  argv.push(...vendor.options);
  for (const name of ["api", "api-client-cert", "agent", "enrolment", "ops"])
    argv.push(`--${name}-address`, "127.0.0.1:0");
  const config = parseConfig(hubOptions, { argv, env: {}, readFile: () => ({}) });
  hub = await startHub(config, {
    clock: systemClock,
    rng: systemRng,
    log: memoryLogger(),
    sampler: () => load,
  });
  const authorization = `Bearer ${(await readFile(join(dir, "admin.key"), "utf8")).trim()}`;
  const caPem = await readFile(join(dir, "ca.pem"), "utf8");
  const link = connect({
    target: hub.addresses.api,
    tls: { caPem },
    limits: apiLimits,
    clock: systemClock,
    headers: () => ({ authorization }),
  });
  const { api, agent, enrolment, ops } = hub.addresses;
  const ports = { api: api.port, agent: agent.port, enrolment: enrolment.port, ops: ops.port };
  const clients = {
    dataPlanes: link.client(DataPlaneService),
    tenants: link.client(TenantService),
    joinTokens: link.client(JoinTokenService),
  };
  const byCertificate = connect({
    target: hub.addresses.apiClientCert as Address,
    tls: { caPem, certPem: vendor.cert, keyPem: vendor.key },
    limits: apiLimits,
    clock: systemClock,
  });
  undo.push(() => byCertificate.close());
  backend = byCertificate.client(TenantService);
  world = { ports, caPem, link, api: clients } as unknown as HubProcess;
  await clients.dataPlanes.createDataPlane({ dataPlaneId: "a" });
  identity = await enrol(world, "dataPlanes/a");
}, 60_000);
afterAll(async () => {
  for (const end of undo.reverse()) await end();
  world.link.close();
  await hub.stop();
  await rm(dir, { recursive: true });
});

function stream(on: HubProcess = world): WireStream {
  const one = openStream(on, identity);
  undo.push(() => one.close());
  return one;
}

/** Waits for the shedder's next decision. */
async function until(shedding: boolean): Promise<void> {
  while ((hub.shedder.admits() !== undefined) !== shedding)
    await new Promise((resolve) => systemClock.setTimer(20, () => resolve(undefined)));
}

describe("a hub under load", () => {
  test("refuses new streams and watches with a time to come back, and serves those it has", async () => {
    const agent = stream();
    await agent.next("hello");
    const stop = new AbortController();
    const watch = world.api.tenants.watchTenants({}, { signal: stop.signal })[Symbol.asyncIterator]();
    await watch.next();
    load = full;
    await until(true);

    const overloaded = { code: Code.UNAVAILABLE, reason: "OVERLOADED", metadata: { because: "memory" } };
    const refused = await stream()
      .next("hello")
      .catch((e: unknown) => e as MoorageError);
    expect(refused).toMatchObject(overloaded);
    expect((refused as MoorageError).retryAfterMs).toBeGreaterThanOrEqual(limits.shedRetryMs / 2);
    const second = world.api.tenants.watchTenants({})[Symbol.asyncIterator]();
    await expect(second.next()).rejects.toMatchObject(overloaded);
    const third = backend.watchTenants({})[Symbol.asyncIterator]();
    await expect(third.next()).rejects.toMatchObject(overloaded);

    // Calls, the open watch and the open stream go on.
    const name = "tenants/under-load";
    await world.api.tenants.createTenant({
      tenantId: "under-load",
      tenant: { spec: { dataPlane: "dataPlanes/a" } },
    });
    let seen = "";
    while (seen !== name) {
      const { event } = (await watch.next()).value;
      if (event.case === "change") seen = event.value.tenant?.name ?? "";
    }
    let received: string[] = [];
    while (!received.includes(name)) received = (await agent.next("changes")).updates.map((u) => u.name);
    const metrics = await hub.metrics.metricsText();
    expect(metrics).toContain("moorage_hub_shedding 1");
    expect(metrics).toContain('moorage_hub_refused_total{reason="memory"} 3');

    load = calm;
    await until(false);
    expect(await stream().next("hello")).toMatchObject({ protocolVersion: 1 });
    stop.abort();
    await watch.return?.(undefined);
  });
});

describe("a storm of connections", () => {
  test("beyond the rate is reset before TLS, and whoever has a stream feels nothing", async () => {
    const agent = stream();
    await agent.next("hello");
    // Twice as many as the address may have pending: some are let in, the others are reset at once.
    const knocks = 2 * limits.pendingConnectionsPerAddress;
    const sockets = await Promise.all(
      Array.from({ length: knocks }, () => rawConnect(world.ports.agent, undefined)),
    );
    await world.api.tenants.createTenant({
      tenantId: "in-the-storm",
      tenant: { spec: { dataPlane: "dataPlanes/a" } },
    });
    let received: string[] = [];
    while (!received.includes("tenants/in-the-storm"))
      received = (await agent.next("changes")).updates.map((u) => u.name);
    let reset = 0;
    const enough = Promise.withResolvers<void>();
    for (const { closed } of sockets)
      void closed.then(() => {
        reset += 1;
        if (reset >= knocks - limits.pendingConnectionsPerAddress) enough.resolve();
      });
    await enough.promise;
    const metrics = await hub.metrics.metricsText();
    const refused = [...metrics.matchAll(/^moorage_hub_refused_total\{reason="(?:a\w+)"\} (\d+)$/gm)];
    const total = refused.reduce((sum, m) => sum + Number(m[1]), 0);
    expect(total).toBeGreaterThanOrEqual(knocks - limits.pendingConnectionsPerAddress);
    for (const { socket } of sockets) socket.destroy();
    await Promise.all(sockets.map((s) => s.closed));
  });
});

/** Changes that a stalled agent leaves unread: more than all buffers of its end hold. */
const UNREAD = 150;

describe("S4: an agent that does not read", () => {
  test.each(["its streams", "its socket"])(
    "loses its stream within a second of its revocation, with what it left unread: %s",
    async (what) => {
      const id = what === "its socket" ? "socket" : "streams";
      await world.api.dataPlanes.createDataPlane({ dataPlaneId: id });
      const own = await enrol(world, `dataPlanes/${id}`);
      const proxy = await startProxy(world.ports.agent);
      undo.push(() => proxy.close());
      const stalled = openStream({ ...world, ports: { ...world.ports, agent: proxy.port } }, own);
      undo.push(() => stalled.close());
      await stalled.next("hello");
      // From here on nothing is read: neither messages, nor, when it is the socket, any byte.
      if (what === "its socket") proxy.set("down", { bytesPerSecond: 0 });
      // 4 KiB each that reach the agent and do not compress.
      const labels = () =>
        Object.fromEntries(
          Array.from({ length: limits.labelsPerResource }, (_, n) => [
            `l${n}`,
            randomBytes(30).toString("hex"),
          ]),
        );
      for (let i = 0; i < UNREAD; i++) {
        const tenant = { labels: labels(), spec: { dataPlane: `dataPlanes/${id}` } };
        await world.api.tenants.createTenant({ tenantId: `${id}-${i}`, tenant });
      }
      const up = () => hub.sync.connected().some((c) => c.dataPlane === `dataPlanes/${id}`);
      expect(up()).toBe(true);
      const startMs = systemClock.monotonicMs();
      await hub.identity.joinTokens.revoke(
        { dataPlane: `dataPlanes/${id}`, reason: "lost" },
        { actor: "test" },
      );
      while (up()) await new Promise((resolve) => setImmediate(resolve));
      expect(systemClock.monotonicMs() - startMs).toBeLessThan(1_000);
      // A second after the revocation it reads again: what still waited for it at the hub is gone.
      await new Promise((resolve) => systemClock.setTimer(1_000, () => resolve(undefined)));
      proxy.set("down", {});
      const read: string[] = [];
      const ended = (async () => {
        for (;;) read.push(...(await stalled.next("changes")).updates.map((u) => u.name));
      })();
      await expect(ended).rejects.toBeInstanceOf(MoorageError);
      expect(read.length).toBeLessThan(UNREAD);
    },
  );
});
