import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { Code } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import type { WireLimits } from "@moorage/shared/grpc/options";
import { apiLimits } from "@moorage/shared/grpc/options";
import { limits } from "@moorage/shared/limits";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { afterEach, expect, test } from "vitest";
import { hubOptions } from "./config.ts";
import type { Hub } from "./hub.ts";
import { startHub } from "./hub.ts";

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of undo.splice(0).reverse()) await end();
});

async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "moorage-hub-"));
  undo.push(() => rm(dir, { recursive: true }));
  return dir;
}

async function start(dir: string, apiAddress = "127.0.0.1:0"): Promise<Hub> {
  const argv = ["--data-dir", dir, "--api-address", apiAddress, "--drain-time", "100ms"];
  for (const name of ["agent", "enrolment", "ops"]) argv.push(`--${name}-address`, "127.0.0.1:0");
  const hub = await startHub(parseConfig(hubOptions, { argv, env: {}, readFile: () => ({}) }), {
    clock: systemClock,
    rng: systemRng,
    log: memoryLogger(),
  });
  undo.push(() => hub.stop());
  return hub;
}

async function client(dir: string, hub: Hub, options: { secret?: string; limits?: WireLimits } = {}) {
  const authorization = `Bearer ${options.secret ?? (await readFile(join(dir, "admin.key"), "utf8")).trim()}`;
  const caPem = await readFile(join(dir, "ca.pem"), "utf8");
  const link = connect({
    target: hub.addresses.api,
    tls: { caPem },
    limits: options.limits ?? apiLimits,
    clock: systemClock,
    headers: () => ({ authorization }),
  });
  undo.push(async () => link.close());
  return { dataPlanes: link.client(DataPlaneService), tenants: link.client(TenantService) };
}

test("the first key and the CA on disk open the API, writes outlive a restart, and a watch follows", async () => {
  const dir = await folder();
  const first = await start(dir);
  expect((await stat(join(dir, "admin.key"))).mode & 0o777).toBe(0o600);
  const before = await client(dir, first);
  await before.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const tenant = await before.tenants.createTenant({
    tenantId: "acme",
    tenant: { spec: { dataPlane: "dataPlanes/eu" } },
  });
  await first.stop();

  const second = await start(dir);
  expect(second.bootstrapSecret).toBeUndefined();
  const after = await client(dir, second);
  expect(await after.tenants.getTenant({ name: "tenants/acme", minRevision: tenant.revision })).toMatchObject(
    { uid: tenant.uid, etag: tenant.etag },
  );
  const seen: string[] = [];
  for await (const { event } of after.tenants.watchTenants({})) {
    seen.push(event.case === "change" ? (event.value.tenant?.name ?? "") : String(event.case));
    if (event.case === "synced")
      await after.tenants.createTenant({
        tenantId: "late",
        tenant: { spec: { dataPlane: "dataPlanes/eu" } },
      });
    if (seen.at(-1) === "tenants/late") break;
  }
  expect(seen).toEqual(["tenants/acme", "synced", "tenants/late"]);
});

test("a caller without a valid key learns nothing", async () => {
  const dir = await folder();
  const { dataPlanes } = await client(dir, await start(dir), { secret: "wrong" });
  await expect(dataPlanes.getDataPlane({ name: "dataPlanes/eu" })).rejects.toMatchObject({
    code: Code.UNAUTHENTICATED,
  });
});

test("a busy port is refused by its option", async () => {
  const { port } = (await start(await folder())).addresses.api;
  await expect(start(await folder(), `127.0.0.1:${port}`)).rejects.toThrow("--api-address");
});

test("a data folder in use is refused by its path", async () => {
  const dir = await folder();
  await start(dir);
  await expect(start(dir)).rejects.toThrow(`"${dir}": another hub uses it`);
});

test("a message above the API's limit is refused, by the hub too when the client does not keep it", async () => {
  const dir = await folder();
  const hub = await start(dir);
  const labels = { a: "x".repeat(limits.apiMessageBytes) };
  const request = { dataPlaneId: "eu", dataPlane: { labels } };
  const tooLarge = { code: Code.RESOURCE_EXHAUSTED };
  await expect((await client(dir, hub)).dataPlanes.createDataPlane(request)).rejects.toMatchObject(tooLarge);
  const maxSendBytes = 2 * limits.apiMessageBytes;
  const careless = await client(dir, hub, { limits: { ...apiLimits, maxSendBytes } });
  await expect(careless.dataPlanes.createDataPlane(request)).rejects.toMatchObject(tooLarge);
  await careless.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
});
