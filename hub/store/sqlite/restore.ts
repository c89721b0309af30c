import Database from "better-sqlite3";
import { copyFileSync, existsSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { Clock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { syncPath } from "../durable.ts";
import { storeError } from "../errors.ts";
import type { Rev } from "../store.ts";
import { lockDirectory } from "./lock.ts";
import { beginEpoch, configure, files, markClean, openMeta } from "./schema.ts";
import type { EpochBegun } from "./schema.ts";
import { verifyFile } from "./verify.ts";

/** What a restore made. */
export interface Restore {
  /** Head of the backup. */
  revision: Rev;
  /** Of the new epoch; the next revision lies one above it. */
  head: Rev;
  epoch: Uint8Array;
}

/**
 * Makes the store of a data directory from a backup, while no hub runs there: checked page by page and
 * row by row, brought up to date, and with a new epoch. A store's file that was not closed in order, as one
 * that a restore replaced, is taken with the log beside it. The directory holds the whole store afterwards,
 * or none. With `force` a store that is there is kept beside it, as `moorage.db.replaced-N`. Errors:
 * FAILED_PRECONDITION (`DATA_DIR_IN_USE`; `RESTORE_REFUSED` where a store is already; `SCHEMA_TOO_NEW`),
 * DATA_LOSS `STORE_DAMAGED`.
 */
export function restoreStore(options: {
  file: string;
  dir: string;
  clock: Pick<Clock, "now">;
  rng: Rng;
  force?: boolean;
}): Restore {
  const { file, dir, clock, rng, force = false } = options;
  if (!existsSync(file)) throw refused(`Read the backup "${file}": there is no such file`);
  const unlock = lockDirectory(dir);
  try {
    const target = join(dir, files.db);
    if (existsSync(target) && !force)
      throw refused(`Restore into "${dir}": it holds a store ("${files.db}"); move that away first`);
    return restoreAside({ file, target, epoch: rng.bytes(16), nowMs: clock.now() });
  } finally {
    unlock();
  }
}

/**
 * Refuses a directory in which a restore was cut short: a hub that starts there would make an empty
 * store in the place of the one that was asked for. Error: FAILED_PRECONDITION `RESTORE_REFUSED`.
 */
export function refuseHalfRestored(dir: string): void {
  const target = join(dir, files.db);
  if (existsSync(target) || !existsSync(partOf(target))) return;
  throw refused(
    `Open the store in "${dir}": a restore into it was cut short; run it again, or remove "${partOf(target)}" for an empty store`,
  );
}

const partOf = (target: string): string => `${target}.restore`;

/** Moves a store away with its log, which the next file of that name would take for its own. */
function moveAside(target: string): void {
  let n = 1;
  while (existsSync(`${target}.replaced-${n}`)) n++;
  // A log without its file: a move was cut short between the two, so it is that of the last one moved.
  if (!existsSync(target)) n = Math.max(1, n - 1);
  for (const suffix of ["", "-wal"]) {
    if (!existsSync(target + suffix)) continue;
    renameSync(target + suffix, `${target}.replaced-${n}${suffix}`);
    if (suffix === "") failpoint("store/mid-move-aside");
  }
  rmSync(`${target}-shm`, { force: true });
  syncPath(dirname(target));
}

function restoreAside(on: Preparation & { target: string }): Restore {
  const part = partOf(on.target);
  // A move that was cut short is ended first: `file` may be what it moved, and misses its log as yet.
  if (!existsSync(on.target)) moveAside(on.target);
  const begun = makePart(part, on);
  moveAside(on.target);
  failpoint("store/before-restore-rename");
  renameSync(part, on.target);
  syncPath(dirname(on.target));
  return { revision: begun.restoredRev, head: begun.newFrom, epoch: on.epoch };
}

interface Preparation {
  file: string;
  epoch: Uint8Array;
  nowMs: number;
}

/**
 * The part: a copy of the file and of its log, which holds the last writes of a store that was not closed, made
 * into one file. A refusal leaves none, but for the mark of a restore that was cut short before it.
 */
function makePart(part: string, on: Preparation): EpochBegun {
  const cutShort = existsSync(part);
  removePart(part);
  try {
    copyFileSync(on.file, part);
    const log = `${on.file}-wal`;
    if ((statSync(log, { throwIfNoEntry: false })?.size ?? 0) > 0) copyFileSync(log, `${part}-wal`);
    const begun = prepare(part, on);
    syncPath(part);
    syncPath(dirname(part));
    return begun;
  } catch (thrown) {
    removePart(part);
    if (cutShort) writeFileSync(part, "");
    if (thrown instanceof MoorageError) throw thrown;
    throw refused(`Restore "${on.file}": ${String(thrown)}`, thrown);
  }
}

function removePart(part: string): void {
  for (const suffix of ["", "-wal", "-shm"]) rmSync(part + suffix, { force: true });
}

/** Checks the copy and begins the new epoch in it; one file remains. */
function prepare(part: string, on: Preparation): EpochBegun {
  const db = new Database(part);
  try {
    configure(db);
    if (db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get() === undefined)
      throw refused(`Restore "${on.file}": it is no backup of a hub's store`);
    openMeta(db, on.epoch);
    verifyFile(db);
    const begun = beginEpoch(db, { ...on, ended: undefined });
    markClean(db);
    db.pragma("wal_checkpoint(TRUNCATE)");
    return begun;
  } finally {
    db.close();
  }
}

function refused(message: string, cause?: unknown): MoorageError {
  return storeError("RESTORE_REFUSED", message, { cause });
}
