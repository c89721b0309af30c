import { create } from "@bufbuild/protobuf";
import { ResourceStatusSchema, Resume, Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { heldDigest, statusDigest } from "@moorage/shared/sync-digest";
import { describe, expect, test } from "vitest";
import type { Store } from "../store/store.ts";
import { readLink } from "./links.ts";
import { readStatus } from "./rows.ts";
import { hubWith, onDisk, remove, settle, testHub, want } from "./testing.ts";

/** What an agent that holds these bodies says of them. */
const digestOf = (bodies: Record<string, string>) =>
  heldDigest(
    Object.entries(bodies).map(([uid, body]) => ({ name: `tenants/${uid}`, uid, digest: Buffer.from(body) })),
  );

describe("a stream", () => {
  test("sends everything to an agent that holds nothing, and each change once after that", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one", t2: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    expect(agent.serverHello().resume).toBe(Resume.SNAPSHOT);
    expect(agent.updates()).toEqual(["t1@3", "t2@3"]);
    expect(agent.changes().at(-1)?.initialEnd).toBe(true);
    await agent.ack();
    const rev = await want(hub.store, "a", { t1: "two" });
    await settle();
    expect(agent.updates()).toEqual(["t1@3", "t2@3", `t1@${rev}`]);
    expect(agent.changes().at(-1)?.cursor?.revision).toBe(BigInt(rev));
  });

  test("resumes from a cursor with the newest state of each changed resource, once", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one", t2: "one", t3: "one" });
    const first = hub.connect("a");
    await first.hello();
    const cursor = await first.ack();
    first.stream.cancel();
    for (let i = 0; i < 5; i++) await want(hub.store, "a", { t2: `v${i}` });
    const rev = await remove(hub.store, "a", "t3");
    const again = hub.connect("a");
    await again.hello({ cursor, heldDigest: digestOf({ t1: "one", t2: "one", t3: "one" }) });
    expect(again.serverHello().resume).toBe(Resume.DELTA);
    expect(again.updates()).toEqual([`t2@${rev - 1}`, `-t3@${rev}`]);
    await again.ack();
    again.send({ case: "inventory", value: { last: true, digest: digestOf({ t1: "one", t2: "v4" }) } });
    await settle();
    expect(again.state.ended).toBe(false);
  });

  test("compares with an agent that lacks something besides what changed while it was away", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one", t2: "one" });
    const first = hub.connect("a");
    await first.hello();
    const cursor = await first.ack();
    first.stream.cancel();
    await want(hub.store, "a", { t2: "two" });
    const again = hub.connect("a");
    await again.hello({ cursor, heldDigest: digestOf({ t2: "one" }) });
    expect(again.serverHello().resume).toBe(Resume.DELTA);
    const later = await again.ack();
    again.send({ case: "inventory", value: { last: true, digest: digestOf({ t2: "two" }) } });
    await settle();
    expect(again.got.at(-1)).toMatchObject({ case: "goodbye", value: { reason: "COMPARE" } });
    const third = hub.connect("a");
    await third.hello({ cursor: later, heldDigest: digestOf({ t2: "two" }) });
    expect(third.serverHello().resume).toBe(Resume.COMPARE);
  });

  test("resends nothing after a restart of the hub when nothing changed", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const first = hub.connect("a");
    await first.hello();
    const cursor = await first.ack();
    await hub.stop();
    await settle();
    expect(first.state.error?.reason).toBe("STOPPING");
    const restarted = await testHub({ store: hub.store, clock: hub.clock });
    const again = restarted.connect("a");
    await again.hello({
      cursor,
      heldDigest: digestOf({ t1: "one" }),
    });
    expect(again.serverHello().resume).toBe(Resume.DELTA);
    expect(again.updates()).toEqual([]);
    expect(again.changes().at(-1)?.initialEnd).toBe(true);
  });

  test("compares under another epoch: sends what differs, leaves what the hub does not know", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const rev = await want(hub.store, "a", { t2: "two", t3: "three" });
    const agent = hub.connect("a");
    await agent.hello({ cursor: { epoch: new Uint8Array(16), revision: 900n } });
    expect(agent.serverHello().resume).toBe(Resume.COMPARE);
    expect(agent.updates()).toEqual([]);
    const held = [
      { name: "tenants/t1", uid: "t1", digest: Buffer.from("one"), revision: 1n },
      { name: "tenants/t2", uid: "t2", digest: Buffer.from("old"), revision: 1n },
      { name: "tenants/alien", uid: "alien", digest: Buffer.from("x"), revision: 5n },
    ];
    agent.send({ case: "inventory", value: { held, last: true } as never });
    await settle();
    expect(agent.updates()).toEqual([`t2@${rev}`, `t3@${rev}`]);
    expect(hub.sync.connected()[0]?.unknownToHub).toEqual(["alien"]);
  });

  test("compares when the digest of what is held differs", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const first = hub.connect("a");
    await first.hello();
    const cursor = await first.ack();
    first.stream.cancel();
    const again = hub.connect("a");
    await again.hello({ cursor, heldDigest: heldDigest([]) });
    expect(again.serverHello().resume).toBe(Resume.COMPARE);
    again.send({ case: "inventory", value: { held: [], last: true } as never });
    await settle();
    expect(again.updates()).toEqual(["t1@3"]);
  });

  test("keeps a tombstone until the agent reports gone, then drops it", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    const rev = await remove(hub.store, "a", "t1");
    await settle();
    expect(agent.updates()).toEqual(["t1@3", `-t1@${rev}`]);
    agent.send({
      case: "status",
      value: { seq: 1n, statuses: [{ uid: "t1", name: "tenants/t1", gone: true }] } as never,
    });
    await settle();
    expect(agent.got.at(-1)?.case).toBe("statusAck");
    expect(await hub.store.resByUid("a", "t1")).toBeUndefined();
    expect(await hub.store.floor("a")).toBe(rev);
  });

  test("does not end a live resource that an agent calls gone", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    agent.send({ case: "status", value: { seq: 1n, statuses: [{ uid: "t1", gone: true }] } as never });
    await settle();
    expect((await hub.store.resByUid("a", "t1"))?.del).toBe(false);
  });

  test("ignores the status of what the hub does not know, and denies that of another's resource", async () => {
    const hub = await hubWith("a", "b");
    await want(hub.store, "b", { t1: "one" });
    await want(hub.store, "a", { own: "one" });
    await hub.store.txn({
      then: [{ put: { key: Buffer.from("uids/t1"), value: Buffer.from("tenants/t1") } }],
    });
    const agent = hub.connect("a");
    await agent.hello();
    agent.send({ case: "status", value: { seq: 1n, statuses: [{ uid: "nobody" }] } as never });
    await settle();
    expect(agent.got.at(-1)?.case).toBe("statusAck");
    for (const gone of [false, true]) {
      const thief = hub.connect("a");
      await thief.hello();
      thief.send({
        case: "status",
        value: { seq: 1n, statuses: [{ uid: "own" }, { uid: "t1", gone }] } as never,
      });
      await settle();
      expect(thief.state.error?.reason).toBe("NOT_YOUR_RESOURCE");
    }
    expect((await readStatus(hub.store, "t1")).stored).toBeUndefined();
    expect((await readStatus(hub.store, "own")).stored).toBeUndefined();
    expect((await hub.store.resByUid("b", "t1"))?.del).toBe(false);
  });

  test("asks once for everything when a full report and the store disagree", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    const report = (seq: bigint, digest: Uint8Array) =>
      agent.send({ case: "status", value: { seq, statuses: [{ uid: "t1" }], full: true, digest } as never });
    report(1n, new Uint8Array(32));
    await settle();
    expect(agent.got.slice(-2).map((m) => m.case)).toEqual(["statusAck", "reportRequest"]);
    report(2n, new Uint8Array(32));
    await settle();
    expect(agent.got.at(-1)?.case).toBe("statusAck");
    const right = hub.connect("a");
    await right.hello();
    const status = create(ResourceStatusSchema, { uid: "t1" });
    right.send({
      case: "status",
      value: { seq: 1n, statuses: [status], full: true, digest: statusDigest([status]) } as never,
    });
    await settle();
    expect(right.got.at(-1)?.case).toBe("statusAck");
  });

  test("stores a status once and knows it again by its digest", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    expect(agent.serverHello().statusKnown).toBe(false);
    const cursor = await agent.ack();
    const status = create(ResourceStatusSchema, { uid: "t1", name: "tenants/t1", observedGeneration: 1n });
    agent.send({ case: "status", value: { seq: 1n, statuses: [status] } as never });
    await settle();
    const { rev } = await hub.store.status();
    agent.send({ case: "status", value: { seq: 2n, statuses: [status] } as never });
    await settle();
    expect((await hub.store.status()).rev).toBe(rev);
    agent.stream.cancel();
    const again = hub.connect("a");
    await again.hello({ cursor, statusDigest: statusDigest([status]) });
    expect(again.serverHello().statusKnown).toBe(true);
  });

  test("does not send a rejected revision again, neither on a return nor in a compare", async () => {
    const hub = await hubWith("a");
    const rev = await want(hub.store, "a", { t1: "bad" });
    const agent = hub.connect("a");
    await agent.hello();
    const verdict = {
      state: Verdict_State.REJECTED,
      revision: BigInt(rev),
      reason: "ParametersInvalid",
      message: "",
    };
    agent.send({ case: "status", value: { seq: 1n, statuses: [{ uid: "t1", verdict }] } as never });
    const cursor = await agent.ack();
    agent.stream.cancel();
    // Held is the newest body received, accepted or not.
    const back = hub.connect("a");
    await back.hello({ cursor, heldDigest: digestOf({ t1: "bad" }) });
    expect(back.serverHello().resume).toBe(Resume.DELTA);
    expect(back.updates()).toEqual([]);
    back.stream.cancel();
    const again = hub.connect("a");
    await again.hello({ cursor, heldDigest: new Uint8Array(32) });
    expect(again.serverHello().resume).toBe(Resume.COMPARE);
    const held = [{ name: "tenants/t1", uid: "t1", digest: Buffer.from("bad"), revision: BigInt(rev) }];
    again.send({ case: "inventory", value: { held, last: true } as never });
    await settle();
    expect(again.updates()).toEqual([]);
  });

  test("withholds what the agent cannot take, says so, and sends it once it can", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const old = hub.connect("a");
    await old.hello({ kinds: [] });
    expect(old.updates()).toEqual([]);
    const verdict = (await readStatus(hub.store, "t1")).stored?.withheld;
    expect(verdict?.reason).toBe("AgentTooOld");
    const cursor = await old.ack();
    old.stream.cancel();
    const upgraded = hub.connect("a");
    await upgraded.hello({ cursor });
    expect(upgraded.serverHello().resume).toBe(Resume.COMPARE);
    upgraded.send({ case: "inventory", value: { last: true } as never });
    await settle();
    expect(upgraded.updates()).toEqual(["t1@3"]);
  });

  test("stops at the window for an agent that does not ack, and skips to the newest state", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello({ limits: { windowItems: 10, windowBytes: 0, maxMessageBytes: 0 } });
    await agent.ack();
    for (let i = 0; i < 50; i++) await want(hub.store, "a", { [`t${i % 25}`]: `v${i}` });
    await settle();
    expect(agent.updates().length).toBeLessThanOrEqual(11);
    for (let i = 0; i < 20; i++) await agent.ack();
    const newest = new Map(agent.updates().map((u) => u.split("@") as [string, string]));
    expect(newest.size).toBe(25);
    expect(agent.updates().length).toBeLessThan(50);
  });

  test("R9: what changes behind a full window is sent once, in its newest state", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello({ limits: { windowItems: 10, windowBytes: 0, maxMessageBytes: 0 } });
    await agent.ack();
    const uids = Array.from({ length: 30 }, (_, i) => `t${i}`);
    const write = async (body: string) => {
      for (const uid of uids) await want(hub.store, "a", { [uid]: body });
      await settle();
    };
    await write("first");
    const ahead = agent.updates().length;
    expect(ahead).toBeLessThanOrEqual(10);
    for (let i = 0; i < 5; i++) await write(`state ${i}`);
    const { rev } = await hub.store.status();
    for (let i = 0; i < 40; i++) await agent.ack();
    const after = agent.updates().slice(ahead);
    expect(after.map((u) => u.split("@")[0]).sort()).toEqual([...uids].sort());
    for (const u of after) expect(Number(u.split("@")[1])).toBeGreaterThan(rev - uids.length);
  });

  test("sends bookmarks while changes wait for acks, without a cursor that would skip them", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello({ limits: { windowItems: 10, windowBytes: 0, maxMessageBytes: 0 } });
    await agent.ack();
    await want(hub.store, "a", { first: "1" });
    await settle();
    const rev = await want(
      hub.store,
      "a",
      Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`t${i}`, "x"])),
    );
    for (let i = 0; i < 8; i++) {
      await hub.clock.advance(20_000);
      agent.send({ case: "heartbeat", value: {} as never });
    }
    const bookmarks = () => agent.got.flatMap((m) => (m.case === "bookmark" ? [m.value] : []));
    expect(bookmarks().map((b) => [b.cursor, b.echo])).toEqual([
      [undefined, 1n],
      [undefined, 2n],
    ]);
    await agent.ack();
    expect(agent.updates()).toHaveLength(31);
    expect(agent.changes().at(-1)?.cursor?.revision).toBe(BigInt(rev));
  });

  test("stops when the transport is full: a reader that stalls costs a bounded queue", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    agent.setReading(false);
    await agent.hello();
    for (let i = 0; i < 300; i++) {
      await want(hub.store, "a", { [`t${i}`]: "x" });
      if (i % 10 === 0) await settle();
    }
    const position = hub.sync.connected()[0]?.position ?? 0;
    expect(position).toBeLessThan((await hub.store.status()).rev);
    agent.setReading(true);
    for (let i = 0; i < 40; i++) {
      await settle();
      await agent.ack();
    }
    expect(new Set(agent.updates()).size).toBe(300);
  });
});

