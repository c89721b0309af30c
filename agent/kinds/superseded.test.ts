/** What changes while a run waits, through the whole agent: nothing is written on grounds that no longer hold. */
import { expect, it } from "vitest";
import type { Agent } from "../create-agent.ts";
import { KubeError } from "../kube/errors.ts";
import type { MemoryCall } from "../kube/memory-cluster.ts";
import { dig } from "../kube/object.ts";
import { cursorAt, tombstone, upsert } from "../mirror/testing.ts";
import { apiVersion, namespace, rig } from "./testing.ts";

const writesOf = (calls: readonly MemoryCall[]) =>
  calls.filter((c) => c.process === "a" && (c.verb === "apply" || c.verb === "delete"));

it.each(["install", "removal"])("begins no write once the Lease is lost: %s", async (what) => {
  const r = await rig({ more: 39 });
  const application = r.application();
  if (what === "removal") {
    await r.put(application);
    await r.until("Ready", "True");
  } else await r.clock.advance(5_000);
  const tenants = (call: MemoryCall) => call.process === "a" && call.identity.kind === "ServiceAccount";
  const held: boolean[] = [];
  r.cluster.faults = {
    async before(call) {
      if (call.ref.kind === "Lease" && call.process === "a" && held.length > 0)
        throw new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
      if (!tenants(call) || (call.verb !== "apply" && call.verb !== "delete")) return;
      held.push(r.agent.leading?.leaseHeld() === true);
      await new Promise<void>((resolve) => r.clock.setTimer(8_000, resolve));
    },
  };
  if (what === "removal") {
    const { metadata } = application;
    await r.session.delete({ ...application, name: metadata.name, namespace: metadata.namespace });
  } else await r.put(application);
  for (let i = 0; i < 2_000 && held.length === 0; i++) await r.clock.advance(250);
  const other = r.start("b");
  await r.clock.advance(60_000);
  expect(other.agent.leading?.leaseHeld()).toBe(true);
  expect(held.length).toBeGreaterThan(0);
  expect(held.length).toBeLessThan(40);
  expect(held).not.toContain(false);
  r.cluster.faults = {};
  const left = () =>
    r.cluster.store
      .list({ apiVersion: "v1", kind: "ConfigMap" })
      .filter((o) => o.metadata.namespace === "tenant-acme").length;
  const wanted = what === "removal" ? 0 : 40;
  for (let i = 0; i < 2_000 && left() !== wanted; i++) await r.clock.advance(250);
  expect(left()).toBe(wanted);
  await r.end();
  await other.end();
});

it("stores the inventory under its own term before a term's first write, and only then", async () => {
  const r = await rig();
  await r.put(r.application({ text: "old" }));
  await r.until("Ready", "True");
  await r.end();
  r.cluster.forgetCalls();
  const second = r.start("a");
  await r.clock.advance(10 * 60_000);
  const written = (kind: string) =>
    r.cluster.calls.filter((c) => c.ref.kind === kind && ["create", "update", "apply"].includes(c.verb));
  expect(written("Inventory"), "nothing changes").toEqual([]);
  const order = r.application({ text: "new" });
  const found = await r.session.get({ ...order, ...order.metadata });
  await r.session.update({ ...found, spec: order.spec });
  const terms: unknown[] = [];
  r.cluster.faults = {
    before(call) {
      if (call.verb !== "apply" || call.identity.kind !== "ServiceAccount") return;
      const shards = r.cluster.store.list({ apiVersion, kind: "Inventory" });
      terms.push(shards.find((o) => o.metadata.name === "acme.web")?.["spec"]);
    },
  };
  const text = async () => dig(await r.session.get(r.configMap), "data", "text");
  for (let i = 0; i < 2_000 && (await text()) !== "new"; i++) await r.clock.advance(250);
  expect(terms).toMatchObject([{ term: second.agent.leading?.term }]);
  await second.end();
});

