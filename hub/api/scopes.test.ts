/** What a scoped key may refer to: it places tenants where it was given the right, and learns of no other place. */
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { expect, test } from "vitest";
import { publish, apiOfTest } from "./testing.ts";

/** An API with data planes of each kind that could be told apart. */
async function start() {
  const api = await apiOfTest();
  const { dataPlanes, tenants } = api.admin;
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await dataPlanes.createDataPlane({
    dataPlaneId: "cordoned",
    dataPlane: { spec: { scheduling: { cordoned: true, cordonReason: "secret" } } },
  });
  await dataPlanes.createDataPlane({ dataPlaneId: "full", dataPlane: { spec: { capacity: { s: 1 } } } });
  const spec = { dataPlane: "dataPlanes/full", sizeClass: "s" };
  await tenants.createTenant({ tenantId: "other", tenant: { spec } });
  return api;
}

const denied = { code: Code.PERMISSION_DENIED, reason: "PERMISSION_DENIED" };

test("a key without the right is refused alike wherever it would place its tenant", async () => {
  const api = await start();
  const { tenants } = await api.as(Role.OPERATOR, ["tenants/acme"]);
  const seen = new Set<string>();
  for (const id of ["eu", "cordoned", "full", "none"])
    for (const validateOnly of [false, true]) {
      const spec = { dataPlane: `dataPlanes/${id}`, sizeClass: "s" };
      const tenant = { name: "tenants/acme", spec };
      for (const refused of [
        tenants.createTenant({ tenantId: "acme", tenant, validateOnly }),
        tenants.updateTenant({ tenant, allowMissing: true, validateOnly }),
      ]) {
        const error: unknown = await refused.catch((thrown: unknown) => thrown);
        if (!(error instanceof MoorageError)) throw new Error(`was not refused in "${id}"`);
        const { code, reason, message, fields, metadata } = error;
        expect(error).toMatchObject({ ...denied, fields: [{ field: "tenant.spec.data_plane" }] });
        seen.add(JSON.stringify({ code, reason, message, fields, metadata }).replaceAll(id, "ID"));
      }
    }
  expect([...seen]).toHaveLength(1);
});

test("the right to place tenants places them, and does nothing else in the data plane", async () => {
  const api = await start();
  await publish(api);
  const key = await api.as(Role.OPERATOR, ["tenants/acme", "dataPlanes/eu/tenants"]);
  const spec = { dataPlane: "dataPlanes/eu" };
  const elsewhere = { spec: { dataPlane: "dataPlanes/full" } };
  await expect(key.tenants.createTenant({ tenantId: "acme", tenant: elsewhere })).rejects.toMatchObject(
    denied,
  );
  await key.tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  const name = "dataPlanes/eu";
  const application = { spec: { bundle: "bundles/small", version: "1.0.0" } };
  for (const refused of [
    key.tenants.createTenant({ tenantId: "more", tenant: { spec } }),
    key.dataPlanes.getDataPlane({ name }),
    key.dataPlanes.updateDataPlane({ dataPlane: { name, spec: {} } }),
    key.dataPlanes.deleteDataPlane({ name }),
    key.dataPlanes.listDataPlanes({}),
    key.applications.createApplication({ parent: name, applicationId: "a", application }),
  ])
    await expect(refused).rejects.toMatchObject(denied);
  await key.applications.createApplication({ parent: "tenants/acme", applicationId: "a", application });
  expect((await key.applications.listApplications({ parent: "-" })).applications).toHaveLength(1);
});

test("a tenant that exists is changed without the right, by those who may not have made it", async () => {
  const api = await start();
  const spec = { dataPlane: "dataPlanes/eu" };
  await api.admin.tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  const { tenants } = await api.as(Role.OPERATOR, ["tenants/acme"]);
  const tenant = { name: "tenants/acme", spec: { ...spec, planId: "gold" } };
  expect(await tenants.updateTenant({ tenant, allowMissing: true })).toMatchObject({ generation: 2n });
  await tenants.deleteTenant({ name: tenant.name });
  await expect(tenants.updateTenant({ tenant, allowMissing: true })).rejects.toMatchObject(denied);
});

test("the scope of a data plane covers placing there", async () => {
  const api = await start();
  const { tenants } = await api.as(Role.OPERATOR, ["tenants/acme", "dataPlanes/eu"]);
  const tenant = { spec: { dataPlane: "dataPlanes/eu" } };
  expect(await tenants.createTenant({ tenantId: "acme", tenant })).toMatchObject({ generation: 1n });
});
