import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KubeError, type StatusCause } from "../kube/errors.ts";
import { rawNumber } from "../kube/json.ts";
import type { FieldsV1, KubeObject } from "../kube/object.ts";
import { inventoryChanged, mergeRun, shards, writeAhead } from "./inventory.ts";
import { applySetId, labelValue, memberLabels, parentAnnotations } from "./labels.ts";
import { formerManagers } from "./live.ts";
import { migratedFields } from "./migrate.ts";
import { normalise, normaliseObject, type NormalObject } from "./normalise.ts";
import { outcomeOf } from "./outcome.ts";
import { plan, type Plan } from "./plan.ts";
import { ownHash, project, uniteFields, withoutPath } from "./projection.ts";
import { keepReason, planPrune, pruneDigest } from "./prune-plan.ts";
import { idKey, type InventoryEntry, type LiveState, type ObjectId, type ObjectOutcome } from "./types.ts";

const owned = (fieldsV1: FieldsV1, spec: unknown): KubeObject => ({
  apiVersion: "v1",
  kind: "X",
  metadata: { name: "x", managedFields: [{ manager: "moorage.a", operation: "Apply", fieldsV1 }] },
  spec,
});

describe("the ownership projection", () => {
  const fields: FieldsV1 = {
    "f:spec": {
      "f:replicas": {},
      "f:args": {},
      "f:containers": { 'k:{"name":"web"}': { ".": {}, "f:name": {}, "f:image": {} } },
      "f:finalizers": { 'v:"a"': {} },
    },
  };
  const spec = { replicas: 1, args: ["a", "b"], containers: [{ name: "web", image: "i" }], finalizers: ["a"] };
  const base = ownHash(owned(fields, spec), "moorage.a");

  it("changes with any owned value, a missing one and a released one", () => {
    for (const other of [
      { ...spec, replicas: 2 },
      { ...spec, args: ["b", "a"] },
      { ...spec, containers: [{ name: "web", image: "j" }] },
      { ...spec, containers: [] },
      { ...spec, finalizers: [] },
    ]) {
      expect(ownHash(owned(fields, other), "moorage.a")).not.toBe(base);
    }
    const released = { "f:spec": { ...fields["f:spec"] } };
    delete released["f:spec"]["f:replicas"];
    expect(ownHash(owned(released, spec), "moorage.a")).not.toBe(base);
  });

  it("does not change with unowned values or the order of a keyed list", () => {
    const more = { ...spec, extra: 1, containers: [{ name: "side", image: "s" }, { image: "i", name: "web", tty: true }], finalizers: ["b", "a"] };
    expect(ownHash(owned(fields, more), "moorage.a")).toBe(base);
  });

  it("tells a missing value from null and from the empty map", () => {
    const leaf: FieldsV1 = { "f:a": {} };
    expect(new Set([project(leaf, {}), project(leaf, { a: null }), project(leaf, { a: {} }), project(leaf, { a: "-" })]).size).toBe(4);
  });

  it("leaves ignored paths out", () => {
    const ignored = [["f:spec", "f:replicas"], ["f:spec", "f:containers", "*", "f:image"]];
    const a = ownHash(owned(fields, spec), "moorage.a", ignored);
    expect(ownHash(owned(fields, { ...spec, replicas: 9, containers: [{ name: "web", image: "z" }] }), "moorage.a", ignored)).toBe(a);
  });

  it("is total: any fields over any value", () => {
    const tree = fc.letrec<{ node: FieldsV1 }>((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        fc.constant<FieldsV1>({}),
        fc.dictionary(fc.constantFrom("f:a", "f:b", "i:0", 'k:{"a":1}', 'v:"x"', "."), tie("node"), { maxKeys: 3 }),
      ),
    })).node;
    fc.assert(
      fc.property(tree, fc.jsonValue(), (set, value) => {
        expect(typeof project(set, value)).toBe("string");
        expect(project(uniteFields(set, set), value)).toBe(project(set, value));
      }),
    );
  });

  it("removes a path and the parents that it empties", () => {
    expect(withoutPath({ "f:a": { "f:b": {} }, "f:c": {} }, ["f:a", "f:b"])).toEqual({ "f:c": {} });
    expect(withoutPath({ "f:a": { ".": {}, "f:b": {} } }, ["f:a", "f:b"])).toBeUndefined();
  });
});

