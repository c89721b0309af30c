import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { key, prefix } from "@moorage/hub/store/bytes";
import type { Batch, Op, RowOp, Store, TxnRequest } from "@moorage/hub/store/store";
import { MoorageError } from "@moorage/shared/errors";
import { bytes, everything, history, manualClock, memoryEngine, sqliteEngine } from "./support.ts";
import { NaiveStore } from "./naive.ts";

/**
 * One random program on every engine and on a model that keeps whole states: equal answers including
 * revisions and errors, equal histories, equal watches. fast-check prints the seed of a failure.
 */

type Step =
  | { kind: "txn"; txn: TxnRequest }
  | { kind: "range"; back: number; limit: number | undefined; wide: boolean }
  | { kind: "compact"; back: number }
  | { kind: "grant"; ttlMs: number }
  | { kind: "revoke" | "keepAlive"; lease: number }
  | { kind: "advance"; ms: number }
  | { kind: "watch"; back: number; wide: boolean }
  | { kind: "changes"; dp: string; back: number; limit: number; maxBytes: number };

const name = fc.constantFrom("a", "a/1", "a/2", "b", "b/1");
const uid = fc.constantFrom("u1", "u2", "u3");
const dp = fc.constantFrom("dp1", "dp2");
const value = fc.uint8Array({ maxLength: 6 });
const lease = fc.integer({ min: 1, max: 4 });
const back = fc.integer({ min: -1, max: 12 });

const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ key: name, value }).map((p) => ({ put: { key: key(p.key), value: p.value } })),
  },
  {
    weight: 1,
    arbitrary: fc
      .record({ key: name, value, lease })
      .map((p) => ({ put: { key: key(p.key), value: p.value, lease: p.lease } })),
  },
  { weight: 2, arbitrary: name.map((k) => ({ delete: { key: key(k) } })) },
  { weight: 1, arbitrary: name.map((k) => ({ get: { key: key(k) } })) },
);
/** Seldom forgets a data plane: until it is registered again, txns with rows of it are refused. */
const row: fc.Arbitrary<RowOp> = fc.oneof(
  {
    weight: 16,
    arbitrary: fc
      .record({ dp, uid, name, del: fc.boolean(), update: value })
      .map((upsertRes) => ({ upsertRes })),
  },
  { weight: 6, arbitrary: fc.record({ dp, uid }).map((dropRes) => ({ dropRes })) },
  { weight: 3, arbitrary: dp.map((d) => ({ putDp: { uid: d } })) },
  { weight: 1, arbitrary: dp.map((d) => ({ dropDp: { uid: d } })) },
);
const compare = fc.record({
  key: name.map(key),
  target: fc.constantFrom("createRev" as const, "modRev" as const, "version" as const),
  op: fc.constantFrom("=" as const, "<" as const, ">" as const),
  to: fc.integer({ min: 0, max: 8 }),
});
const ops = fc.array(op, { maxLength: 3 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc
      .record({
        if: fc.array(compare, { maxLength: 1 }),
        then: ops,
        else: ops,
        rows: fc.array(row, { maxLength: 3 }),
      })
      .map((txn) => ({ kind: "txn" as const, txn })),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("range" as const),
      back,
      limit: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
      wide: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("compact" as const), back }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("grant" as const), ttlMs: fc.integer({ min: 1, max: 50 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom("revoke" as const, "keepAlive" as const), lease }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("advance" as const), ms: fc.integer({ min: 1, max: 30 }) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("watch" as const), back, wide: fc.boolean() }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("changes" as const),
      dp,
      back,
      limit: fc.integer({ min: 1, max: 4 }),
      maxBytes: fc.integer({ min: 1, max: 12 }),
    }),
  },
);

/** An engine with the clock that drives it. */
interface Subject {
  store: Omit<Store, "newEpoch">;
  advance(ms: number): void;
}

const attempt = async (what: () => Promise<unknown>): Promise<unknown> => {
  try {
    return await what();
  } catch (thrown) {
    return thrown instanceof MoorageError ? `refused: ${thrown.reason}` : thrown;
  }
};

