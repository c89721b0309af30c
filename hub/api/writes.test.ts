import { fromBinary } from "@bufbuild/protobuf";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { expect, test } from "vitest";
import { manualClock } from "../sync/testing.ts";
import { publish, apiOfTest } from "./testing.ts";

/** An API with one data plane, `dataPlanes/eu`. */
async function start(options: Parameters<typeof apiOfTest>[0] = {}) {
  const api = await apiOfTest(options);
  const dataPlane = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  return { api, ...api.admin, dataPlane };
}

const spec = { dataPlane: "dataPlanes/eu" };
const app = { spec: { bundle: "bundles/small", version: "1.0.0" } };

test("each kind is created, read, changed and deleted", async () => {
  const { api, dataPlanes, tenants, applications, bundles } = await start();
  await publish(api);
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  const web = await applications.createApplication({
    parent: "tenants/acme",
    applicationId: "web",
    application: app,
  });
  const base = await applications.createApplication({
    parent: "dataPlanes/eu",
    applicationId: "base",
    application: app,
  });
  expect(await applications.getApplication({ name: web.name })).toEqual(web);
  const changed = await applications.updateApplication({
    application: { name: web.name, etag: web.etag, labels: { tier: "gold" } },
    updateMask: { paths: ["labels"] },
  });
  expect(changed).toMatchObject({ uid: web.uid, generation: 1n, labels: { tier: "gold" }, spec: app.spec });
  expect(
    await dataPlanes.updateDataPlane({ dataPlane: { name: "dataPlanes/eu", spec: { region: "eu-1" } } }),
  ).toMatchObject({ generation: 2n, spec: { region: "eu-1" } });
  await applications.deleteApplication({ name: base.name });
  await tenants.deleteTenant({ name: tenant.name });
  await expect(applications.getApplication({ name: web.name })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  await bundles.deleteBundleVersion({ name: "bundles/small/versions/1.0.0" });
  await dataPlanes.deleteDataPlane({ name: "dataPlanes/eu" });
  await expect(dataPlanes.getDataPlane({ name: "dataPlanes/eu" })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
});

test("requests with one id at the same time make one resource and get one answer", async () => {
  const { tenants } = await start();
  const request = { tenantId: "acme", tenant: { spec }, requestId: "r-1" };
  const answers = await Promise.all(Array.from({ length: 8 }, () => tenants.createTenant(request)));
  expect(new Set(answers.map((a) => `${a.uid} ${a.revision}`)).size).toBe(1);
});

test("a request id with another body is refused, by another caller it is another request", async () => {
  const { api, tenants } = await start();
  await tenants.createTenant({ tenantId: "a", tenant: { spec }, requestId: "r-1" });
  const other = { tenantId: "b", tenant: { spec }, requestId: "r-1" };
  await expect(tenants.createTenant(other)).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    reason: "REQUEST_ID_REUSED",
    fields: [{ field: "request_id" }],
  });
  const second = await api.as(Role.ADMIN);
  expect(await second.tenants.createTenant(other)).toMatchObject({ name: "tenants/b" });
});

test("a request id is forgotten after a day", async () => {
  // The wall clock alone moves: a day of every timer of the hub is not of this test.
  let wall = Date.UTC(2026, 0, 1);
  const { tenants } = await start({ clock: { ...manualClock(), now: () => wall } });
  const request = { tenantId: "acme", tenant: { spec }, requestId: "r-1" };
  await tenants.createTenant(request);
  wall += 24 * 3_600_000 - 1;
  await tenants.createTenant(request);
  wall += 1;
  await expect(tenants.createTenant(request)).rejects.toMatchObject({ code: Code.ALREADY_EXISTS });
});

test.each([
  ["has spaces", "a b"],
  ["is too long", "a".repeat(limits.requestIdBytes + 1)],
])("a request id that %s is refused by field", async (_, requestId) => {
  const { tenants } = await start();
  await expect(tenants.createTenant({ tenantId: "acme", tenant: { spec }, requestId })).rejects.toMatchObject(
    {
      fields: [{ field: "request_id" }],
    },
  );
});

