import { toJson } from "@bufbuild/protobuf";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { ChangeType, View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code } from "@moorage/shared/errors";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Kind } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import { manualClock, settle } from "../sync/testing.ts";
import { Affected } from "./affected.ts";
import { listPage } from "./lists.ts";
import { Reader } from "./reader.ts";
import type { TestApi } from "./testing.ts";
import { apiOfTest, publish, take, testApi } from "./testing.ts";
import type { WatchEvent, WatchQuery } from "./watch.ts";
import { watch } from "./watch.ts";

/** One random act on a small set of names. */
interface Act {
  what: "create" | "label" | "spec" | "delete" | "force" | "status" | "link" | "confirm";
  kind: Kind;
  /** Of the data plane, of the tenant, and of the application. */
  at: [number, number, number];
  value: number;
}

const act: fc.Arbitrary<Act> = fc.record({
  what: fc.constantFrom(
    "create",
    "create",
    "label",
    "spec",
    "delete",
    "force",
    "status",
    "link",
    "link",
    "confirm",
  ),
  kind: fc.constantFrom<Kind>("DataPlane", "Tenant", "Tenant", "Application"),
  at: fc.tuple(fc.nat(1), fc.nat(2), fc.nat(1)),
  value: fc.nat(3),
});

/** Does it. */
async function perform(api: TestApi, a: Act): Promise<void> {
  const { dataPlanes, tenants, applications } = api.admin;
  const [d, t, p] = a.at;
  const dataPlane = `dataPlanes/d${d}`;
  const tenant = `tenants/t${t}`;
  const application = `${tenant}/applications/a${p}`;
  const labels = { tier: a.value % 2 === 0 ? "gold" : "tin" };
  const get = { DataPlane: dataPlane, Tenant: tenant, Application: application };
  const name = get[a.kind];
  const read = () =>
    a.kind === "DataPlane"
      ? dataPlanes.getDataPlane({ name })
      : a.kind === "Tenant"
        ? tenants.getTenant({ name })
        : applications.getApplication({ name });
  const mask = (path: string) => ({ updateMask: { paths: [path] } });
  const update = (content: object, path: string) =>
    a.kind === "DataPlane"
      ? dataPlanes.updateDataPlane({ dataPlane: { name, ...content }, ...mask(path) })
      : a.kind === "Tenant"
        ? tenants.updateTenant({ tenant: { name, ...content }, ...mask(path) })
        : applications.updateApplication({ application: { name, ...content }, ...mask(path) });
  const remove = (force: boolean) =>
    a.kind === "DataPlane"
      ? dataPlanes.deleteDataPlane({ name, force })
      : a.kind === "Tenant"
        ? tenants.deleteTenant({ name, force })
        : applications.deleteApplication({ name, force });
  const app = { labels, spec: { bundle: "bundles/small", version: "1.0.0" } };
  switch (a.what) {
    case "create":
      if (a.kind === "DataPlane")
        await dataPlanes.createDataPlane({ dataPlaneId: `d${d}`, dataPlane: { labels } });
      else if (a.kind === "Tenant")
        await tenants.createTenant({ tenantId: `t${t}`, tenant: { labels, spec: { dataPlane } } });
      else await applications.createApplication({ parent: tenant, applicationId: `a${p}`, application: app });
      return;
    case "label":
      return void (await update({ labels }, "labels"));
    case "spec":
      if (a.kind === "DataPlane") await update({ spec: { region: `r${a.value}` } }, "spec.region");
      else if (a.kind === "Tenant") await update({ spec: { planId: `p${a.value}` } }, "spec.plan_id");
      return;
    case "delete":
    case "force":
      return void (await remove(a.what === "force"));
    case "status":
      return void (await api.status(await read(), [
        {
          type: "Ready",
          status: a.value > 1 ? "True" : "False",
          reason: a.value > 1 ? "Ready" : "Progressing",
          observedGeneration: 1n,
        },
      ]));
    case "link":
      return void (await api.link(
        (await dataPlanes.getDataPlane({ name: dataPlane })).uid,
        a.value as LinkState,
      ));
    case "confirm": {
      const place =
        a.kind === "DataPlane" ? dataPlane : (await tenants.getTenant({ name: tenant })).spec?.dataPlane;
      const { uid } = await dataPlanes.getDataPlane({ name: place ?? "" });
      await api.confirmRemoval(uid, (await read()).uid);
    }
  }
}

/** The acts after a start where everything exists once. */
async function play(api: TestApi, acts: readonly Act[]): Promise<void> {
  await publish(api);
  const make = (kind: Kind, at: Act["at"]) => perform(api, { what: "create", kind, at, value: 0 });
  for (const d of [0, 1]) await make("DataPlane", [d, 0, 0]);
  for (const t of [0, 1, 2]) await make("Tenant", [t % 2, t, 0]);
  for (const t of [0, 1]) await make("Application", [0, t, t]);
  // An act that the API refuses is none.
  for (const a of acts) await perform(api, a).catch(() => {});
}

