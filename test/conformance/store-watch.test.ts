import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { key, prefix } from "@moorage/hub/store/bytes";
import type { Batch, Store } from "@moorage/hub/store/store";
import { seededRng } from "@moorage/shared/rng";
import { delOp, engines, everything, history, manualClock, putOp, run, show, take } from "./support.ts";
import type { ManualClock } from "./support.ts";
import { offencesOf, validators } from "./validators.ts";
import type { Watched } from "./validators.ts";

/** The revision that a reader has reached with an item; 0 with none. */
const revOf = (b: Batch | undefined): number => (b === undefined || b.kind === "compacted" ? 0 : b.rev);

/** Counts turns of the event loop until it is stopped. */
function countTurns(): { stop(): number } {
  let turns = 0;
  let stopped = false;
  const turn = (): void => {
    turns++;
    if (!stopped) setImmediate(turn);
  };
  turn();
  return {
    stop() {
      stopped = true;
      return turns;
    },
  };
}

describe.each(engines)("A watch on the $name store", (engine) => {
  let store: Store;
  let clock: ManualClock;
  let dispose: () => Promise<void>;
  const open = async (recentRevisions?: number): Promise<void> => {
    await dispose?.();
    clock = manualClock();
    ({ store, dispose } = await engine.open({
      clock,
      ...(recentRevisions === undefined ? {} : { recentRevisions }),
    }));
  };
  beforeEach(() => open());
  afterEach(() => dispose());

  const iterate = (request: Partial<Parameters<Store["watch"]>[0]> = {}): AsyncIterator<Batch> =>
    store.watch({ ...everything, from: 1, ...request })[Symbol.asyncIterator]();

  it("passes the jump to a new epoch in a few reads, however far it is", async () => {
    await run(store, putOp("a"));
    const past = iterate({ from: 1, progress: true });
    const live = iterate({ from: 1, progress: true });
    expect((await take(live, 2)).map(show)).toEqual(["2 put a=a", "progress 2"]);
    const told = take(live, 1);
    await store.newEpoch();
    clock.advance(60_000);
    // A catch-up lets the loop turn between two reads of the log.
    const turns = countTurns();
    const { rev } = await store.status();
    expect((await take(past, 2)).map(show)).toEqual(["2 put a=a", `progress ${rev}`]);
    expect((await told).map(show)).toEqual([`progress ${rev}`]);
    expect(turns.stop()).toBeLessThan(20);
  });

  it("shows each revision once and whole, past and live, without gap", async () => {
    await run(store, putOp("a", "1"), putOp("b", "1"));
    await run(store, putOp("a", "2"), delOp("b"));
    const watch = iterate();
    const past = await take(watch, 2);
    const live = take(watch, 2);
    await run(store, putOp("c"));
    await run(store, delOp("c"));
    expect([...past, ...(await live)].map(show)).toEqual([
      "2 put a=1, put b=1",
      "3 put a=2, delete b",
      "4 put c=c",
      "5 delete c",
    ]);
    await watch.return?.();
  });

  it("waits for a revision above the head and shows nothing below it", async () => {
    const watch = iterate({ from: 5 });
    const first = take(watch, 1);
    for (const k of ["a", "b", "c", "d", "e"]) await run(store, putOp(k));
    expect((await first).map(show)).toEqual(["5 put d=d"]);
    await watch.return?.();
  });

  it("shows only events of its range, and not a revision without one", async () => {
    const watch = iterate({ ...prefix("a/") });
    const two = take(watch, 2);
    await run(store, putOp("a/1"), putOp("b"), putOp("a"));
    await run(store, putOp("b"));
    await run(store, delOp("a/1"));
    expect((await two).map(show)).toEqual(["2 put a/1=a/1", "4 delete a/1"]);
    await watch.return?.();
  });

  it("watches a single key", async () => {
    const watch = store.watch({ start: key("a"), from: 1 })[Symbol.asyncIterator]();
    await run(store, putOp("a/1"), putOp("aa"));
    await run(store, putOp("a"));
    expect((await take(watch, 1)).map(show)).toEqual(["3 put a=a"]);
    await watch.return?.();
  });

  it("answers compacted alone at or below the compacted revision", async () => {
    for (const k of ["a", "b", "c"]) await run(store, putOp(k));
    await store.compact(3);
    expect((await history(store, 2)).map(show)).toEqual(["compacted 3"]);
    expect((await history(store, 3)).map(show)).toEqual(["compacted 3"]);
    expect((await history(store, 4)).map(show)).toEqual(["4 put c=c", "progress 4"]);
    const ended = iterate({ from: 2 });
    await ended.next();
    expect(await ended.next()).toEqual({ value: undefined, done: true });
  });

  it("goes on through a compaction when it has read what is given up", async () => {
    const watch = iterate();
    const first = take(watch, 1);
    await run(store, putOp("a"));
    await first;
    const second = take(watch, 1);
    await store.compact(2);
    await run(store, putOp("b"));
    expect((await second).map(show)).toEqual(["3 put b=b"]);
    await watch.return?.();
  });

  it("tells a reader that fell behind a compaction that it is compacted", async () => {
    const watch = iterate({ from: 2 });
    for (const k of ["a", "b", "c"]) await run(store, putOp(k));
    await take(watch, 1);
    await store.compact(4);
    expect((await take(watch, 2)).map(show)).toEqual(["compacted 4"]);
  });

  it("reports progress once caught up, then in its interval while others write", async () => {
    await run(store, putOp("a"));
    const watch = iterate({ ...prefix("a"), progress: true });
    expect((await take(watch, 2)).map(show)).toEqual(["2 put a=a", "progress 2"]);
    const next = take(watch, 1);
    await run(store, putOp("b"));
    await run(store, putOp("b"));
    // The reader's own turns come first, so that its timer is armed.
    await store.status();
    clock.advance(5_000);
    expect((await next).map(show)).toEqual(["progress 4"]);
    await watch.return?.();
  });

  it("reports progress at once on an empty store, for from = head + 1", async () => {
    expect((await history(store, 2)).map(show)).toEqual(["progress 1"]);
  });

  it("ends on its signal, while it waits and before", async () => {
    const abort = new AbortController();
    const watch = iterate({ signal: abort.signal });
    const waiting = watch.next();
    abort.abort();
    expect(await waiting).toEqual({ value: undefined, done: true });
    expect(await iterate({ signal: abort.signal }).next()).toEqual({ value: undefined, done: true });
  });

  it("throws when the store closes", async () => {
    const waiting = iterate().next();
    await Promise.all([expect(waiting).rejects.toMatchObject({ reason: "STORE_CLOSED" }), store.close()]);
  });

  it("refuses a senseless revision", () => {
    expect(() => store.watch({ ...everything, from: 0 })).toThrow(/revision is an integer from 1/);
  });

  it("shows an expiry as a normal revision of deletes", async () => {
    const { id } = await store.grant(1_000);
    await run(store, putOp("b", "1", id), putOp("a", "1", id));
    clock.advance(1_000);
    await run(store, putOp("c"));
    expect((await history(store, 3)).map(show)).toEqual(["3 delete a, delete b", "4 put c=c", "progress 4"]);
  });

  it("reads a revision of more events than a stretch of the log holds whole", async () => {
    await open(1);
    const { id } = await store.grant(60_000);
    for (let t = 0; t < 3; t++) {
      await run(store, ...Array.from({ length: 100 }, (_, i) => putOp(`${t}/${i}`, "", id)));
    }
    await store.revoke(id);
    await run(store, putOp("after"));
    const batches = await history(store, 2);
    expect(batches.map((b) => (b.kind === "events" ? [b.rev, b.events.length] : b.kind))).toEqual([
      [2, 100],
      [3, 100],
      [4, 100],
      [5, 300],
      [6, 1],
      "progress",
    ]);
  });

  it("reads what it missed from the log when it is slower than the writes", async () => {
    await open(4);
    const watch = iterate({ progress: true });
    await run(store, putOp("k", "first"));
    const seen = await take(watch, 1);
    for (let i = 0; i < 300; i++) await run(store, putOp("k", `${i}`), putOp(`other${i}`));
    seen.push(...(await take(watch, 301)));
    expect(seen.map(revOf)).toEqual([...Array.from({ length: 301 }, (_, i) => i + 2), 302]);
    await watch.return?.();
  });

  it("satisfies every validator for readers of all speeds, cut and resumed at random", async () => {
    await open(16);
    const rng = seededRng(20_261_126);
    const random = (n: number): number => Math.floor(rng.float() * n);
    const ranges = [everything, prefix("a/"), prefix("b/1"), { start: key("a/3") }];
    const writes = 400;
    const watched: Watched[] = [];

    const reader = async (range: (typeof ranges)[number]): Promise<void> => {
      // One reader's cuts, joined: each resumes after the last item the one before it saw.
      let from = 1;
      const joined: Batch[] = [];
      while (revOf(joined.at(-1)) < writes + 1) {
        const part: Batch[] = [];
        const most = 1 + random(40);
        for await (const batch of store.watch({ ...range, from, progress: true })) {
          if (batch.kind === "compacted") throw new Error(`compacted ${batch.compactRev}`);
          part.push(batch);
          if (random(3) === 0) await store.status();
          if (part.length >= most || batch.rev >= writes + 1) break;
          clock.advance(5_000);
        }
        watched.push({ from, range, batches: part });
        // A first progress may repeat what the cut reader already knew.
        joined.push(
          ...part.filter((b) => b.kind === "events"),
          ...part.slice(-1).filter((b) => b.kind === "progress"),
        );
        from = revOf(part.at(-1)) + 1;
      }
      watched.push({ from: 1, range, batches: joined.filter((b) => b.kind === "events") });
    };
    const writer = async (): Promise<void> => {
      for (let i = 0; i < writes; i++) {
        const ops = new Map<string, ReturnType<typeof putOp>>();
        for (let n = 0; n <= random(4); n++) {
          const k = `${random(2) === 0 ? "a" : "b"}/${random(20)}`;
          ops.set(k, random(4) === 0 ? delOp(k) : putOp(k, `${i}`));
        }
        ops.set("tick", putOp("tick", `${i}`));
        await run(store, ...ops.values());
        if (random(4) === 0) clock.advance(5_000);
      }
      // Readers of silent ranges learn of the end by progress.
      for (let i = 0; i < 20; i++) {
        await store.status();
        clock.advance(5_000);
      }
    };
    await Promise.all([writer(), ...ranges.map(reader), reader(everything), reader(prefix("a/"))]);
    const all = await history(store, 1);
    expect(all).toHaveLength(writes + 1);
    expect(watched.flatMap((w) => offencesOf(w, all))).toEqual([]);
    expect(watched.length).toBeGreaterThan(6);
  });
});

