import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { dig, refOf, type KubeObject } from "../kube/object.ts";
import type { ApplyPolicy } from "./apply-set.ts";
import { createFightLog } from "./fights.ts";
import { PART_OF_LABEL } from "./labels.ts";
import { actions, application, configMap, exists, newCluster, read, writesOf } from "./run.fixture.ts";
import { applySet } from "./run.ts";

describe("applySet", () => {
  it("lists every new identity before the first create, and the uids after", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    let listedAtCreate: readonly string[] = [];
    cluster.faults = {
      before: (call) => {
        if (call.verb === "apply" && listedAtCreate.length === 0)
          listedAtCreate = app.state.inventory.map((e) => `${e.name}:${e.state}:${e.uid}`);
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

  it("ends between two writes when it is stopped, lists what it touched, and is completed by the next", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a"), configMap("gone")]);
    app.state.writes = [];
    cluster.forgetCalls();
    const stopped = () => writesOf(cluster).length > 0;
    app.input.concurrency = 1;
    const desired = ["a", "b", "c"].map((name) => configMap(name, { a: "2" }));
    const cut = await app.run(desired, { stopped });
    expect(cut.superseded).toBe(true);
    expect(actions(cut)).toEqual(["a:Configured", "b:Skipped", "c:Skipped"]);
    expect(exists(cluster, "gone")).toBe(true);
    // The one that was written ahead.
    expect(app.state.writes).toHaveLength(1);
    expect(app.state.inventory.map((e) => `${e.name}:${e.state}`)).toEqual([
      "a:Applied",
      "b:Pending",
      "c:Pending",
      "gone:Applied",
    ]);
    const whole = await app.run(desired);
    expect(actions(whole)).toEqual(["a:Confirmed", "b:Created", "c:Created"]);
    expect(exists(cluster, "gone")).toBe(false);
    expect(whole.superseded).toBe(false);
  });

  it("makes no call and no inventory write when it is stopped before it begins", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const result = await app.run([configMap("a")], { stopped: () => true });
    expect(result.superseded).toBe(true);
    expect(cluster.calls).toEqual([]);
    expect(app.state.writes).toEqual([]);
  });

  it("repairs drift of a changed field and of an added one with the watch's news alone", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    await app.run([configMap("a", { a: "1" })]);
    const agent = cluster.client().asAgent();
    await agent.mergePatch(
      refOf(read(cluster, "a")),
      { data: { a: "9", extra: "x" } },
      { fieldManager: "kubectl-edit" },
    );
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
    await cluster
      .client()
      .asAgent()
      .mergePatch(refOf(read(cluster, "a")), { data: { a: "9" } }, { fieldManager: "somebody" });
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
    expect(result.objects[0]).toMatchObject({
      action: "Conflict",
      reason: "OwnedByAnother",
      message: expect.stringContaining('"first"') as string,
    });
    expect(read(cluster, "a")["data"]).toEqual({ a: "1" });
    expect(writesOf(cluster).filter((c) => c.verb === "apply")).toHaveLength(1);
  });

  it("leaves an object that exists and is nobody's alone, unless adoption is asked for", async () => {
    const cluster = newCluster();
    await cluster
      .client()
      .asAgent()
      .create(
        { ...configMap("a", { a: "0", old: "x" }), metadata: { name: "a", namespace: "default" } },
        { fieldManager: "kubectl-create" },
      );
    const app = application(cluster);
    expect((await app.run([configMap("a")])).objects[0]).toMatchObject({
      action: "Conflict",
      reason: "NotManaged",
    });
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
        if (call.verb === "apply" && call.ref.name === "dep")
          throw new KubeError("no", { status: 422, reason: "Invalid" });
      },
    };
    const user = configMap(
      "user",
      { a: "2" },
      { annotations: { "moorage.dev/depends-on": "/namespaces/default/ConfigMap/dep" } },
    );
    const result = await app.run([configMap("dep", { a: "2" }), user, configMap("free", { a: "2" })]);
    expect(Object.fromEntries(result.objects.map((o) => [o.id.name, o.action]))).toEqual({
      dep: "Stalled",
      user: "Skipped",
      free: "Created",
    });
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
      spec: {
        group: "example.test",
        scope: "Namespaced",
        names: { kind: "Gear", plural: "gears" },
        versions: [{ name: "v1", served: true, storage: true }],
      },
    };
    const gear: KubeObject = {
      apiVersion: "example.test/v1",
      kind: "Gear",
      metadata: { name: "g" },
      spec: { teeth: 3 },
    };
    const first = await app.run([gear, crd]);
    expect(first.objects.map((o) => [o.id.kind, o.action])).toEqual([
      ["CustomResourceDefinition", "Created"],
      ["Gear", "Waiting"],
    ]);
    app.sync();
    const second = await app.run([gear, crd]);
    expect(second.objects.map((o) => [o.id.kind, o.action, o.message])).toEqual([
      ["CustomResourceDefinition", "Unchanged", ""],
      ["Gear", "Created", ""],
    ]);
  });

  it("refuses a duplicate, a reserved label, and a foreign namespace before any call", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const result = await app.run(
      [
        configMap("a"),
        configMap("a"),
        configMap("b", {}, { labels: { [PART_OF_LABEL]: "x" } }),
        configMap("c", {}, { namespace: "other" }),
        { apiVersion: "v1", kind: "Namespace", metadata: { name: "n" } },
      ],
      { namespaces: ["default"] },
    );
    expect(result.invalid?.reason).toBe("InvalidManifests");
    for (const part of ["holds it twice", "is reserved", "is not the tenant's", "cluster-scoped"])
      expect(result.invalid?.message).toContain(part);
    expect(cluster.calls).toEqual([]);
    expect(app.state.writes).toEqual([]);
  });

  it("leaves replicas to an autoscaler of the set, also when it applies for another reason", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const deployment = (image: string): KubeObject => ({
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "web" },
      spec: { replicas: 2, template: { spec: { containers: [{ name: "web", image }] } } },
    });
    const hpa: KubeObject = {
      apiVersion: "autoscaling/v2",
      kind: "HorizontalPodAutoscaler",
      metadata: { name: "web" },
      spec: { scaleTargetRef: { kind: "Deployment", name: "web" }, maxReplicas: 9 },
    };
    await app.run([deployment("a"), hpa]);
    const ref = { apiVersion: "apps/v1", kind: "Deployment", namespace: "default", name: "web" };
    expect(dig(cluster.store.get(ref), "spec", "replicas")).toBe(2);
    await cluster
      .client()
      .asAgent()
      .mergePatch(ref, { spec: { replicas: 7 } }, { fieldManager: "kube-controller-manager" });
    app.sync();
    cluster.forgetCalls();
    expect((await app.run([deployment("a"), hpa])).objects.map((o) => o.action)).toEqual([
      "Unchanged",
      "Unchanged",
    ]);
    expect(cluster.calls).toEqual([]);
    const changed = await app.run([deployment("b"), hpa]);
    expect(changed.objects.map((o) => o.action)).toEqual(["Configured", "Unchanged"]);
    expect(dig(cluster.store.get(ref), "spec", "replicas")).toBe(7);
    app.sync();
    expect((await app.run([deployment("b"), hpa])).objects.map((o) => o.action)).toEqual([
      "Unchanged",
      "Unchanged",
    ]);
    // Without the autoscaler the manifest's number counts again.
    expect((await app.run([deployment("b")], {})).drifted.map((id) => id.name)).toEqual(["web"]);
    expect(dig(cluster.store.get(ref), "spec", "replicas")).toBe(2);
  });

  it("stops forcing against a controller that insists, but never gives up a fence", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    let now = 0;
    app.input.fights = createFightLog(() => now);
    await app.run([configMap("a")]);
    const agent = cluster.client().asAgent();
    const contest = async (policy: ApplyPolicy = {}) => {
      await agent.mergePatch(
        refOf(read(cluster, "a")),
        { data: { a: `c${++now}` } },
        { fieldManager: "controller" },
      );
      app.sync();
      return (await app.run([configMap("a")], policy)).objects[0]?.reason;
    };
    expect([await contest(), await contest(), await contest(), await contest()]).toEqual([
      "Configured",
      "Configured",
      "Configured",
      "DriftFight",
    ]);
    expect(await contest({ baseline: true })).toBe("DriftBackoff");
    now += 30_000;
    expect(await contest({ baseline: true })).toBe("Configured");
    now += 600_000;
    expect(await contest()).toBe("Configured");
  });

  it("gets 403 from the server for a tenant's write outside of its bindings", async () => {
    const cluster = newCluster();
    const app = application(cluster);
    const session = cluster.client().asServiceAccount({ namespace: "default", name: "tenant" });
    const result = await applySet({
      ...app.input,
      applier: { scope: "Tenant", session },
      desired: [configMap("a")],
      inventory: [],
    });
    expect(result.objects[0]).toMatchObject({ action: "Stalled", reason: "Forbidden" });
    expect(exists(cluster, "a")).toBe(false);
  });
});
