import { create } from "@bufbuild/protobuf";
import { WaitForRequestSchema } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { seededRng } from "@moorage/shared/rng";
import { systemClock } from "@moorage/shared/clock";
import { expect, test } from "vitest";
import { keyText } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { settle } from "../sync/testing.ts";
import { Affected } from "./affected.ts";
import { Reader } from "./reader.ts";
import { take, apiOfTest } from "./testing.ts";
import { waitFor } from "./wait.ts";

/** Two tenants in one data plane, over a store whose reads are told. */
async function start() {
  const inner = openMemoryStore({ clock: systemClock, rng: seededRng(1) });
  const reads: string[] = [];
  const store: Store = {
    ...inner,
    range(q) {
      reads.push(keyText(q.start));
      return inner.range(q);
    },
  };
  const api = await apiOfTest({ store });
  const dataPlane = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const tenant = { spec: { dataPlane: "dataPlanes/eu" } };
  const a = await api.admin.tenants.createTenant({ tenantId: "a", tenant });
  const b = await api.admin.tenants.createTenant({ tenantId: "b", tenant });
  return { api, store, reads, dataPlane, a, b };
}

const ready = [{ type: "Ready", status: "True", reason: "Ready", observedGeneration: 1n }];

test("what a revision touches is found once for all watches of a kind", async () => {
  const { api, reads, a } = await start();
  const streams = Array.from({ length: 20 }, () =>
    api.admin.tenants.watchTenants({})[Symbol.asyncIterator](),
  );
  for (const stream of streams) await take(stream, 3);
  reads.length = 0;
  await api.status(a, ready);
  for (const stream of streams)
    expect((await take(stream, 1))[0]?.event.value).toMatchObject({ tenant: { name: a.name } });
  expect(reads.filter((key) => key === `uids/${a.uid}`)).toHaveLength(1);
});

test("a revision read in vain is read again by the next watch", async () => {
  const { store, a } = await start();
  let broken = true;
  const reader = new Reader({
    ...store,
    range: (q) => (broken ? Promise.reject(new Error("no disk")) : store.range(q)),
  });
  const affected = new Affected(reader);
  const { rev } = await store.status();
  const kv = { createRev: rev, modRev: rev, version: 1, lease: 0, value: new Uint8Array() };
  const batch = {
    rev,
    events: [{ type: "put" as const, kv: { ...kv, key: Buffer.from(`status/${a.uid}`) }, prevRev: 0 }],
  };
  await expect(affected.names("Tenant", batch)).rejects.toThrow("no disk");
  broken = false;
  expect(await affected.names("Tenant", batch)).toEqual([a.name]);
});

test("a wait reads nothing for what other resources do", async () => {
  const { api, store, reads, dataPlane, a, b } = await start();
  const request = create(WaitForRequestSchema, { name: a.name });
  const deps = { store, reader: new Reader(store), clock: systemClock };
  const done = waitFor(deps, request, new AbortController().signal);
  await settle();
  reads.length = 0;
  await api.status(b, ready);
  await settle();
  expect(reads).toEqual([]);
  // Silence of the data plane speaks of all in it.
  await api.link(dataPlane.uid, LinkState.SILENT);
  await settle();
  expect(reads).not.toEqual([]);
  await api.link(dataPlane.uid, LinkState.CONNECTED);
  await api.status(a, ready);
  expect(await done).toMatchObject({ condition: { type: "Ready", status: "True" } });
});
