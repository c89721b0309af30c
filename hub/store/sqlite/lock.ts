import Database from "better-sqlite3";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { storeError } from "../errors.ts";
import { files } from "./schema.ts";

/**
 * Takes the data directory for this process until the returned function is called or the process
 * ends, however it ends: the lock is the kernel's, on lock.db, and leaves nothing stale behind.
 * Error: FAILED_PRECONDITION `DATA_DIR_IN_USE`.
 */
export function lockDirectory(dir: string): () => void {
  makeDirectory(dir);
  const db = new Database(join(dir, files.lock), { timeout: 0 });
  try {
    db.exec("BEGIN EXCLUSIVE");
  } catch (cause) {
    db.close();
    if (!String((cause as { code?: unknown }).code).startsWith("SQLITE_BUSY")) throw cause;
    throw storeError("DATA_DIR_IN_USE", `Open the store in "${dir}": ${ownerOf(dir)}`, {
      metadata: { directory: dir },
      cause,
    });
  }
  try {
    writeFileSync(join(dir, files.owner), `${process.pid}\n`, { mode: 0o600 });
  } catch (thrown) {
    // A help for people; a full disk must not keep a hub from serving what it has.
    if ((thrown as { code?: unknown }).code !== "ENOSPC") {
      db.close();
      throw thrown;
    }
  }
  return () => db.close();
}

/**
 * As `mkdir -p`. Node's own recursive form never returns where a directory is there and takes no child,
 * as in /proc: it goes by ENOENT alone.
 */
function makeDirectory(dir: string): void {
  if (existsSync(dir)) return;
  makeDirectory(dirname(dir));
  try {
    mkdirSync(dir, { mode: 0o700 });
  } catch (thrown) {
    if ((thrown as { code?: unknown }).code !== "EEXIST") throw thrown;
  }
}

/** Who holds the directory, as well as can be told, and how to find out. */
function ownerOf(dir: string): string {
  let pid = "unknown";
  try {
    pid = readFileSync(join(dir, files.owner), "utf8").trim();
  } catch {
    // The owner has not written its file yet; the command below finds it all the same.
  }
  return `another hub uses it (process ${pid}; "fuser ${join(dir, files.lock)}" names it); stop it or use another directory`;
}