describe("normalising", () => {
  const one = (o: object, namespace = "n") => normaliseObject(o as KubeObject, { namespace, labels: { l: "1" } });

  it("strips server fields, nulls and status, moves stringData, and defaults protocols", () => {
    const secret = one({ apiVersion: "v1", kind: "Secret", metadata: { name: "s", uid: "u", creationTimestamp: null, labels: { a: "b" } }, stringData: { p: "pässword" }, data: { q: "cQ==" }, status: {} });
    expect(secret).toEqual({
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "s", namespace: "n", labels: { a: "b", l: "1" } },
      data: { q: "cQ==", p: Buffer.from("pässword").toString("base64") },
    });
    const service = one({ apiVersion: "v1", kind: "Service", metadata: { name: "s" }, spec: { selector: null, ports: [{ port: 1 }, { port: 2, protocol: "UDP" }] } });
    expect(service["spec"]).toEqual({ ports: [{ port: 1, protocol: "TCP" }, { port: 2, protocol: "UDP" }] });
  });

  it("keeps the empty lists that mean something, and exact integers", () => {
    const policy = one({ apiVersion: "networking.k8s.io/v1", kind: "NetworkPolicy", metadata: { name: "p" }, spec: { ingress: [], egress: [{}] } });
    expect(policy["spec"]).toEqual({ ingress: [], egress: [{}] });
    expect(one({ apiVersion: "x/v1", kind: "Y", metadata: { name: "y" }, spec: { big: 2n ** 60n } })["spec"]).toEqual({ big: rawNumber("1152921504606846976") });
  });

  it("drops the namespace of cluster-scoped kinds and fills it in for others", () => {
    const set = normalise(
      [
        { apiVersion: "v1", kind: "Namespace", metadata: { name: "a", namespace: "zzz" } },
        { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "c" } },
      ],
      { scopeOf: (_v, kind) => (kind === "Namespace" ? "Cluster" : "Namespaced"), labels: {}, defaultNamespace: "d" },
    ) as NormalObject[];
    expect(set.map((o) => [o.id.namespace, o.object.metadata.namespace])).toEqual([["", undefined], ["d", "d"]]);
  });
});

describe("labels", () => {
  const identity = { parent: { name: "n", namespace: "ns", kind: "Application", group: "moorage.dev" }, fieldManager: "m", application: "a".repeat(80), dataPlane: "dp" };

  it("are valid label values, whatever the names", () => {
    fc.assert(fc.property(fc.string({ maxLength: 200 }), (text) => void expect(labelValue(text)).toMatch(/^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/)));
    for (const value of Object.values(memberLabels(identity))) expect(value.length).toBeLessThanOrEqual(63);
    expect(applySetId(identity.parent)).toMatch(/^applyset-[A-Za-z0-9_-]{43}-v1$/);
  });

  it("of the parent are sorted and without repetition", () => {
    const annotations = parentAnnotations({ groupKinds: [{ group: "apps", kind: "Deployment" }, { group: "", kind: "ConfigMap" }, { group: "apps", kind: "Deployment" }], namespaces: ["b", "", "a"], version: "1" });
    expect(annotations["applyset.kubernetes.io/contains-group-kinds"]).toBe("ConfigMap,Deployment.apps");
    expect(annotations["applyset.kubernetes.io/additional-namespaces"]).toBe("a,b");
  });
});

const object = (kind: string, name: string, dependsOn?: string): NormalObject => {
  const id: ObjectId = { group: "", kind, namespace: kind === "Namespace" ? "" : "n", name };
  const annotations = dependsOn === undefined ? {} : { "moorage.dev/depends-on": dependsOn };
  return { id, version: "v1", hash: "", object: { apiVersion: "v1", kind, metadata: { name, annotations } } };
};
const planned = (objects: NormalObject[]) => plan(objects) as Plan;

