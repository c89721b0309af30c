import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { InventoryEntry } from "../apply/types.ts";
import { idKey } from "../apply/types.ts";
import { SHARD_ENTRIES, assign } from "./inventory-store.ts";

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
