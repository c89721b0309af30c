import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { CreateDataPlaneRequestSchema } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { ChangeType, View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { LinkState, StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { toBinary } from "@bufbuild/protobuf";
import { FieldMaskSchema } from "@bufbuild/protobuf/wkt";
import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { linkKey } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import { key } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { Affected } from "./affected.ts";
import { listPage } from "./lists.ts";
import { Reader } from "./reader.ts";
import type { Call } from "./resources.ts";
import { Resources } from "./resources.ts";
import { Room } from "./room.ts";
import type { WatchEvent } from "./watch.ts";
import { watch } from "./watch.ts";
import { Writer } from "./writer.ts";

const never = new AbortController().signal;

/** The write path over a store in memory. */
function hub() {
  const clock = systemClock;
  const rng = seededRng(1);
  const store = openMemoryStore({ clock, rng });
  const reader = new Reader(store);
  const writer = new Writer({ store, clock, rng });
  const resources = new Resources({ reader, writer, clock, rng, room: new Room(store) });
  const api = { store, reader, affected: new Affected(reader), resources, clock };
  return {
    ...api,
    dataPlane: (id: string, spec: object = {}, c: Call = call()) =>
      resources.create(c, "DataPlane", {
        name: `dataPlanes/${id}`,
        input: create(DataPlaneSchema, { spec }),
      }),
    tenant: (id: string, spec: object) =>
      resources.create(call(), "Tenant", { name: `tenants/${id}`, input: create(TenantSchema, { spec }) }),
    remove: (kind: "DataPlane" | "Tenant", name: string, force = false) =>
      resources.delete(call(), kind, {
        name,
        etag: "",
        allowMissing: false,
        orphan: false,
        force,
        authorization: new Uint8Array(),
        empty: kind === "Tenant" ? create(TenantSchema) : create(DataPlaneSchema),
      }),
    /** As if an agent had connected to the data plane, or fallen silent. */
    link: (uid: string, state: LinkState) =>
      store.txn({
        then: [
          {
            put: {
              key: key(linkKey(uid)),
              value: toBinary(StoredLinkSchema, create(StoredLinkSchema, { state })),
            },
          },
        ],
      }),
  };
}

function call(requestId = "", id = "x"): Call {
  return {
    principal: { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] },
    method: "moorage.hub.v1.DataPlaneService/CreateDataPlane",
    request: {
      schema: CreateDataPlaneRequestSchema,
      message: create(CreateDataPlaneRequestSchema, { dataPlaneId: id }),
    },
    requestId,
    validateOnly: false,
  };
}

const ready = (r: Resource) => r.status?.conditions.find((c) => c.type === "Ready");

test("a created tenant has generation 1, an etag and an unknown Ready", async () => {
  const h = hub();
  await h.dataPlane("eu");
  const tenant = await h.tenant("acme", { dataPlane: "dataPlanes/eu" });
  expect(tenant).toMatchObject({ name: "tenants/acme", generation: 1n, reconciling: true });
  expect(tenant.etag).toMatch(/^[0-9a-f]{16}$/);
  expect(ready(tenant)).toMatchObject({ status: "Unknown", reason: "Pending" });
  expect(await h.resources.get("tenants/acme", tenant.revision)).toEqual(tenant);
});

test("a tenant in an unknown data plane is refused by field", async () => {
  await expect(hub().tenant("acme", { dataPlane: "dataPlanes/nowhere" })).rejects.toMatchObject({
    code: Code.NOT_FOUND,
    reason: "REFERENCE_NOT_FOUND",
    fields: [{ field: "tenant.spec.data_plane" }],
  });
});

test("an update that changes nothing writes nothing, and a stale etag is refused", async () => {
  const h = hub();
  const first = await h.dataPlane("eu", { region: "eu-1" });
  const update = (region: string, etag: string) =>
    h.resources.update(call(), "DataPlane", {
      input: create(DataPlaneSchema, { name: first.name, etag, spec: { region } }),
      mask: undefined,
      allowMissing: false,
    });
  const { rev } = await h.store.status();
  expect(await update("eu-1", first.etag)).toMatchObject({ generation: 1n, etag: first.etag });
  expect((await h.store.status()).rev).toBe(rev);
  expect(await update("eu-2", first.etag)).toMatchObject({ generation: 2n });
  await expect(update("eu-3", first.etag)).rejects.toMatchObject({
    code: Code.ABORTED,
    reason: "ETAG_MISMATCH",
  });
});

test("a repeated request gets the first answer, revision included, and its id fits no other request", async () => {
  const h = hub();
  const first = await h.dataPlane("eu", {}, call("r-1"));
  expect(first.revision).toBeGreaterThan(0n);
  expect(await h.dataPlane("eu", {}, call("r-1"))).toEqual(first);
  await expect(h.dataPlane("us", {}, call("r-1", "other"))).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    reason: "REQUEST_ID_REUSED",
  });
});

