import { describe, expect, it } from "vitest";
import { keepReason, planPrune, pruneDigest } from "./prune-plan.ts";
import { idKey, type InventoryEntry, type LiveState } from "./types.ts";

describe("the prune plan", () => {
  const entry = (name: string, kind = "ConfigMap", uid = "u"): InventoryEntry => ({
    group: "",
    kind,
    namespace: kind === "Namespace" ? "" : "n",
    name,
    version: "v1",
    uid,
    desiredHash: "",
    appliedHash: "",
    phase: 0,
    state: "Applied",
  });
  const live = (e: InventoryEntry, more: Partial<LiveState> = {}): LiveState => ({
    id: e,
    version: "v1",
    uid: e.uid,
    resourceVersion: "1",
    ownHashes: {},
    formerManagers: [],
    partOf: "set",
    deleting: false,
    finalizers: [],
    annotations: {},
    owners: [],
    health: { status: "Current", reason: "", message: "", confidence: "high" },
    ...more,
  });
  const decide = (entries: InventoryEntry[], states: LiveState[], more: object = {}) =>
    planPrune({
      inventory: [entry("stay"), ...entries],
      desired: new Set([idKey(entry("stay"))]),
      appliedUids: new Set(),
      live: new Map(states.map((s) => [idKey(s.id), s])),
      partOf: "set",
      fieldManager: "moorage.app",
      deleteData: false,
      abandon: false,
      removal: false,
      approvedPlans: [],
      usedNamespaces: new Set(),
      ...more,
    });

  it("treats the same object under another group as applied", () => {
    const e = entry("x");
    expect(decide([e], [live(e)], { appliedUids: new Set(["u"]) })).toMatchObject({
      deletes: [],
      settled: [{ reason: "AppliedUnderAnotherGroup" }],
    });
  });

  it("deletes what this application made anew under another uid, and leaves what somebody else did", () => {
    const e = entry("x");
    const anew = live(e, { uid: "new", ownHashes: { "moorage.app": "h" } });
    expect(decide([e], [anew])).toMatchObject({ deletes: [{ uid: "new" }], settled: [] });
    expect(decide([e], [anew], { abandon: true })).toMatchObject({ abandons: [{ uid: "new" }], settled: [] });
    for (const ownHashes of [{}, { "moorage.other": "h" }]) {
      expect(decide([e], [live(e, { uid: "new", ownHashes })])).toMatchObject({
        deletes: [],
        settled: [{ action: "Recreated" }],
      });
    }
  });

  it("does not delete again what is already terminating, and names the finalizers", () => {
    const e = entry("x");
    expect(decide([e], [live(e, { deleting: true, finalizers: ["f"] })])).toMatchObject({
      deletes: [],
      settled: [{ action: "Deleting", message: expect.stringContaining("f") as string }],
    });
  });

  it("keeps a namespace that applied objects still live in, even on a removal", () => {
    const e = entry("n", "Namespace");
    expect(decide([e], [live(e)], { removal: true, usedNamespaces: new Set(["n"]) })).toMatchObject({
      settled: [{ reason: "NamespaceInUse" }],
    });
    expect(decide([e], [live(e)], { removal: true }).deletes).toHaveLength(1);
  });

  it("deletes in reverse phases, namespaces last", () => {
    const set = [entry("ns", "Namespace"), { ...entry("early"), phase: 1 }, { ...entry("late"), phase: 3 }];
    const result = decide(
      set,
      set.map((e) => live(e)),
      { removal: true },
    );
    expect(result.deletes.map((d) => d.entry.name)).toEqual(["late", "early", "ns"]);
  });

  it("has a digest that depends on the objects and their uids alone", () => {
    expect(pruneDigest([entry("a"), entry("b")])).toBe(pruneDigest([entry("b"), entry("a")]));
    expect(pruneDigest([entry("a")])).not.toBe(pruneDigest([entry("a", "ConfigMap", "v")]));
  });

  it.each([
    [{ "moorage.dev/on-remove": "keep" }, "KeepAnnotation"],
    [{ "cli-utils.sigs.k8s.io/on-remove": "keep" }, "CliUtilsKeep"],
    [{ "client.lifecycle.config.k8s.io/deletion": "detach" }, "DetachAnnotation"],
    [{ "helm.sh/resource-policy": "x, keep" }, "HelmKeep"],
    [{ "argocd.argoproj.io/sync-options": "Foo=bar,Prune=false" }, "ArgoPruneFalse"],
    [{ "argocd.argoproj.io/sync-options": "Prune=confirm" }, "ArgoPruneFalse"],
    [{ "argocd.argoproj.io/sync-options": "Prune=falsehood" }, undefined],
  ])("knows the keep annotation %j", (annotations, reason) => {
    expect(keepReason(live(entry("x"), { annotations }))).toBe(reason);
  });
});
