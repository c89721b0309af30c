import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { expect, test } from "vitest";
import { resourceKey } from "../core/keys.ts";
import { isWithin } from "../identity/authorize.ts";
import { inRange, key, keyText } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { RangeRequest, Store } from "../store/store.ts";
import { rangesOf } from "./lists.ts";
import { apiOfTest } from "./testing.ts";

/** An API whose reads of ranges are told. */
async function start(onRange: (q: RangeRequest) => void, clock: Clock = systemClock) {
  const inner = openMemoryStore({ clock, rng: seededRng(1) });
  const store: Store = {
    ...inner,
    range(q) {
      onRange(q);
      return inner.range(q);
    },
  };
  const api = await apiOfTest({ store, clock });
  await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  return api;
}

const tenant = { spec: { dataPlane: "dataPlanes/eu" } };
const turn = () => new Promise((resolve) => setImmediate(resolve));

test("a search through all there is gives others their turn, and ends with its caller", async () => {
  let reads = 0;
  let elapsedMs = 0;
  // Each look at the clock finds it a millisecond on: the store is as slow as a large one.
  const clock = { ...systemClock, monotonicMs: () => (elapsedMs += 1) };
  const api = await start((q) => {
    if (keyText(q.start).startsWith("tenants/") && q.end !== undefined) reads++;
  }, clock);
  const ids = Array.from({ length: 600 }, (_, i) => `t${i}`);
  for (const tenantId of ids) await api.admin.tenants.createTenant({ tenantId, tenant });
  const search = (signal: AbortSignal) =>
    api.admin.tenants.listTenants({ filter: "labels.tier = gold" }, { signal });

  reads = 0;
  let turns = 0;
  let searching = true;
  const others = (async () => {
    for (; searching; turns++) await turn();
  })();
  await search(new AbortController().signal);
  searching = false;
  await others;
  const whole = reads;
  expect(whole).toBeGreaterThan(2);
  expect(turns).toBeGreaterThan(20);

  reads = 0;
  const caller = new AbortController();
  const cancelled = search(caller.signal);
  cancelled.catch(() => undefined);
  await turn();
  caller.abort();
  await expect(cancelled).rejects.toMatchObject({ code: Code.CANCELLED });
  for (let i = 0; i < 2 * turns; i++) await turn();
  expect(reads).toBe(1);
});

test("of what a caller may not see, nothing is read", async () => {
  const read: string[] = [];
  const api = await start((q) => {
    const from = keyText(q.start);
    if (q.end !== undefined && from.startsWith("tenants/")) read.push(from.replaceAll("\0", "+"));
  });
  for (let i = 0; i < 10; i++) await api.admin.tenants.createTenant({ tenantId: `t${i}`, tenant });
  const viewer = await api.as(Role.VIEWER, ["tenants/t7", "tenants/t3", "tenants/none"]);
  read.length = 0;
  const first = await viewer.tenants.listTenants({ pageSize: 1 });
  expect(first.tenants.map((t) => t.name)).toEqual(["tenants/t3"]);
  const rest = await viewer.tenants.listTenants({ pageSize: 5, pageToken: first.nextPageToken });
  expect(rest).toMatchObject({ tenants: [{ name: "tenants/t7" }], nextPageToken: "" });
  expect(read.length).toBeGreaterThan(0);
  expect(read.filter((from) => !/^tenants\/tenants\/(t3|t7|none)/.test(from))).toEqual([]);
});

test("ranges hold the names that scopes and parent show, each once and in order", () => {
  const id = fc.constantFrom("a", "a-b", "a.b", "ab", "b");
  const tenantName = id.map((t) => `tenants/${t}`);
  const parent = fc.oneof(
    tenantName,
    id.map((d) => `dataPlanes/${d}`),
  );
  const application = fc.tuple(parent, id).map(([p, a]) => `${p}/applications/${a}`);
  const name = fc.oneof(parent, application);
  const below = fc.oneof(
    fc.constantFrom("", "tenants/", "dataPlanes/"),
    parent.map((p) => `${p}/applications/`),
  );
  fc.assert(
    fc.property(fc.array(name, { maxLength: 4 }), below, application, (scopes, belowText, of) => {
      const ranges = rangesOf("Application", belowText, scopes);
      const found = ranges.filter((r) => inRange(key(resourceKey("Application", of)), r));
      expect(found.length).toBe(of.startsWith(belowText) && isWithin(scopes, of) ? 1 : 0);
      for (const [i, r] of ranges.entries())
        if (i > 0) expect(Buffer.compare(ranges[i - 1]?.end as Uint8Array, r.start)).toBeLessThanOrEqual(0);
    }),
    { numRuns: 2_000 },
  );
});
