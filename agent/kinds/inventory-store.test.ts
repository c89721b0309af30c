import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { InventoryEntry } from "../apply/types.ts";
import { idKey } from "../apply/types.ts";
import { KubeError } from "../kube/errors.ts";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import { InventoryStore, SHARD_ENTRIES, assign } from "./inventory-store.ts";

const entry = (name: string): InventoryEntry => ({
  group: "",
  kind: "ConfigMap",
  namespace: "a",
  name,
  version: "v1",
  uid: "",
  desiredHash: "",
  appliedHash: "",
  phase: 0,
  state: "Pending",
});

describe("entries and shards", () => {
  it("an entry never changes its shard and none is lost or doubled", () => {
    const arb = fc.uniqueArray(fc.integer({ min: 0, max: 4_000 }), { maxLength: 4_000 });
    fc.assert(
      fc.property(arb, arb, (before, after) => {
        const first = assign(
          [],
          before.map((n) => entry(`n${n}`)),
        );
        const keys = first.map((s) => s.map(idKey));
        const second = assign(
          keys,
          after.map((n) => entry(`n${n}`)),
        );
        expect(
          second
            .flat()
            .map((e) => e.name)
            .sort(),
        ).toEqual(after.map((n) => `n${n}`).sort());
        second.forEach((s, i) => {
          expect(s.length).toBeLessThanOrEqual(SHARD_ENTRIES);
          for (const e of s) {
            const old = keys.findIndex((k) => k.includes(idKey(e)));
            if (old >= 0) expect(i).toBe(old);
          }
        });
      }),
      { numRuns: 20 },
    );
  });
});

describe("a list of all inventories", () => {
  const owner = (name: string) => ({ uid: `uid-${name}`, objectName: name, name });
  const names = (store: InventoryStore, name: string) => store.entries(`uid-${name}`).map((e) => e.name);

  async function rig() {
    const cluster = createMemoryCluster({ clock: systemClock, rng: seededRng(1) });
    const session = cluster.client().asAgent();
    const namespace = "default";
    const store = new InventoryStore({ session, namespace, term: () => 1 });
    for (const name of ["kept", "written", "dropped"]) await store.write(owner(name), [entry(name)]);
    const other = new InventoryStore({ session, namespace, term: () => 1 });
    await other.load();
    return { cluster, store, other };
  }

  it("makes no call for what is stored under this term, however the server orders members", async () => {
    const { cluster, store } = await rig();
    const same = Object.fromEntries(Object.entries(entry("kept")).reverse()) as unknown as InventoryEntry;
    cluster.forgetCalls();
    await store.write(owner("kept"), [same]);
    expect(cluster.calls).toEqual([]);
  });

  it("takes nothing away before it is whole, nor when it fails", async () => {
    const { cluster, store } = await rig();
    const down = new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
    cluster.faults = {
      before(call) {
        if (call.verb !== "list") return;
        expect(names(store, "kept")).toEqual(["kept"]);
        throw down;
      },
    };
    await expect(store.load()).rejects.toBe(down);
    expect(names(store, "kept")).toEqual(["kept"]);
  });

  it("keeps the entries of all shards, whatever index people gave them", async () => {
    const cluster = createMemoryCluster({ clock: systemClock, rng: seededRng(1) });
    const session = cluster.client().asAgent();
    const shards: [name: string, shard: unknown][] = [
      ["a", 0],
      ["a.1", 0],
      ["a.2", 20_000_000],
      ["a.3", "x"],
    ];
    for (const [name, shard] of shards) {
      await session.create({
        apiVersion: "moorage.dev/v1alpha1",
        kind: "Inventory",
        metadata: { name, namespace: "default" },
        spec: { applicationUid: "uid-a", shard, entries: [entry("shared"), entry(`of ${name}`)] },
      });
    }
    const store = new InventoryStore({ session, namespace: "default", term: () => 1 });
    await store.load();
    expect(names(store, "a")).toEqual(["shared", "of a", "of a.1", "of a.2", "of a.3"]);
    await store.write(owner("a"), [...store.entries("uid-a"), entry("more")]);
    await store.load();
    expect(names(store, "a").sort()).toEqual(["more", "of a", "of a.1", "of a.2", "of a.3", "shared"]);
    await store.drop("uid-a");
    expect(cluster.store.list({ apiVersion: "moorage.dev/v1alpha1", kind: "Inventory" })).toEqual([]);
  });

  it("gives a new shard a name that no shard has", async () => {
    const cluster = createMemoryCluster({ clock: systemClock, rng: seededRng(1) });
    const session = cluster.client().asAgent();
    const store = new InventoryStore({ session, namespace: "default", term: () => 1 });
    const many = Array.from({ length: SHARD_ENTRIES + 1 }, (_, i) => entry(`n${i}`));
    await store.write(owner("a"), many);
    await session.delete({
      apiVersion: "moorage.dev/v1alpha1",
      kind: "Inventory",
      namespace: "default",
      name: "a",
    });
    await store.load();
    expect(names(store, "a")).toHaveLength(1);
    await store.write(owner("a"), many);
    await store.load();
    expect(names(store, "a")).toHaveLength(SHARD_ENTRIES + 1);
  });

  it("brings what another agent wrote and removed, and keeps what is written meanwhile", async () => {
    const { cluster, store, other } = await rig();
    await other.write(owner("kept"), [entry("kept"), entry("more")]);
    await other.write(owner("new"), [entry("new")]);
    const listed = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    cluster.faults = {
      async after(call) {
        if (call.verb !== "list") return;
        listed.resolve();
        await go.promise;
      },
    };
    const loading = store.load();
    await listed.promise;
    await store.write(owner("written"), [entry("written"), entry("meanwhile")]);
    await store.drop("uid-dropped");
    go.resolve();
    await loading;
    expect(names(store, "kept")).toEqual(["kept", "more"]);
    expect(names(store, "new")).toEqual(["new"]);
    expect(names(store, "written")).toEqual(["written", "meanwhile"]);
    expect(store.owners()).not.toContain("uid-dropped");
    await other.drop("uid-new");
    await store.load();
    expect(store.owners()).not.toContain("uid-new");
  });
});
