import Database from "better-sqlite3";
import { closeSync, copyFileSync, existsSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { Rng } from "@moorage/shared/rng";
import { storeError } from "../errors.ts";
import type { Rev } from "../store.ts";
import { EPOCH_JUMP } from "../store.ts";
import { lockDirectory } from "./lock.ts";
import { beginEpoch, configure, files, markClean, openMeta } from "./schema.ts";
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
 * row by row, brought up to date, and with a new epoch. The directory holds the whole store afterwards,
 * or none. Errors: FAILED_PRECONDITION (`DATA_DIR_IN_USE`; `RESTORE_REFUSED` where a store is already;
 * `SCHEMA_TOO_NEW`), DATA_LOSS `STORE_DAMAGED`.
 */
export function restoreStore(options: { file: string; dir: string; rng: Rng }): Restore {
  const { file, dir, rng } = options;
  if (!existsSync(file)) throw refused(`Read the backup "${file}": there is no such file`);
  const unlock = lockDirectory(dir);
  try {
    const target = join(dir, files.db);
    if (existsSync(target))
      throw refused(`Restore into "${dir}": it holds a store ("${files.db}"); move that away first`);
    return restoreAside({ file, target, epoch: rng.bytes(16) });
  } finally {
    unlock();
  }
}

function restoreAside(on: { file: string; target: string; epoch: Uint8Array }): Restore {
  const part = `${on.target}.restore`;
  for (const suffix of ["", "-wal", "-shm"]) rmSync(part + suffix, { force: true });
  copyFileSync(on.file, part);
  const head = prepare(part, on);
  sync(part);
  failpoint("store/before-restore-rename");
  renameSync(part, on.target);
  sync(join(on.target, ".."));
  return { revision: head - EPOCH_JUMP, head, epoch: on.epoch };
}

/** Checks the copy and begins the new epoch in it; one file remains. */
function prepare(part: string, on: { file: string; epoch: Uint8Array }): Rev {
  let db: Database.Database | undefined;
  try {
    db = new Database(part);
    configure(db);
    if (db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get() === undefined)
      throw refused(`Restore "${on.file}": it is no backup of a hub's store`);
    openMeta(db, on.epoch);
    verifyFile(db);
    const head = beginEpoch(db, on.epoch);
    markClean(db);
    db.pragma("wal_checkpoint(TRUNCATE)");
    return head;
  } catch (thrown) {
    if (thrown instanceof MoorageError) throw thrown;
    throw refused(`Restore "${on.file}": ${String(thrown)}`, thrown);
  } finally {
    db?.close();
  }
}

function refused(message: string, cause?: unknown): MoorageError {
  return storeError("RESTORE_REFUSED", message, { cause });
}

function sync(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
