import { randomBytes } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import { Resume } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { StoredDivergenceSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { heldDigest } from "@moorage/shared/sync-digest";
import { expect, test } from "vitest";
import { divergencesPrefix } from "../core/keys.ts";
import { prefix } from "../store/bytes.ts";
import { storeError } from "../store/errors.ts";
import type { Store } from "../store/store.ts";
import { acceptEpochOp, readRestored } from "./epoch.ts";
import { remove, settle, testHub, want } from "./testing.ts";

/** A hub with data planes that are registered as the API registers them. */
async function hubWith(...dps: string[]) {
  const hub = await testHub();
  for (const uid of dps) await put(hub.store, { [`uids/${uid}`]: `dataPlanes/${uid}` }, uid);
  return hub;
}

async function put(store: Store, values: Record<string, string>, dp?: string): Promise<void> {
  const then = Object.entries(values).map(([k, v]) => ({
    put: { key: Buffer.from(k), value: Buffer.from(v) },
  }));
  await store.txn({ then, rows: dp === undefined ? [] : [{ putDp: { uid: dp } }] });
}

/** Records of resources, as the API keeps them beside their rows. */
const records = (store: Store, uids: string[]) =>
  put(
    store,
    Object.fromEntries(
      uids.flatMap((u) => [
        [`uids/${u}`, `r/${u}`],
        [`r/${u}`, u],
      ]),
    ),
  );

async function listed(store: Store): Promise<Record<string, string>> {
  const { kvs } = await store.range(prefix(divergencesPrefix()));
  const all = kvs.map((kv) => fromBinary(StoredDivergenceSchema, kv.value));
  const names = Object.entries(DivergenceKind);
  return Object.fromEntries(all.map((d) => [d.uid, names.find(([, n]) => n === d.kind)?.[0] ?? ""]));
}

/** The store as a hub finds it whose last process did not close it, until a new epoch begins. */
function uncleanly(store: Store, epoch: Uint8Array): Store {
  const status = async () => {
    const found = await store.status();
    return { ...found, uncleanStart: Buffer.compare(found.epoch, epoch) === 0 };
  };
  return Object.assign(Object.create(store) as Store, { status });
}

/**
 * An agent whose history went on after the backup: `same` as backed up, `newer` changed since, `deleted`
 * removed since, `made` created since; `tomb` is ordered to go in the backup and was withdrawn since.
 */
async function restoredWorld() {
  const hub = await hubWith("a");
  const { store } = hub;
  await want(store, "a", { same: "s", newer: "old", deleted: "d", tomb: "t" });
  await records(store, ["same", "newer", "deleted", "tomb"]);
  await remove(store, "a", "tomb");
  const { epoch, rev: backup } = await store.status();
  await store.newEpoch();
  const oldEpochOfAgent = { epoch, revision: BigInt(backup + 50) };
  const agent = hub.connect("a");
  await agent.hello({ cursor: oldEpochOfAgent, heldDigest: randomBytes(32) });
  const held = [
    { name: "tenants/same", uid: "same", digest: Buffer.from("s"), revision: 3n },
    { name: "tenants/newer", uid: "newer", digest: Buffer.from("new"), revision: BigInt(backup + 10) },
    { name: "tenants/tomb", uid: "tomb", digest: Buffer.from("t"), revision: 3n },
    { name: "tenants/made", uid: "made", digest: Buffer.from("m"), revision: BigInt(backup + 20) },
  ];
  agent.send({ case: "inventory", value: { held, last: true } as never });
  await settle();
  return { hub, agent, backup };
}

const divergent = {
  newer: "NEWER_AT_AGENT",
  deleted: "DELETED_AT_AGENT",
  tomb: "TOMBSTONE_WITHHELD",
  made: "UNKNOWN_TO_HUB",
};

test("R13: a restored hub removes, rolls back and revives nothing before its epoch is accepted, and lists it", async () => {
  const { hub, agent } = await restoredWorld();
  expect(agent.serverHello().resume).toBe(Resume.COMPARE);
  expect(agent.updates()).toEqual([]);
  expect(agent.changes().at(-1)?.initialEnd).toBe(true);
  expect(await listed(hub.store)).toEqual(divergent);
});

test("R13: new content flows meanwhile; new deletions and changes of what differs wait", async () => {
  const { hub, agent } = await restoredWorld();
  await want(hub.store, "a", { fresh: "f" });
  const same = await want(hub.store, "a", { same: "s2" });
  await want(hub.store, "a", { newer: "newest" });
  await settle();
  await remove(hub.store, "a", "same");
  await settle();
  expect(agent.updates().map((u) => u.split("@")[0])).toEqual(["fresh", "same"]);
  expect(agent.updates()[1]).toBe(`same@${same}`);
  expect(await listed(hub.store)).toEqual({ ...divergent, same: "TOMBSTONE_WITHHELD" });
});

test("R13: a later stream knows what is held back, and compares while the digests differ", async () => {
  const { hub, agent } = await restoredWorld();
  const cursor = await agent.ack();
  agent.stream.cancel();
  await want(hub.store, "a", { newer: "newest" });
  const again = hub.connect("a");
  await again.hello({ cursor, heldDigest: randomBytes(32) });
  expect(again.serverHello().resume).toBe(Resume.DELTA);
  expect(again.updates()).toEqual([]);
  expect((await listed(hub.store))["newer"]).toBe("NEWER_AT_AGENT");
  const later = await again.ack();
  again.send({ case: "inventory", value: { last: true, digest: randomBytes(32) } });
  await settle();
  expect(again.got.at(-1)).toMatchObject({ case: "goodbye", value: { reason: "COMPARE" } });
  const third = hub.connect("a");
  await third.hello({ cursor: later, heldDigest: randomBytes(32) });
  expect(third.serverHello().resume).toBe(Resume.COMPARE);
});

test("R13: an agent whose compare was cut is judged by the cursor that it came with", async () => {
  const hub = await hubWith("a");
  const uids = ["t1", "t2", "t3", "t4", "t5", "t6"];
  for (const uid of uids) await want(hub.store, "a", { [uid]: "wanted", [`deleted-${uid}`]: "d" });
  const { epoch, rev } = await hub.store.status();
  await hub.store.newEpoch();
  const held = uids.map((uid) => ({ name: `tenants/${uid}`, uid, digest: Buffer.from("old"), revision: 1n }));
  const old = { epoch, revision: BigInt(rev) };
  const compare = async (cursor: object, limits: object) => {
    const agent = hub.connect("a");
    await agent.hello({ cursor, heldDigest: randomBytes(32), limits });
    expect(agent.serverHello().resume).toBe(Resume.COMPARE);
    agent.send({ case: "inventory", value: { held, last: true } as never });
    await settle();
    return agent;
  };
  const cut = await compare(old, { windowItems: 2, windowBytes: 0, maxMessageBytes: 0 });
  expect(cut.updates().length).toBeGreaterThan(0);
  expect(await cut.ack()).toBeUndefined();
  cut.stream.cancel();
  const again = await compare(old, {});
  expect(again.changes().map((c) => [c.initialEnd, c.cursor !== undefined])).toEqual([[true, true]]);
  const deleted = uids.map((uid) => [`deleted-${uid}`, "DELETED_AT_AGENT"]);
  expect(await listed(hub.store)).toEqual(Object.fromEntries(deleted));
});

test("R13: what an agent got after a first restore of a backup is held to be newer after a second one", async () => {
  const restoredAfter = async (ms: number) => {
    const hub = await hubWith("a", "b");
    await want(hub.store, "a", { newer: "old" });
    await records(hub.store, ["newer"]);
    await hub.clock.advance(ms);
    await hub.store.newEpoch();
    return hub;
  };
  const first = await restoredAfter(0);
  const got = await want(first.store, "a", { newer: "new" });
  const second = await restoredAfter(60_000);
  for (let i = 0; i < 3; i++) await want(second.store, "b", { other: `${i}` });
  const agent = second.connect("a");
  const cursor = { epoch: randomBytes(16), revision: BigInt(got) };
  await agent.hello({ cursor, heldDigest: randomBytes(32) });
  const digest = Buffer.from("new");
  const held = [{ name: "tenants/newer", uid: "newer", digest, revision: BigInt(got) }];
  agent.send({ case: "inventory", value: { held, last: true } as never });
  await settle();
  expect(agent.updates()).toEqual([]);
  expect(agent.changes().at(-1)?.initialEnd).toBe(true);
  expect(await listed(second.store)).toEqual({ newer: "NEWER_AT_AGENT" });
});

test("R13: once accepted everything held back goes out, above every revision ever given", async () => {
  const { hub, agent, backup } = await restoredWorld();
  const { epoch, rev } = await hub.store.status();
  await hub.store.txn({ then: [acceptEpochOp(epoch)] });
  await settle();
  const revisions = new Map(agent.updates().map((u) => u.split("@") as [string, string]));
  expect([...revisions.keys()].sort()).toEqual(["-tomb", "deleted", "newer"]);
  for (const r of revisions.values()) expect(Number(r)).toBeGreaterThan(Math.max(rev, backup + 1_000_000));
  expect(await listed(hub.store)).toEqual({ made: "UNKNOWN_TO_HUB" });
  expect(await readRestored(hub.store)).toBeUndefined();
});

test("R13: an agent that comes back after the acceptance gets the hub's content over its newer one", async () => {
  const hub = await hubWith("a");
  const { store } = hub;
  await want(store, "a", { newer: "old" });
  await records(store, ["newer"]);
  const { epoch: before, rev: backup } = await store.status();
  await store.newEpoch();
  await store.txn({ then: [acceptEpochOp((await store.status()).epoch)] });
  await settle();
  const agent = hub.connect("a");
  await agent.hello({ cursor: { epoch: before, revision: BigInt(backup + 50) } });
  const digest = Buffer.from("new");
  const held = [{ name: "tenants/newer", uid: "newer", digest, revision: BigInt(backup + 10) }];
  agent.send({ case: "inventory", value: { held, last: true } as never });
  await settle();
  expect(agent.updates()).toHaveLength(1);
  expect(Number(agent.updates()[0]?.split("@")[1])).toBeGreaterThan(backup + 10);
});

test("an epoch accepted for another history is not accepted, and a hub that starts accepted settles the rest", async () => {
  const { hub, agent } = await restoredWorld();
  await hub.store.txn({ then: [acceptEpochOp(new Uint8Array(16))] });
  await settle();
  expect(agent.updates()).toEqual([]);
  await hub.stop();
  await settle();
  await hub.store.txn({ then: [acceptEpochOp((await hub.store.status()).epoch)] });
  const restarted = await testHub({ store: hub.store, clock: hub.clock });
  await settle();
  expect(await listed(restarted.store)).toEqual({ made: "UNKNOWN_TO_HUB" });
  await restarted.stop();
});

/** An accepted hub whose store does not take the row `deleted` anew while `refused.all` is set. */
async function acceptedWorld() {
  const { hub } = await restoredWorld();
  await hub.stop();
  await hub.store.txn({ then: [acceptEpochOp((await hub.store.status()).epoch)] });
  const refused = { all: true };
  const txn: Store["txn"] = (t) =>
    refused.all && t.rows?.some((r) => "upsertRes" in r && r.upsertRes.uid === "deleted")
      ? Promise.reject(storeError("STORE_FULL", "Write: no space is left"))
      : hub.store.txn(t);
  const store = Object.assign(Object.create(hub.store) as Store, { txn });
  return { hub: await testHub({ store, clock: hub.clock }), refused };
}

test("R13: what cannot be sent out after the acceptance holds up nothing else, and is tried again", async () => {
  const { hub, refused } = await acceptedWorld();
  await settle();
  expect(await listed(hub.store)).toEqual({ made: "UNKNOWN_TO_HUB", deleted: "DELETED_AT_AGENT" });
  refused.all = false;
  await hub.clock.advance(5_000);
  expect(await listed(hub.store)).toEqual({ made: "UNKNOWN_TO_HUB" });
  await hub.stop();
});

test("R13: a compare after the acceptance forgets nothing that is still to be sent out", async () => {
  const { hub, refused } = await acceptedWorld();
  const agent = hub.connect("a");
  await agent.hello({ cursor: { epoch: randomBytes(16), revision: 1n } });
  agent.send({ case: "inventory", value: { held: [], last: true } as never });
  await settle();
  expect(agent.changes().at(-1)?.initialEnd).toBe(true);
  expect(await listed(hub.store)).toEqual({ deleted: "DELETED_AT_AGENT" });
  const { rev } = await hub.store.status();
  refused.all = false;
  await hub.clock.advance(5_000);
  expect(agent.updates().at(-1)).toBe(`deleted@${rev + 1}`);
  await hub.stop();
});

test("R4: a cursor above the head of a hub that was not closed in order begins a new epoch, once, for all", async () => {
  const hub = await hubWith("a", "b");
  await want(hub.store, "a", { t1: "one" });
  const { epoch, rev } = await hub.store.status();
  const damaged = await testHub({ store: uncleanly(hub.store, epoch), clock: hub.clock });
  const other = damaged.connect("b");
  await other.hello({ cursor: { epoch, revision: BigInt(rev) } });
  expect(other.serverHello().resume).toBe(Resume.DELTA);
  const agents = [damaged.connect("a"), damaged.connect("a")];
  for (const agent of agents) await agent.hello({ cursor: { epoch, revision: BigInt(rev + 5) } });
  expect(other.state.error?.reason).toBe("EPOCH_CHANGED");
  expect(agents.at(-1)?.serverHello().resume).toBe(Resume.COMPARE);
  const now = await hub.store.status();
  expect(Buffer.compare(now.epoch, epoch)).not.toBe(0);
  expect(agents.at(-1)?.serverHello().head?.epoch).toEqual(new Uint8Array(now.epoch));
  expect(now.restoredRev).toBeGreaterThanOrEqual(rev);
});

test("R4: a loss that the head has grown over is proven by what an agent holds", async () => {
  const hub = await hubWith("a", "b");
  await want(hub.store, "a", { t1: "old" });
  await records(hub.store, ["t1"]);
  const { epoch, rev } = await hub.store.status();
  // Lost: t1 at rev + 1 to rev + 3. Since then the other data plane moved the head beyond.
  const damaged = await testHub({ store: uncleanly(hub.store, epoch), clock: hub.clock });
  for (let i = 0; i < 9; i++) await want(hub.store, "b", { other: `${i}` });
  const other = damaged.connect("b");
  await other.hello();
  const agent = damaged.connect("a");
  await agent.hello({ cursor: { epoch, revision: BigInt(rev + 3) }, heldDigest: randomBytes(32) });
  expect(agent.serverHello().resume).toBe(Resume.COMPARE);
  const held = [{ name: "tenants/t1", uid: "t1", digest: Buffer.from("new"), revision: BigInt(rev + 3) }];
  agent.send({ case: "inventory", value: { held, last: true } as never });
  await settle();
  expect([agent.state.error?.reason, other.state.error?.reason]).toEqual(["EPOCH_CHANGED", "EPOCH_CHANGED"]);
  expect(agent.updates()).toEqual([]);
  const again = damaged.connect("a");
  await again.hello({ cursor: { epoch, revision: BigInt(rev + 3) }, heldDigest: randomBytes(32) });
  again.send({ case: "inventory", value: { held, last: true } as never });
  await settle();
  expect(again.updates()).toEqual([]);
  expect(await listed(hub.store)).toEqual({ t1: "NEWER_AT_AGENT" });
});

test("R4: a stream that opens while a new epoch begins does not go on under the old one", async () => {
  const hub = await hubWith("a", "b");
  const { epoch, rev } = await hub.store.status();
  const looks = { held: Promise.resolve(), ofA: 0 };
  const damaged = await testHub({
    store: uncleanly(hub.store, epoch),
    clock: hub.clock,
    // The second look is the one after the opening was decided.
    atCertificate: (uid) => (uid === "a" && ++looks.ofA === 2 ? looks.held : Promise.resolve()),
  });
  let goOn = () => {};
  looks.held = new Promise((resolve) => (goOn = resolve));
  const opening = damaged.connect("a");
  await opening.hello({ cursor: { epoch, revision: BigInt(rev) } });
  expect(looks.ofA).toBe(2);
  const proof = damaged.connect("b");
  await proof.hello({ cursor: { epoch, revision: BigInt(rev + 5) } });
  expect(proof.serverHello().resume).toBe(Resume.COMPARE);
  goOn();
  await settle();
  expect(opening.got).toEqual([]);
  expect(opening.state.error?.reason).toBe("EPOCH_CHANGED");
});

test("R4: a stream whose proof comes after the new epoch ends, and the next one compares", async () => {
  const hub = await hubWith("a");
  await want(hub.store, "a", { t1: "old" });
  const { epoch, rev } = await hub.store.status();
  const lost = { proven: false };
  const status = async () => ({ ...(await hub.store.status()), uncleanStart: !lost.proven });
  const store = Object.assign(Object.create(hub.store) as Store, { status });
  const damaged = await testHub({ store, clock: hub.clock });
  const agent = damaged.connect("a");
  await agent.hello({ cursor: { epoch, revision: BigInt(rev) }, heldDigest: randomBytes(32) });
  expect(agent.serverHello().resume).toBe(Resume.COMPARE);
  lost.proven = true;
  const held = [{ name: "tenants/t1", uid: "t1", digest: Buffer.from("new"), revision: BigInt(rev + 3) }];
  agent.send({ case: "inventory", value: { held, last: true } as never });
  await settle();
  expect(agent.state.error?.reason).toBe("EPOCH_CHANGED");
  expect(damaged.sync.connected()).toEqual([]);
});

test("a claim above the head of a hub that was closed in order concerns its agent alone", async () => {
  const hub = await hubWith("a", "b");
  await want(hub.store, "a", { t1: "one" });
  const { epoch, rev } = await hub.store.status();
  const other = hub.connect("b");
  await other.hello();
  const liar = hub.connect("a");
  await liar.hello({ cursor: { epoch, revision: BigInt(rev + 1_000) }, heldDigest: heldDigest([]) });
  expect(liar.serverHello().resume).toBe(Resume.COMPARE);
  expect(other.state.ended).toBe(false);
  expect((await hub.store.status()).epoch).toEqual(epoch);
});