it("writes no object of an application whose inventory another agent wrote meanwhile", async () => {
  const r = await rig();
  await r.put(r.application({ text: "old" }));
  await r.until("Ready", "True");
  await r.end();
  const second = r.start("a");
  await r.clock.advance(60_000);
  const ref = { apiVersion, kind: "Inventory", namespace, name: "acme.web" };
  const inventory = await r.session.get(ref);
  await r.session.update({ ...inventory, metadata: { ...inventory.metadata, labels: { other: "agent" } } });
  const order = r.application({ text: "new" });
  const found = await r.session.get({ ...order, ...order.metadata });
  r.cluster.forgetCalls();
  await r.session.update({ ...found, spec: order.spec });
  const text = async () => dig(await r.session.get(r.configMap), "data", "text");
  for (let i = 0; i < 2_000 && (await text()) !== "new"; i++) await r.clock.advance(250);
  const calls = r.cluster.calls.filter((c) => c.process === "a" && c.dryRun === false);
  const of = calls.filter((c) => c.ref.kind === "Inventory" || c.identity.kind === "ServiceAccount");
  const verbs = of.filter((c) => c.verb !== "get").map((c) => `${c.verb} ${c.ref.kind}`);
  // Refused, read anew, stored under this term, and only then the object.
  expect(verbs.slice(0, 4)).toEqual([
    "update Inventory",
    "list Inventory",
    "update Inventory",
    "apply ConfigMap",
  ]);
  await second.end();
});

it("writes nothing when the policy became Observe while the bundle was fetched", async () => {
  const r = await rig();
  await r.clock.advance(5_000);
  const fetched = Promise.withResolvers<void>();
  r.cluster.faults = {
    before: (call) => (call.verb === "get" && call.ref.kind === "BundleChunk" ? fetched.promise : undefined),
  };
  await r.put(r.application());
  await r.clock.advance(3_000);
  await r.setMode("Observe");
  await r.clock.advance(5_000);
  r.cluster.forgetCalls();
  fetched.resolve();
  const reason = async () => (await r.condition("Ready"))?.reason;
  for (let i = 0; i < 2_000 && (await reason()) !== "Paused"; i++) await r.clock.advance(250);
  await r.clock.advance(60_000);
  expect(writesOf(r.cluster.calls)).toEqual([]);
  expect(await reason()).toBe("Paused");
  await r.setMode("Auto");
  await r.until("Ready", "True");
  await r.end();
});

/** The hub's word on tenant "blue", as the link hands it on: wanted, or `gone`. */
const told = (agent: Agent, revision: number, gone = false) =>
  agent.leading?.mirror.apply(
    {
      updates: [(gone ? tombstone : upsert)("tenants/blue", { uid, revision })],
      cursor: cursorAt(revision),
    },
    new AbortController().signal,
  );
const uid = "11111111-0000-4000-8000-000000000001";
const blue = { apiVersion: "v1", kind: "Namespace", name: "tenant-blue" };

it("deletes no namespace when the order was withdrawn while the live objects were read", async () => {
  const r = await rig();
  await r.clock.advance(5_000);
  await told(r.agent, 1);
  await r.clock.advance(10_000);
  await r.setMode("Observe");
  await r.clock.advance(1_000);
  await told(r.agent, 2, true);
  await r.end();
  await r.setMode("Auto");
  const read = Promise.withResolvers<void>();
  r.cluster.faults = {
    before: (call) => (call.ref.kind === "NetworkPolicy" && call.verb !== "apply" ? read.promise : undefined),
  };
  const { agent, end } = r.start("b");
  await r.clock.advance(30_000);
  expect(agent.leading?.mirror.get(uid)?.removal?.revision).toBe(2);
  await told(agent, 3);
  read.resolve();
  await r.clock.advance(30_000);
  expect((await r.session.get(blue)).metadata.deletionTimestamp).toBeUndefined();
  expect(r.cluster.calls.filter((c) => c.verb === "delete" && c.ref.kind === "Namespace")).toEqual([]);
  await end();
});

it("ends no removal whose order was withdrawn while its inventory was dropped", async () => {
  const r = await rig();
  await r.clock.advance(5_000);
  await told(r.agent, 1);
  await r.clock.advance(10_000);
  const dropped = Promise.withResolvers<void>();
  r.cluster.faults = {
    before: (call) => (call.verb === "delete" && call.ref.kind === "Inventory" ? dropped.promise : undefined),
  };
  await told(r.agent, 2, true);
  await r.clock.advance(60_000);
  await told(r.agent, 3);
  dropped.resolve();
  await r.clock.advance(60_000);
  expect(r.agent.leading?.mirror.get(uid)).toMatchObject({ revision: 3, removal: undefined });
  expect((await r.session.get(blue)).metadata.deletionTimestamp).toBeUndefined();
  await r.end();
});