const schemas = { DataPlane: DataPlaneSchema, Tenant: TenantSchema, Application: ApplicationSchema };
const plain = (r: Resource) => toJson(schemas[r.$typeName.split(".").at(-1) as Kind] as never, r as never);

/** All events of a watch up to and including the revision `head`. */
async function eventsTo(
  api: TestApi,
  q: WatchQuery,
  head: number,
  wanted: (event: WatchEvent) => boolean = () => true,
): Promise<WatchEvent[]> {
  const out: WatchEvent[] = [];
  const end = new AbortController();
  const reader = new Reader(api.store);
  const deps = { store: api.store, reader, affected: new Affected(reader), clock: api.clock };
  // Ends when the log has been read to its end: the watch then waits.
  const reading = (async () => {
    for await (const event of watch(deps, q, end.signal)) {
      if (!wanted(event)) break;
      out.push(event);
    }
  })();
  await Promise.race([reading, settle()]);
  expect((await api.store.status()).rev).toBe(head);
  end.abort();
  await reading;
  return out;
}

const kinds: readonly Kind[] = ["DataPlane", "Tenant", "Application"];

test("whoever replays all events from the first revision holds what a list shows, for each kind, view and filter", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(act, { minLength: 10, maxLength: 60 }),
      fc.constantFrom("", "labels.tier = gold", "status.tenants != 1 AND labels.tier = gold"),
      fc.constantFrom(View.BASIC, View.FULL),
      async (acts, filter, how) => {
        const api = await testApi();
        try {
          await play(api, acts);
          const { epoch, rev } = await api.store.status();
          for (const kind of kinds) {
            const q = { kind, parent: "", filter, view: how };
            const cursor = { $typeName: "moorage.common.v1.Cursor" as const, epoch, revision: 1n };
            const held = new Map<string, unknown>();
            for (const event of await eventsTo(api, { ...q, cursor }, rev)) {
              if (event.kind !== "change") continue;
              if (event.type === ChangeType.REMOVED) expect(held.delete(event.resource.name)).toBe(true);
              else held.set(event.resource.name, plain(event.resource));
            }
            const page = await listPage(
              { store: api.store, reader: new Reader(api.store), clock: api.clock },
              { ...q, pageSize: 100, pageToken: "", minRevision: 0n },
              new AbortController().signal,
            );
            expect(Object.fromEntries(held)).toEqual(
              Object.fromEntries(page.resources.map((r) => [r.name, plain(r)])),
            );
          }
        } finally {
          await api.stop();
        }
      },
    ),
    { numRuns: 30 },
  );
}, 60_000);

test("a watch that is cut at any event and resumed at its last cursor misses nothing and repeats nothing", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(act, { minLength: 10, maxLength: 40 }),
      fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 20 }),
      fc.constantFrom<Kind>(...kinds),
      async (acts, cuts, kind) => {
        const api = await testApi();
        try {
          await play(api, acts);
          const { epoch, rev } = await api.store.status();
          const start = { $typeName: "moorage.common.v1.Cursor" as const, epoch, revision: 1n };
          const q: WatchQuery = {
            kind,
            parent: "",
            filter: "labels.tier = gold",
            view: View.FULL,
            cursor: start,
          };
          const whole = await eventsTo(api, q, rev);
          const pieces: WatchEvent[] = [];
          let cursor = q.cursor;
          for (const cut of cuts) {
            let left = cut;
            const part = await eventsTo(api, { ...q, cursor }, rev, () => left-- > 0);
            // A revision that was not told to its end is told again.
            const last = part.findLastIndex((e) => e.kind === "change" && e.cursor !== undefined);
            pieces.push(...part.slice(0, last + 1));
            const marked = part[last];
            if (marked?.kind === "change") cursor = marked.cursor;
          }
          pieces.push(...(await eventsTo(api, { ...q, cursor }, rev)));
          expect(pieces).toEqual(whole);
        } finally {
          await api.stop();
        }
      },
    ),
    { numRuns: 15 },
  );
}, 60_000);

const spec = { dataPlane: "dataPlanes/eu" };