test("a repeated request is known again when its maps come in another order", async () => {
  const h = hub();
  const labelled = (labels: Record<string, string>): Call => {
    const c = call("r-2");
    return {
      ...c,
      request: {
        ...c.request,
        message: create(CreateDataPlaneRequestSchema, { dataPlaneId: "eu", dataPlane: { labels } }),
      },
    };
  };
  const first = await h.dataPlane("eu", {}, labelled({ a: "1", b: "2" }));
  expect(await h.dataPlane("eu", {}, labelled({ b: "2", a: "1" }))).toEqual(first);
});

test("a data plane never goes from under a tenant, however the two calls interleave", async () => {
  for (let turns = 0; turns < 30; turns++) {
    const h = hub();
    await h.dataPlane("eu");
    const later = async () => {
      for (let i = 0; i < turns; i++) await Promise.resolve();
      return h.tenant("acme", { dataPlane: "dataPlanes/eu" });
    };
    const done = await Promise.allSettled([h.remove("DataPlane", "dataPlanes/eu"), later()]);
    expect(
      done.filter((d) => d.status === "fulfilled"),
      `${turns} turns apart`,
    ).toHaveLength(1);
  }
});

test("tenants created at the same time do not exceed the capacity of their size class", async () => {
  const h = hub();
  await h.dataPlane("eu", { capacity: { small: 2 } });
  const done = await Promise.allSettled(
    ["a", "b", "c", "d"].map((id) => h.tenant(id, { dataPlane: "dataPlanes/eu", sizeClass: "small" })),
  );
  expect(done.filter((d) => d.status === "fulfilled")).toHaveLength(2);
  expect(done.find((d) => d.status === "rejected")?.reason).toMatchObject({
    code: Code.FAILED_PRECONDITION,
    reason: "CAPACITY",
  });
});

test("a tenant that takes another size class is counted, also beside others; a cordon does not keep it back", async () => {
  const h = hub();
  await h.dataPlane("eu", { capacity: { small: 2 } });
  await h.tenant("first", { dataPlane: "dataPlanes/eu", sizeClass: "small" });
  for (const id of ["a", "b", "c"]) await h.tenant(id, { dataPlane: "dataPlanes/eu" });
  const update = (name: string, spec: object, ...paths: string[]) =>
    h.resources.update(call(), "Tenant", {
      input: create(TenantSchema, { name, spec: { dataPlane: "dataPlanes/eu", ...spec } }),
      mask: paths.length === 0 ? undefined : create(FieldMaskSchema, { paths }),
      allowMissing: false,
    });
  await h.resources.update(call(), "DataPlane", {
    input: create(DataPlaneSchema, {
      name: "dataPlanes/eu",
      spec: { capacity: { small: 2 }, scheduling: { cordoned: true } },
    }),
    mask: undefined,
    allowMissing: false,
  });
  const small = { sizeClass: "small" };
  const done = await Promise.allSettled([
    update("tenants/a", small),
    update("tenants/b", small, "spec.size_class"),
    update("tenants/c", small, "spec"),
  ]);
  expect(done.filter((d) => d.status === "fulfilled")).toHaveLength(1);
  for (const d of done)
    if (d.status === "rejected")
      expect(d.reason).toMatchObject({ code: Code.FAILED_PRECONDITION, reason: "CAPACITY" });
  // Who has the class keeps it, whatever else changes.
  await update("tenants/first", { ...small, planId: "gold" });
  await update("tenants/first", { sizeClass: "" });
  const lost = ["tenants/a", "tenants/b", "tenants/c"][done.findIndex((d) => d.status === "rejected")];
  await update(lost as string, small);
});

test("a cordoned data plane takes no tenant", async () => {
  const h = hub();
  await h.dataPlane("eu", { scheduling: { cordoned: true } });
  await expect(h.tenant("acme", { dataPlane: "dataPlanes/eu" })).rejects.toMatchObject({
    reason: "CORDONED",
  });
});