describe("the plan", () => {
  const kinds = ["Namespace", "ResourceQuota", "RoleBinding", "Role", "ConfigMap", "Deployment", "ValidatingWebhookConfiguration", "Widget"];

  it("is the same for any order of its input, and respects hard edges", () => {
    const set = [...kinds.map((kind) => object(kind, "n")), object("ConfigMap", "late", "/namespaces/n/Deployment/n")];
    const expected = planned(set);
    expect(expected.phases.map((p) => p.map((o) => `${o.id.kind}/${o.id.name}`))).toEqual([
      ["Namespace/n"],
      ["ResourceQuota/n"],
      ["Role/n", "ConfigMap/n"],
      ["RoleBinding/n"],
      ["Deployment/n", "Widget/n"],
      ["ConfigMap/late", "ValidatingWebhookConfiguration/n"],
    ]);
    fc.assert(
      fc.property(fc.shuffledSubarray(set, { minLength: set.length }), (shuffled) => {
        expect(planned(shuffled).phases).toEqual(expected.phases);
      }),
    );
    for (const [key, deps] of expected.hard) for (const dep of deps) expect(expected.phaseOf.get(idKey(dep))).toBeLessThan(expected.phaseOf.get(key) as number);
  });

  it("names a cycle, a reference outside of the set, a duplicate and a malformed one", () => {
    const cycle = plan([object("ConfigMap", "a", "/namespaces/n/ConfigMap/b"), object("ConfigMap", "b", "/namespaces/n/ConfigMap/a")]);
    expect(cycle).toEqual({ error: "Cannot order the set: dependency cycle ConfigMap n/a -> ConfigMap n/b -> ConfigMap n/a" });
    expect(plan([object("ConfigMap", "a", "/namespaces/n/ConfigMap/x")])).toMatchObject({ error: expect.stringContaining("not in the set") as string });
    expect(plan([object("ConfigMap", "b"), object("ConfigMap", "a", "/namespaces/n/ConfigMap/b,/namespaces/n/ConfigMap/b")])).toMatchObject({ error: expect.stringContaining("twice") as string });
    expect(plan([object("ConfigMap", "a", "nonsense")])).toMatchObject({ error: expect.stringContaining("malformed") as string });
  });
});

describe("the outcome of a failed apply", () => {
  const of = (status: number, reason: string, message = "", causes: StatusCause[] = [], crdInSet = false) =>
    outcomeOf(new KubeError(message, { status, reason, causes, retryAfterMs: 3_000 }), { crdInSet, changes: (field) => field === "spec.selector" });
  const managed = (manager: string) => ({ reason: "FieldManagerConflict", message: `conflict with "${manager}" using apps/v1`, field: ".spec.replicas" });

  it.each([
    ["another application's field", of(409, "Conflict", "", [managed("moorage.b"), managed("kubectl")]), "Conflict", "FieldConflict"],
    ["a person's field", of(409, "Conflict", "", [managed("kubectl-edit")]), "Conflict", "FieldConflict"],
    ["a quota's own race", of(409, "Conflict", "operation cannot be fulfilled"), "Retry", "Conflict"],
    ["an invalid field", of(422, "Invalid", "", [{ reason: "FieldValueInvalid", message: "must be positive", field: "spec.x" }]), "Stalled", "Invalid"],
    ["an immutable field of ours", of(422, "Invalid", "", [{ reason: "FieldValueInvalid", message: "field is immutable", field: "spec.selector" }]), "Stalled", "ImmutableField"],
    ["a webhook's talk of a field that is not ours", of(422, "Invalid", "", [{ reason: "X", message: "field is immutable", field: "spec.other" }]), "Stalled", "Invalid"],
    ["a missing kind", of(404, "KindNotInstalled"), "Stalled", "KindNotInstalled"],
    ["a kind that is about to be served", of(404, "KindNotInstalled", "", [], true), "Retry", "KindNotInstalled"],
    ["a missing namespace", of(404, "NotFound"), "Waiting", "NamespaceNotFound"],
    ["a namespace on its way out", of(403, "Forbidden", "", [{ reason: "NamespaceTerminating", message: "", field: "" }]), "Waiting", "NamespaceTerminating"],
    ["a missing right", of(403, "Forbidden"), "Stalled", "Forbidden"],
    ["an exhausted quota", of(403, "Forbidden", "exceeded quota: rq"), "Stalled", "QuotaExceeded"],
    ["a bad request", of(400, "BadRequest", "strict decoding error"), "Stalled", "Rejected"],
    ["too large an object", of(413, "RequestEntityTooLarge"), "Stalled", "TooLarge"],
    ["a field outside of the schema", of(500, "", "failed to create typed patch object: .spec.bogus: field not declared in schema"), "Stalled", "Invalid"],
    ["a failing webhook", of(500, "InternalError", "failed calling webhook"), "Retry", "WebhookFailed"],
    ["an overloaded server", of(429, "TooManyRequests"), "Retry", "TooManyRequests"],
    ["a timeout", of(0, "Timeout"), "Retry", "Timeout"],
  ])("is right for %s", (_what, outcome, action, reason) => {
    expect(outcome).toMatchObject({ action, reason });
  });

  it("may be forced against people and controllers, never against another application", () => {
    expect(of(409, "Conflict", "", [managed("kubectl")]).forceable).toBe(true);
    expect(of(409, "Conflict", "", [managed("kubectl"), managed("moorage.b")])).toMatchObject({ forceable: false, message: expect.stringContaining("moorage.b") as string });
  });

  it("is ambiguous when the write may have been committed", () => {
    expect([of(0, "Timeout"), of(503, "X"), of(422, "Invalid"), of(429, "TooManyRequests")].map((o) => o.ambiguous)).toEqual([true, true, false, false]);
  });
});

