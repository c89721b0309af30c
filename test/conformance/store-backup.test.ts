import Database from "better-sqlite3";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { files } from "@moorage/hub/store/sqlite/schema";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { restoreStore } from "@moorage/hub/store/sqlite/restore";
import { EPOCH_JUMP } from "@moorage/hub/store/epochs";
import type { SqliteStore, SqliteStoreOptions } from "@moorage/hub/store/sqlite/sqlite";
import { armFailpoint } from "@moorage/shared/failpoint";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { history, list, manualClock, putOp, run, show, tempDir } from "./support.ts";
import type { ManualClock } from "./support.ts";

/** Backups of a store's file, and what is made of them. */
describe("A backup of the SQLite store", () => {
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

  it("restores a backup into a new epoch, with everything in it and nothing after", async () => {
    const store = await open();
    await run(store, putOp("a", "kept"));
    const away = tempDir();
    const backup = join(away, "backup.db");
    await store.backup(backup);
    await run(store, putOp("b", "later"));
    const { epoch } = await store.status();
    expect(() => restoreStore({ file: backup, dir, clock, rng: systemRng })).toThrow("another hub uses it");
    await store.close();
    expect(() => restoreStore({ file: backup, dir, clock, rng: systemRng })).toThrow("it holds a store");
    const target = join(away, "new");
    const made = restoreStore({ file: backup, dir: target, clock, rng: systemRng });
    expect(made).toMatchObject({ revision: 2, head: clock.now() * 100 });
    const restored = await openSqliteStore({ dir: target, clock, rng: systemRng });
    opened.push(restored);
    expect(await list(restored)).toEqual(["a=kept"]);
    expect(await restored.status()).toMatchObject({
      rev: made.head,
      restoredRev: 2,
      newFrom: made.head,
      uncleanStart: false,
    });
    expect((await restored.status()).epoch).not.toEqual(epoch);
    const raw = new Database(join(target, files.db), { readonly: true });
    const from = raw.prepare("SELECT v FROM meta WHERE k = 'restored_from_epoch'").pluck().get() as Buffer;
    expect(new Uint8Array(from)).toEqual(epoch);
    raw.close();
    expect((await run(restored, putOp("c"))).rev).toBe(made.head + 1);
    await restored.close();
    rmSync(away, { recursive: true });
  });

  it("gives no revision twice when one backup is restored twice, be it of a whole history or of a restored one", async () => {
    const store = await open();
    await run(store, putOp("a"));
    let backup = join(dir, "backup-0.db");
    await store.backup(backup);
    let last = 2;
    for (let epoch = 1; epoch <= 4; epoch++) {
      clock.advance(10_000);
      const target = join(dir, `restored-${epoch}`);
      const made = restoreStore({ file: backup, dir: target, clock, rng: systemRng });
      const restored = await openSqliteStore({ dir: target, clock, rng: systemRng });
      opened.push(restored);
      expect(made.head).toBeGreaterThan(last);
      last = (await run(restored, putOp("b", `${epoch}`))).rev;
      expect(last).toBe(made.head + 1);
      expect(await restored.status()).toMatchObject({ restoredRev: made.revision, newFrom: made.head });
      if (epoch === 2) await restored.backup((backup = join(dir, "backup-2.db")));
    }
  });

  it("knows where an epoch began whose store does not say so, and does not believe what was not written so", async () => {
    const first = await open({ clock: { ...clock, now: () => 0 } });
    await run(first, putOp("a"));
    await first.newEpoch();
    await first.close();
    const raw = (sql: string): void => {
      const db = new Database(file());
      db.exec(sql);
      db.close();
    };
    raw("DELETE FROM meta WHERE k = 'new_from'");
    const second = await open();
    const before = { restoredRev: 2, newFrom: 2 + EPOCH_JUMP, rev: 2 + EPOCH_JUMP };
    expect(await second.status()).toMatchObject(before);
    await run(second, putOp("b"));
    await second.newEpoch();
    await run(second, putOp("c"));
    const { newFrom } = await second.status();
    expect(newFrom).toBe(clock.now() * 100);
    await second.close();
    const third = await open();
    expect(await third.status()).toMatchObject({ restoredRev: 3 + EPOCH_JUMP, newFrom, rev: newFrom + 1 });
    await third.close();
    for (const sql of ["UPDATE meta SET v = v + 1", "DELETE FROM meta"]) {
      copyFileSync(file(), join(dir, "whole.db"));
      raw(`${sql} WHERE k = 'new_from'`);
      await expect(open()).rejects.toMatchObject({ reason: "STORE_DAMAGED" });
      copyFileSync(join(dir, "whole.db"), file());
    }
  });

  it("replaces a store only by force, keeps it beside, and refuses to start in a half restored directory", async () => {
    const store = await open();
    await run(store, putOp("a", "kept"));
    const away = tempDir();
    const backup = join(away, "backup.db");
    await store.backup(backup);
    await run(store, putOp("b", "later"));
    await store.close();
    // As a kill leaves it: with a log that must not become the new file's.
    const raw = new Database(file());
    raw.pragma("wal_autocheckpoint = 0");
    raw.exec("UPDATE meta SET v = 0 WHERE k = 'clean'");
    copyFileSync(file(), join(away, "db"));
    copyFileSync(`${file()}-wal`, join(away, "wal"));
    raw.close();
    copyFileSync(join(away, "wal"), `${file()}-wal`);
    copyFileSync(join(away, "db"), file());

    armFailpoint("store/mid-move-aside:error");
    const again = () => restoreStore({ file: backup, dir, clock, rng: systemRng, force: true });
    expect(again).toThrow("failpoint");
    armFailpoint(undefined);
    await expect(open()).rejects.toMatchObject({
      reason: "RESTORE_REFUSED",
      message: expect.stringContaining("cut short"),
    });
    const made = again();
    expect(existsSync(`${file()}.replaced-1-wal`)).toBe(true);
    const restored = await open();
    expect(await list(restored)).toEqual(["a=kept"]);
    expect((await restored.status()).rev).toBe(made.head);
    const former = new Database(`${file()}.replaced-1`);
    expect(former.prepare("SELECT count(*) FROM head").pluck().get()).toBe(2);
    former.close();
    rmSync(away, { recursive: true });
  });

  it("restores a store that a restore replaced, with the writes that are in its log alone", async () => {
    const first = await open();
    await run(first, putOp("a", "old"));
    await first.close();
    const store = await open();
    const away = tempDir();
    const backup = join(away, "backup.db");
    await store.backup(backup);
    await run(store, putOp("a", "last"));
    const restore = (from: string, into: string) =>
      restoreStore({ file: from, dir: into, clock, rng: systemRng, force: true });
    const reads = async (from: string): Promise<string[]> => {
      const found = await openSqliteStore({ dir: from, clock, rng: systemRng });
      opened.push(found);
      const content = await list(found);
      await found.close();
      return content;
    };
    for (const cut of [false, true]) {
      const target = join(away, `killed-${cut}`);
      mkdirSync(target);
      // As a kill leaves them.
      const db = join(target, files.db);
      for (const suffix of ["", "-wal"]) copyFileSync(file() + suffix, db + suffix);
      armFailpoint(cut ? "store/mid-move-aside:error" : undefined);
      if (cut) expect(() => restore(backup, target)).toThrow("failpoint");
      else restore(backup, target);
      armFailpoint(undefined);
      if (!cut) expect(await reads(target)).toEqual(["a=old"]);
      restore(`${db}.replaced-1`, target);
      expect(await reads(target)).toEqual(["a=last"]);
      expect(readdirSync(target).filter((name) => name.includes(".restore"))).toEqual([]);
    }
    rmSync(away, { recursive: true });
  });

  it("leaves no part of a restore that it refuses, but the mark of one that was cut short", async () => {
    const target = join(dir, "new");
    const text = join(dir, "text.db");
    writeFileSync(text, "no database at all, whatever its name says".repeat(30));
    // A log that cannot be copied, once its file was.
    const half = join(dir, "half.db");
    writeFileSync(half, "");
    mkdirSync(`${half}-wal`);
    writeFileSync(join(`${half}-wal`, "x".repeat(99)), "");
    const refuse = (from: string): void =>
      expect(() => restoreStore({ file: from, dir: target, clock, rng: systemRng })).toThrow(
        expect.objectContaining({ reason: "RESTORE_REFUSED", message: expect.stringContaining(from) }),
      );
    const parts = (): string[] => readdirSync(target).filter((name) => name.startsWith(files.db));
    for (const from of [text, half]) {
      refuse(from);
      expect(parts()).toEqual([]);
    }
    writeFileSync(join(target, `${files.db}.restore`), "as a kill leaves it");
    refuse(text);
    expect(parts()).toEqual([`${files.db}.restore`]);
    await expect(open({ dir: target })).rejects.toMatchObject({
      reason: "RESTORE_REFUSED",
      message: expect.stringContaining("cut short"),
    });
    rmSync(join(target, `${files.db}.restore`));
    await open({ dir: target });
  });

  it("restores nothing from a file that is damaged, foreign or not there", async () => {
    const store = await open();
    await run(store, putOp("a", "right"));
    const away = tempDir();
    const backup = join(away, "backup.db");
    await store.backup(backup);
    const raw = new Database(backup);
    raw.exec("UPDATE log SET value = x'00'");
    raw.close();
    const target = join(away, "new");
    const restore = (name: string) => () =>
      restoreStore({ file: join(away, name), dir: target, clock, rng: systemRng });
    expect(restore("backup.db")).toThrow('revision 2 in "log" does not have its checksum');
    expect(restore("missing.db")).toThrow("there is no such file");
    const other = new Database(join(away, "other.db"));
    other.exec("CREATE TABLE x(y)");
    other.close();
    expect(restore("other.db")).toThrow("it is no backup of a hub's store");
    writeFileSync(join(away, "text.db"), "no database at all, whatever its name says".repeat(30));
    expect(restore("text.db")).toThrow("file is not a database");
    expect(existsSync(join(target, files.db))).toBe(false);
    rmSync(away, { recursive: true });
  });

  it("commits while a backup is copied, and gives it up when the store closes", async () => {
    const store = await open();
    const value = "v".repeat(900_000);
    for (let i = 0; i < 60; i++) await run(store, putOp(`k${i}`, value));
    const copy = join(dir, "backup.db");
    let copied = false;
    const backup = store.backup(copy).then(() => (copied = true));
    let between = 0;
    for (; !copied && between < 10; between++) await run(store, putOp("k"));
    expect(between).toBe(10);
    await backup;
    const second = store.backup(join(dir, "second.db"));
    await Promise.all([expect(second).rejects.toMatchObject({ reason: "BACKUP_FAILED" }), store.close()]);
    expect(existsSync(join(dir, "second.db"))).toBe(false);
  });

  it("leaves no file behind when a backup fails after it was copied", async () => {
    const store = await open();
    await run(store, putOp("a"));
    const to = join(dir, "backup.db");
    armFailpoint("store/backup-copied:error");
    await expect(store.backup(to)).rejects.toThrow("failpoint");
    armFailpoint(undefined);
    expect(readdirSync(dir).filter((name) => name.startsWith("backup"))).toEqual([]);
    expect((await store.backup(to)).rev).toBe(2);
  });

  it("backs up to a file that is a store of its own, while it serves", async () => {
    const store = await open({ rng: seededRng(7) });
    await run(store, putOp("a", "1"));
    const copy = tempDir();
    const to = join(copy, files.db);
    const [made, late] = await Promise.all([store.backup(to), run(store, putOp("b", "1"))]);
    expect(late.rev).toBe(3);
    expect(readdirSync(copy)).toEqual([files.db]);
    const content = readFileSync(to);
    const sha256 = new Uint8Array(createHash("sha256").update(content).digest());
    const { epoch } = await store.status();
    expect(made).toEqual({ bytes: content.length, sha256, epoch, rev: made.rev });
    expect([2, 3]).toContain(made.rev);
    await expect(store.backup(to)).rejects.toMatchObject({ reason: "BACKUP_FAILED" });
    await expect(store.backup(join(copy, "none", "x"))).rejects.toMatchObject({ reason: "BACKUP_FAILED" });
    const restored = await openSqliteStore({ dir: copy, clock, rng: systemRng });
    expect((await history(restored, 1)).map(show)[0]).toBe("2 put a=1");
    expect(await restored.status()).toMatchObject({
      uncleanStart: true,
      epoch: (await store.status()).epoch,
    });
    await restored.close();
    rmSync(copy, { recursive: true });
  });
});
