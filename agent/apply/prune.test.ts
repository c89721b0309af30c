import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { dig, refOf, type KubeObject } from "../kube/object.ts";
import { ON_REMOVE_ANNOTATION, PART_OF_LABEL } from "./labels.ts";
import { application, configMap, exists, newCluster, read, writesOf } from "./run.fixture.ts";

describe("prune", () => {
  const many = (n: number, from = 0) =>
    Array.from({ length: n }, (_, i) => configMap(`m${String(i + from).padStart(3, "0")}`));

  it("deletes what left the set, with a uid precondition", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("b")]);
    const result = await app.run([configMap("a")]);
    expect(result.pruned).toMatchObject([{ id: { name: "b" }, action: "Deleted" }]);
    expect(exists(cluster, "b")).toBe(false);
    expect(app.state.inventory.map((e) => e.name)).toEqual(["a"]);
  });

  it("tries again when a delete is refused for another reason than its uid", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("b")]);
    let refusals = 1;
    cluster.faults.before = ({ verb }) => {
      if (verb === "delete" && refusals-- > 0)
        throw new KubeError("Cannot delete: the object has been modified", {
          status: 409,
          reason: "Conflict",
        });
    };
    const refused = await app.run([configMap("a")]);
    expect(refused.pruned).toMatchObject([{ id: { name: "b" }, action: "Failed", reason: "Conflict" }]);
    expect(app.state.inventory.map((e) => e.name)).toEqual(["a", "b"]);
    await app.run([configMap("a")]);
    expect(exists(cluster, "b")).toBe(false);
  });

  it("deletes nothing more once the run is stopped, and all is left to the next", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run(many(3));
    app.input.concurrency = 1;
    cluster.forgetCalls();
    const stopped = await app.run([], { removal: true, stopped: () => writesOf(cluster).length > 0 });
    expect(stopped.superseded).toBe(true);
    expect(["m000", "m001", "m002"].filter((name) => exists(cluster, name))).toEqual(["m001", "m002"]);
    expect(app.state.inventory).toHaveLength(3);
    expect((await app.run([], { removal: true })).inventory).toEqual([]);
    expect(exists(cluster, "m002")).toBe(false);
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
    expect(
      (await app.run(many(6), { approvedPlans: [held.pruneHeld?.planDigest as string] })).pruneHeld?.reason,
    ).toBe("TooMany");
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
    await app.run([
      configMap("stay"),
      configMap("again"),
      configMap("label"),
      configMap("owned"),
      configMap("keep", {}, { annotations: { [ON_REMOVE_ANNOTATION]: "keep" } }),
    ]);
    const agent = cluster.client().asAgent();
    const again = read(cluster, "again");
    cluster.store.delete(refOf(again), {});
    await agent.create({
      ...configMap("again"),
      metadata: { name: "again", namespace: "default", labels: again.metadata.labels ?? {} },
    });
    await agent.mergePatch(refOf(read(cluster, "label")), {
      metadata: { labels: { [PART_OF_LABEL]: null } },
    });
    await agent.mergePatch(refOf(read(cluster, "owned")), {
      metadata: { ownerReferences: [{ apiVersion: "v1", kind: "ConfigMap", name: "x", uid: "u" }] },
    });
    app.sync();
    // The watch shows a lost label as a deletion.
    app.live.forget(
      { group: "", kind: "ConfigMap", namespace: "default", name: "label" },
      read(cluster, "label").metadata.uid as string,
    );
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

  describe("of a kind whose listed version is no longer served", () => {
    const definition = (served: readonly string[]): KubeObject => ({
      apiVersion: "apiextensions.k8s.io/v1",
      kind: "CustomResourceDefinition",
      metadata: { name: "widgets.example.com" },
      spec: {
        group: "example.com",
        scope: "Namespaced",
        names: { kind: "Widget", plural: "widgets" },
        versions: ["v1alpha1", "v1"].map((name) => ({ name, served: served.includes(name) })),
      },
    });
    const widget: KubeObject = {
      apiVersion: "example.com/v1alpha1",
      kind: "Widget",
      metadata: { name: "w" },
      spec: {},
    };
    /** Applied at v1alpha1; from then on the cluster serves `served`. `seen`: what the watch showed last is still held. */
    async function rig(served: readonly string[], seen = false) {
      const cluster = newCluster();
      const agent = cluster.client().asAgent();
      await agent.create(definition(["v1alpha1", "v1"]));
      const app = application(cluster);
      await app.run([widget]);
      const old = await agent.get(refOf(definition([])));
      await agent.update({ ...old, spec: definition(served)["spec"] });
      app.input.discovery.invalidate();
      const id = { group: "example.com", kind: "Widget", namespace: "default", name: "w" };
      if (!seen) app.live.forget(id, "");
      const live = () => cluster.store.list({ apiVersion: "example.com/v1", kind: "Widget" });
      return { cluster, app, live };
    }

    it.each([false, true])("deletes it at the version that is (held in memory: %s)", async (seen) => {
      const { app, live } = await rig(["v1"], seen);
      const result = await app.run([], { removal: true });
      expect(result.pruned).toMatchObject([{ action: "Deleted", reason: "Deleted" }]);
      expect(live()).toEqual([]);
      expect(result.inventory).toEqual([]);
    });

    it("abandons it at the version that is", async () => {
      const { app, live } = await rig(["v1"]);
      const result = await app.run([], { removal: true, abandon: true });
      expect(result.pruned).toMatchObject([{ action: "Abandoned" }]);
      expect(live().map((o) => o.metadata.labels?.[PART_OF_LABEL])).toEqual([undefined]);
    });

    it("takes it for gone when no version is served", async () => {
      const { app } = await rig([]);
      const result = await app.run([], { removal: true });
      expect(result.pruned).toMatchObject([{ action: "Deleted", reason: "NotFound" }]);
    });

    it("keeps its entry while somebody answers every path with a page", async () => {
      const { cluster, app, live } = await rig(["v1"]);
      cluster.faults = {
        before: (call) => {
          if (call.ref.kind === "Widget")
            throw new KubeError("Cannot get: 404 page", { status: 404, reason: "KindNotInstalled" });
        },
      };
      const result = await app.run([], { removal: true });
      expect(result.pruned).toMatchObject([{ action: "Failed", reason: "KindNotInstalled" }]);
      expect(result.inventory).toHaveLength(1);
      expect(live()).toHaveLength(1);
    });
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
        cluster.store.create(
          { ...configMap("b", { new: "1" }), metadata: { name: "b", namespace: "default" } },
          { manager: "somebody" },
        );
      },
    };
    const result = await app.run([configMap("a")]);
    expect(result.pruned).toMatchObject([{ id: { name: "b" }, action: "Recreated" }]);
    expect(dig(read(cluster, "b"), "data", "new")).toBe("1");
  });

  it("retains volumes without a data-deletion policy", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const claim: KubeObject = {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      metadata: { name: "data" },
      spec: {},
    };
    await app.run([configMap("a"), claim]);
    const result = await app.run([configMap("a")]);
    expect(result.pruned).toMatchObject([{ action: "Kept", reason: "DataRetained" }]);
    expect(app.state.inventory.map((e) => e.state)).toEqual(["Applied", "Kept"]);
  });

  it("leaves every object as nobody's on an order to abandon", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run(many(12));
    const result = await app.run([], { removal: true, abandon: true });
    expect(new Set(result.pruned.map((p) => `${p.action}:${p.reason}`))).toEqual(
      new Set(["Abandoned:Orphaned"]),
    );
    expect(result.inventory).toEqual([]);
    const left = cluster.store.list({ apiVersion: "v1", kind: "ConfigMap" });
    expect(left).toHaveLength(12);
    expect(left.every((o) => o.metadata.labels?.[PART_OF_LABEL] === undefined)).toBe(true);
  });
});
