import { describe, expect, it } from "vitest";
import type { Clock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { KubeError } from "../kube/errors.ts";
import { createMemoryCluster, type MemoryCluster } from "../kube/memory-cluster.ts";
import { dig, refOf, type KubeObject } from "../kube/object.ts";
import type { ApplyPolicy, ApplyResult, ApplySetInput } from "./apply-set.ts";
import { ON_REMOVE_ANNOTATION, PART_OF_LABEL } from "./labels.ts";
import { LiveCache, reduceMember } from "./live.ts";
import { applySet } from "./run.ts";
import type { InventoryEntry } from "./types.ts";

const fixed: Clock = { now: () => Date.UTC(2030, 0, 1), monotonicMs: () => 0, setTimer: () => ({ cancel: () => {} }) };
const WRITES = new Set(["create", "update", "apply", "patch", "delete"]);

/** One application on one in-memory cluster; the inventory survives between runs. */
function application(cluster: MemoryCluster, name = "shop") {
  const client = cluster.client();
  const reduce = { now: fixed.now };
  const live = new LiveCache({ session: client.asAgent(), discovery: client.discovery, reduce });
  const state = { inventory: [] as readonly InventoryEntry[], writes: [] as (readonly InventoryEntry[])[] };
  const input: Omit<ApplySetInput, "desired" | "inventory"> = {
    applier: { scope: "DataPlane", session: client.asAgent() },
    discovery: client.discovery,
    live,
    reduce,
    identity: { parent: { name, namespace: "moorage", kind: "Application", group: "moorage.dev" }, fieldManager: `moorage.${name}`, application: name, dataPlane: "dp" },
    defaultNamespace: "default",
    writeInventory: (entries) => {
      state.inventory = entries;
      state.writes.push(entries);
      return Promise.resolve();
    },
  };
  return {
    state,
    live,
    input,
    /** What a reflector does: takes the cluster's state in. */
    sync() {
      for (const kind of cluster.store.kinds()) {
        for (const version of kind.versions) {
          const apiVersion = kind.group === "" ? version : `${kind.group}/${version}`;
          const seen = cluster.store.list({ apiVersion, kind: kind.kind });
          for (const s of [...live.states()]) {
            if (s.id.kind === kind.kind && s.id.group === kind.group && !seen.some((o) => o.metadata.uid === s.uid)) live.forget(s.id, s.uid);
          }
          for (const o of seen) if (o.metadata.labels?.[PART_OF_LABEL] !== undefined) live.observe(reduceMember(o, reduce));
        }
      }
    },
    run(desired: readonly KubeObject[], policy: ApplyPolicy = {}): Promise<ApplyResult> {
      return applySet({ ...input, desired, inventory: state.inventory, policy });
    },
  };
}

const newCluster = () => createMemoryCluster({ clock: fixed, rng: seededRng(7) });
const configMap = (name: string, data: Record<string, string> = { a: "1" }, metadata: object = {}): KubeObject => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, ...metadata }, data });
const actions = (result: ApplyResult) => result.objects.map((o) => `${o.id.name}:${o.action}`);
const writesOf = (cluster: MemoryCluster) => cluster.calls.filter((c) => WRITES.has(c.verb) && !c.dryRun);
const read = (cluster: MemoryCluster, name: string, kind = "ConfigMap") => cluster.store.get({ apiVersion: "v1", kind, name, ...(kind === "Namespace" ? {} : { namespace: "default" }) });
const exists = (cluster: MemoryCluster, name: string) => cluster.store.list({ apiVersion: "v1", kind: "ConfigMap" }).some((o) => o.metadata.name === name);