test("a resource that no longer matches the filter is told as removed, one that comes to match as new", async () => {
  const api = await testApi();
  const { dataPlanes, tenants } = api.admin;
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await tenants.createTenant({ tenantId: "a", tenant: { spec, labels: { tier: "gold" } } });
  await tenants.createTenant({ tenantId: "b", tenant: { spec } });
  const stream = tenants.watchTenants({ filter: "labels.tier = gold" })[Symbol.asyncIterator]();
  expect((await take(stream, 2)).map((e) => e.event.case)).toEqual(["change", "synced"]);
  const label = (name: string, tier: string) =>
    tenants.updateTenant({ tenant: { name, labels: { tier } }, updateMask: { paths: ["labels"] } });
  await label("tenants/a", "tin");
  await label("tenants/b", "tin");
  await label("tenants/b", "gold");
  expect((await take(stream, 2)).map((e) => e.event.value)).toMatchObject([
    { type: ChangeType.REMOVED, tenant: { name: "tenants/a" } },
    { type: ChangeType.UPSERTED, tenant: { name: "tenants/b" } },
  ]);
  await api.stop();
});

test("a stored time that no JSON can show ends no filtered list or watch", async () => {
  const api = await apiOfTest();
  const { dataPlanes, tenants } = api.admin;
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await dataPlanes.createDataPlane({ dataPlaneId: "other" });
  const bad = await tenants.createTenant({ tenantId: "bad", tenant: { spec } });
  const query = { filter: 'spec.data_plane = "dataPlanes/other"', view: View.FULL };
  const stream = tenants.watchTenants(query)[Symbol.asyncIterator]();
  expect((await take(stream, 1)).map((e) => e.event.case)).toEqual(["synced"]);
  const lastTransitionTime = { seconds: 10n ** 12n };
  const condition = { type: "Ready", status: "True", reason: "Ready", observedGeneration: bad.generation };
  await api.status(bad, [{ ...condition, lastTransitionTime }]);
  await tenants.createTenant({ tenantId: "good", tenant: { spec: { dataPlane: "dataPlanes/other" } } });
  expect((await take(stream, 1)).map((e) => e.event.value)).toMatchObject([
    { tenant: { name: "tenants/good" } },
  ]);
  expect((await tenants.listTenants(query)).tenants.map((t) => t.name)).toEqual(["tenants/good"]);
  const of = await tenants.listTenants({ ...query, filter: "spec.data_plane = dataPlanes/eu" });
  expect(of.tenants[0]?.status?.conditions).toMatchObject([{ lastTransitionTime }]);
});

test("an old cursor is answered with COMPACTED, at the start and under way", async () => {
  const api = await testApi();
  const { dataPlanes } = api.admin;
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await dataPlanes.createDataPlane({ dataPlaneId: "us" });
  const { epoch, rev } = await api.store.status();
  await api.store.compact(rev);
  const old = dataPlanes.watchDataPlanes({ cursor: { epoch, revision: 1n } });
  await expect(take(old[Symbol.asyncIterator](), 1)).rejects.toMatchObject({
    code: Code.OUT_OF_RANGE,
    reason: "COMPACTED",
  });
  const current = dataPlanes.watchDataPlanes({ cursor: { epoch, revision: BigInt(rev) } });
  await dataPlanes.createDataPlane({ dataPlaneId: "ap" });
  expect((await take(current[Symbol.asyncIterator](), 1))[0]?.event.case).toBe("change");
  await api.stop();
});

test("a watch whose kind is quiet gets a bookmark a minute while other things change", async () => {
  const clock = manualClock();
  const api = await testApi({ clock });
  const { dataPlanes, applications } = api.admin;
  const stream = applications.watchApplications({})[Symbol.asyncIterator]();
  await take(stream, 1);
  await clock.advance(60_000);
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const { rev } = await api.store.status();
  const next = take(stream, 1);
  await clock.advance(10_000);
  expect((await next)[0]?.event).toMatchObject({ case: "bookmark", value: { revision: BigInt(rev) } });
  await api.stop();
});

test("a wait settles for the generation it asks for, not for an older one that was ready", async () => {
  const api = await testApi();
  const { dataPlanes, tenants, wait } = api.admin;
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const first = await tenants.createTenant({ tenantId: "a", tenant: { spec } });
  const ready = (generation: bigint) =>
    api.status({ uid: first.uid, generation }, [
      { type: "Ready", status: "True", reason: "Ready", observedGeneration: generation },
    ]);
  await ready(1n);
  expect(await wait.waitFor({ name: first.name })).toMatchObject({
    generation: 1n,
    condition: { status: "True" },
  });
  await tenants.updateTenant({ tenant: { name: first.name, spec: { ...spec, planId: "p" } } });
  const second = wait.waitFor({ name: first.name });
  await settle();
  await ready(2n);
  expect(await second).toMatchObject({ generation: 2n, condition: { observedGeneration: 2n } });
  await expect(wait.waitFor({ name: "tenants/none" })).rejects.toMatchObject({ code: Code.NOT_FOUND });
  await expect(wait.waitFor({ name: "rockets/1" })).rejects.toMatchObject({ fields: [{ field: "name" }] });
  await api.stop();
});
