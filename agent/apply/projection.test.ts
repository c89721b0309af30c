import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { FieldsV1, KubeObject } from "../kube/object.ts";
import { formerManagers } from "./live.ts";
import { migratedFields, rewrittenVersions } from "./migrate.ts";
import { ownHash, project, uniteFields, withoutPath } from "./projection.ts";

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
  const spec = {
    replicas: 1,
    args: ["a", "b"],
    containers: [{ name: "web", image: "i" }],
    finalizers: ["a"],
  };
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
    const more = {
      ...spec,
      extra: 1,
      containers: [
        { name: "side", image: "s" },
        { image: "i", name: "web", tty: true },
      ],
      finalizers: ["b", "a"],
    };
    expect(ownHash(owned(fields, more), "moorage.a")).toBe(base);
  });

  it("tells a missing value from null and from the empty map", () => {
    const leaf: FieldsV1 = { "f:a": {} };
    expect(
      new Set([
        project(leaf, {}),
        project(leaf, { a: null }),
        project(leaf, { a: {} }),
        project(leaf, { a: "-" }),
      ]).size,
    ).toBe(4);
  });

  it("leaves ignored paths out", () => {
    const ignored = [
      ["f:spec", "f:replicas"],
      ["f:spec", "f:containers", "*", "f:image"],
    ];
    const a = ownHash(owned(fields, spec), "moorage.a", ignored);
    expect(
      ownHash(
        owned(fields, { ...spec, replicas: 9, containers: [{ name: "web", image: "z" }] }),
        "moorage.a",
        ignored,
      ),
    ).toBe(a);
  });

  it("is total: any fields over any value", () => {
    const tree = fc.letrec<{ node: FieldsV1 }>((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        fc.constant<FieldsV1>({}),
        fc.dictionary(fc.constantFrom("f:a", "f:b", "i:0", 'k:{"a":1}', 'v:"x"', "."), tie("node"), {
          maxKeys: 3,
        }),
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

describe("former managers", () => {
  const edited = (manager: string, fieldsV1: FieldsV1): KubeObject => ({
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: {
      name: "d",
      managedFields: [
        {
          manager: "moorage.a",
          operation: "Apply",
          apiVersion: "apps/v1",
          fieldsV1: { "f:spec": { "f:a": {} } },
        },
        { manager, operation: "Update", apiVersion: "apps/v1", fieldsV1 },
      ],
    },
  });
  const restart: FieldsV1 = {
    "f:spec": {
      "f:template": {
        "f:metadata": { "f:annotations": { ".": {}, "f:kubectl.kubernetes.io/restartedAt": {} } },
      },
    },
  };

  it("are people and tools, but a rollout restart alone is no drift", () => {
    expect(formerManagers(edited("kubectl-edit", { "f:spec": { "f:b": {} } }))).toEqual(["kubectl-edit"]);
    expect(formerManagers(edited("kubectl-rollout", restart))).toEqual([]);
    expect(formerManagers(edited("kube-controller-manager", { "f:spec": { "f:b": {} } }))).toEqual([]);
  });

  it("are united into our entry, without the restart", () => {
    const fields = migratedFields(edited("kubectl-edit", uniteFields({ "f:spec": { "f:b": {} } }, restart)), {
      manager: "moorage.a",
      formerSelf: false,
    });
    expect(fields).toMatchObject([{ manager: "moorage.a", operation: "Apply" }]);
    expect(fields?.[0]?.fieldsV1).toEqual({ "f:spec": { "f:a": {}, "f:b": {} } });
    expect(
      migratedFields(edited("kubectl-rollout", restart), { manager: "moorage.a", formerSelf: false }),
    ).toBeUndefined();
  });

  it("have their entries' versions rewritten after a version bump, and only then", () => {
    const old = edited("kubectl-edit", { "f:spec": {} });
    expect(rewrittenVersions(old, "apps/v1")).toBeUndefined();
    expect(rewrittenVersions(old, "apps/v2")?.map((e) => e.apiVersion)).toEqual(["apps/v2", "apps/v2"]);
  });
});
