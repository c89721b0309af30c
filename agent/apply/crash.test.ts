import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { PART_OF_LABEL } from "./labels.ts";
import { application, configMap, newCluster } from "./run.fixture.ts";

/**
 * Goal: whatever the moment of a crash or a lost answer, nothing lives untracked, nothing that is
 * still wanted is deleted, and the next run completes.
 * Method: a run over a changed set is cut at its n-th step, where a step is the moment before or after
 * an API call takes effect or an inventory write is stored. Then a new process (fresh cache, the stored
 * inventory) runs to the end.
 */
describe("a run that is cut at any step", () => {
  const names = ["a", "b", "c", "d", "e"];

  it("leaves every live member listed, and the next run completes", () => {
    const set = fc.subarray(names, { minLength: 1 });
    return fc.assert(
      fc.asyncProperty(
        set,
        set,
        fc.nat({ max: 40 }),
        fc.constantFrom("crash", "lost"),
        async (first, second, at, how) => {
          const cluster = newCluster();
          const before = application(cluster);
          await before.run(first.map((name) => configMap(name, { v: "1" })));
          let step = 0;
          const cut = () => {
            if (step++ !== at) return;
            throw how === "crash"
              ? new Error("crash")
              : new KubeError("cut", { status: 0, reason: "ConnectionLost" });
          };
          cluster.faults = { before: cut, after: cut };
          const stored = before.input.writeInventory;
          before.input.writeInventory = async (entries) => {
            cut();
            await stored(entries);
            cut();
          };
          const desired = second.map((name) => configMap(name, { v: "2" }));
          await before.run(desired).catch(() => undefined);
          const live = () =>
            cluster.store
              .list({ apiVersion: "v1", kind: "ConfigMap" })
              .filter((o) => o.metadata.labels?.[PART_OF_LABEL] !== undefined)
              .map((o) => o.metadata.name);
          for (const name of live()) expect(before.state.inventory.map((e) => e.name)).toContain(name);

          cluster.faults = {};
          const after = application(cluster);
          after.state.inventory = before.state.inventory;
          after.sync();
          const result = await after.run(desired);
          expect(result.applied).toBe(true);
          expect(live()).toEqual([...second].sort());
          expect(after.state.inventory.map((e) => [e.name, e.state])).toEqual(
            [...second].sort().map((n) => [n, "Applied"]),
          );
          after.sync();
          cluster.forgetCalls();
          await after.run(desired);
          expect(cluster.calls).toEqual([]);
        },
      ),
      { numRuns: 300 },
    );
  });
});