describe("The watch validators", () => {
  const put = (rev: number, k = "a", version = 1) => ({
    type: "put" as const,
    kv: { key: key(k), value: key("v"), createRev: rev, modRev: rev, version, lease: 0 },
    prevRev: version === 1 ? 0 : rev - 1,
  });
  const events = (rev: number, ...list: ReturnType<typeof put>[]): Batch => ({
    kind: "events",
    rev,
    events: list,
  });
  const all = [events(2, put(2), put(2, "b")), events(3, put(3, "c")), events(4, put(4, "d"))];
  const range = everything;

  it.each<[keyof typeof validators, Watched]>([
    ["Ordered", { from: 1, range, batches: [all[1]!, all[0]!] }],
    ["Unique", { from: 1, range, batches: [all[0]!, all[0]!] }],
    ["Atomic", { from: 1, range, batches: [events(2, put(2))] }],
    ["Reliable", { from: 1, range, batches: [all[0]!, all[2]!] }],
    ["Resumable", { from: 3, range, batches: [all[0]!] }],
    ["Filter", { from: 1, range: prefix("b"), batches: [all[0]!] }],
    ["Bookmarkable", { from: 1, range, batches: [{ kind: "progress", rev: 3 }, all[1]!] }],
    ["IsCreate", { from: 1, range, batches: [events(2, { ...put(2), prevRev: 1 })] }],
  ])("%s finds a planted offence", (name, watched) => {
    expect(validators[name]!(watched, all)).not.toEqual([]);
  });
});
