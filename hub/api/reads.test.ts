import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { expect, test } from "vitest";
import { pageTokenKey } from "../core/keys.ts";
import { pageToken } from "../core/pages.ts";
import { key } from "../store/bytes.ts";
import { publish, take, apiOfTest } from "./testing.ts";

/** An API with one data plane, `dataPlanes/eu`. */
async function start() {
  const api = await apiOfTest();
  const dataPlane = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  return { api, ...api.admin, dataPlane };
}

const spec = { dataPlane: "dataPlanes/eu" };
const app = { spec: { bundle: "bundles/small", version: "1.0.0", parameters: {} } };

test("pages together show one revision, whatever is written between them", async () => {
  const { tenants } = await start();
  for (let i = 0; i < 20; i++) await tenants.createTenant({ tenantId: `t${i}`, tenant: { spec } });
  const before = (await tenants.listTenants({})).tenants;
  const seen: string[] = [];
  const cursors = new Set<bigint | undefined>();
  let pageToken = "";
  let turn = 0;
  do {
    const page = await tenants.listTenants({ pageSize: 3, pageToken });
    seen.push(...page.tenants.map((t) => `${t.name} ${t.etag} ${t.revision}`));
    cursors.add(page.cursor?.revision);
    pageToken = page.nextPageToken;
    await tenants.createTenant({ tenantId: `z${turn}`, tenant: { spec } });
    await tenants.updateTenant({ tenant: { name: `tenants/t${turn}`, spec, labels: { turn: `${turn}` } } });
    await tenants.deleteTenant({ name: `tenants/t${19 - turn}` });
    turn += 1;
  } while (pageToken !== "");
  expect(seen).toEqual(before.map((t) => `${t.name} ${t.etag} ${t.revision}`));
  expect(cursors.size).toBe(1);
});

test.each([
  ["a size above the limit", { pageSize: limits.pageSizeMax + 1 }, "page_size"],
  ["a negative size", { pageSize: -1 }, "page_size"],
  ["an invented token", { pageToken: "abc" }, "page_token"],
  ["a filter that does not parse", { filter: "spec.region >" }, "filter"],
  ["a filter above its limit", { filter: `spec.region = ${"a".repeat(limits.filterBytes)}` }, "filter"],
])("%s is refused by field", async (_, request, field) => {
  const { tenants } = await start();
  await expect(tenants.listTenants(request)).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    fields: [{ field }],
  });
});

test("filters see the whole resource, status included, whatever the view, and fill pages across misses", async () => {
  const { api, tenants } = await start();
  for (let i = 0; i < 10; i++) {
    const tenant = await tenants.createTenant({
      tenantId: `t${i}`,
      tenant: { spec: { ...spec, customerId: i % 3 === 0 ? "c1" : "c2" }, annotations: { note: "x" } },
    });
    await api.status(tenant, [{ type: "Ready", status: "True", reason: "Ready", observedGeneration: 1n }]);
  }
  const request = { filter: "spec.customer_id = c1 AND annotations.note = x", pageSize: 3, view: View.BASIC };
  const first = await tenants.listTenants(request);
  expect(first.tenants.map((t) => t.name)).toEqual(["tenants/t0", "tenants/t3", "tenants/t6"]);
  expect(first.tenants[0]?.annotations).toEqual({});
  const second = await tenants.listTenants({ ...request, pageToken: first.nextPageToken });
  expect(second.tenants.map((t) => t.name)).toEqual(["tenants/t9"]);
  expect(second.nextPageToken).toBe("");
});

test("a parent of applications may be one, all of its kind, or any", async () => {
  const { api, tenants, applications } = await start();
  await publish(api);
  for (const id of ["a", "ab"]) await tenants.createTenant({ tenantId: id, tenant: { spec } });
  for (const parent of ["tenants/a", "tenants/ab", "dataPlanes/eu"])
    await applications.createApplication({ parent, applicationId: "web", application: app });
  const names = async (parent: string) =>
    (await applications.listApplications({ parent })).applications.map((a) => a.name);
  expect(await names("tenants/a")).toEqual(["tenants/a/applications/web"]);
  expect(await names("tenants/-")).toEqual(["tenants/a/applications/web", "tenants/ab/applications/web"]);
  expect(await names("dataPlanes/-")).toEqual(["dataPlanes/eu/applications/web"]);
  expect(await names("-")).toHaveLength(3);
  expect(await names("")).toHaveLength(3);
  await expect(names("bundles/small")).rejects.toMatchObject({ fields: [{ field: "parent" }] });
});

