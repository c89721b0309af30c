import { create } from "@bufbuild/protobuf";
import { ResourceStatusSchema, Resume, Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { limits } from "@moorage/shared/limits";
import { heldDigest, statusDigest } from "@moorage/shared/sync-digest";
import { describe, expect, test } from "vitest";
import { prefixes, statusKey } from "../core/keys.ts";
import { keyText } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import { readLink } from "./links.ts";
import { readStatus } from "./rows.ts";
import { hubWith, onDisk, settle, testHub, want } from "./testing.ts";

const digestOf = (bodies: Record<string, string>) =>
  heldDigest(
    Object.entries(bodies).map(([uid, body]) => ({ name: `tenants/${uid}`, uid, digest: Buffer.from(body) })),
  );

const statusOf = (uid: string, revision: number) =>
  create(ResourceStatusSchema, {
    uid,
    name: `tenants/${uid}`,
    observedRevision: BigInt(revision),
    verdict: { state: Verdict_State.ACCEPTED, revision: BigInt(revision) },
  });

/** The hub over a store that takes no write while `disk.full` is set. */
async function hubOnDisk() {
  const { store, clock } = await hubWith("a");
  const disk = { full: false };
  const hub = await testHub({ store: onDisk(store, disk), clock });
  return { hub, disk, roomy: store };
}

test("an agent that does not read its acks is read no further", async () => {
  const hub = await hubWith("a");
  const rev = await want(hub.store, "a", { t1: "one" });
  const agent = hub.connect("a");
  await agent.hello();
  agent.setReading(false);
  for (let i = 1; i <= 60; i++) {
    agent.send({ case: "status", value: { seq: BigInt(i), statuses: [statusOf("t1", rev + i)] } as never });
    await settle();
  }
  const stored = (await readStatus(hub.store, "t1")).stored?.status?.observedRevision;
  expect(Number(stored) - rev).toBeLessThan(25);
});

test("so many reports are stored at a time; one that waits goes with its stream", async () => {
  const last = limits.statusReports;
  const dps = Array.from({ length: last + 1 }, (_, i) => `dp-${i}`);
  const { store, clock } = await hubWith(...dps);
  const disk = Promise.withResolvers<void>();
  const written: string[] = [];
  const txn: Store["txn"] = async (t) => {
    const keys = t.then.flatMap((op) => ("put" in op ? [keyText(op.put.key)] : []));
    const statuses = keys.filter((k) => k.startsWith(prefixes.status));
    written.push(...statuses);
    if (statuses.length > 0) await disk.promise;
    return store.txn(t);
  };
  const hub = await testHub({ store: Object.assign(Object.create(store) as Store, { txn }), clock });
  const report = async (dp: string, more: number) => {
    const agent = hub.connect(dp);
    await agent.hello();
    const statuses = [statusOf(`t-${dp}`, (revs.get(dp) ?? 0) + more)];
    agent.send({ case: "status", value: { seq: 1n, statuses } as never });
    await settle();
    return agent;
  };
  const revs = new Map<string, number>();
  for (const dp of dps) revs.set(dp, await want(store, dp, { [`t-${dp}`]: "one" }));
  for (const dp of dps) await report(dp, 0);
  expect(written).toHaveLength(last);
  const again = await report(`dp-${last}`, 1);
  disk.resolve();
  await settle();
  expect(again.got.at(-1)?.case).toBe("statusAck");
  expect(written.filter((k) => k === statusKey(`t-dp-${last}`))).toHaveLength(1);
});

test("a report of two transactions whose stream ends between them changes nothing that a newer one stored", async () => {
  const { store, clock } = await hubWith("a");
  const uids = Array.from({ length: 61 }, (_, i) => `u${i}`);
  const rev = await want(store, "a", Object.fromEntries(uids.map((uid) => [uid, "one"])));
  const disk = Promise.withResolvers<void>();
  const sizes: number[] = [];
  const txn: Store["txn"] = async (t) => {
    const keys = t.then.flatMap((op) => ("put" in op ? [keyText(op.put.key)] : []));
    const statuses = keys.filter((k) => k.startsWith(prefixes.status));
    if (statuses.length > 0) sizes.push(statuses.length);
    if (statuses.length === 60) await disk.promise;
    return store.txn(t);
  };
  const hub = await testHub({ store: Object.assign(Object.create(store) as Store, { txn }), clock });
  const first = hub.connect("a");
  await first.hello();
  const old = uids.map((uid) => statusOf(uid, rev));
  first.send({ case: "status", value: { seq: 1n, statuses: old } as never });
  await settle();
  first.stream.cancel();
  const second = hub.connect("a");
  await second.hello();
  second.send({ case: "status", value: { seq: 1n, statuses: [statusOf("u60", rev + 1)] } as never });
  await settle();
  expect(second.got.at(-1)?.case).toBe("statusAck");
  disk.resolve();
  await settle();
  expect((await readStatus(store, "u59")).stored?.status).toEqual(statusOf("u59", rev));
  expect((await readStatus(store, "u60")).stored?.status).toEqual(statusOf("u60", rev + 1));
  expect(sizes).toEqual([60, 1]);
});

describe("on a full disk", () => {
  test("a report waits for room, and its stream stays up", async () => {
    const { hub, disk } = await hubOnDisk();
    const rev = await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    disk.full = true;
    agent.send({ case: "status", value: { seq: 1n, statuses: [statusOf("t1", rev)] } as never });
    await hub.clock.advance(20_000);
    expect(agent.state.ended).toBe(false);
    expect(agent.got.map((m) => m.case)).not.toContain("statusAck");
    disk.full = false;
    await hub.clock.advance(5_000);
    expect(agent.got.at(-1)).toMatchObject({ case: "statusAck", value: { seq: 1n } });
    expect((await readStatus(hub.store, "t1")).stored?.status).toEqual(statusOf("t1", rev));
  });

  test("a stream opens although that cannot be stored, which is done once there is room", async () => {
    const { hub, disk } = await hubOnDisk();
    await want(hub.store, "a", { t1: "one" });
    disk.full = true;
    const agent = hub.connect("a");
    await agent.hello();
    expect(agent.updates()).toEqual(["t1@3"]);
    const state = async () => (await readLink(hub.store, "a")).link.state;
    const live = async (ms: number) => {
      for (let t = 0; t < ms; t += 20_000) {
        agent.send({ case: "heartbeat", value: {} as never });
        await hub.clock.advance(20_000);
      }
    };
    await live(120_000);
    expect([agent.state.error, await state()]).toEqual([undefined, LinkState.UNSPECIFIED]);
    disk.full = false;
    await live(80_000);
    expect(await state()).toBe(LinkState.CONNECTED);
  });
});

test("a full disk keeps back what cannot be withheld, and the stream up", async () => {
  const { hub, disk, roomy } = await hubOnDisk();
  const old = hub.connect("a");
  await old.hello({ kinds: [] });
  await old.ack();
  disk.full = true;
  const rev = await want(roomy, "a", { t1: "one" });
  await hub.clock.advance(20_000);
  expect(old.state.error).toBeUndefined();
  expect(hub.sync.connected()[0]?.position).toBeLessThan(rev);
  disk.full = false;
  await hub.clock.advance(5_000);
  expect(hub.sync.connected()[0]?.position).toBeGreaterThanOrEqual(rev);
  expect((await readStatus(hub.store, "t1")).stored?.withheld?.reason).toBe("AgentTooOld");
});

describe("what is withheld from an agent", () => {
  test("leaves its digests as they are: nothing is compared or asked for again", async () => {
    const hub = await hubWith("a");
    const rev = await want(hub.store, "a", { t1: "one" });
    const first = hub.connect("a");
    await first.hello();
    const status = statusOf("t1", rev);
    first.send({ case: "status", value: { seq: 1n, statuses: [status] } as never });
    await first.ack();
    first.stream.cancel();
    await want(hub.store, "a", { t1: "two", t2: "never delivered" });
    // The agent was put back to a version that does not know the kind.
    const old = { kinds: [], heldDigest: digestOf({ t1: "one" }), statusDigest: statusDigest([status]) };
    const told = hub.connect("a");
    await told.hello({ ...old, cursor: first.changes().at(-1)?.cursor });
    expect([told.serverHello().resume, told.serverHello().statusKnown]).toEqual([Resume.DELTA, true]);
    expect(told.updates()).toEqual([]);
    const cursor = await told.ack();
    expect((await readStatus(hub.store, "t2")).stored?.withheld?.reason).toBe("AgentTooOld");
    told.stream.cancel();
    const again = hub.connect("a");
    await again.hello({ ...old, cursor });
    expect([again.serverHello().resume, again.serverHello().statusKnown]).toEqual([Resume.DELTA, true]);
    await again.ack();
    again.send({ case: "inventory", value: { last: true, digest: digestOf({ t1: "one" }) } });
    await settle();
    expect(again.state.ended).toBe(false);
    const report = { seq: 1n, statuses: [status], full: true, digest: statusDigest([status]) };
    again.send({ case: "status", value: report as never });
    await settle();
    expect(again.got.at(-1)?.case).toBe("statusAck");
    expect((await readStatus(hub.store, "t1")).stored?.withheld?.revision).toBeGreaterThan(BigInt(rev));
  });

  test("is withheld no longer once the agent holds it, whether sent again or kept", async () => {
    const hub = await hubWith("a");
    const rev = await want(hub.store, "a", { t1: "one", t2: "one" });
    const first = hub.connect("a");
    await first.hello();
    const statuses = [statusOf("t1", rev), statusOf("t2", rev)];
    first.send({ case: "status", value: { seq: 1n, statuses } as never });
    await first.ack();
    first.stream.cancel();
    const old = hub.connect("a");
    await old.hello({ kinds: [] });
    const cursor = await old.ack();
    old.stream.cancel();
    const withheld = async (uid: string) => (await readStatus(hub.store, uid)).stored?.withheld?.reason;
    expect([await withheld("t1"), await withheld("t2")]).toEqual(["AgentTooOld", "AgentTooOld"]);
    const upgraded = hub.connect("a");
    await upgraded.hello({ cursor });
    expect(upgraded.serverHello().resume).toBe(Resume.COMPARE);
    const held = [{ name: "tenants/t1", uid: "t1", digest: Buffer.from("one"), revision: BigInt(rev) }];
    upgraded.send({ case: "inventory", value: { held, last: true } as never });
    await settle();
    expect(upgraded.updates()).toEqual([`t2@${rev}`]);
    expect([await withheld("t1"), await withheld("t2")]).toEqual([undefined, "AgentTooOld"]);
    const judged = [statusOf("t2", rev)];
    upgraded.send({ case: "status", value: { seq: 1n, statuses: judged } as never });
    await settle();
    expect(await withheld("t2")).toBeUndefined();
    expect((await readStatus(hub.store, "t1")).stored?.status).toEqual(statusOf("t1", rev));
  });
});

test("a digest of what is held is judged at most once a minute on one stream", async () => {
  const hub = await hubWith("a");
  await want(hub.store, "a", { t1: "one" });
  const agent = hub.connect("a");
  await agent.hello();
  await agent.ack();
  const say = async (body: string) => {
    agent.send({ case: "inventory", value: { last: true, digest: digestOf({ t1: body }) } });
    await settle();
  };
  await say("one");
  await say("another");
  expect(agent.state.ended).toBe(false);
  for (let t = 0; t < limits.digestJudgedMs; t += 20_000) {
    agent.send({ case: "heartbeat", value: {} as never });
    await hub.clock.advance(20_000);
  }
  await say("another");
  expect(agent.got.at(-1)).toMatchObject({ case: "goodbye", value: { reason: "COMPARE" } });
});
