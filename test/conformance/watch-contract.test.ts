/** R10: the watch contract on the durable store under full load, with readers that are cut and resume at random. */
import { rmSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Batch, Store } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { rounds, seed } from "../faults/scale.ts";
import { delOp, everything, history, putOp, run, tempDir } from "./support.ts";
import type { Watched } from "./validators.ts";
import { offencesOf } from "./validators.ts";

/** Windows of load, each on a store of its own. */
const windows = rounds(1, 40);
const WINDOW_MS = 15_000;
const SHORT_MS = 4_000;
/** Below this the watches had an easy time: the run says nothing. */
const LEAST_WRITES_PER_S = 200;
const READERS = 12;
const WRITERS = 16;

/** Loads a store for a while; every watch as it was read. */
async function load(
  store: Store,
  ms: number,
  random: (n: number) => number,
): Promise<{ watched: Watched[]; writes: number }> {
  const end = systemClock.monotonicMs() + ms;
  const stop = new AbortController();
  const watched: Watched[] = [];
  let writes = 0;
  const writer = async (w: number): Promise<void> => {
    while (systemClock.monotonicMs() < end) {
      const ops = new Map<string, ReturnType<typeof putOp>>();
      for (let n = 0; n <= random(4); n++) {
        const k = `${random(2) === 0 ? "a" : "b"}/${random(50)}`;
        ops.set(k, random(4) === 0 ? delOp(k) : putOp(k, `${w}/${writes}`));
      }
      ops.set(`w/${w}`, putOp(`w/${w}`, String(writes)));
      await run(store, ...ops.values());
      writes++;
    }
  };
  const reader = async (range: Watched["range"]): Promise<void> => {
    let from = 1;
    while (!stop.signal.aborted) {
      const cut = new AbortController();
      const batches: Batch[] = [];
      const most = 1 + random(400);
      for await (const batch of store.watch({
        ...range,
        from,
        progress: true,
        signal: AbortSignal.any([stop.signal, cut.signal]),
      })) {
        batches.push(batch);
        // A reader that falls behind reads the log, one that keeps up the recent revisions.
        if (random(50) === 0) await store.status();
        if (batches.length >= most) cut.abort(new DOMException("cut", "AbortError"));
      }
      watched.push({ from, range, batches });
      const last = batches.at(-1);
      if (last !== undefined && last.kind !== "compacted") from = last.rev + 1;
    }
  };
  const ranges = [everything, prefix("a/"), prefix("b/1"), prefix("w/")];
  const readers = Array.from({ length: READERS }, (_, i) =>
    reader(ranges[i % ranges.length] as Watched["range"]),
  );
  await Promise.all(Array.from({ length: WRITERS }, (_, w) => writer(w)));
  stop.abort(new DOMException("over", "AbortError"));
  await Promise.all(readers);
  return { watched, writes };
}

describe("R10: watches under load", () => {
  it("keep their contract through cuts at random points", async () => {
    const rng = seededRng(seed);
    const random = (n: number): number => Math.floor(rng.float() * n);
    const total = { writes: 0, ms: 0, watches: 0, batches: 0 };
    for (let w = 0; w < windows; w++) {
      const dir = tempDir();
      const store = await openSqliteStore({
        dir,
        clock: systemClock,
        rng: systemRng,
        progressMs: 50,
        recentRevisions: 256,
      });
      try {
        const ms = windows === 1 ? SHORT_MS : WINDOW_MS;
        const { watched, writes } = await load(store, ms, random);
        const perSecond = (writes * 1_000) / ms;
        if (perSecond < LEAST_WRITES_PER_S)
          throw new Error(
            `The run is invalid: ${perSecond.toFixed(0)} writes/s, at least ${LEAST_WRITES_PER_S} are needed`,
          );
        const all = await history(store, 1);
        expect(
          watched.flatMap((one) => offencesOf(one, all)).slice(0, 5),
          `window ${w}, seed ${seed}`,
        ).toEqual([]);
        total.writes += writes;
        total.ms += ms;
        total.watches += watched.length;
        total.batches += watched.reduce((n, one) => n + one.batches.length, 0);
      } finally {
        await store.close();
        rmSync(dir, { recursive: true, force: true });
      }
    }
    console.log(
      `watch contract: ${total.writes} writes (${((total.writes * 1_000) / total.ms).toFixed(0)}/s), ${total.watches} watches, ${total.batches} batches judged, seed ${seed}`,
    );
    expect(total.watches).toBeGreaterThan(READERS * windows);
  }, 1_800_000);
});
