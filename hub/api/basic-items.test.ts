import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { expect, test } from "vitest";
import { key, keyText } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { Reader } from "./reader.ts";
import { publish, testApi } from "./testing.ts";
import type { TestApi } from "./testing.ts";

const ready = (status: string, generation: bigint) => [
  { type: "Ready", status, reason: "Observed", message: "", observedGeneration: generation },
];

/** All pages of view BASIC, as encoded entries and, by a filter that lets all pass, as objects. */
async function both(api: TestApi, pageSize: number) {
  const pages = async (filter: string) => {
    const tenants = [];
    const applications = [];
    let pageToken = "";
    do {
      const page = await api.admin.tenants.listTenants({ view: View.BASIC, pageSize, pageToken, filter });
      tenants.push(...page.tenants);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    do {
      const page = await api.admin.applications.listApplications({
        view: View.BASIC,
        pageSize,
        pageToken,
        filter,
      });
      applications.push(...page.applications);
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return { tenants, applications };
  };
  return [await pages(""), await pages('name != "nothing"')] as const;
}

test("whatever happens between, a list of kept entries shows what a list made anew shows", async () => {
  const step = fc.record({
    act: fc.constantFrom("label", "status", "silent", "connected", "create", "delete", "application"),
    of: fc.integer({ min: 0, max: 5 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 12 }),
      fc.integer({ min: 1, max: 4 }),
      async (steps, size) => {
        const api = await testApi();
        await publish(api);
        const { dataPlanes, tenants, applications } = api.admin;
        const dataPlane = await dataPlanes.createDataPlane({ dataPlaneId: "a", dataPlane: { spec: {} } });
        const spec = { dataPlane: dataPlane.name };
        const ignore = (p: Promise<unknown>) => p.catch(() => {});
        for (const { act, of } of steps) {
          const name = `tenants/t${of}`;
          const found = await tenants.getTenant({ name }).catch(() => undefined);
          if (act === "create") await ignore(tenants.createTenant({ tenantId: `t${of}`, tenant: { spec } }));
          else if (act === "delete") await ignore(tenants.deleteTenant({ name, allowMissing: true }));
          else if (act === "silent") await api.link(dataPlane.uid, LinkState.SILENT);
          else if (act === "connected") await api.link(dataPlane.uid, LinkState.CONNECTED);
          else if (act === "application")
            await ignore(
              applications.createApplication({
                parent: name,
                applicationId: "web",
                application: { spec: { bundle: "bundles/small", version: "1.0.0" } },
              }),
            );
          else if (found !== undefined && act === "label")
            // Refused where the tenant is being deleted.
            await ignore(
              tenants.updateTenant({
                tenant: { name, labels: { l: `v${of}` } },
                updateMask: { paths: ["labels"] },
              }),
            );
          else if (found !== undefined) await api.status(found, ready("True", found.generation));
          const [kept, anew] = await both(api, size);
          expect(kept).toEqual(anew);
        }
        await api.stop();
      },
    ),
    { numRuns: 20 },
  );
});

test("pages of kept entries show one revision while others write", async () => {
  const api = await testApi();
  const { dataPlanes, tenants } = api.admin;
  const { name: dataPlane } = await dataPlanes.createDataPlane({ dataPlaneId: "a", dataPlane: { spec: {} } });
  for (let i = 0; i < 40; i++)
    await tenants.createTenant({ tenantId: `t${i}`, tenant: { labels: { l: "old" }, spec: { dataPlane } } });
  const first = await tenants.listTenants({ view: View.BASIC, pageSize: 10 });
  for (let i = 0; i < 40; i += 3) {
    await tenants.updateTenant({
      tenant: { name: `tenants/t${i}`, labels: { l: "new" } },
      updateMask: { paths: ["labels"] },
    });
    await tenants.listTenants({ view: View.BASIC });
  }
  const seen = [...first.tenants];
  for (let { nextPageToken: pageToken } = first; pageToken !== "";) {
    const page = await tenants.listTenants({ view: View.BASIC, pageSize: 10, pageToken });
    expect(page.cursor).toEqual(first.cursor);
    seen.push(...page.tenants);
    pageToken = page.nextPageToken;
  }
  expect(seen.map((t) => t.labels["l"])).toEqual(Array.from({ length: 40 }, () => "old"));
  await api.stop();
});

test("long lists, of which most entries are kept, show what changed in any part of them", async () => {
  const api = await testApi();
  const { dataPlanes, tenants } = api.admin;
  const dataPlane = await dataPlanes.createDataPlane({ dataPlaneId: "a", dataPlane: { spec: {} } });
  const made = [];
  for (let i = 0; i < 150; i++)
    made.push(
      await tenants.createTenant({ tenantId: `t${i}`, tenant: { spec: { dataPlane: dataPlane.name } } }),
    );
  const same = async () => {
    for (const pageSize of [1_000, 70, 20]) {
      const [kept, anew] = await both(api, pageSize);
      expect(kept).toEqual(anew);
    }
  };
  await same();
  for (const i of [0, 70, 149]) {
    const tenant = made[i] as (typeof made)[number];
    await api.status(tenant, ready("True", 1n));
    await same();
    await tenants.updateTenant({
      tenant: { name: tenant.name, labels: { a: "b" } },
      updateMask: { paths: ["labels"] },
    });
    await same();
  }
  await api.link(dataPlane.uid, LinkState.SILENT);
  await same();
  await api.stop();
});

/** A store that tells what is read of it. */
function told() {
  const inner = openMemoryStore({ clock: systemClock, rng: seededRng(1) });
  const reads: { from: string; limit: number | undefined; keysOnly: boolean }[] = [];
  const store: Store = {
    ...inner,
    range(q) {
      if (q.end !== undefined)
        reads.push({ from: keyText(q.start), limit: q.limit, keysOnly: q.keysOnly === true });
      return inner.range(q);
    },
  };
  return { store, reads };
}

test("a first list reads each record and each status once, the next one keys alone", async () => {
  const { store, reads } = told();
  const api = await testApi({ store });
  await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "a", dataPlane: { spec: {} } });
  const spec = { dataPlane: "dataPlanes/a" };
  for (let i = 0; i < 150; i++) {
    const tenant = await api.admin.tenants.createTenant({ tenantId: `t${i}`, tenant: { spec } });
    await api.status(tenant, ready("True", 1n));
  }
  const list = async () => {
    reads.length = 0;
    await api.admin.tenants.listTenants({ view: View.BASIC, pageSize: 1_000 });
    return reads.map((r) => [r.from.split("/")[0], r.keysOnly]).filter(([from]) => from !== "placements");
  };
  expect(await list()).toEqual([
    ["tenants", false],
    ["status", false],
  ]);
  const { tenants } = await api.admin.tenants.listTenants({ view: View.BASIC, pageSize: 1 });
  await api.status(tenants[0] as (typeof tenants)[number], ready("False", 1n));
  expect(await list()).toEqual([
    ["tenants", true],
    ["status", true],
  ]);
  await api.stop();
});

