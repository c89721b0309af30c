import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { decodeFields, encodeFields, leavesOf } from "./memory-fields.ts";
import { createMemoryCluster } from "./memory-cluster.ts";
import { refOf, type KubeObject } from "./object.ts";
import { parseSelector } from "./selector.ts";

const setUp = () => {
  const cluster = createMemoryCluster({ clock: systemClock, rng: seededRng(9) });
  return { cluster, agent: cluster.client().asAgent() };
};
const inNamespace = (name: string, metadata: object = {}): KubeObject => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, namespace: "n", ...metadata },
});

describe("the in-memory cluster", () => {
  it("takes a namespace's objects with it, and waits for those that finalizers hold", async () => {
    const { cluster, agent } = setUp();
    const namespace: KubeObject = { apiVersion: "v1", kind: "Namespace", metadata: { name: "n" } };
    await agent.create(namespace);
    await agent.create(inNamespace("free"));
    await agent.create(inNamespace("held", { finalizers: ["x/hold"] }));
    expect((await agent.delete(refOf(namespace))).object).toMatchObject({ status: { phase: "Terminating" } });
    await expect(agent.create(inNamespace("late"))).rejects.toMatchObject({
      status: 403,
      causes: [{ reason: "NamespaceTerminating" }],
    });
    expect(cluster.store.list({ apiVersion: "v1", kind: "ConfigMap" }).map((o) => o.metadata.name)).toEqual([
      "held",
    ]);
    await agent.mergePatch(refOf(inNamespace("held")), { metadata: { finalizers: null } });
    await expect(agent.get(refOf(namespace))).rejects.toMatchObject({ status: 404 });
  });

  it("takes a definition's objects with it and then serves the kind no more", async () => {
    const { agent, cluster } = setUp();
    const crd: KubeObject = {
      apiVersion: "apiextensions.k8s.io/v1",
      kind: "CustomResourceDefinition",
      metadata: { name: "gears.example.test" },
      spec: {
        group: "example.test",
        scope: "Cluster",
        names: { kind: "Gear", plural: "gears" },
        versions: [{ name: "v1", served: true }],
      },
    };
    const gear: KubeObject = {
      apiVersion: "example.test/v1",
      kind: "Gear",
      metadata: { name: "g", finalizers: ["x/hold"] },
    };
    await agent.create(crd);
    await agent.create(gear);
    expect((await agent.delete(refOf(crd))).object?.metadata.deletionTimestamp).toBeDefined();
    await agent.mergePatch(refOf(gear), { metadata: { finalizers: null } });
    await expect(agent.get(refOf(crd))).rejects.toMatchObject({ status: 404 });
    await expect(cluster.client().asAgent().get(refOf(gear))).rejects.toMatchObject({
      reason: "KindNotInstalled",
    });
  });

  it("gives the same run for the same seed", async () => {
    const trace = async () => {
      const { cluster, agent } = setUp();
      for (const name of ["a", "b"])
        await agent.create({ ...inNamespace(name), metadata: { name, namespace: "default" } });
      return cluster.store
        .list({ apiVersion: "v1", kind: "ConfigMap" })
        .map((o) => [o.metadata.uid, o.metadata.resourceVersion]);
    };
    expect(await trace()).toEqual(await trace());
  });

  it("encodes any set of owned fields so that it reads back", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (spec) => {
        const leaves = leavesOf({ apiVersion: "v1", kind: "X", metadata: { name: "x" }, spec });
        expect(decodeFields(encodeFields(leaves))).toEqual(new Set(leaves.keys()));
      }),
    );
  });
});

describe("label selectors", () => {
  it.each([
    ["", true],
    ["a=1", true],
    ["a==1,b!=3", true],
    ["a=2", false],
    ["a", true],
    ["!c", true],
    ["c", false],
    ["a in (1, 2),b notin (3)", true],
    ["a notin (1)", false],
  ])("%j on a=1, b=2 is %s", (text, matches) => {
    expect(parseSelector(text)({ a: "1", b: "2" })).toBe(matches);
  });

  it("refuses what it does not know", () => {
    expect(() => parseSelector("a > 1")).toThrow("Cannot parse label selector");
  });
});