describe("silence", () => {
  const stateOf = async (hub: { store: Store }) => (await readLink(hub.store, "a")).link.state;

  test("is stored as two transitions, each once, and undone by the next stream", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello();
    expect(await stateOf(hub)).toBe(LinkState.CONNECTED);
    const { rev } = await hub.store.status();
    for (let i = 0; i < 6; i++) {
      await hub.clock.advance(20_000);
      agent.send({ case: "heartbeat", value: {} as never });
      await settle();
    }
    expect((await hub.store.status()).rev).toBe(rev);
    await hub.clock.advance(44_000);
    expect(await stateOf(hub)).toBe(LinkState.CONNECTED);
    await hub.clock.advance(2_000);
    expect(await stateOf(hub)).toBe(LinkState.DISCONNECTED);
    expect(agent.state.error?.reason).toBe("NO_HEARTBEAT");
    await hub.clock.advance(45_000);
    expect(await stateOf(hub)).toBe(LinkState.SILENT);
    await hub.clock.advance(3_600_000);
    expect((await hub.store.status()).rev).toBe(rev + 2);
    const back = hub.connect("a");
    await back.hello();
    expect(await stateOf(hub)).toBe(LinkState.CONNECTED);
  });

  test("is stored late when the disk was full at its time", async () => {
    const { store, clock } = await hubWith("a");
    const disk = { full: false };
    const hub = await testHub({ store: onDisk(store, disk), clock });
    const agent = hub.connect("a");
    await agent.hello();
    disk.full = true;
    await clock.advance(60_000);
    expect(agent.state.error?.reason).toBe("NO_HEARTBEAT");
    disk.full = false;
    await clock.advance(10_000);
    expect(await stateOf(hub)).toBe(LinkState.DISCONNECTED);
    disk.full = true;
    await clock.advance(3_600_000);
    disk.full = false;
    await clock.advance(10_000);
    expect(await stateOf(hub)).toBe(LinkState.SILENT);
    await hub.stop();
  });

  test("after a restart of the hub counts from the start plus a grace", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello();
    await hub.stop();
    await settle();
    await hub.clock.advance(600_000);
    const restarted = await testHub({ store: hub.store, clock: hub.clock });
    await hub.clock.advance(74_000);
    expect(await stateOf(hub)).toBe(LinkState.CONNECTED);
    await hub.clock.advance(2_000);
    expect(await stateOf(hub)).toBe(LinkState.DISCONNECTED);
    await hub.clock.advance(46_000);
    expect(await stateOf(hub)).toBe(LinkState.SILENT);
    await restarted.stop();
  });

  test("ends with the first Ready of the data plane remembered", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { a: "dp" });
    const agent = hub.connect("a");
    await agent.hello();
    const conditions = [{ type: "Ready", status: "True", reason: "Ready" }];
    agent.send({ case: "status", value: { seq: 1n, statuses: [{ uid: "a", conditions }] } as never });
    await settle();
    expect((await readLink(hub.store, "a")).link.initializedTime).toBeDefined();
  });
});

