import type Database from "better-sqlite3";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import { epochStart } from "../epochs.ts";
import { storeError } from "../errors.ts";
import type { Rev } from "../store.ts";
import { migrate } from "./migrations.ts";
import type { Meta } from "./meta.ts";
import { getMeta, putMeta, readMeta, sealMeta, setMeta } from "./meta.ts";

/** The schema this code writes; migrations.ts says what changed from one to the next. */
export const SCHEMA = 2;
/** The oldest code, by its schema, that may open a file of {@link SCHEMA}: older code writes rows without checksums. */
const MIN_SAFE = 2;

/** The first SQLite without the WAL-reset bug. */
const LEAST_SQLITE = [3, 51, 3] as const;

/** A page holds a value of 2 KB beside others; at SQLite's 4096 bytes one of 1 KB takes a page of its own. */
const PAGE_BYTES = 8192;

/** Free pages are given back to the disk above this part of the file and this number, so many in a step. */
const FREE_PART = 0.25;
const FREE_PAGES = 1_024;
const SHRINK_PAGES = 256;

/** Of a small limit of the file's size, this part is kept for writes that free room. */
const RESERVE_PART = 8;

/** Memory for pages that the writer keeps at hand. */
const CACHE_KIB = 64 * 1024;

/** The database file and the lock beside it, in the data directory. */
export const files = { db: "moorage.db", lock: "lock.db", owner: "owner", ballast: "ballast" } as const;

/** Tables and indexes of {@link SCHEMA}. */
export const tables = `
CREATE TABLE meta(k TEXT PRIMARY KEY, v ANY) STRICT;
CREATE TABLE log(rev INTEGER NOT NULL, sub INTEGER NOT NULL, key BLOB NOT NULL, create_rev INTEGER NOT NULL,
  prev_rev INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL, del INTEGER NOT NULL, value BLOB NOT NULL,
  sum INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(rev, sub)) STRICT, WITHOUT ROWID;
CREATE INDEX log_key ON log(key, rev);
CREATE TABLE head(key BLOB PRIMARY KEY, mod_rev INTEGER NOT NULL, create_rev INTEGER NOT NULL,
  version INTEGER NOT NULL, lease INTEGER NOT NULL, value BLOB NOT NULL,
  sum INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE INDEX head_lease ON head(lease, key) WHERE lease <> 0;
CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL) STRICT;
CREATE TABLE dp(id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, tombstone_floor INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE res(dp INTEGER NOT NULL REFERENCES dp(id) ON DELETE CASCADE, rev INTEGER NOT NULL, uid TEXT NOT NULL,
  name TEXT NOT NULL, del INTEGER NOT NULL, update_bytes BLOB NOT NULL, sum INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(dp, rev, uid)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX res_uid ON res(dp, uid);
`;

/**
 * Refuses an SQLite below {@link LEAST_SQLITE}, whose log could lose what was committed when two connections
 * reset it at the same time. Error: `NOT_DURABLE`.
 */
export function checkVersion(version: string): void {
  const parts = version.split(".").map(Number);
  const at = LEAST_SQLITE.findIndex((least, i) => parts[i] !== least);
  if (at < 0 || (parts[at] ?? 0) > (LEAST_SQLITE[at] as number)) return;
  throw storeError(
    "NOT_DURABLE",
    `Use SQLite ${version}: it can lose committed writes, ${LEAST_SQLITE.join(".")} is the oldest that does not; install the better-sqlite3 of package-lock.json`,
  );
}

/**
 * Settings of every connection, read back: a setting that did not take would lose acknowledged
 * writes (WAL defaults to NORMAL in this build) or serve a damaged page. Error: `NOT_DURABLE`.
 */
export function configure(db: Database.Database): void {
  checkVersion(db.prepare("SELECT sqlite_version()").pluck().get() as string);
  // Of effect on a file that is still empty; one made with other pages is as good, and only never shrinks.
  if (!db.readonly) {
    db.pragma(`page_size = ${PAGE_BYTES}`);
    db.pragma("auto_vacuum = INCREMENTAL");
  }
  const settings: [string, string, string | number][] = [
    ["journal_mode", "WAL", "wal"],
    ["synchronous", "FULL", 2],
    ["wal_autocheckpoint", "0", 0],
    ["cache_size", String(-CACHE_KIB), -CACHE_KIB],
    ["foreign_keys", "ON", 1],
    ["trusted_schema", "OFF", 0],
    ["cell_size_check", "ON", 1],
  ];
  for (const [name, value, expected] of settings) {
    // Only a writer can make the file what it is; a reader finds it so.
    if (!(db.readonly && name === "journal_mode")) db.pragma(`${name} = ${value}`);
    const actual = db.pragma(name, { simple: true });
    if (actual !== expected) {
      throw storeError(
        "NOT_DURABLE",
        `Set ${name} of "${db.name}" to ${value}: it reads back as "${String(actual)}"`,
      );
    }
  }
}

