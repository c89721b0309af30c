import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inventoryChanged, mergeRun, shards, writeAhead } from "./inventory.ts";
import type { NormalObject } from "./normalise.ts";
import { plan, type Plan } from "./plan.ts";
import { idKey, type InventoryEntry, type ObjectId, type ObjectOutcome } from "./types.ts";

const object = (kind: string, name: string, dependsOn?: string): NormalObject => {
  const id: ObjectId = { group: "", kind, namespace: kind === "Namespace" ? "" : "n", name };
  const annotations = dependsOn === undefined ? {} : { "moorage.dev/depends-on": dependsOn };
  return { id, version: "v1", hash: "", object: { apiVersion: "v1", kind, metadata: { name, annotations } } };
};
const planned = (objects: NormalObject[]) => plan(objects) as Plan;

describe("the plan", () => {
  const kinds = [
    "Namespace",
    "ResourceQuota",
    "RoleBinding",
    "Role",
    "ConfigMap",
    "Deployment",
    "ValidatingWebhookConfiguration",
    "Widget",
  ];

  it("is the same for any order of its input, and respects hard edges", () => {
    const set = [
      ...kinds.map((kind) => object(kind, "n")),
      object("ConfigMap", "late", "/namespaces/n/Deployment/n"),
    ];
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
    for (const [key, deps] of expected.hard)
      for (const dep of deps)
        expect(expected.phaseOf.get(idKey(dep))).toBeLessThan(expected.phaseOf.get(key) as number);
  });

  it("names a cycle, a reference outside of the set, a duplicate and a malformed one", () => {
    const cycle = plan([
      object("ConfigMap", "a", "/namespaces/n/ConfigMap/b"),
      object("ConfigMap", "b", "/namespaces/n/ConfigMap/a"),
    ]);
    expect(cycle).toEqual({
      error: "Cannot order the set: dependency cycle ConfigMap n/a -> ConfigMap n/b -> ConfigMap n/a",
    });
    expect(plan([object("ConfigMap", "a", "/namespaces/n/ConfigMap/x")])).toMatchObject({
      error: expect.stringContaining("not in the set") as string,
    });
    expect(
      plan([
        object("ConfigMap", "b"),
        object("ConfigMap", "a", "/namespaces/n/ConfigMap/b,/namespaces/n/ConfigMap/b"),
      ]),
    ).toMatchObject({ error: expect.stringContaining("twice") as string });
    expect(plan([object("ConfigMap", "a", "nonsense")])).toMatchObject({
      error: expect.stringContaining("malformed") as string,
    });
  });
});

describe("the inventory", () => {
  const names = ["a", "b", "c", "d"];
  type World = { inventory: InventoryEntry[]; live: Map<string, string> };

  /** The law under any mix of results and crashes: every live member is listed at every step. */
  it("lists every live member at every step", () => {
    const run = fc.record({
      desired: fc.subarray(names),
      results: fc.dictionary(
        fc.constantFrom(...names),
        fc.constantFrom("ok", "reject", "lost", "committed"),
        { minKeys: 0 },
      ),
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
            if (result !== "reject" && result !== "lost" && !world.live.has(name))
              world.live.set(name, `u${++uid}`);
            check();
            const done = result === "ok";
            const entry: InventoryEntry = {
              ...id,
              version: "v1",
              uid: world.live.get(name) ?? "",
              desiredHash: "h",
              appliedHash: "h",
              phase: 0,
              state: "Applied",
            };
            outcomes.push({
              id,
              action: done ? "Created" : result === "reject" ? "Stalled" : "Retry",
              reason: "",
              message: "",
              fields: [],
              ambiguous: result === "lost" || result === "committed",
              warnings: [],
              drift: false,
              ...(done ? { entry } : {}),
            });
          }
          if (r.crash === "middle") continue;
          const gone =
            r.prune && outcomes.every((o) => o.entry !== undefined)
              ? world.inventory.filter((e) => !r.desired.includes(e.name))
              : [];
          for (const e of gone) world.live.delete(e.name);
          if (r.crash === "after") continue;
          world.inventory = mergeRun(world.inventory, {
            objects: outcomes,
            pruned: gone.map((id) => ({ id, action: "Deleted", reason: "", message: "" })),
          });
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