test("view BASIC leaves parameters and all but a few conditions away; a list shows what get shows", async () => {
  const { api, applications } = await start();
  await publish(
    api,
    "parameters:\n  schema:\n    type: object\n    properties:\n      a: { type: integer }\n",
  );
  const web = await applications.createApplication({
    parent: "dataPlanes/eu",
    applicationId: "web",
    application: { spec: { ...app.spec, parameters: { a: 1 } }, annotations: { note: "x" } },
  });
  const condition = { status: "True", observedGeneration: 1n };
  await api.status(web, [
    { type: "Ready", reason: "Ready", ...condition },
    { type: "Applied", reason: "Applied", ...condition },
  ]);
  const [full] = (await applications.listApplications({ view: View.FULL })).applications;
  expect(full).toEqual(await applications.getApplication({ name: web.name }));
  const [basic] = (await applications.listApplications({ view: View.BASIC })).applications;
  expect(basic?.spec?.parameters).toBeUndefined();
  expect(basic?.status?.conditions.map((c) => c.type)).toEqual(["Ready"]);
  expect(basic).toMatchObject({ uid: web.uid, generation: 1n, annotations: {}, reconciling: false });
});

test("many resources with status are listed as few are", async () => {
  const { api, tenants } = await start();
  for (let i = 0; i < 150; i++) {
    const tenant = await tenants.createTenant({ tenantId: `t${i}`, tenant: { spec } });
    if (i % 2 === 0)
      await api.status(tenant, [{ type: "Ready", status: "True", reason: "Ready", observedGeneration: 1n }]);
  }
  const large = (await tenants.listTenants({ pageSize: 150 })).tenants;
  const small: typeof large = [];
  let pageToken = "";
  do {
    const page = await tenants.listTenants({ pageSize: 7, pageToken });
    small.push(...page.tenants);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  expect(small).toEqual(large);
  expect(large.filter((t) => !t.reconciling)).toHaveLength(75);
});

test("a read from behind what the caller has seen is refused, not answered with the past", async () => {
  const { tenants, dataPlanes } = await start();
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  const ahead = { minRevision: tenant.revision + 1n };
  for (const call of [
    tenants.getTenant({ name: tenant.name, ...ahead }),
    tenants.listTenants(ahead),
    dataPlanes.listDataPlanes(ahead),
  ])
    await expect(call).rejects.toMatchObject({ code: Code.OUT_OF_RANGE, reason: "FUTURE_REVISION" });
});

test("bundle versions are listed in pages and watched as the other kinds are", async () => {
  const { api, bundles } = await start();
  const first = bundles.watchBundleVersions({})[Symbol.asyncIterator]();
  const [synced] = await take(first, 1);
  expect(synced?.event.case).toBe("synced");
  const version = await publish(api);
  const [added] = await take(first, 1);
  expect(added?.event).toMatchObject({
    case: "change",
    value: {
      bundleVersion: { name: version.name, revision: version.revision },
      cursor: { revision: version.revision },
    },
  });
  await bundles.deleteBundleVersion({ name: version.name });
  const [removed] = await take(first, 1);
  expect(removed?.event).toMatchObject({ case: "change", value: { bundleVersion: { name: version.name } } });
  expect((await bundles.listBundleVersions({ parent: "-" })).bundleVersions).toEqual([]);
  const cursor = synced?.event.case === "synced" ? synced.event.value : undefined;
  const resumed = bundles.watchBundleVersions({ parent: "bundles/small", cursor: cursor as never });
  const again = await take(resumed[Symbol.asyncIterator](), 2);
  expect(again.map((e) => e.event)).toEqual([added?.event, removed?.event]);
  const foreign = bundles.watchBundleVersions({ cursor: { epoch: new Uint8Array(16), revision: 1n } });
  await expect(take(foreign[Symbol.asyncIterator](), 1)).rejects.toMatchObject({
    code: Code.OUT_OF_RANGE,
    reason: "COMPACTED",
  });
});

const existing = "tenants/acme";
const missing = "tenants/none";

test.each([
  [Role.ADMIN, [], true, true],
  [Role.OPERATOR, [], true, true],
  [Role.VIEWER, [], true, false],
  [Role.BILLING, [], false, false],
  [Role.OPERATOR, [existing], true, true],
  [Role.OPERATOR, ["tenants/acm"], false, false],
  [Role.OPERATOR, ["dataPlanes/eu"], false, false],
])(
  "role %i with scopes %j reads: %s, writes: %s, and learns no more of what exists",
  async (role, scopes, reads, writes) => {
    const { api } = await start();
    await api.admin.tenants.createTenant({ tenantId: "acme", tenant: { spec } });
    const { tenants } = await api.as(role, scopes);
    const denied = { code: Code.PERMISSION_DENIED, reason: "PERMISSION_DENIED" };
    if (reads) expect(await tenants.getTenant({ name: existing })).toMatchObject({ name: existing });
    else {
      await expect(tenants.getTenant({ name: existing })).rejects.toMatchObject(denied);
      await expect(tenants.getTenant({ name: missing })).rejects.toMatchObject(denied);
    }
    // Permission is asked before the etag, before existence, and before the body.
    const stale = { etag: "0".repeat(16) };
    if (writes)
      await expect(tenants.deleteTenant({ name: existing, ...stale })).rejects.toMatchObject({
        code: Code.ABORTED,
      });
    else
      for (const name of [existing, missing]) {
        await expect(tenants.deleteTenant({ name, ...stale })).rejects.toMatchObject(denied);
        await expect(tenants.updateTenant({ tenant: { name, spec: {} } })).rejects.toMatchObject(denied);
      }
  },
);

test.each([Role.OPERATOR, Role.VIEWER, Role.BILLING])(
  "role %i does not touch keys and trust",
  async (role) => {
    const { api } = await start();
    const { apiKeys, joinTokens } = await api.as(role);
    const denied = { code: Code.PERMISSION_DENIED };
    await expect(apiKeys.listApiKeys({})).rejects.toMatchObject(denied);
    await expect(
      apiKeys.createApiKey({ apiKeyId: "mine", apiKey: { role: Role.ADMIN } }),
    ).rejects.toMatchObject(denied);
    await expect(joinTokens.createJoinToken({ parent: "dataPlanes/eu" })).rejects.toMatchObject(denied);
    await expect(joinTokens.createJoinToken({ parent: "dataPlanes/none" })).rejects.toMatchObject(denied);
    await expect(joinTokens.revokeAgentCredentials({ name: "dataPlanes/eu" })).rejects.toMatchObject(denied);
  },
);

test.each([undefined, "Bearer mk_wrong", "Basic YTpi", "Bearer "])(
  "authorization %j is no key",
  async (authorization) => {
    const { api } = await start();
    const caller = api.connect(authorization);
    for (const call of [
      caller.tenants.getTenant({ name: existing }),
      caller.apiKeys.listApiKeys({}),
      take(caller.tenants.watchTenants({})[Symbol.asyncIterator](), 1),
    ])
      await expect(call).rejects.toMatchObject({ code: Code.UNAUTHENTICATED });
  },
);

test("a key opens no more watches than the limit, is told so, and gets room back when one ends", async () => {
  const { api } = await start();
  const viewer = await api.as(Role.VIEWER);
  const ends: AbortController[] = [];
  const watch = () => {
    const end = new AbortController();
    ends.push(end);
    return take(viewer.tenants.watchTenants({}, { signal: end.signal })[Symbol.asyncIterator](), 1);
  };
  await Promise.all(Array.from({ length: limits.watchesPerApiKey - 1 }, watch));
  const waiting = new AbortController();
  const wait = viewer.wait.waitFor({ name: "dataPlanes/eu" }, { signal: waiting.signal });
  await viewer.tenants.listTenants({});
  await expect(watch()).rejects.toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    reason: "TOO_MANY_WATCHES",
    quota: [{ subject: viewer.name }],
  });
  const other = await api.as(Role.VIEWER);
  await take(other.tenants.watchTenants({})[Symbol.asyncIterator](), 1);
  waiting.abort();
  await expect(wait).rejects.toMatchObject({ code: Code.CANCELLED });
  await watch();
  for (const end of ends) end.abort();
});