/**
 * Bounds the size of the file for this connection's writes. A part of it is kept for those that free room,
 * which take some first: `reached` tells when the rest is used up and nothing may be added.
 */
export function limitSize(db: Database.Database, maxBytes: number): { reached(): boolean } {
  const pageBytes = db.pragma("page_size", { simple: true }) as number;
  const kept = Math.min(limits.storeReserveBytes, maxBytes / RESERVE_PART);
  const most = Math.floor((maxBytes - kept) / pageBytes);
  db.pragma(`max_page_count = ${Math.max(1, Math.floor(maxBytes / pageBytes))}`);
  const pages = db.prepare("PRAGMA page_count").pluck();
  const free = db.prepare("PRAGMA freelist_count").pluck();
  return { reached: () => (pages.get() as number) - (free.get() as number) >= most };
}

/** Size of the file, what of it holds content, and pages in it without. */
export function sizes(db: Database.Database): { dbBytes: number; usedBytes: number; freePages: number } {
  const pages = db.pragma("page_count", { simple: true }) as number;
  const pageBytes = db.pragma("page_size", { simple: true }) as number;
  const freePages = db.pragma("freelist_count", { simple: true }) as number;
  return { dbBytes: pages * pageBytes, usedBytes: (pages - freePages) * pageBytes, freePages };
}

/**
 * Gives {@link SHRINK_PAGES} free pages back to the disk when they are many, or any at all with `always`.
 * True when there are more to give back. The file itself shrinks with the next checkpoint.
 */
export function shrink(db: Database.Database, of: { always: boolean }): boolean {
  const free = db.pragma("freelist_count", { simple: true }) as number;
  const pages = db.pragma("page_count", { simple: true }) as number;
  const due = of.always ? free > 0 : free > FREE_PAGES && free > pages * FREE_PART;
  if (!due || db.pragma("auto_vacuum", { simple: true }) !== 2) return false;
  db.exec(`PRAGMA incremental_vacuum(${SHRINK_PAGES})`);
  return free > SHRINK_PAGES;
}

/**
 * Creates the schema in an empty file, with `epoch`, or brings the one that is there up to date, after a
 * copy of the file; marks the file as not cleanly closed until {@link markClean}. Errors:
 * `SCHEMA_TOO_NEW`, `STORE_DAMAGED`.
 */
export function openMeta(db: Database.Database, epoch: Uint8Array): Meta {
  const fresh = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get() === undefined;
  if (fresh) db.transaction(() => create(db, epoch)).immediate();
  else bringUpToDate(db);
  const run = db.transaction((): Meta => {
    const clean = getMeta(db, "clean");
    setMeta(db, "clean", 0);
    return { ...readMeta(db), uncleanStart: clean !== 1 };
  });
  return run.immediate();
}

function create(db: Database.Database, epoch: Uint8Array): void {
  db.exec(tables);
  const initial = {
    schema: SCHEMA,
    min_safe: MIN_SAFE,
    epoch: Buffer.from(epoch),
    rev: 1,
    compact_rev: 0,
    restored_rev: 0,
    last_lease: 0,
    clean: 1,
  };
  for (const [k, v] of Object.entries(initial)) putMeta(db, k, v);
  sealMeta(db);
}

function bringUpToDate(db: Database.Database): void {
  const schema = getMeta(db, "schema") as number;
  const minSafe = (getMeta(db, "min_safe") as number | undefined) ?? schema;
  if (minSafe > SCHEMA) {
    throw storeError(
      "SCHEMA_TOO_NEW",
      `Open "${db.name}": its schema is ${schema}, which versions up to schema ${SCHEMA} would harm; use the newer version`,
    );
  }
  if (schema < SCHEMA) migrate(db, { from: schema, to: SCHEMA });
}

/** What a new epoch is begun with: its name, the time, and where the history before surely ended, if not at the head. */
export interface EpochRequest {
  epoch: Uint8Array;
  nowMs: number;
  ended: Rev | undefined;
}

/** Where a new epoch began, and where the history before it ended. */
export type EpochBegun = Pick<Meta, "newFrom" | "restoredRev">;

/** Begins a new epoch in one durable step: the head moves up to {@link epochStart}, and stays remembered as it was. */
export function beginEpoch(db: Database.Database, { epoch, nowMs, ended }: EpochRequest): EpochBegun {
  const run = db.transaction((): EpochBegun => {
    const rev = getMeta(db, "rev") as number;
    const begun = { newFrom: epochStart(rev, nowMs), restoredRev: ended ?? rev };
    const former = getMeta(db, "epoch") as Buffer;
    putMeta(db, "epoch", Buffer.from(epoch));
    putMeta(db, "restored_rev", begun.restoredRev);
    putMeta(db, "restored_from_epoch", former);
    putMeta(db, "rev", begun.newFrom);
    putMeta(db, "new_from", begun.newFrom);
    sealMeta(db);
    failpoint("store/before-epoch");
    return begun;
  });
  return run.immediate();
}

/** Notes that everything was closed in order. */
export function markClean(db: Database.Database): void {
  setMeta(db, "clean", 1);
}
