/** What a refused, repeated or overtaken Delete leaves: all that it was not asked to take. */
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store, TxnRequest } from "../store/store.ts";
import { publish, apiOfTest } from "./testing.ts";

/** More than two transactions take. */
const MANY = 60;
const spec = { dataPlane: "dataPlanes/eu" };

/** An API over a store, before whose next removal of rows `meanwhile` happens, once. */
async function start() {
  const store = openMemoryStore({ clock: systemClock, rng: seededRng(1) });
  let meanwhile: (() => Promise<unknown>) | undefined;
  const removes = (request: TxnRequest) => (request.rows ?? []).some((r) => "dropRes" in r);
  const interrupted: Store = Object.assign(Object.create(store) as Store, {
    txn: async (request: TxnRequest) => {
      const first = removes(request) ? meanwhile : undefined;
      if (first !== undefined) meanwhile = undefined;
      await first?.();
      return store.txn(request);
    },
  });
  const api = await apiOfTest({ store: interrupted });
  const dataPlane = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await publish(api);
  const { tenants, applications } = api.admin;
  return {
    api,
    dataPlane,
    tenants,
    applications,
    /** Makes `tenants/acme` with {@link MANY} applications. */
    async fill() {
      const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
      const application = { spec: { bundle: "bundles/small", version: "1.0.0" } };
      for (let i = 0; i < MANY; i++)
        await applications.createApplication({ parent: tenant.name, applicationId: `a${i}`, application });
      return tenant;
    },
    left: async () =>
      (await applications.listApplications({ parent: "tenants/acme", pageSize: 100 })).applications.length,
    beforeRemoval: (fn: () => Promise<unknown>) => void (meanwhile = fn),
  };
}

test.each([
  ["a malformed request id", "delete acme", "INVALID_FIELD"],
  ["the id of another request", "used", "REQUEST_ID_REUSED"],
])("a deletion that is refused for %s takes nothing", async (_, requestId, reason) => {
  const { tenants, fill, left } = await start();
  const { name } = await fill();
  await tenants.deleteTenant({ name: "tenants/none", allowMissing: true, requestId: "used" });
  const refused = { code: Code.INVALID_ARGUMENT, reason, fields: [{ field: "request_id" }] };
  await expect(tenants.deleteTenant({ name, requestId })).rejects.toMatchObject(refused);
  expect(await left()).toBe(MANY);
});

test("a repeated deletion takes nothing of what came under the name since", async () => {
  const { tenants, fill, left } = await start();
  const { name } = await fill();
  const first = await tenants.deleteTenant({ name, force: true, requestId: "r-1" });
  const { uid } = await fill();
  expect(await tenants.deleteTenant({ name, force: true, requestId: "r-1" })).toEqual(first);
  expect(await tenants.getTenant({ name })).toMatchObject({ uid });
  expect(await left()).toBe(MANY);
});

test("a protection that is set while a deletion waits for its turn keeps all applications", async () => {
  const { tenants, fill, left } = await start();
  const { name } = await fill();
  const [set, deleted] = await Promise.allSettled([
    tenants.updateTenant({
      tenant: { name, spec: { deletionProtection: true } },
      updateMask: { paths: ["spec.deletion_protection"] },
    }),
    tenants.deleteTenant({ name }),
  ]);
  expect(set.status).toBe("fulfilled");
  expect(deleted).toMatchObject({ status: "rejected", reason: { reason: "DELETION_PROTECTED" } });
  expect(await left()).toBe(MANY);
});

test("an application that changes meanwhile does not end the deletion of its tenant", async () => {
  const { api, tenants, fill, left, beforeRemoval } = await start();
  const { name } = await fill();
  // Not through the API, whose writes wait for one another: as sync writes a status of its own accord.
  const k = Buffer.from(`applications/${name}/applications/a0`);
  beforeRemoval(async () => {
    const [kv] = (await api.store.range({ start: k })).kvs;
    if (kv === undefined) throw new Error("there is no such application");
    await api.store.txn({ then: [{ put: { key: k, value: kv.value } }] });
  });
  await tenants.deleteTenant({ name });
  expect(await left()).toBe(0);
});

test("an agent that connects while a tenant is deleted at once is told to remove it", async () => {
  const { api, dataPlane, tenants, beforeRemoval } = await start();
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  beforeRemoval(() => api.link(dataPlane.uid, LinkState.CONNECTED));
  expect(await tenants.deleteTenant({ name: tenant.name })).toMatchObject({ reconciling: true });
  expect(await api.store.resByUid(dataPlane.uid, tenant.uid)).toMatchObject({ del: true });
  const { name } = await tenants.getTenant({ name: tenant.name });
  beforeRemoval(() => api.link(dataPlane.uid, LinkState.SILENT));
  await tenants.deleteTenant({ name, force: true });
  expect(await api.store.resByUid(dataPlane.uid, tenant.uid)).toBeUndefined();
});

test("a repeated deletion of nothing deletes nothing that came since", async () => {
  const { tenants } = await start();
  const request = { name: "tenants/acme", allowMissing: true, requestId: "r-1" };
  const first = await tenants.deleteTenant(request);
  await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  expect(await tenants.deleteTenant(request)).toEqual(first);
  expect(await tenants.getTenant({ name: "tenants/acme" })).toMatchObject({ generation: 1n });
});

test("a repeated update that changed nothing undoes nothing that came since, and answers as it did", async () => {
  const { tenants } = await start();
  await tenants.createTenant({ tenantId: "acme", tenant: { spec, labels: { tier: "gold" } } });
  const of = (tier: string) => ({
    tenant: { name: "tenants/acme", labels: { tier } },
    updateMask: { paths: ["labels"] },
  });
  const first = await tenants.updateTenant({ ...of("gold"), requestId: "r-1" });
  await tenants.updateTenant(of("silver"));
  expect(await tenants.updateTenant({ ...of("gold"), requestId: "r-1" })).toEqual(first);
  expect(await tenants.getTenant({ name: "tenants/acme" })).toMatchObject({ labels: { tier: "silver" } });
});
