import Database from "better-sqlite3";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { SCHEMA, checkVersion, configure, files } from "@moorage/hub/store/sqlite/schema";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { SqliteStore, SqliteStoreOptions } from "@moorage/hub/store/sqlite/sqlite";
import type { Op } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";
import {
  bytes,
  delOp,
  everything,
  history,
  list,
  manualClock,
  putOp,
  run,
  show,
  tempDir,
} from "./support.ts";
import type { ManualClock } from "./support.ts";

/** A file of each former schema, as SQL. */
const golden = fileURLToPath(new URL("../../hub/store/sqlite/golden", import.meta.url));

/** Tables, columns and indexes of a file, however they came about. */
function columns(path: string): unknown {
  const db = new Database(path, { readonly: true });
  const tables = db
    .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    .pluck()
    .all();
  const facts = tables.map((t) => {
    const found = db.pragma(`table_xinfo(${String(t)})`) as { name: string; type: string; notnull: number }[];
    const sorted = found.map(({ name, type, notnull }) => `${name} ${type} ${notnull}`).sort();
    return [t, sorted, db.pragma(`index_list(${String(t)})`)];
  });
  db.close();
  return facts;
}

/** What only a file can do, or fail to do. */
describe("The SQLite store's file", () => {
  let dir: string;
  let clock: ManualClock;
  let opened: SqliteStore[];
  beforeEach(() => {
    dir = tempDir();
    clock = manualClock();
    opened = [];
  });
  afterEach(async () => {
    for (const store of opened) await store.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const open = async (more: Partial<SqliteStoreOptions> = {}): Promise<SqliteStore> => {
    const store = await openSqliteStore({ dir, clock, rng: systemRng, ...more });
    opened.push(store);
    return store;
  };
  const file = (): string => join(dir, files.db);

  it("keeps everything across a clean close", async () => {
    const first = await open();
    await run(first, putOp("a", "1"), putOp("b", "1"));
    await run(first, putOp("a", "2"));
    await first.txn({
      then: [],
      rows: [
        { putDp: { uid: "dp" } },
        { upsertRes: { dp: "dp", uid: "u", name: "n", del: false, update: bytes("x") } },
      ],
    });
    const before = await first.status();
    const log = await history(first, 1);
    await first.close();
    expect(existsSync(`${file()}-wal`)).toBe(false);

    const second = await open();
    expect(await second.status()).toMatchObject({
      epoch: before.epoch,
      rev: 4,
      compactRev: 0,
      uncleanStart: false,
    });
    expect(await list(second)).toEqual(["a=2", "b=1"]);
    expect(await list(second, everything, 2)).toEqual(["a=1", "b=1"]);
    expect(await history(second, 1)).toEqual(log);
    expect((await second.changes({ dp: "dp", after: 0, limit: 9, maxBytes: 99 })).rows).toHaveLength(1);
    expect((await run(second, putOp("c"))).rev).toBe(5);
  });

  it("gives a lease its whole life again after a restart, and no number twice", async () => {
    const first = await open();
    const { id } = await first.grant(1_000);
    await run(first, putOp("a", "1", id));
    clock.advance(900);
    await first.close();
    const second = await open();
    clock.advance(999);
    expect((await run(second, putOp("b"))).rev).toBe(3);
    expect(await list(second)).toEqual(["a=1", "b=b"]);
    expect((await second.grant(5_000)).id).toBe(id + 1);
    clock.advance(1);
    await run(second);
    expect(await list(second)).toEqual(["b=b"]);
  });

  it("keeps a second hub out, naming the directory and its owner, and serves on", async () => {
    const first = await open();
    await expect(open()).rejects.toMatchObject({
      reason: "DATA_DIR_IN_USE",
      message: expect.stringMatching(`"${dir}": .*process ${process.pid}; "fuser ${dir}/lock.db"`),
    });
    expect((await run(first, putOp("a"))).rev).toBe(2);
    await first.close();
    expect(await list(await open())).toEqual(["a=a"]);
  });

  it("refuses a schema that is newer than it knows", async () => {
    await (await open()).close();
    const raw = new Database(file());
    raw.exec("UPDATE meta SET v = 99 WHERE k IN ('schema', 'min_safe')");
    raw.close();
    await expect(open()).rejects.toMatchObject({
      reason: "SCHEMA_TOO_NEW",
      message: expect.stringContaining("its schema is 99"),
    });
    // The directory is free again.
    const fixed = new Database(file());
    fixed.exec(`UPDATE meta SET v = ${SCHEMA} WHERE k IN ('schema', 'min_safe')`);
    fixed.close();
    expect(await list(await open())).toEqual([]);
  });

  it("opens a newer schema that says that it may, and leaves it as it is", async () => {
    await (await open()).close();
    const raw = new Database(file());
    raw.exec("UPDATE meta SET v = 99 WHERE k = 'schema'");
    raw.close();
    const store = await open();
    expect((await run(store, putOp("a"))).rev).toBe(2);
    await store.close();
    const after = new Database(file(), { readonly: true });
    expect(after.prepare("SELECT v FROM meta WHERE k = 'schema'").pluck().get()).toBe(99);
    after.close();
  });

  it.each(readdirSync(golden))(
    "brings the golden file %s up to date, with a copy of it beside",
    async (name) => {
      const raw = new Database(file());
      raw.pragma("journal_mode = WAL");
      raw.exec(readFileSync(join(golden, name), "utf8"));
      raw.close();
      const store = await open();
      expect((await history(store, 2)).map(show)).toEqual([
        "2 put a=1",
        "3 put b=2",
        "4 put a=3",
        "5 delete b",
        "progress 5",
      ]);
      expect(await list(store)).toEqual(["a=3"]);
      expect((await store.changes({ dp: "dp-1", after: 0, limit: 9, maxBytes: 99 })).rows).toHaveLength(1);
      expect((await run(store, putOp("c"))).rev).toBe(6);
      await store.close();
      const fresh = tempDir();
      await (await openSqliteStore({ dir: fresh, clock, rng: systemRng })).close();
      expect(columns(file())).toEqual(columns(join(fresh, files.db)));
      rmSync(fresh, { recursive: true });
      const copy = new Database(`${file()}.${name.replace(".sql", "")}`, { readonly: true });
      expect(copy.prepare("SELECT v FROM meta WHERE k = 'schema'").pluck().get()).toBe(1);
      copy.close();
    },
  );

  it.each(["head", "log", "res", "meta"])(
    "never serves a row of %s that was not written so",
    async (table) => {
      const first = await open();
      await first.txn({ then: [putOp("a", "right")], rows: [{ putDp: { uid: "dp" } }] });
      const update = Buffer.from("right");
      await first.txn({
        then: [putOp("b", "right")],
        rows: [{ upsertRes: { dp: "dp", uid: "u", name: "n", del: false, update } }],
      });
      await first.close();
      const raw = new Database(file());
      if (table === "meta") raw.exec("UPDATE meta SET v = 99 WHERE k = 'rev'");
      else raw.exec(`UPDATE ${table} SET ${table === "res" ? "update_bytes" : "value"} = x'77726f6e67'`);
      raw.close();
      const failures: Error[] = [];
      const reading = async (): Promise<unknown> => {
        const store = await open({ onFailure: (e) => failures.push(e) });
        if (table === "head") return store.range(everything);
        if (table === "log") return history(store, 2);
        return store.changes({ dp: "dp", after: 0, limit: 9, maxBytes: 99 });
      };
      await expect(reading()).rejects.toMatchObject({
        reason: "STORE_DAMAGED",
        message: expect.stringContaining(`"${file()}"`),
      });
      if (table !== "meta") {
        expect(failures).toMatchObject([{ reason: "STORE_DAMAGED" }]);
        await expect(run(opened.at(-1) as SqliteStore, putOp("c"))).rejects.toMatchObject({
          reason: "STORE_DAMAGED",
        });
      }
    },
  );

  it("refuses a file that is no database", async () => {
    writeFileSync(file(), "not a database, but long enough to have a header of its own".repeat(20));
    await expect(open()).rejects.toMatchObject({
      reason: "STORE_FAILED",
      message: expect.stringContaining("file is not a database"),
    });
  });

  it("refuses a connection whose settings would lose acknowledged writes", () => {
    const raw = new Database(":memory:");
    expect(() => configure(raw)).toThrow(expect.objectContaining({ reason: "NOT_DURABLE" }));
    raw.close();
  });

  it("refuses an SQLite that can lose committed writes", () => {
    for (const version of ["3.51.2", "3.50.9", "2.99.99", "3.9.0", "3.51"])
      expect(() => checkVersion(version)).toThrow(expect.objectContaining({ reason: "NOT_DURABLE" }));
    for (const version of ["3.51.3", "3.51.10", "3.54.1", "3.100.0", "4.0.0"]) checkVersion(version);
  });

  it("runs with FULL, which is not this build's default for WAL", async () => {
    await open();
    const raw = new Database(file());
    expect(raw.pragma("synchronous", { simple: true })).toBe(1);
    configure(raw);
    expect(raw.pragma("synchronous", { simple: true })).toBe(2);
    raw.close();
  });

  it("says UNCERTAIN for what was under way when the writer fails, then fails closed", async () => {
    const failures: Error[] = [];
    const store = await open({ onFailure: (e) => failures.push(e) });
    await run(store, putOp("a"));
    const waiting = store
      .watch({ ...everything, from: 3 })
      [Symbol.asyncIterator]()
      .next();
    const raw = new Database(file());
    raw.exec("DROP TABLE log");
    raw.close();
    await expect(
      Promise.all([run(store, putOp("b")), expect(waiting).rejects.toThrow()]),
    ).rejects.toMatchObject({
      reason: "UNCERTAIN",
    });
    expect(failures).toMatchObject([{ reason: "STORE_FAILED" }]);
    await expect(run(store, putOp("c"))).rejects.toMatchObject({ reason: "STORE_FAILED" });
    await expect(store.range(everything)).rejects.toMatchObject({ reason: "STORE_FAILED" });
    await store.close();
  });

  it("refuses writes with STORE_FULL when space ends, keeps what it acknowledged and serves reads", async () => {
    const store = await open({ maxBytes: 1024 * 1024 });
    const acknowledged: string[] = [];
    let refusal: unknown;
    for (let i = 0; i < 40 && refusal === undefined; i++) {
      const k = `k${String(i).padStart(2, "0")}`;
      await run(store, putOp(k, "v".repeat(50_000))).then(
        () => acknowledged.push(k),
        (e: unknown) => (refusal = e),
      );
    }
    expect(refusal).toMatchObject({ reason: "STORE_FULL", code: 8 });
    expect(acknowledged.length).toBeGreaterThan(5);
    const { kvs, rev } = await store.range({ ...everything, keysOnly: true });
    expect(kvs.map((kv) => Buffer.from(kv.key).toString())).toEqual(acknowledged);
    expect(rev).toBe(acknowledged.length + 1);
    await store.close();
    // With space again, writes go on where they stopped.
    const roomy = await open();
    expect((await run(roomy, putOp("more"))).rev).toBe(rev + 1);
  });

  it("commits what frees room even where writes grouped with it do not fit", async () => {
    const store = await open({ maxBytes: 4 * 1024 * 1024 });
    const large = "v".repeat(700_000);
    for (const k of ["k0", "k1"]) await run(store, putOp(k, large));
    // As one group they need more than there is.
    const outcomes = await Promise.all(
      [putOp("a", large), delOp("k0"), putOp("b", large), putOp("c", "small")].map((op) =>
        run(store, op).then(
          ({ rev }) => rev,
          (e: { reason: string }) => e.reason,
        ),
      ),
    );
    expect(outcomes).toEqual([5, 4, "STORE_FULL", 6]);
    expect((await list(store)).map((kv) => kv.split("=")[0])).toEqual(["a", "c", "k1"]);
  });

  it("deletes at its largest size, however small the values are", async () => {
    const store = await open({ maxBytes: 1024 * 1024 });
    /** Does 100 writes at a time; answers how many were refused. */
    const refused = async (ops: Op[]): Promise<number> => {
      const done = await Promise.allSettled(ops.map((op) => run(store, op)));
      return done.filter((d) => d.status === "rejected").length;
    };
    // Spread over all pages, so that none becomes free before many are gone.
    const name = (i: number): string => `k${Math.imul(i, 2_654_435_761) >>> 0}`;
    let puts = 0;
    const next = (): Op => putOp(name(puts++), "v".repeat(100));
    while ((await refused(Array.from({ length: 100 }, next))) < 100);
    while ((await refused([next()])) === 0);
    expect(puts).toBeGreaterThan(1_000);
    const { kvs } = await store.range({ ...everything, keysOnly: true });
    for (let i = 0; i < kvs.length; i += 100)
      expect(await refused(kvs.slice(i, i + 100).map((kv) => ({ delete: { key: kv.key } })))).toBe(0);
    expect(await list(store)).toEqual([]);
  });

  it("removes what a compaction gave up, between the writes that go on", async () => {
    const store = await open();
    for (let i = 0; i < 20; i++) {
      await Promise.all(
        Array.from({ length: 50 }, (_, n) => run(store, putOp("k", `${n}`), putOp(`once${i}/${n}`))),
      );
    }
    await store.compact(901);
    const raw = new Database(file(), { readonly: true });
    const rows = raw.prepare("SELECT count(*) FROM log WHERE key = ?").pluck();
    let turns = 0;
    while (rows.get(Buffer.from("k")) !== 101 && turns < 1_000) {
      turns++;
      await run(store, putOp("other"));
    }
    expect(rows.get(Buffer.from("k"))).toBe(101);
    raw.close();
    expect(await list(store, { start: bytes("k") }, 901)).toEqual(["k=49"]);
    expect((await store.range({ ...everything, rev: 901 })).kvs).toHaveLength(901);
  });

  it("resumes a compaction that a restart cut short", async () => {
    const first = await open();
    await Promise.all(Array.from({ length: 900 }, (_, i) => run(first, putOp("k", `${i}`))));
    await run(first, putOp("gone"));
    await run(first, delOp("gone"));
    await Promise.all([first.compact(903), first.close()]);
    const second = await open();
    for (let i = 0; i < 20; i++) await run(second, putOp("other"));
    await second.close();
    const raw = new Database(file(), { readonly: true });
    const rows = raw.prepare("SELECT count(*) FROM log WHERE key = ?").pluck();
    expect([rows.get(Buffer.from("k")), rows.get(Buffer.from("gone"))]).toEqual([1, 0]);
    raw.close();
  });

  it("keeps a new epoch over restarts, and gives no number below it again", async () => {
    const first = await open();
    await run(first, putOp("a", "1"));
    await first.newEpoch();
    const { epoch, rev } = await first.status();
    await first.close();
    const second = await open();
    expect(await second.status()).toMatchObject({ epoch, rev, restoredRev: 2 });
    expect((await run(second, putOp("b", "1"))).rev).toBe(rev + 1);
  });

  it("finds damage in rows that nobody reads", async () => {
    const first = await open();
    for (let i = 0; i < 1_200; i++) void run(first, putOp("k", `${i}`));
    await run(first, putOp("k", "last"));
    await first.close();
    const raw = new Database(file());
    raw.exec("UPDATE log SET value = x'00' WHERE rev = 700");
    raw.close();
    const failed = Promise.withResolvers<Error>();
    await open({ onFailure: failed.resolve });
    for (let i = 0; i < 100; i++) clock.advance(10);
    expect(await failed.promise).toMatchObject({
      reason: "STORE_DAMAGED",
      message: expect.stringContaining('revision 700 in "log"'),
    });
  });

  it("says what is wrong with a directory or a file that cannot be written", async () => {
    await (await open()).close();
    await expect(openSqliteStore({ dir: join(file(), "below"), clock, rng: systemRng })).rejects.toThrow(
      "not a directory",
    );
    // Root may write what it likes: only the file system itself can refuse it.
    const proc = "/proc/self/moorage";
    await expect(openSqliteStore({ dir: proc, clock, rng: systemRng })).rejects.toMatchObject({
      reason: "STORE_READ_ONLY",
      message: expect.stringContaining(`"${proc}"`),
    });
  });

  it("gives free pages back to the disk once a compaction has freed most of the file", async () => {
    const store = await open();
    const value = "v".repeat(500_000);
    for (let i = 0; i < 60; i++) await run(store, putOp("k", value));
    const before = (await store.stats()).dbBytes;
    await store.compact((await store.status()).rev);
    let after = before;
    for (let i = 0; i < 600 && after > before / 3; i++) {
      await new Promise((resolve) => systemClock.setTimer(50, () => resolve(undefined)));
      after = (await store.stats()).dbBytes;
    }
    expect(after).toBeLessThan(before / 3);
    expect(await list(store)).toEqual([`k=${value}`]);
  });
});
