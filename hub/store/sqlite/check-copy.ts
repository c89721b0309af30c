import Database from "better-sqlite3";
import { createHash } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { dirname } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { MoorageError } from "@moorage/shared/errors";
import { syncPath } from "../durable.ts";
import type { Backup, CheckReply } from "./backup.ts";
import { readMeta } from "./meta.ts";
import { verifyFile } from "./verify.ts";

/** The thread that checks a backup: reading it whole takes seconds that neither streams nor writes have. */

const port = parentPort as MessagePort;
const file = workerData as string;

function check(): Backup {
  const db = new Database(file);
  let facts: Pick<Backup, "rev" | "epoch">;
  try {
    // One file that stands alone, wherever it is moved to.
    db.pragma("journal_mode = DELETE");
    verifyFile(db);
    const { rev, epoch } = readMeta(db);
    facts = { rev, epoch };
  } finally {
    db.close();
  }
  const digest = durableDigest();
  syncPath(dirname(file));
  return { ...facts, ...digest };
}

/** Size and digest of the file, once it is on the disk. */
function durableDigest(): Pick<Backup, "bytes" | "sha256"> {
  const hash = createHash("sha256");
  const block = Buffer.alloc(1024 * 1024);
  let bytes = 0;
  syncPath(file);
  const fd = openSync(file, "r");
  try {
    for (let n = readSync(fd, block); n > 0; n = readSync(fd, block)) {
      hash.update(block.subarray(0, n));
      bytes += n;
    }
  } finally {
    closeSync(fd);
  }
  return { bytes, sha256: new Uint8Array(hash.digest()) };
}

let reply: CheckReply;
try {
  reply = { checked: check() };
} catch (thrown) {
  reply = { refused: thrown instanceof MoorageError ? thrown.message : String(thrown) };
}
port.postMessage(reply);