test("deleting a key ends its watches, with the reason", async () => {
  const { api } = await start();
  const viewer = await api.as(Role.VIEWER);
  const stream = viewer.tenants.watchTenants({})[Symbol.asyncIterator]();
  await take(stream, 1);
  await api.admin.apiKeys.deleteApiKey({ name: viewer.name });
  await expect(take(stream, 1)).rejects.toMatchObject({
    code: Code.UNAUTHENTICATED,
    reason: "API_KEY_CHANGED",
  });
  await expect(viewer.tenants.listTenants({})).rejects.toMatchObject({ code: Code.UNAUTHENTICATED });
});

test("silence shows in get and list alike, with the last known value", async () => {
  const { api, tenants, dataPlane } = await start();
  const tenant = await tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  await api.status(tenant, [{ type: "Ready", status: "True", reason: "Ready", observedGeneration: 1n }]);
  await api.link(dataPlane.uid, LinkState.DISCONNECTED);
  const ready = async () => (await tenants.getTenant({ name: tenant.name })).status?.conditions[0];
  expect(await ready()).toMatchObject({ type: "Ready", status: "True" });
  await api.link(dataPlane.uid, LinkState.SILENT);
  expect(await ready()).toMatchObject({
    status: "Unknown",
    reason: "AgentSilent",
    message: expect.stringContaining("True (Ready)") as string,
  });
  expect((await tenants.listTenants({})).tenants).toEqual([await tenants.getTenant({ name: tenant.name })]);
});

