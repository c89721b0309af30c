import { randomBytes } from "node:crypto";
import { Resume } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { expect, test } from "vitest";
import { hubWith, settle, want } from "./testing.ts";

/** A stream of an agent without a cursor that holds these rows in another state, at this revision. */
async function comparing(revision: bigint) {
  const hub = await hubWith("a");
  const { store } = hub;
  for (const uid of ["t1", "t2"]) {
    await want(store, "a", { [uid]: "one" });
    const puts = { [`uids/${uid}`]: `tenants/${uid}`, [`tenants/${uid}`]: "record" };
    const then = Object.entries(puts).map(([k, v]) => ({
      put: { key: Buffer.from(k), value: Buffer.from(v) },
    }));
    await store.txn({ then });
  }
  const agent = hub.connect("a");
  await agent.hello({ heldDigest: randomBytes(32), limits: { windowItems: 1 } });
  expect(agent.serverHello().resume).toBe(Resume.COMPARE);
  const opened = (await store.status()).rev;
  const held = ["t1", "t2"].map((uid) => ({
    name: `tenants/${uid}`,
    uid,
    digest: Buffer.from("another"),
    revision,
  }));
  agent.send({ case: "inventory", value: { held, last: true } as never });
  for (let i = 0; i < 10; i++) await settle();
  return { hub, agent, risen: async () => (await store.status()).rev - opened };
}

test("a row that is held at a revision above the head is written anew once a compare, which then ends", async () => {
  const { hub, agent, risen } = await comparing(BigInt(Number.MAX_SAFE_INTEGER));
  expect(await risen()).toBeLessThanOrEqual(2);
  expect(agent.updates()).toEqual([]);
  expect(agent.changes().at(-1)?.initialEnd).toBe(true);
  const left = hub.log.records.filter((r) => r.message === "Held at a revision that no row reaches");
  expect(left.map((r) => r.fields["uid"])).toEqual(["t1"]);
  await agent.ack();
  const rev = await want(hub.store, "a", { t1: "two" });
  await settle();
  expect(agent.updates()).toEqual([`t1@${rev}`]);
});

test("a row that is held at a revision of the hub is written anew, and goes out", async () => {
  const { agent, risen } = await comparing(6n);
  for (let i = 0; i < 3; i++) await agent.ack();
  expect(await risen()).toBe(2);
  expect(agent.updates().map((u) => u.split("@")[0])).toEqual(["t1", "t2"]);
  expect(agent.changes().at(-1)?.initialEnd).toBe(true);
});

test.each([-1n, BigInt(Number.MAX_SAFE_INTEGER) + 1n])(
  "a held revision of %s is refused",
  async (revision) => {
    const { agent, risen } = await comparing(revision);
    expect(agent.state.error).toMatchObject({ reason: "PROTOCOL_VIOLATION" });
    expect(agent.state.error?.message).toContain(`holds "tenants/t1" at revision "${revision}"`);
    expect(await risen()).toBe(0);
  },
);