describe("the inventory", () => {
  const names = ["a", "b", "c", "d"];
  type World = { inventory: InventoryEntry[]; live: Map<string, string> };

  /** The law under any mix of results and crashes: every live member is listed at every step. */
  it("lists every live member at every step", () => {
    const run = fc.record({
      desired: fc.subarray(names),
      results: fc.dictionary(fc.constantFrom(...names), fc.constantFrom("ok", "reject", "lost", "committed"), { minKeys: 0 }),
      crash: fc.constantFrom("none", "before", "middle", "after"),
      prune: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(run, { maxLength: 8 }), (runs) => {
        const world: World = { inventory: [], live: new Map() };
        const check = () => {
          for (const name of world.live.keys()) expect(world.inventory.map((e) => e.name)).toContain(name);
        };
        let uid = 0;
        for (const r of runs) {
          const p = planned(r.desired.map((n) => object("ConfigMap", n)));
          if (r.crash === "before") continue;
          world.inventory = writeAhead(world.inventory, p) ?? world.inventory;
          check();
          const outcomes: ObjectOutcome[] = [];
          for (const name of r.desired) {
            const id = object("ConfigMap", name).id;
            const result = r.results[name] ?? "ok";
            if (result !== "reject" && result !== "lost" && !world.live.has(name)) world.live.set(name, `u${++uid}`);
            check();
            const done = result === "ok";
            const entry: InventoryEntry = { ...id, version: "v1", uid: world.live.get(name) ?? "", desiredHash: "h", appliedHash: "h", phase: 0, state: "Applied" };
            outcomes.push({ id, action: done ? "Created" : result === "reject" ? "Stalled" : "Retry", reason: "", message: "", fields: [], ambiguous: result === "lost" || result === "committed", warnings: [], drift: false, ...(done ? { entry } : {}) });
          }
          if (r.crash === "middle") continue;
          const gone = r.prune && outcomes.every((o) => o.entry !== undefined) ? world.inventory.filter((e) => !r.desired.includes(e.name)) : [];
          for (const e of gone) world.live.delete(e.name);
          if (r.crash === "after") continue;
          world.inventory = mergeRun(world.inventory, { objects: outcomes, pruned: gone.map((id) => ({ id, action: "Deleted", reason: "", message: "" })) });
          check();
        }
      }),
    );
  });

  it("is written ahead only for new identities, and splits into shards that hold everything once", () => {
    const p = planned(names.map((n) => object("ConfigMap", n)));
    const first = writeAhead([], p) as InventoryEntry[];
    expect(first.map((e) => e.state)).toEqual(["Pending", "Pending", "Pending", "Pending"]);
    expect(writeAhead(first, p)).toBeUndefined();
    expect(inventoryChanged(first, [...first].reverse())).toBe(false);
    expect(shards(first, 3).map((s) => s.length)).toEqual([3, 1]);
    expect(shards([])).toEqual([[]]);
  });
});