test("a page token is signed with a key of the store: another hub's, or a forged one, is refused", async () => {
  const tokens: string[] = [];
  for (let i = 0; i < 2; i++) {
    // The second has other random bytes behind it: one more key than the first.
    const { api, tenants } = await start();
    if (i === 1)
      await api.store.txn({ then: [{ put: { key: key(pageTokenKey), value: new Uint8Array(32).fill(1) } }] });
    for (const id of ["a", "b"]) await tenants.createTenant({ tenantId: id, tenant: { spec } });
    tokens.push((await tenants.listTenants({ pageSize: 1 })).nextPageToken);
    const own = tokens[i] as string;
    expect((await tenants.listTenants({ pageSize: 1, pageToken: own })).tenants).toHaveLength(1);
    const [revision, after] = JSON.parse(Buffer.from(own, "base64url").toString()) as [number, string];
    const unkeyed = pageToken({ revision, after }, JSON.stringify(["Tenant", "", "", 0, null]));
    for (const pageTokenText of [unkeyed, ...tokens.slice(0, i)])
      await expect(tenants.listTenants({ pageSize: 1, pageToken: pageTokenText })).rejects.toMatchObject({
        fields: [{ field: "page_token" }],
      });
  }
});

test("a scoped key lists and watches what lies within its scopes, and no more", async () => {
  const { api } = await start();
  for (const id of ["acme", "acme-two", "other"])
    await api.admin.tenants.createTenant({ tenantId: id, tenant: { spec } });
  const { tenants } = await api.as(Role.VIEWER, ["tenants/acme"]);
  const names = (page: { tenants: { name: string }[] }) => page.tenants.map((t) => t.name);
  for (const view of [View.BASIC, View.FULL]) {
    expect(names(await tenants.listTenants({ view }))).toEqual(["tenants/acme"]);
    expect(names(await tenants.listTenants({ view, filter: 'name != "x"' }))).toEqual(["tenants/acme"]);
  }
  const stream = tenants.watchTenants({})[Symbol.asyncIterator]();
  await take(stream, 2);
  for (const id of ["other", "acme-two", "acme"])
    await api.admin.tenants.updateTenant({
      tenant: { name: `tenants/${id}`, labels: { a: "b" } },
      updateMask: { paths: ["labels"] },
    });
  const [change] = await take(stream, 1);
  expect(change?.event).toMatchObject({ case: "change", value: { tenant: { name: "tenants/acme" } } });
  await expect(tenants.getTenant({ name: "tenants/acme-two" })).rejects.toMatchObject({
    code: Code.PERMISSION_DENIED,
  });
});