describe("applySet", () => {
  it("lists every new identity before the first create, and the uids after", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    let listedAtCreate: readonly string[] = [];
    cluster.faults = {
      before: (call) => {
        if (call.verb === "apply" && listedAtCreate.length === 0) listedAtCreate = app.state.inventory.map((e) => `${e.name}:${e.state}:${e.uid}`);
      },
    };
    const result = await app.run([configMap("a"), configMap("b")]);
    expect(listedAtCreate).toEqual(["a:Pending:", "b:Pending:"]);
    expect(result.applied).toBe(true);
    expect(actions(result)).toEqual(["a:Created", "b:Created"]);
    expect(app.state.inventory.map((e) => e.state)).toEqual(["Applied", "Applied"]);
    expect(app.state.inventory.every((e) => e.uid !== "" && e.appliedHash !== "")).toBe(true);
    expect(app.state.writes).toHaveLength(2);
  });

  it("makes no call at all for a converged set, also after a restart with a fresh cache", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("b")]);
    const restarted = application(cluster);
    restarted.state.inventory = app.state.inventory;
    restarted.sync();
    cluster.forgetCalls();
    const result = await restarted.run([configMap("a"), configMap("b")]);
    expect(actions(result)).toEqual(["a:Unchanged", "b:Unchanged"]);
    expect(cluster.calls).toEqual([]);
    expect(restarted.state.writes).toEqual([]);
  });

  it("makes one PATCH for one change of a known object, and no inventory write before it", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("b")]);
    app.state.writes = [];
    cluster.forgetCalls();
    const result = await app.run([configMap("a", { a: "2" }), configMap("b")]);
    expect(actions(result)).toEqual(["a:Configured", "b:Unchanged"]);
    expect(cluster.calls.map((c) => c.verb)).toEqual(["apply"]);
    expect(app.state.writes).toHaveLength(1);
  });

  it("repairs drift of a changed field and of an added one with the watch's news alone", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a", { a: "1" })]);
    const agent = cluster.client().asAgent();
    await agent.mergePatch(refOf(read(cluster, "a")), { data: { a: "9", extra: "x" } }, { fieldManager: "kubectl-edit" });
    app.sync();
    const result = await app.run([configMap("a", { a: "1" })]);
    expect(result.drifted.map((id) => id.name)).toEqual(["a"]);
    expect(read(cluster, "a")["data"]).toEqual({ a: "1" });
    app.sync();
    cluster.forgetCalls();
    expect(actions(await app.run([configMap("a", { a: "1" })]))).toEqual(["a:Unchanged"]);
    expect(cluster.calls).toEqual([]);
  });

  it("recreates a deleted object", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a")]);
    cluster.store.delete(refOf(read(cluster, "a")), {});
    app.sync();
    const result = await app.run([configMap("a")]);
    expect(actions(result)).toEqual(["a:Created"]);
    expect(result.drifted).toHaveLength(1);
  });

  it("only reports drift under the Warn policy", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a")]);
    await cluster.client().asAgent().mergePatch(refOf(read(cluster, "a")), { data: { a: "9" } }, { fieldManager: "somebody" });
    app.sync();
    const result = await app.run([configMap("a")], { drift: "Warn" });
    expect(result.drifted).toHaveLength(1);
    expect(read(cluster, "a")["data"]).toEqual({ a: "9" });
  });

  it("never forces a field from another application and names it", async () => {
    const cluster = newCluster();
    const first = application(cluster, "first");
    await first.run([configMap("a")]);
    const second = application(cluster, "second");
    const result = await second.run([configMap("a", { a: "2" })]);
    expect(result.objects[0]).toMatchObject({ action: "Conflict", reason: "OwnedByAnother", message: expect.stringContaining('"first"') as string });
    expect(read(cluster, "a")["data"]).toEqual({ a: "1" });
    expect(writesOf(cluster).filter((c) => c.verb === "apply")).toHaveLength(1);
  });

  it("leaves an object that exists and is nobody's alone, unless adoption is asked for", async () => {
    const cluster = newCluster();
    await cluster.client().asAgent().create({ ...configMap("a", { a: "0", old: "x" }), metadata: { name: "a", namespace: "default" } }, { fieldManager: "kubectl-create" });
    const app = application(cluster);
    expect((await app.run([configMap("a")])).objects[0]).toMatchObject({ action: "Conflict", reason: "NotManaged" });
    const adopted = await app.run([configMap("a")], { adoption: "AdoptAll" });
    expect(actions(adopted)).toEqual(["a:Configured"]);
    expect(read(cluster, "a")["data"]).toEqual({ a: "1" });
  });

  it("waits for a terminating object instead of writing onto it", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const held = configMap("a", { a: "1" }, { finalizers: ["test/hold"] });
    await app.run([held]);
    cluster.store.delete(refOf(read(cluster, "a")), {});
    app.sync();
    cluster.forgetCalls();
    const result = await app.run([configMap("a", { a: "2" })]);
    expect(result.waitingFor).toMatchObject([{ reason: "Terminating", id: { name: "a" } }]);
    expect(writesOf(cluster)).toEqual([]);
  });

  it("keeps an object listed whose create got no answer, finds it again and finishes", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    let cut = true;
    cluster.faults = {
      after: (call) => {
        if (call.verb === "apply" && cut) throw new KubeError("cut", { status: 0, reason: "ConnectionLost" });
      },
    };
    const lost = await app.run([configMap("a")]);
    expect(lost.objects[0]).toMatchObject({ action: "Retry", ambiguous: true });
    expect(app.state.inventory).toMatchObject([{ name: "a", state: "Pending", uid: "" }]);
    cut = false;
    // Even if it is no longer wanted, it is found and pruned.
    const result = await app.run([configMap("b")]);
    expect(result.pruned).toMatchObject([{ id: { name: "a" }, action: "Deleted", reason: "Deleted" }]);
    expect(exists(cluster, "a")).toBe(false);
    expect(app.state.inventory.map((e) => e.name)).toEqual(["b"]);
  });

  it("skips only the dependants of a failed object and does not prune then", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("old"), configMap("dep"), configMap("user")]);
    cluster.faults = {
      before: (call) => {
        if (call.verb === "apply" && call.ref.name === "dep") throw new KubeError("no", { status: 422, reason: "Invalid" });
      },
    };
    const user = configMap("user", { a: "2" }, { annotations: { "moorage.dev/depends-on": "/namespaces/default/ConfigMap/dep" } });
    const result = await app.run([configMap("dep", { a: "2" }), user, configMap("free", { a: "2" })]);
    expect(Object.fromEntries(result.objects.map((o) => [o.id.name, o.action]))).toEqual({ dep: "Stalled", user: "Skipped", free: "Created" });
    expect(result.applied).toBe(false);
    expect(exists(cluster, "old")).toBe(true);
    expect(app.state.inventory.map((e) => e.name)).toEqual(["dep", "free", "old", "user"]);
  });

  it("waits for a CRD in the same set before its instances", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const crd: KubeObject = {
      apiVersion: "apiextensions.k8s.io/v1",
      kind: "CustomResourceDefinition",
      metadata: { name: "gears.example.test" },
      spec: { group: "example.test", scope: "Namespaced", names: { kind: "Gear", plural: "gears" }, versions: [{ name: "v1", served: true, storage: true }] },
    };
    const gear: KubeObject = { apiVersion: "example.test/v1", kind: "Gear", metadata: { name: "g" }, spec: { teeth: 3 } };
    const first = await app.run([gear, crd]);
    expect(first.objects.map((o) => [o.id.kind, o.action])).toEqual([["CustomResourceDefinition", "Created"], ["Gear", "Waiting"]]);
    app.sync();
    const second = await app.run([gear, crd]);
    expect(second.objects.map((o) => [o.id.kind, o.action, o.message])).toEqual([["CustomResourceDefinition", "Unchanged", ""], ["Gear", "Created", ""]]);
  });

  it("refuses a duplicate, a reserved label, and a foreign namespace before any call", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const result = await app.run(
      [configMap("a"), configMap("a"), configMap("b", {}, { labels: { [PART_OF_LABEL]: "x" } }), configMap("c", {}, { namespace: "other" }), { apiVersion: "v1", kind: "Namespace", metadata: { name: "n" } }],
      { namespaces: ["default"] },
    );
    expect(result.invalid?.reason).toBe("InvalidManifests");
    for (const part of ["holds it twice", "is reserved", "is not the tenant's", "cluster-scoped"]) expect(result.invalid?.message).toContain(part);
    expect(cluster.calls).toEqual([]);
    expect(app.state.writes).toEqual([]);
  });

  it("leaves replicas to an autoscaler of the set, also when it applies for another reason", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const deployment = (image: string): KubeObject => ({ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "web" }, spec: { replicas: 2, template: { spec: { containers: [{ name: "web", image }] } } } });
    const hpa: KubeObject = { apiVersion: "autoscaling/v2", kind: "HorizontalPodAutoscaler", metadata: { name: "web" }, spec: { scaleTargetRef: { kind: "Deployment", name: "web" }, maxReplicas: 9 } };
    await app.run([deployment("a"), hpa]);
    const ref = { apiVersion: "apps/v1", kind: "Deployment", namespace: "default", name: "web" };
    expect(dig(cluster.store.get(ref), "spec", "replicas")).toBe(2);
    await cluster.client().asAgent().mergePatch(ref, { spec: { replicas: 7 } }, { fieldManager: "kube-controller-manager" });
    app.sync();
    cluster.forgetCalls();
    expect((await app.run([deployment("a"), hpa])).objects.map((o) => o.action)).toEqual(["Unchanged", "Unchanged"]);
    expect(cluster.calls).toEqual([]);
    const changed = await app.run([deployment("b"), hpa]);
    expect(changed.objects.map((o) => o.action)).toEqual(["Configured", "Unchanged"]);
    expect(dig(cluster.store.get(ref), "spec", "replicas")).toBe(7);
    app.sync();
    expect((await app.run([deployment("b"), hpa])).objects.map((o) => o.action)).toEqual(["Unchanged", "Unchanged"]);
    // Without the autoscaler the manifest's number counts again.
    expect((await app.run([deployment("b")], {})).drifted.map((id) => id.name)).toEqual(["web"]);
    expect(dig(cluster.store.get(ref), "spec", "replicas")).toBe(2);
  });

  it("gets 403 from the server for a tenant's write outside of its bindings", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const session = cluster.client().asServiceAccount({ namespace: "default", name: "tenant" });
    const result = await applySet({ ...app.input, applier: { scope: "Tenant", session }, desired: [configMap("a")], inventory: [] });
    expect(result.objects[0]).toMatchObject({ action: "Stalled", reason: "Forbidden" });
    expect(exists(cluster, "a")).toBe(false);
  });
});

