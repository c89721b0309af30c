import Database from "better-sqlite3";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { storeError } from "../errors.ts";
import { files } from "./schema.ts";

/**
 * Takes the data directory for this process until the returned function is called or the process
 * ends, however it ends: the lock is the kernel's, on lock.db, and leaves nothing stale behind.
 * Error: FAILED_PRECONDITION `DATA_DIR_IN_USE`.
 */
export function lockDirectory(dir: string): () => void {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
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
  writeFileSync(join(dir, files.owner), `${process.pid}\n`, { mode: 0o600 });
  return () => db.close();
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