test("validate_only judges as the write would, and writes nothing", async () => {
  const { api, dataPlanes, tenants } = await start();
  const { rev } = await api.store.status();
  const validateOnly = true;
  expect(await tenants.createTenant({ tenantId: "acme", tenant: { spec }, validateOnly })).toMatchObject({
    name: "tenants/acme",
    generation: 1n,
  });
  await expect(
    tenants.createTenant({
      tenantId: "acme",
      tenant: { spec: { dataPlane: "dataPlanes/us" } },
      validateOnly,
    }),
  ).rejects.toMatchObject({ code: Code.NOT_FOUND });
  await dataPlanes.updateDataPlane({
    dataPlane: { name: "dataPlanes/eu", spec: { region: "x" } },
    validateOnly,
  });
  await dataPlanes.deleteDataPlane({ name: "dataPlanes/eu", validateOnly });
  expect((await api.store.status()).rev).toBe(rev);
});

test("allow_missing creates on update and takes a deletion of nothing", async () => {
  const { tenants } = await start();
  const update = { tenant: { name: "tenants/acme", spec } };
  await expect(tenants.updateTenant(update)).rejects.toMatchObject({ code: Code.NOT_FOUND });
  expect(await tenants.updateTenant({ ...update, allowMissing: true })).toMatchObject({ generation: 1n });
  await expect(tenants.deleteTenant({ name: "tenants/none" })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  expect(await tenants.deleteTenant({ name: "tenants/none", allowMissing: true })).toMatchObject({
    name: "",
  });
});

test("of updates with one etag exactly one wins, and the others are told", async () => {
  const { dataPlanes, dataPlane } = await start();
  const done = await Promise.allSettled(
    Array.from({ length: 10 }, (_, i) =>
      dataPlanes.updateDataPlane({
        dataPlane: { name: dataPlane.name, etag: dataPlane.etag, spec: { region: `r${i}` } },
      }),
    ),
  );
  expect(done.filter((d) => d.status === "fulfilled")).toHaveLength(1);
  for (const d of done)
    if (d.status === "rejected")
      expect(d.reason).toMatchObject({
        code: Code.ABORTED,
        reason: "ETAG_MISMATCH",
        fields: [{ field: "etag" }],
      });
  expect(await dataPlanes.getDataPlane({ name: dataPlane.name })).toMatchObject({ generation: 2n });
});

test("updates of different fields without etag all arrive", async () => {
  const { dataPlanes, dataPlane } = await start();
  await Promise.all(
    Array.from({ length: 60 }, (_, i) =>
      dataPlanes.updateDataPlane({
        dataPlane: { name: dataPlane.name, labels: { [`l${i}`]: "x" } },
        updateMask: { paths: [`labels.l${i}`] },
      }),
    ),
  );
  expect(Object.keys((await dataPlanes.getDataPlane({ name: dataPlane.name })).labels)).toHaveLength(60);
});

test("two applications that come to depend on each other at the same time are not both accepted", async () => {
  const { api, applications } = await start();
  await publish(api);
  for (const id of ["a", "b"])
    await applications.createApplication({ parent: "dataPlanes/eu", applicationId: id, application: app });
  const depend = (a: string, b: string) =>
    applications.updateApplication({
      application: {
        name: `dataPlanes/eu/applications/${a}`,
        spec: { dependsOn: [`dataPlanes/eu/applications/${b}`] },
      },
      updateMask: { paths: ["spec.depends_on"] },
    });
  const done = await Promise.allSettled([depend("a", "b"), depend("b", "a")]);
  expect(done.map((d) => d.status).sort()).toEqual(["fulfilled", "rejected"]);
});

test("a yanked version keeps those that run on it and takes no others", async () => {
  const { api, applications, bundles } = await start();
  await publish(api);
  const web = await applications.createApplication({
    parent: "dataPlanes/eu",
    applicationId: "web",
    application: app,
  });
  const name = "bundles/small/versions/1.0.0";
  const yanked = await bundles.updateBundleVersion({
    bundleVersion: { name, yanked: true },
    updateMask: { paths: ["yanked"] },
  });
  expect(yanked).toMatchObject({ yanked: true, generation: 2n });
  await applications.updateApplication({
    application: { name: web.name, spec: { dependsOn: [] }, labels: { a: "b" } },
    updateMask: { paths: ["labels"] },
  });
  await expect(
    applications.createApplication({ parent: "dataPlanes/eu", applicationId: "late", application: app }),
  ).rejects.toMatchObject({ reason: "BUNDLE_YANKED" });
});

test.each([
  ["at once, where no agent ever connected", false],
  ["marked, where an agent holds them", true],
])("a tenant goes with more applications than one transaction takes: %s", async (_, held) => {
  const { api, tenants, applications, dataPlane } = await start();
  await publish(api);
  await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  for (let i = 0; i < 60; i++)
    await applications.createApplication({
      parent: "tenants/acme",
      applicationId: `a${i}`,
      application: app,
    });
  if (held) await api.link(dataPlane.uid, LinkState.CONNECTED);
  const { rev } = await api.store.status();
  await tenants.deleteTenant({ name: "tenants/acme", validateOnly: true });
  expect((await api.store.status()).rev).toBe(rev);
  await tenants.deleteTenant({ name: "tenants/acme" });
  const left = await applications.listApplications({ parent: "tenants/acme", pageSize: 100 });
  expect(left.applications).toHaveLength(held ? 60 : 0);
  expect(left.applications.every((a) => a.deleteTime !== undefined && a.reconciling)).toBe(true);
  if (!held) return;
  const create = { parent: "tenants/acme", applicationId: "a0", application: app };
  await expect(applications.createApplication(create)).rejects.toMatchObject({
    code: Code.ALREADY_EXISTS,
    reason: "TERMINATING",
  });
  const late = { ...create, applicationId: "late" };
  await expect(applications.createApplication(late)).rejects.toMatchObject({
    code: Code.FAILED_PRECONDITION,
    reason: "TERMINATING",
  });
});

test("a deleted tenant stays until its agent confirms, then its name and its place are free", async () => {
  const { api, dataPlanes, tenants, dataPlane } = await start();
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  await api.link(dataPlane.uid, LinkState.CONNECTED);
  expect(await api.confirmRemoval(dataPlane.uid, tenant.uid)).toBe(false);
  await tenants.deleteTenant({ name: tenant.name });
  const delay = { name: "dataPlanes/eu" };
  await expect(dataPlanes.deleteDataPlane(delay)).rejects.toMatchObject({ reason: "TENANTS_REMAIN" });
  expect(await dataPlanes.getDataPlane(delay)).toMatchObject({ status: { tenants: 1 } });
  expect(await api.confirmRemoval(dataPlane.uid, tenant.uid)).toBe(true);
  await expect(tenants.getTenant({ name: tenant.name })).rejects.toMatchObject({ code: Code.NOT_FOUND });
  expect(await dataPlanes.getDataPlane(delay)).toMatchObject({ status: { tenants: 0 } });
  expect((await tenants.createTenant({ tenantId: "acme", tenant: { spec } })).uid).not.toBe(tenant.uid);
});

test("force forgets a tenant that its agent will never confirm", async () => {
  const { api, tenants, dataPlane } = await start();
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  await api.link(dataPlane.uid, LinkState.SILENT);
  await tenants.deleteTenant({ name: tenant.name });
  await tenants.deleteTenant({ name: tenant.name, force: true });
  await expect(tenants.getTenant({ name: tenant.name })).rejects.toMatchObject({ code: Code.NOT_FOUND });
  expect(await api.store.resByUid(dataPlane.uid, tenant.uid)).toBeUndefined();
});

test("with a data plane whose removal is confirmed end its applications, however many", async () => {
  const { api, applications, dataPlanes, dataPlane } = await start();
  await publish(api);
  for (let i = 0; i < 40; i++)
    await applications.createApplication({
      parent: dataPlane.name,
      applicationId: `a${i}`,
      application: app,
    });
  await api.link(dataPlane.uid, LinkState.CONNECTED);
  await dataPlanes.deleteDataPlane({ name: dataPlane.name });
  expect((await applications.listApplications({ parent: "-" })).applications).toHaveLength(40);
  expect(await api.confirmRemoval(dataPlane.uid, dataPlane.uid)).toBe(true);
  expect((await applications.listApplications({ parent: "-" })).applications).toEqual([]);
  await expect(dataPlanes.getDataPlane({ name: dataPlane.name })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
});

test("with a tenant whose removal is confirmed end the applications in it that were not yet confirmed", async () => {
  const { api, applications, tenants, dataPlane } = await start();
  await publish(api);
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  const web = await applications.createApplication({
    parent: "tenants/acme",
    applicationId: "web",
    application: app,
  });
  await api.link(dataPlane.uid, LinkState.CONNECTED);
  await tenants.deleteTenant({ name: "tenants/acme" });
  expect(await api.confirmRemoval(dataPlane.uid, tenant.uid)).toBe(true);
  await expect(applications.getApplication({ name: web.name })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
  });
  expect(await api.confirmRemoval(dataPlane.uid, web.uid)).toBe(false);
});

test("an order to leave the objects, and the authorization to remove them, reach the agent's row, also later", async () => {
  const { api, tenants, dataPlane } = await start();
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  await api.link(dataPlane.uid, LinkState.CONNECTED);
  const row = async () => {
    const { del, update } = (await api.store.resByUid(dataPlane.uid, tenant.uid)) ?? {};
    return { del, change: fromBinary(UpdateSchema, update ?? new Uint8Array()).change };
  };
  expect(await row()).toMatchObject({ del: false, change: { case: "upsert" } });
  await tenants.deleteTenant({ name: tenant.name, orphan: true });
  expect(await row()).toMatchObject({ del: true, change: { case: "removed", value: { orphan: true } } });
  const removalAuthorization = new Uint8Array([1, 2, 3]);
  await tenants.deleteTenant({ name: tenant.name, removalAuthorization });
  expect(await row()).toMatchObject({
    change: { case: "removed", value: { orphan: true, removalAuthorization } },
  });
  const { rev } = await api.store.status();
  await tenants.deleteTenant({ name: tenant.name });
  expect((await api.store.status()).rev).toBe(rev);
});

test("a stale etag stops a deletion", async () => {
  const { tenants } = await start();
  await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  await expect(tenants.deleteTenant({ name: "tenants/acme", etag: "0".repeat(16) })).rejects.toMatchObject({
    code: Code.ABORTED,
    reason: "ETAG_MISMATCH",
  });
});

test("deletion is a change that update does not undo", async () => {
  const { api, tenants, dataPlane } = await start();
  await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  await api.link(dataPlane.uid, LinkState.CONNECTED);
  const { deleteTime } = await tenants.deleteTenant({ name: "tenants/acme" });
  expect((await tenants.deleteTenant({ name: "tenants/acme" })).deleteTime).toEqual(deleteTime);
  const update = { tenant: { name: "tenants/acme", spec, labels: { a: "b" } } };
  await expect(tenants.updateTenant(update)).rejects.toMatchObject({ reason: "TERMINATING" });
});

test("a join token's answer says where the agent is to connect, and its secret is told once", async () => {
  const { joinTokens, dataPlane } = await start();
  const made = await joinTokens.createJoinToken({ parent: dataPlane.name });
  expect(made).toMatchObject({
    agentAddress: "hub:7444",
    enrolmentAddress: "hub:7445",
    dataPlaneUid: dataPlane.uid,
    trustDomain: "test.moorage",
  });
  expect(made.token).not.toBe("");
  const { joinTokens: listed } = await joinTokens.listJoinTokens({ parent: dataPlane.name });
  expect(JSON.stringify(listed, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v))).not.toContain(
    made.token,
  );
});