test("a protected tenant is not deleted", async () => {
  const h = hub();
  await h.dataPlane("eu");
  await h.tenant("acme", { dataPlane: "dataPlanes/eu", deletionProtection: true });
  await expect(h.remove("Tenant", "tenants/acme")).rejects.toMatchObject({ reason: "DELETION_PROTECTED" });
});

test("a tenant that no agent ever held goes at once; one that an agent holds stays, and its name is taken", async () => {
  const h = hub();
  const dp = await h.dataPlane("eu");
  await h.tenant("acme", { dataPlane: "dataPlanes/eu" });
  await h.remove("Tenant", "tenants/acme");
  expect(await h.reader.resource("tenants/acme")).toBeUndefined();
  await h.tenant("acme", { dataPlane: "dataPlanes/eu" });
  await h.link(dp.uid, LinkState.CONNECTED);
  expect((await h.remove("Tenant", "tenants/acme")).deleteTime).toBeDefined();
  await expect(h.tenant("acme", { dataPlane: "dataPlanes/eu" })).rejects.toMatchObject({
    code: Code.ALREADY_EXISTS,
    reason: "TERMINATING",
  });
});

test("an application of an unpublished bundle version is refused by field", async () => {
  const h = hub();
  await h.dataPlane("eu");
  await h.tenant("acme", { dataPlane: "dataPlanes/eu" });
  const input = create(ApplicationSchema, { spec: { bundle: "bundles/web", version: "1.0.0" } });
  await expect(
    h.resources.create(call(), "Application", { name: "tenants/acme/applications/web", input }),
  ).rejects.toMatchObject({
    code: Code.NOT_FOUND,
    fields: [{ field: "application.spec.version" }],
  });
});

test("pages show one revision, and a token fits its own query alone", async () => {
  const h = hub();
  for (const id of ["a", "b", "c"]) await h.dataPlane(id);
  const q = {
    kind: "DataPlane" as const,
    parent: "",
    filter: "",
    view: View.FULL,
    pageSize: 2,
    pageToken: "",
    minRevision: 0n,
  };
  const first = await listPage(h, q, never);
  await h.dataPlane("d");
  const second = await listPage(h, { ...q, pageToken: first.nextPageToken }, never);
  expect([...first.resources, ...second.resources].map((r) => r.name)).toEqual([
    "dataPlanes/a",
    "dataPlanes/b",
    "dataPlanes/c",
  ]);
  expect(second.nextPageToken).toBe("");
  await expect(
    listPage(h, { ...q, filter: "spec.region = x", pageToken: first.nextPageToken }, never),
  ).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
});

test("a watch lists, says that it is in step, follows, resumes, and tells silence once for each dependant", async () => {
  const h = hub();
  const dp = await h.dataPlane("eu");
  await h.link(dp.uid, LinkState.CONNECTED);
  await h.tenant("a", { dataPlane: "dataPlanes/eu" });
  const end = new AbortController();
  const q = { kind: "Tenant" as const, parent: "", filter: "", view: View.FULL, cursor: undefined };
  const events = watch(h, q, end.signal);
  const next = async (from = events) => (await from.next()).value as WatchEvent;
  expect(await next()).toMatchObject({
    kind: "change",
    type: ChangeType.UPSERTED,
    resource: { name: "tenants/a" },
  });
  const synced = await next();
  expect(synced.kind).toBe("synced");
  await h.tenant("b", { dataPlane: "dataPlanes/eu" });
  expect(await next()).toMatchObject({
    kind: "change",
    resource: { name: "tenants/b" },
    cursor: { revision: expect.any(BigInt) as bigint },
  });
  await h.link(dp.uid, LinkState.SILENT);
  const silent = [await next(), await next()];
  expect(silent).toMatchObject([
    { resource: { name: "tenants/a" }, cursor: undefined },
    { resource: { name: "tenants/b" }, cursor: { revision: expect.any(BigInt) as bigint } },
  ]);
  for (const e of silent)
    expect(e.kind === "change" && ready(e.resource)).toMatchObject({
      status: "Unknown",
      reason: "AgentSilent",
    });
  if (synced.kind !== "synced") throw new Error("not in step");
  const resumed = watch(h, { ...q, cursor: synced.cursor }, end.signal);
  expect(await next(resumed)).toMatchObject({ resource: { name: "tenants/b" } });
  end.abort();
  const other = watch(
    h,
    { ...q, cursor: { ...synced.cursor, epoch: new Uint8Array(16) } },
    new AbortController().signal,
  );
  await expect(other.next()).rejects.toMatchObject({ reason: "COMPACTED" });
});