describe("prune", () => {
  const many = (n: number, from = 0) => Array.from({ length: n }, (_, i) => configMap(`m${String(i + from).padStart(3, "0")}`));

  it("deletes what left the set, with a uid precondition", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("b")]);
    const result = await app.run([configMap("a")]);
    expect(result.pruned).toMatchObject([{ id: { name: "b" }, action: "Deleted" }]);
    expect(exists(cluster, "b")).toBe(false);
    expect(app.state.inventory.map((e) => e.name)).toEqual(["a"]);
  });

  it("holds an empty set, and removes everything on a removal order", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run(many(3));
    const held = await app.run([]);
    expect(held.pruneHeld?.reason).toBe("EmptyDesiredSet");
    expect(app.state.inventory).toHaveLength(3);
    const removed = await app.run([], { removal: true });
    expect(removed.pruned.map((p) => p.action)).toEqual(["Deleted", "Deleted", "Deleted"]);
    expect(removed.inventory).toEqual([]);
  });

  it("holds a large prune until its very digest is approved", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run(many(20));
    const held = await app.run(many(5));
    expect(held.pruneHeld).toMatchObject({ reason: "TooMany" });
    expect(held.pruneHeld?.ids).toHaveLength(15);
    expect((await app.run(many(6), { approvedPlans: [held.pruneHeld?.planDigest as string] })).pruneHeld?.reason).toBe("TooMany");
    const done = await app.run(many(5), { approvedPlans: [held.pruneHeld?.planDigest as string] });
    expect(done.pruned).toHaveLength(15);
    expect(app.state.inventory).toHaveLength(5);
  });

  it("lets eleven of a hundred go without asking, but no namespace", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const namespace: KubeObject = { apiVersion: "v1", kind: "Namespace", metadata: { name: "extra" } };
    await app.run([...many(100), namespace]);
    expect((await app.run([...many(89), namespace])).pruned).toHaveLength(11);
    expect((await app.run(many(89))).pruneHeld?.reason).toBe("ProtectedKind");
    expect(read(cluster, "extra", "Namespace").metadata.deletionTimestamp).toBeUndefined();
  });

  it("keeps a recreated, a relabelled and an owned object, and abandons one with a keep annotation", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("stay"), configMap("again"), configMap("label"), configMap("owned"), configMap("keep", {}, { annotations: { [ON_REMOVE_ANNOTATION]: "keep" } })]);
    const agent = cluster.client().asAgent();
    const again = read(cluster, "again");
    cluster.store.delete(refOf(again), {});
    await agent.create({ ...configMap("again"), metadata: { name: "again", namespace: "default", labels: again.metadata.labels ?? {} } });
    await agent.mergePatch(refOf(read(cluster, "label")), { metadata: { labels: { [PART_OF_LABEL]: null } } });
    await agent.mergePatch(refOf(read(cluster, "owned")), { metadata: { ownerReferences: [{ apiVersion: "v1", kind: "ConfigMap", name: "x", uid: "u" }] } });
    app.sync();
    // The watch shows a lost label as a deletion.
    app.live.forget({ group: "", kind: "ConfigMap", namespace: "default", name: "label" }, read(cluster, "label").metadata.uid as string);
    const result = await app.run([configMap("stay")]);
    expect(Object.fromEntries(result.pruned.map((p) => [p.id.name, `${p.action}:${p.reason}`]))).toEqual({
      again: "Recreated:Recreated",
      label: "Kept:NotOurs",
      owned: "Kept:ForeignOwner",
      keep: "Abandoned:KeepAnnotation",
    });
    for (const name of ["again", "label", "owned", "keep"]) expect(exists(cluster, name)).toBe(true);
    const kept = read(cluster, "keep");
    expect(kept.metadata.labels?.[PART_OF_LABEL]).toBeUndefined();
    expect(kept.metadata.managedFields?.some((e) => e.manager === "moorage.shop")).toBe(false);
  });

  it("survives an object recreated between the plan and the DELETE", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("b")]);
    cluster.faults = {
      before: (call) => {
        if (call.verb !== "delete") return;
        cluster.faults = {};
        const old = read(cluster, "b");
        cluster.store.delete(refOf(old), {});
        cluster.store.create({ ...configMap("b", { new: "1" }), metadata: { name: "b", namespace: "default" } }, { manager: "somebody" });
      },
    };
    const result = await app.run([configMap("a")]);
    expect(result.pruned).toMatchObject([{ id: { name: "b" }, action: "Recreated" }]);
    expect(dig(read(cluster, "b"), "data", "new")).toBe("1");
  });

  it("retains volumes without a data-deletion policy", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const claim: KubeObject = { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: "data" }, spec: {} };
    await app.run([configMap("a"), claim]);
    const result = await app.run([configMap("a")]);
    expect(result.pruned).toMatchObject([{ action: "Kept", reason: "DataRetained" }]);
    expect(app.state.inventory.map((e) => e.state)).toEqual(["Applied", "Kept"]);
  });
});