describe("the prune plan", () => {
  const entry = (name: string, kind = "ConfigMap", uid = "u"): InventoryEntry => ({ group: "", kind, namespace: kind === "Namespace" ? "" : "n", name, version: "v1", uid, desiredHash: "", appliedHash: "", phase: 0, state: "Applied" });
  const live = (e: InventoryEntry, more: Partial<LiveState> = {}): LiveState => ({
    id: e, version: "v1", uid: e.uid, resourceVersion: "1", ownHashes: {}, formerManagers: [], partOf: "set", deleting: false, finalizers: [], annotations: {}, owners: [],
    health: { status: "Current", reason: "", message: "", confidence: "high" }, ...more,
  });
  const decide = (entries: InventoryEntry[], states: LiveState[], more: object = {}) =>
    planPrune({
      inventory: [entry("stay"), ...entries],
      desired: new Set([idKey(entry("stay"))]),
      appliedUids: new Set(),
      live: new Map(states.map((s) => [idKey(s.id), s])),
      partOf: "set",
      deleteData: false,
      removal: false,
      approvedPlans: [],
      usedNamespaces: new Set(),
      ...more,
    });

  it("treats the same object under another group as applied", () => {
    const e = entry("x");
    expect(decide([e], [live(e)], { appliedUids: new Set(["u"]) })).toMatchObject({ deletes: [], settled: [{ reason: "AppliedUnderAnotherGroup" }] });
  });

  it("does not delete again what is already terminating, and names the finalizers", () => {
    const e = entry("x");
    expect(decide([e], [live(e, { deleting: true, finalizers: ["f"] })])).toMatchObject({ deletes: [], settled: [{ action: "Deleting", message: expect.stringContaining("f") as string }] });
  });

  it("keeps a namespace that applied objects still live in, even on a removal", () => {
    const e = entry("n", "Namespace");
    expect(decide([e], [live(e)], { removal: true, usedNamespaces: new Set(["n"]) })).toMatchObject({ settled: [{ reason: "NamespaceInUse" }] });
    expect(decide([e], [live(e)], { removal: true }).deletes).toHaveLength(1);
  });

  it("deletes in reverse phases, namespaces last", () => {
    const set = [entry("ns", "Namespace"), { ...entry("early"), phase: 1 }, { ...entry("late"), phase: 3 }];
    const result = decide(set, set.map((e) => live(e)), { removal: true });
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

describe("former managers", () => {
  const edited = (manager: string, fieldsV1: FieldsV1): KubeObject => ({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "d", managedFields: [{ manager: "moorage.a", operation: "Apply", apiVersion: "apps/v1", fieldsV1: { "f:spec": { "f:a": {} } } }, { manager, operation: "Update", apiVersion: "apps/v1", fieldsV1 }] },
  });
  const restart: FieldsV1 = { "f:spec": { "f:template": { "f:metadata": { "f:annotations": { ".": {}, "f:kubectl.kubernetes.io/restartedAt": {} } } } } };

  it("are people and tools, but a rollout restart alone is no drift", () => {
    expect(formerManagers(edited("kubectl-edit", { "f:spec": { "f:b": {} } }))).toEqual(["kubectl-edit"]);
    expect(formerManagers(edited("kubectl-rollout", restart))).toEqual([]);
    expect(formerManagers(edited("kube-controller-manager", { "f:spec": { "f:b": {} } }))).toEqual([]);
  });

  it("are united into our entry, without the restart", () => {
    const fields = migratedFields(edited("kubectl-edit", uniteFields({ "f:spec": { "f:b": {} } }, restart)), { manager: "moorage.a", formerSelf: false });
    expect(fields).toMatchObject([{ manager: "moorage.a", operation: "Apply" }]);
    expect(fields?.[0]?.fieldsV1).toEqual({ "f:spec": { "f:a": {}, "f:b": {} } });
    expect(migratedFields(edited("kubectl-rollout", restart), { manager: "moorage.a", formerSelf: false })).toBeUndefined();
  });
});