/** Runs a program; the trace of all its answers, then of everything that can be read at the end. */
async function trace({ store, advance }: Subject, program: readonly Step[]): Promise<unknown[]> {
  const answers: unknown[] = [];
  for (const s of program) {
    const { rev } = await store.status();
    const range = "wide" in s && !s.wide ? prefix("a") : everything;
    answers.push(
      await attempt(async () => {
        switch (s.kind) {
          case "txn":
            return await store.txn(s.txn);
          case "range":
            return await store.range({
              ...range,
              rev: rev - s.back,
              ...(s.limit === undefined ? {} : { limit: s.limit }),
            });
          case "compact":
            return await store.compact(rev - s.back);
          case "grant":
            return await store.grant(s.ttlMs);
          case "revoke":
            return await store.revoke(s.lease);
          case "keepAlive":
            return await store.keepAlive(s.lease);
          case "advance":
            advance(s.ms);
            // Orders what expired before the next step: an empty txn waits its turn.
            return await store.txn({ then: [] });
          case "watch":
            return rev - s.back > rev + 1 ? "waits" : await history(store, rev - s.back, range);
          case "changes":
            return await store.changes({
              dp: s.dp,
              after: rev - s.back,
              limit: s.limit,
              maxBytes: s.maxBytes,
            });
        }
      }),
    );
  }
  const { rev, compactRev } = await store.status();
  answers.push({ rev, compactRev }, await history(store, compactRev + 1));
  for (let at = Math.max(1, compactRev); at <= rev; at++)
    answers.push(await store.range({ ...everything, rev: at }));
  for (const d of ["dp1", "dp2"]) {
    answers.push(await attempt(() => store.resAll(d, { limit: 10 })), await attempt(() => store.floor(d)));
  }
  return answers;
}

/** A watch open through a whole program sees what a list of its history shows at the end. */
async function follow(
  store: Omit<Store, "newEpoch">,
  until: () => Promise<void>,
): Promise<{ live: Batch[]; listed: Batch[] }> {
  const live: Batch[] = [];
  const done = (async () => {
    for await (const batch of store.watch({ ...everything, from: 1 })) {
      live.push(batch);
      const last = batch.kind === "events" ? batch.events.at(-1) : undefined;
      if (last !== undefined && new TextDecoder().decode(last.kv.key) === "end") return;
    }
  })();
  await until();
  await store.txn({ then: [{ put: { key: key("end"), value: bytes("") } }] });
  await done;
  const listed = (await history(store, 1)).filter((b) => b.kind === "events");
  return { live, listed };
}

/** What a program finds: without data planes and leases nearly all of its txns would be refused. */
const prelude: readonly Step[] = [
  { kind: "txn", txn: { then: [], rows: [{ putDp: { uid: "dp1" } }, { putDp: { uid: "dp2" } }] } },
  { kind: "grant", ttlMs: 40 },
  { kind: "grant", ttlMs: 1_000 },
];

const program = fc
  .array(step, { minLength: 10, maxLength: 50, size: "max" })
  .map((steps) => [...prelude, ...steps]);

describe("A random program", () => {
  it("has equal answers, revisions and watches on the model, in memory and on SQLite", async () => {
    const check = async (steps: readonly Step[]): Promise<void> => {
      const naive = new NaiveStore();
      const expected = await trace({ store: naive, advance: (ms) => naive.advance(ms) }, steps);
      for (const engine of [memoryEngine, sqliteEngine]) {
        const clock = manualClock();
        // Few recent revisions, so that watches read from the log as well.
        const { store, dispose } = await engine.open({ clock, recentRevisions: 3 });
        try {
          expect(await trace({ store, advance: (ms) => clock.advance(ms) }, steps), engine.name).toEqual(
            expected,
          );
        } finally {
          await dispose();
        }
      }
    };
    await fc.assert(fc.asyncProperty(program, check), {
      numRuns: 50,
    });
    expect.hasAssertions();
  });

  it("is followed by a live watch as the log lists it afterwards", async () => {
    const check = async (txns: readonly TxnRequest[]): Promise<void> => {
      for (const engine of [memoryEngine, sqliteEngine]) {
        const { store, dispose } = await engine.open({ clock: manualClock(), recentRevisions: 2 });
        try {
          const { live, listed } = await follow(store, async () => {
            await Promise.allSettled(txns.map((t) => store.txn(t)));
          });
          expect(live, engine.name).toEqual(listed);
        } finally {
          await dispose();
        }
      }
    };
    const txns = fc.array(fc.record({ then: ops }), { maxLength: 30 });
    await fc.assert(fc.asyncProperty(txns, check), { numRuns: 20 });
    expect.hasAssertions();
  });
});