test("a long page is read in parts, between which others have their turn and a caller may go", async () => {
  const { store, reads } = told();
  const api = await testApi({ store });
  await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "a", dataPlane: { spec: {} } });
  const spec = { dataPlane: "dataPlanes/a" };
  for (let i = 0; i < 600; i++)
    await api.admin.tenants.createTenant({ tenantId: `t${1_000 + i}`, tenant: { spec } });
  const parts = () => reads.filter((r) => r.from.startsWith("tenants/")).map((r) => r.limit);
  const list = (signal?: AbortSignal) =>
    api.admin.tenants.listTenants(
      { view: View.BASIC, pageSize: 550 },
      signal === undefined ? {} : { signal },
    );
  reads.length = 0;
  const page = await list();
  expect(page.tenants.map((t) => t.name)).toEqual(
    Array.from({ length: 550 }, (_, i) => `tenants/t${1_000 + i}`),
  );
  expect(parts()).toEqual([250, 250, 50]);
  const rest = await api.admin.tenants.listTenants({
    view: View.BASIC,
    pageSize: 550,
    pageToken: page.nextPageToken,
  });
  expect(rest.tenants).toHaveLength(50);
  expect(rest.nextPageToken).toBe("");
  reads.length = 0;
  const caller = new AbortController();
  const gone = list(caller.signal);
  gone.catch(() => undefined);
  while (parts().length === 0) await Promise.resolve();
  caller.abort();
  await expect(gone).rejects.toThrow("cancelled");
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  expect(parts()).toEqual([250]);
  await api.stop();
});

test("the statuses of all resources are read in pages between which others have their turn", async () => {
  const { store, reads } = told();
  for (let i = 0; i < 25; i++)
    await store.txn({
      then: Array.from({ length: 100 }, (_, j) => ({
        put: { key: key(`status/${i}-${j}`), value: new Uint8Array(1) },
      })),
    });
  const { rev } = await store.status();
  const reader = new Reader(store);
  let turns = 0;
  let reading = true;
  const others = (async () => {
    for (; reading; turns++) await new Promise((resolve) => setImmediate(resolve));
  })();
  const [first, second] = await Promise.all([reader.statuses(rev), reader.statuses(rev)]);
  reading = false;
  await others;
  expect(first.size).toBe(2_500);
  expect(second).toBe(first);
  expect(reads.map((r) => r.limit)).toEqual([1_000, 1_000, 1_000]);
  expect(turns).toBeGreaterThan(1);
  await store.close();
});
