import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { key, keyAfter, prefix } from "@moorage/hub/store/bytes";
import type { Batch, Compare, Store } from "@moorage/hub/store/store";
import { limits } from "@moorage/shared/limits";
import { bytes, delOp, engines, everything, getOp, list, manualClock, putOp, run, text } from "./support.ts";
import type { ManualClock } from "./support.ts";

/** The rules of hub/store/store.ts, each as a test, on every engine. */

const compare = (k: string, target: Compare["target"], op: Compare["op"], to: number): Compare => ({
  key: key(k),
  target,
  op,
  to,
});

/** The first items of a watch. */
async function collect(watch: AsyncIterable<Batch>, n: number): Promise<Batch[]> {
  const out: Batch[] = [];
  for await (const batch of watch) {
    out.push(batch);
    if (out.length >= n) break;
  }
  return out;
}

const refused = (reason: string) => expect.objectContaining({ name: "MoorageError", reason });

describe.each(engines)("The $name store", (engine) => {
  let store: Store;
  let clock: ManualClock;
  let dispose: () => Promise<void>;
  beforeEach(async () => {
    clock = manualClock();
    ({ store, dispose } = await engine.open({ clock }));
  });
  afterEach(() => dispose());

  describe("revisions", () => {
    it("starts at revision 1 with an epoch of 16 bytes, and its first write is 2", async () => {
      const fresh = await store.status();
      expect(fresh).toMatchObject({ rev: 1, compactRev: 0, uncleanStart: false });
      expect(fresh.epoch).toHaveLength(16);
      expect((await run(store, putOp("a"))).rev).toBe(2);
      expect((await store.status()).rev).toBe(2);
    });

    it("makes one revision of a txn, shared by all it writes", async () => {
      const done = await run(store, putOp("a"), putOp("b"), putOp("c"));
      const { kvs } = await store.range(everything);
      expect(kvs.map((kv) => [kv.modRev, kv.createRev, kv.version])).toEqual([
        [done.rev, done.rev, 1],
        [done.rev, done.rev, 1],
        [done.rev, done.rev, 1],
      ]);
    });

    it("does not bump when nothing is written", async () => {
      await run(store, putOp("a"));
      const idle = [
        await run(store, delOp("missing")),
        await run(store, getOp("a")),
        await run(store),
        await store.txn({ if: [compare("a", "version", "=", 7)], then: [putOp("a", "x")] }),
      ];
      expect(idle.map((r) => r.rev)).toEqual([2, 2, 2, 2]);
      expect((await run(store, putOp("b"))).rev).toBe(3);
    });

    it("begins a new epoch above every revision ever given, and remembers where history ended", async () => {
      const before = await store.status();
      expect([before.restoredRev, before.newFrom]).toEqual([0, 0]);
      await run(store, putOp("a", "old"));
      const stop = new AbortController();
      const seen: Promise<Batch[]> = collect(store.watch({ ...everything, from: 2, signal: stop.signal }), 2);
      await store.newEpoch();
      const { epoch, rev, restoredRev, newFrom, uncleanStart } = await store.status();
      expect(Buffer.compare(epoch, before.epoch)).not.toBe(0);
      expect([rev, restoredRev, newFrom, uncleanStart]).toEqual([clock.now() * 100, 2, rev, false]);
      expect((await run(store, putOp("a", "new"))).rev).toBe(rev + 1);
      expect((await seen).map((b) => (b.kind === "events" ? b.rev : b.kind))).toEqual([2, rev + 1]);
      stop.abort();
      const { kvs } = await store.range({ start: key("a"), rev: 2 });
      expect(kvs.map((kv) => text(kv.value))).toEqual(["old"]);
      expect(kvs[0]?.modRev).toBe(2);
    });

    it("gives concurrent writes revisions of their own, without gap", async () => {
      const done = await Promise.all(Array.from({ length: 100 }, (_, i) => run(store, putOp(`k${i}`))));
      expect(done.map((r) => r.rev).sort((a, b) => a - b)).toEqual(
        Array.from({ length: 100 }, (_, i) => i + 2),
      );
    });

    it("counts versions from 1, and again after delete and create", async () => {
      await run(store, putOp("a", "1"));
      await run(store, putOp("a", "2"));
      expect((await store.range({ start: key("a") })).kvs[0]).toMatchObject({
        createRev: 2,
        modRev: 3,
        version: 2,
      });
      await run(store, delOp("a"));
      await run(store, putOp("a", "3"));
      expect((await store.range({ start: key("a") })).kvs[0]).toMatchObject({
        createRev: 5,
        modRev: 5,
        version: 1,
      });
    });
  });

  describe("txn", () => {
    it("takes the then branch only when every compare holds", async () => {
      await run(store, putOp("a"));
      await run(store, putOp("a"));
      const cases: [Compare, boolean][] = [
        [compare("a", "createRev", "=", 2), true],
        [compare("a", "modRev", "=", 3), true],
        [compare("a", "modRev", "=", 2), false],
        [compare("a", "version", ">", 1), true],
        [compare("a", "version", ">", 2), false],
        [compare("a", "modRev", "<", 4), true],
        [compare("a", "modRev", "<", 3), false],
        [compare("missing", "createRev", "=", 0), true],
        [compare("missing", "version", ">", 0), false],
      ];
      for (const [c, ok] of cases) {
        expect(await store.txn({ if: [c], then: [] }), JSON.stringify(c)).toMatchObject({ ok });
      }
      const both = await store.txn({ if: [cases[0]![0], cases[2]![0]], then: [] });
      expect(both.ok).toBe(false);
    });

    it("answers each op: replaced revision, whether deleted, the value read", async () => {
      await run(store, putOp("a", "1"), putOp("b"));
      const { results } = await run(
        store,
        putOp("a", "2"),
        putOp("new"),
        delOp("b"),
        delOp("none"),
        getOp("x"),
      );
      expect(results).toEqual([
        { kind: "put", prevRev: 2 },
        { kind: "put", prevRev: 0 },
        { kind: "delete", deleted: true },
        { kind: "delete", deleted: false },
        { kind: "get", kv: undefined },
      ]);
      const read = await store.txn({ if: [compare("a", "version", "=", 9)], then: [], else: [getOp("a")] });
      expect(read).toMatchObject({
        ok: false,
        rev: 3,
        results: [{ kind: "get", kv: { version: 2, modRev: 3 } }],
      });
    });

    it("lets one of many compare-and-sets on a key win", async () => {
      const create = (i: number) =>
        store.txn({ if: [compare("k", "createRev", "=", 0)], then: [putOp("k", `${i}`)] });
      const done = await Promise.all(Array.from({ length: 20 }, (_, i) => create(i)));
      expect(done.filter((r) => r.ok)).toHaveLength(1);
      expect(await list(store)).toEqual([`k=${done.findIndex((r) => r.ok)}`]);
    });

    it("keeps empty values and bytes that are no text", async () => {
      const odd = new Uint8Array([0, 255, 128, 0]);
      await run(
        store,
        { put: { key: odd, value: new Uint8Array(0) } },
        { put: { key: key("v"), value: odd } },
      );
      const { kvs } = await store.range(everything);
      expect(kvs.map((kv) => [...kv.key])).toEqual([[0, 255, 128, 0], [...key("v")]]);
      expect(kvs.map((kv) => [...kv.value])).toEqual([[], [0, 255, 128, 0]]);
    });

    it("copies the bytes it is given before it returns", async () => {
      const pool = Buffer.from("xxkeyvaluexx");
      const done = store.txn({ then: [{ put: { key: pool.subarray(2, 5), value: pool.subarray(5, 10) } }] });
      pool.fill(0);
      await done;
      expect(await list(store)).toEqual(["key=value"]);
    });

    it.each([
      ["DUPLICATE_KEY", () => ({ then: [putOp("a"), getOp("a")] })],
      ["DUPLICATE_KEY", () => ({ then: [], else: [putOp("a"), delOp("a")] })],
      [
        "TOO_MANY_OPS",
        () => ({ then: Array.from({ length: limits.storeTxnOps + 1 }, (_, i) => putOp(`${i}`)) }),
      ],
      ["KEY_TOO_LARGE", () => ({ then: [putOp("k".repeat(limits.storeKeyBytes + 1))] })],
      ["KEY_TOO_LARGE", () => ({ then: [putOp("")] })],
      ["VALUE_TOO_LARGE", () => ({ then: [putOp("a", "v".repeat(limits.storeValueBytes + 1))] })],
      ["TXN_TOO_LARGE", () => ({ then: [putOp("a", "v".repeat(900_000)), putOp("b", "v".repeat(900_000))] })],
      ["LEASE_NOT_FOUND", () => ({ then: [putOp("first"), putOp("a", "v", 99)] })],
    ])("refuses whole with %s", async (reason, request) => {
      await expect(store.txn(request())).rejects.toEqual(refused(reason));
      expect(await list(store)).toEqual([]);
      expect((await store.status()).rev).toBe(1);
    });

    it("takes as much as the limits allow", async () => {
      const ops = Array.from({ length: limits.storeTxnOps }, (_, i) => putOp(`${i}`));
      expect((await store.txn({ then: ops, else: ops })).ok).toBe(true);
      const big = putOp("k".repeat(limits.storeKeyBytes), "v".repeat(limits.storeValueBytes));
      expect((await run(store, big)).rev).toBe(3);
    });

    it("refuses one request of many without harm to the others", async () => {
      const mixed = await Promise.allSettled([
        run(store, putOp("a")),
        run(store, putOp("b", "v", 99)),
        run(store, putOp("c")),
      ]);
      expect(mixed.map((r) => r.status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
      expect(await list(store)).toEqual(["a=a", "c=c"]);
    });
  });

  describe("range", () => {
    it("orders keys by byte and honours both ends", async () => {
      for (const k of ["b", "a/2", "a/10", "a0", "a", "é", "Z"]) await run(store, putOp(k));
      expect(await list(store)).toEqual(["Z=Z", "a=a", "a/10=a/10", "a/2=a/2", "a0=a0", "b=b", "é=é"]);
      expect(await list(store, prefix("a/"))).toEqual(["a/10=a/10", "a/2=a/2"]);
      expect(await list(store, { start: key("a"), end: key("b") })).toHaveLength(4);
      expect(await list(store, { start: key("a") })).toEqual(["a=a"]);
      expect(await list(store, { start: key("b"), end: key("a") })).toEqual([]);
    });

    it("answers many keys at once, in the order asked for, and refuses too many", async () => {
      for (const k of ["a", "b", "c"]) await run(store, putOp(k));
      await run(store, putOp("b", "new"), delOp("c"));
      const found = await store.getMany(["b", "c", "nothing", "a", "b"].map(key));
      expect(found.map((kv) => kv && `${text(kv.key)}=${text(kv.value)}@${kv.modRev}`)).toEqual([
        "b=new@5",
        undefined,
        undefined,
        "a=a@2",
        "b=new@5",
      ]);
      const all = await store.range(everything);
      expect(await store.getMany(all.kvs.map((kv) => kv.key))).toEqual(all.kvs);
      const many = Array.from({ length: limits.storeTxnOps + 1 }, (_, i) => key(`k${i}`));
      await expect(store.getMany(many)).rejects.toMatchObject({ reason: "TOO_MANY_OPS" });
    });

    it("pages at one revision while others write", async () => {
      for (const k of ["a", "b", "c", "d", "e"]) await run(store, putOp(k));
      const first = await store.range({ ...everything, limit: 2 });
      expect(first).toMatchObject({ rev: 6, more: true });
      await run(store, delOp("c"), putOp("d", "new"), putOp("bb"));
      const start = keyAfter(first.kvs.at(-1)!.key);
      const rest = await store.range({ start, end: everything.end, rev: first.rev, limit: 3 });
      expect(rest.kvs.map((kv) => `${text(kv.key)}=${text(kv.value)}`)).toEqual(["c=c", "d=d", "e=e"]);
      expect(rest.more).toBe(false);
    });

    it("reads every past revision as it was", async () => {
      const states: string[][] = [[], []];
      const ops = [
        putOp("a", "1"),
        putOp("b", "1"),
        putOp("a", "2"),
        delOp("b"),
        delOp("a"),
        putOp("b", "2"),
      ];
      for (const op of ops) {
        await run(store, op);
        states.push(await list(store));
      }
      for (let rev = 1; rev < states.length; rev++)
        expect(await list(store, everything, rev)).toEqual(states[rev]);
    });

    it("leaves values out of keysOnly and says the head", async () => {
      await run(store, putOp("a", "value"));
      await run(store, putOp("b", "value"));
      const { kvs, rev } = await store.range({ ...everything, rev: 2, keysOnly: true });
      expect(kvs.map((kv) => [text(kv.key), kv.value.length])).toEqual([["a", 0]]);
      expect(rev).toBe(3);
    });

    it("refuses a future revision, a senseless one and a senseless limit", async () => {
      await expect(store.range({ ...everything, rev: 2 })).rejects.toEqual(refused("FUTURE_REVISION"));
      await expect(store.range({ ...everything, rev: 0 })).rejects.toEqual(refused("INVALID_REVISION"));
      await expect(store.range({ ...everything, limit: 0 })).rejects.toEqual(refused("INVALID_LIMIT"));
    });
  });

  describe("compact", () => {
    it("keeps the state at the revision and after, and refuses what is below", async () => {
      await run(store, putOp("a", "1"), putOp("gone"), putOp("still"));
      await run(store, putOp("a", "2"), delOp("gone"));
      await run(store, putOp("a", "3"));
      await store.compact(3);
      expect(await store.status()).toMatchObject({ rev: 4, compactRev: 3 });
      await expect(store.range({ ...everything, rev: 2 })).rejects.toEqual(refused("COMPACTED"));
      expect(await list(store, everything, 3)).toEqual(["a=2", "still=still"]);
      expect(await list(store, everything, 4)).toEqual(["a=3", "still=still"]);
      expect(await list(store)).toEqual(["a=3", "still=still"]);
    });

    it("brings no deleted key back, at any revision still readable", async () => {
      for (let i = 0; i < 5; i++) {
        await run(store, putOp("a", `${i}`));
        await run(store, delOp("a"));
      }
      await run(store, putOp("b"));
      for (const rev of [3, 6, 7, 11]) {
        await store.compact(rev);
        for (let at = rev; at <= 12; at++) {
          const alive = at < 12 && at % 2 === 0 ? [`a=${(at - 2) / 2}`] : [];
          expect(await list(store, prefix("a"), at)).toEqual(alive);
        }
      }
    });

    it("does nothing at or below what is compacted, and refuses the future", async () => {
      await run(store, putOp("a"));
      await store.compact(2);
      await store.compact(2);
      await store.compact(1);
      expect((await store.status()).compactRev).toBe(2);
      await expect(store.compact(3)).rejects.toEqual(refused("FUTURE_REVISION"));
    });

    it("writes no revision, and writes go on", async () => {
      await run(store, putOp("a", "1"));
      await store.compact(2);
      expect((await run(store, putOp("a", "2"))).rev).toBe(3);
      expect((await store.range({ start: key("a") })).kvs[0]).toMatchObject({ createRev: 2, version: 2 });
    });
  });

  describe("leases", () => {
    it("expires never early, and deletes all its keys in one revision", async () => {
      const lease = await store.grant(1_000);
      await run(store, putOp("a", "1", lease.id), putOp("b", "1", lease.id), putOp("c", "1"));
      clock.advance(999);
      expect(await list(store)).toHaveLength(3);
      clock.advance(1);
      // The next write comes after the expiry in the one order of writes.
      expect((await run(store, putOp("d"))).rev).toBe(4);
      expect(await list(store, everything, 3)).toEqual(["c=1"]);
      await expect(store.keepAlive(lease.id)).rejects.toEqual(refused("LEASE_NOT_FOUND"));
    });

    it("lives on with every keepAlive", async () => {
      const { id } = await store.grant(1_000);
      await run(store, putOp("a", "1", id));
      for (let i = 0; i < 5; i++) {
        clock.advance(900);
        await store.keepAlive(id);
      }
      clock.advance(999);
      expect(await list(store)).toEqual(["a=1"]);
    });

    it("takes a key off a lease that is put without one, or deleted", async () => {
      const { id } = await store.grant(1_000);
      await run(store, putOp("kept", "1", id), putOp("deleted", "1", id));
      await run(store, putOp("kept", "2"), delOp("deleted"));
      await store.revoke(id);
      expect(await store.status()).toMatchObject({ rev: 3 });
      expect(await list(store)).toEqual(["kept=2"]);
    });

    it("revokes at once, in one revision, and only once", async () => {
      const { id } = await store.grant(60_000);
      await run(store, putOp("a", "1", id), putOp("b", "1", id));
      await store.revoke(id);
      expect(await store.status()).toMatchObject({ rev: 3 });
      expect(await list(store)).toEqual([]);
      await expect(store.revoke(id)).rejects.toEqual(refused("LEASE_NOT_FOUND"));
      clock.advance(120_000);
      expect((await run(store, putOp("c"))).rev).toBe(4);
    });

    it("never uses a number twice and refuses a senseless life", async () => {
      const first = await store.grant(1_000);
      await store.revoke(first.id);
      expect((await store.grant(1_000)).id).not.toBe(first.id);
      for (const ttl of [0, -1, 1.5, 2 ** 31]) {
        await expect(store.grant(ttl)).rejects.toEqual(refused("INVALID_TTL"));
      }
    });
  });

  describe("commits and closing", () => {
    it("tells listeners of a commit before the txn settles, until they unsubscribe", async () => {
      const seen: unknown[] = [];
      const stop = store.onCommit((c) => seen.push(c));
      await store.txn({ then: [putOp("a")], rows: [{ putDp: { uid: "dp1" } }] });
      expect(seen).toEqual([{ rev: 2, dps: ["dp1"] }]);
      stop();
      await run(store, putOp("b"));
      expect(seen).toHaveLength(1);
    });

    it("settles what is under way when it closes, then refuses everything", async () => {
      const writes = Array.from({ length: 10 }, (_, i) => run(store, putOp(`${i}`)));
      const [settled] = await Promise.all([Promise.all(writes), store.close()]);
      expect(settled.map((r) => r.ok)).toEqual(Array(10).fill(true));
      await expect(run(store, putOp("late"))).rejects.toEqual(refused("STORE_CLOSED"));
      await expect(store.status()).rejects.toEqual(refused("STORE_CLOSED"));
      await store.close();
    });

    it("reads every settled write at once, however many are under way", async () => {
      let checked = 0;
      const writer = async (w: number): Promise<void> => {
        for (let i = 0; i < 20; i++) {
          const { rev } = await run(store, { put: { key: key(`w${w}`), value: bytes(`${i}`) } });
          const read = await store.range({ start: key(`w${w}`) });
          expect(read.rev).toBeGreaterThanOrEqual(rev);
          expect(text(read.kvs[0]!.value)).toBe(`${i}`);
          checked++;
        }
      };
      await Promise.all(Array.from({ length: 8 }, (_, w) => writer(w)));
      expect(checked).toBe(160);
    });
  });
});
