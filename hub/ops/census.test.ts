import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { Reader } from "../api/reader.ts";
import { apiOfTest } from "../api/testing.ts";
import { keyText } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { manualClock, settle } from "../sync/testing.ts";
import { Census } from "./census.ts";

/** Three tenants, and a store that tells how often they are read and reads them when `gate` lets it. */
async function start(clock = manualClock()) {
  const inner = openMemoryStore({ clock: systemClock, rng: seededRng(1) });
  const of = { counts: 0, gate: Promise.resolve() };
  const store: Store = {
    ...inner,
    async range(q) {
      if (q.end !== undefined && keyText(q.start) === "tenants/") {
        of.counts++;
        await of.gate;
      }
      return inner.range(q);
    },
  };
  const api = await apiOfTest({ store: inner });
  const add = (tenantId: string) =>
    api.admin.tenants.createTenant({ tenantId, tenant: { spec: { dataPlane: "dataPlanes/eu" } } });
  await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  for (const id of ["a", "b", "c"]) await add(id);
  return { of, clock, add, census: new Census({ store, reader: new Reader(store), clock }) };
}

const tenants = "Tenant/Ready/Unknown";

test("scrapes at the same time share one count, and a store that did not change is not counted again", async () => {
  const { of, census, add } = await start();
  const all = await Promise.all(Array.from({ length: 20 }, () => census.newest()));
  expect(new Set(all.map((c) => c?.entities.get(tenants)))).toEqual(new Set([3]));
  await census.newest();
  expect(of.counts).toBe(1);
  await add("d");
  expect((await census.newest())?.entities.get(tenants)).toBe(4);
  expect(of.counts).toBe(2);
});

test("a slow count is not waited for beyond a bound, nor begun anew before ten times as long has passed", async () => {
  const { of, census, add, clock } = await start();
  await census.newest();
  await add("d");
  const { promise, resolve } = Promise.withResolvers<void>();
  of.gate = promise;
  const late = census.newest();
  await settle();
  await clock.advance(3_000);
  expect((await late)?.entities.get(tenants)).toBe(3);
  resolve();
  await settle();
  await add("e");
  expect((await census.newest())?.entities.get(tenants)).toBe(4);
  await clock.advance(29_000);
  expect((await census.newest())?.entities.get(tenants)).toBe(4);
  await clock.advance(1_000);
  expect((await census.newest())?.entities.get(tenants)).toBe(5);
  expect(of.counts).toBe(3);
});

test("a count gives others their turn", async () => {
  let elapsedMs = 0;
  const { census } = await start({ ...manualClock(), monotonicMs: () => (elapsedMs += 2) });
  let turns = 0;
  let counting = true;
  const others = (async () => {
    for (; counting; turns++) await new Promise((resolve) => setImmediate(resolve));
  })();
  await census.newest();
  counting = false;
  await others;
  expect(turns).toBeGreaterThan(1);
});