describe("draining", () => {
  test("says Goodbye to each stream in its own moment and refuses new ones", async () => {
    const hub = await hubWith("a", "b");
    const agents = [hub.connect("a"), hub.connect("b")];
    for (const agent of agents) await agent.hello();
    const drained = hub.sync.drain(1_000);
    await hub.clock.advance(1_000);
    await drained;
    for (const agent of agents) {
      expect(agent.got.slice(-2).map((m) => m.case)).toEqual(["bookmark", "goodbye"]);
      expect(agent.state).toEqual({ ended: true, error: undefined });
    }
    const late = hub.connect("a");
    await late.hello();
    expect(late.state.error?.reason).toBe("DRAINING");
  });

  test("a bookmark carries the position past other data planes' revisions", async () => {
    const hub = await hubWith("a", "b");
    const agent = hub.connect("a");
    await agent.hello();
    const rev = await want(hub.store, "b", { t1: "one" });
    for (let i = 0; i < 4; i++) {
      await hub.clock.advance(20_000);
      agent.send({ case: "heartbeat", value: {} as never });
    }
    const bookmark = agent.got.find((m) => m.case === "bookmark");
    expect(bookmark?.case === "bookmark" && bookmark.value.cursor?.revision).toBeGreaterThanOrEqual(
      BigInt(rev),
    );
  });
});
