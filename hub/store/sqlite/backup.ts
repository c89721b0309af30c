import { existsSync, rmSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { failpoint } from "@moorage/shared/failpoint";
import { storeError } from "../errors.ts";
import type { Rev } from "../store.ts";

/** A backup that was made: one file, complete, checked and on the disk. */
export interface Backup {
  bytes: number;
  /** The newest write in it. */
  rev: Rev;
  epoch: Uint8Array;
  sha256: Uint8Array;
}

/** What the thread of check-copy.ts says. */
export type CheckReply = { checked: Backup } | { refused: string };

/**
 * Makes a backup by `copy`, which writes a new file, and checks it page by page and row by row in a
 * thread of its own. A file that fails is removed. Error: FAILED_PRECONDITION `BACKUP_FAILED`, also
 * where the file is there already; what `copy` throws.
 */
export async function makeBackup(file: string, copy: (file: string) => Promise<unknown>): Promise<Backup> {
  if (existsSync(file)) throw failed(file, "it is there already");
  try {
    await copy(file);
    failpoint("store/backup-copied");
    const reply = await check(file);
    if ("checked" in reply) return reply.checked;
    throw failed(file, reply.refused);
  } catch (thrown) {
    for (const suffix of ["", "-wal", "-shm", "-journal"]) rmSync(file + suffix, { force: true });
    throw thrown;
  }
}

function check(file: string): Promise<CheckReply> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./check-copy.ts", import.meta.url), { workerData: file });
    worker.on("message", resolve);
    worker.on("error", (cause) => reject(failed(file, String(cause))));
    worker.on("exit", () => reject(failed(file, "its check ended without an answer")));
  });
}

function failed(file: string, why: string): Error {
  return storeError("BACKUP_FAILED", `Back up to "${file}": ${why}`);
}
