/** R3, D1: power loss at every sync boundary of a trace of the store's writes. */
import { rmSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { replay, traceWrites } from "./power.ts";
import { rounds, seed } from "./scale.ts";

const writes = rounds(1_000, 10_000);

describe("R3: a store whose power fails", () => {
  it("opens sound at every sync boundary, with all that was acknowledged, whatever became of unsynced writes", async () => {
    const work = await traceWrites(writes);
    try {
      const r = await replay(work, { seed, storeEvery: 40 });
      console.log(
        `power loss: ${r.writes} writes, ${r.commits} transactions, ${r.syncs} syncs of the log, ${r.boundaries} boundaries, ${r.images} images opened, seed ${seed}`,
      );
      expect(r.offences).toEqual([]);
      expect(r.writes).toBe(writes);
      expect(r.boundaries).toBeGreaterThan(writes / 4);
      // D1: each group is one transaction, and each is synced before anybody hears of it.
      expect(r.commits).toBeGreaterThan(writes / 4);
      expect(r.syncs).toBeGreaterThanOrEqual(r.commits);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }, 3_600_000);
});
