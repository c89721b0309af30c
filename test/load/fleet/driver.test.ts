import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hubOptions } from "@moorage/hub/config";
import { startHub } from "@moorage/hub/hub";
import { openMemoryStore } from "@moorage/hub/store/memory/memory";
import { systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { expect, onTestFinished, test } from "vitest";
import { removeDir } from "../../world/world.ts";
import { connectApis, fleetTarget } from "../bench-hub.ts";
import { createDataPlanes, createTenants, tenantName } from "../provision.ts";
import { Driver, loopbackAddress } from "./driver.ts";

const AGENTS = 3;
const TENANTS = 4;
const PATIENCE = 15_000;

/** A hub in this process with agents enrolled over its real ports. */
async function rig() {
  const dir = mkdtempSync(join(tmpdir(), "moorage-driver-"));
  const port = "127.0.0.1:0";
  const flags = ["api", "agent", "enrolment", "ops"].flatMap((p) => [`--${p}-address`, port]);
  const config = parseConfig(hubOptions, {
    argv: ["--data-dir", dir, "--reconnect-spread", "1ms", "--drain-time", "1ms", ...flags],
    env: {},
    readFile: () => undefined,
  });
  const store = openMemoryStore({ clock: systemClock, rng: systemRng });
  const hub = await startHub(config, { clock: systemClock, rng: systemRng, log: memoryLogger(), store });
  const address = {
    ports: {
      api: hub.addresses.api.port,
      agent: hub.addresses.agent.port,
      enrolment: hub.addresses.enrolment.port,
    },
    caPem: readFileSync(join(dir, "ca.pem"), "utf8"),
    adminKey: hub.bootstrapSecret ?? "",
  };
  const { apis, close } = connectApis(address, 1);
  const driver = new Driver({ target: fleetTarget(address), reports: true, record: true });
  const all = Array.from({ length: AGENTS }, (_, i) => i);
  onTestFinished(async () => {
    driver.disconnect(all);
    close();
    await hub.stop();
    await store.close();
    removeDir(dir);
  });
  const seeds = await createDataPlanes(apis, { from: 0, to: AGENTS });
  await createTenants(apis, { from: 0, to: AGENTS, each: TENANTS });
  const enrolled = await driver.enrol(seeds, 2);
  await driver.connect(all, { perSecond: 100, timeoutMs: PATIENCE });
  await driver.awaitReported(all, PATIENCE);
  return { hub, api: apis[0] as (typeof apis)[0], driver, all, enrolled };
}

test("agents enrol over the real port, take all they are to hold, and report it", async () => {
  const { hub, driver, enrolled } = await rig();
  const { counts, inSync, initialEndMs, handshakeMs } = driver.stats();
  expect(counts).toMatchObject({
    handshakes: AGENTS,
    snapshot: AGENTS,
    updates: AGENTS * (TENANTS + 1),
    statuses: AGENTS * (TENANTS + 1),
    unchanged: 0,
    refused: 0,
    violations: 0,
  });
  expect([inSync, initialEndMs.length, handshakeMs.length]).toEqual([AGENTS, AGENTS, AGENTS]);
  expect(new Set(hub.sync.connected().map((a) => a.dataPlaneUid))).toEqual(
    new Set(enrolled.map((e) => e.uid)),
  );
});

test("agents that left come back by their cursor, and nothing is sent again", async () => {
  const { hub, driver, all } = await rig();
  driver.mark();
  expect(hub.sync.connected()).toHaveLength(AGENTS);
  driver.disconnect(all);
  await driver.connect(all, { perSecond: 100, timeoutMs: PATIENCE });
  expect(driver.stats().counts).toMatchObject({
    delta: AGENTS,
    updates: 0,
    compare: 0,
    snapshot: 0,
    reports: 0,
  });
});

test("a change is acked by the one agent that it is for, and a removal is reported", async () => {
  const { hub, api, driver } = await rig();
  driver.mark();
  driver.expect([1], (await hub.store.status()).rev);
  await api.tenants.updateTenant({
    tenant: { name: tenantName(1, 0), labels: { a: "b" } },
    updateMask: { paths: ["labels"] },
  });
  expect((await driver.acked(PATIENCE)).ackMs).toHaveLength(1);
  expect(driver.stats().counts).toMatchObject({ updates: 1, unchanged: 0 });
  driver.expect([2], (await hub.store.status()).rev);
  await api.tenants.deleteTenant({ name: tenantName(2, 1) });
  await driver.acked(PATIENCE);
  await driver.awaitReported([2], PATIENCE);
  await expect(api.tenants.getTenant({ name: tenantName(2, 1) })).rejects.toThrow();
  expect(driver.received(2)).toHaveLength(1);
  expect(driver.stats().counts).toMatchObject({ removed: 1, violations: 0 });
});

test("each agent has a loopback address of its own", () => {
  const addresses = Array.from({ length: 10_000 }, (_, i) => loopbackAddress(i));
  expect(new Set(addresses).size).toBe(10_000);
  expect(loopbackAddress(0)).toBe("127.64.1.1");
});
