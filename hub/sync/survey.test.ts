import type { MessageInitShape } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import { ResourceSchema, ResourceStatusSchema, UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { seededRng } from "@moorage/shared/rng";
import { heldDigest, statusDigest } from "@moorage/shared/sync-digest";
import fc from "fast-check";
import { expect, test } from "vitest";
import { statusKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { decodeRow, rowFacts, statusParts } from "./rows.ts";
import { judgeHeld, survey } from "./survey.ts";
import { manualClock, remove, update, want } from "./testing.ts";

const abilities = { capabilities: new Set<number>(), kinds: new Map([["Tenant", new Set(["v1"])]]) };

/** A store with `count` resources of data plane "a", each with a status. */
async function storeOf(count: number) {
  const clock = manualClock();
  const store = openMemoryStore({ clock, rng: seededRng(1) });
  await store.txn({ then: [], rows: [{ putDp: { uid: "a" } }] });
  const uids = Array.from({ length: count }, (_, i) => `t${i}`);
  await want(store, "a", Object.fromEntries(uids.slice(0, 100).map((u) => [u, u])));
  for (const uid of uids.slice(100)) await want(store, "a", { [uid]: uid });
  const statuses = uids.map((uid) => create(ResourceStatusSchema, { uid, name: `tenants/${uid}` }));
  for (const status of statuses) {
    const value = toBinary(StoredStatusSchema, create(StoredStatusSchema, { status, agentGeneration: 7n }));
    await store.txn({ then: [{ put: { key: key(statusKey(status.uid)), value } }] });
  }
  return { store, clock, uids, statuses };
}

test("a survey finds what agent and hub compute alike, over pages, tombstones left out", async () => {
  const { store, clock, uids, statuses } = await storeOf(230);
  await remove(store, "a", "t7");
  const { rev } = await store.status();
  const of = { dataPlaneUid: "a", abilities, cursorRevision: rev };
  const found = await survey({ store, clock }, of);
  const held = uids.filter((u) => u !== "t7");
  const items = held.map((uid) => ({ uid, name: `tenants/${uid}`, digest: Buffer.from(uid) }));
  expect(found.heldDigest).toEqual(heldDigest(items));
  expect(found.statusDigest).toEqual(statusDigest(statuses));
  expect(judgeHeld(heldDigest(items), found)).toBe("equal");
  expect(judgeHeld(heldDigest(items.slice(1)), found)).toBe("differs");
  const before = await survey({ store, clock }, { ...of, cursorRevision: rev - 1 });
  expect(judgeHeld(heldDigest(items), before)).toBe("unknown");
  const older = await survey({ store, clock }, { ...of, abilities: { ...abilities, kinds: new Map() } });
  expect(judgeHeld(heldDigest(items), older)).toBe("unknown");
  expect(judgeHeld(heldDigest([]), older)).toBe("equal");
});

test("a survey of many rows gives others their turn, and ends with its caller", async () => {
  const { store } = await storeOf(450);
  let elapsedMs = 0;
  // Each look at the clock finds it some time on: the store is as slow as a large one.
  const clock = { ...manualClock(), monotonicMs: () => (elapsedMs += 3) };
  let turns = 0;
  let counting = true;
  const others = () => {
    turns++;
    if (counting) setImmediate(others);
  };
  setImmediate(others);
  const stop = new AbortController();
  const of = { dataPlaneUid: "a", abilities, cursorRevision: 0, signal: stop.signal };
  await survey({ store, clock }, of);
  expect(turns).toBeGreaterThanOrEqual(2);
  stop.abort(new Error("gone"));
  await expect(survey({ store, clock }, of)).rejects.toThrow("gone");
  counting = false;
});

test("the facts of a row are those of its whole update, and an encoded status is kept as it was", () => {
  const text = fc.string({ maxLength: 12 });
  const bytes = fc.uint8Array({ maxLength: 40 });
  const resource = fc.record({
    kind: text,
    version: text,
    digest: bytes,
    requiredCapabilities: fc.array(fc.nat(300), { maxLength: 4 }),
    dependsOn: fc.array(text, { maxLength: 3 }),
    content: bytes.map((value) => ({ case: "body" as const, value })),
  });
  fc.assert(
    fc.property(resource, text, (value, name) => {
      const one = create(UpdateSchema, {
        name,
        uid: "u",
        change: {
          case: "upsert",
          value: create(ResourceSchema, value as MessageInitShape<typeof ResourceSchema>),
        },
      });
      const row = { rev: 1, uid: "u", name, del: false, update: toBinary(UpdateSchema, one) };
      const { change } = decodeRow(row);
      if (change.case !== "upsert") throw new Error("no upsert");
      const { kind, version, digest, requiredCapabilities } = change.value;
      expect(rowFacts(row)).toEqual({ kind, version, digest, requiredCapabilities });
    }),
  );
  const removed = create(UpdateSchema, { uid: "u", change: { case: "removed", value: { orphan: true } } });
  const tombstone = { rev: 1, uid: "u", name: "", del: true, update: toBinary(UpdateSchema, removed) };
  expect(rowFacts(tombstone)).toBeUndefined();
  expect(rowFacts({ ...tombstone, update: update("u", "b", { capabilities: [1, 4] }) })).toMatchObject({
    requiredCapabilities: [1, 4],
  });
  const status = create(ResourceStatusSchema, { uid: "u", conditions: [{ type: "Ready" }] });
  const stored = (more: object) =>
    statusParts(toBinary(StoredStatusSchema, create(StoredStatusSchema, more)));
  const encoded = toBinary(ResourceStatusSchema, status);
  expect(stored({ status, agentGeneration: 3n })).toEqual({ encoded, withheld: false });
  expect(stored({ withheld: { revision: 4n } })).toEqual({ encoded: undefined, withheld: true });
});
