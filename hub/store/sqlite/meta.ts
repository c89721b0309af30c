import type Database from "better-sqlite3";
import type { MoorageError } from "@moorage/shared/errors";
import { storeError } from "../errors.ts";
import { unsaidStart } from "../epochs.ts";
import type { Rev } from "../store.ts";
import { metaSum } from "./sums.ts";

/** The table `meta`: what a store's file says of itself, under a checksum of its own. */

/** What the file says of itself when it is opened for writing. */
export interface Meta {
  epoch: Uint8Array;
  rev: Rev;
  compactRev: Rev;
  lastLease: number;
  uncleanStart: boolean;
  restoredRev: Rev;
  newFrom: Rev;
}

/** The facts of `meta`, checked. Error: `STORE_DAMAGED`. */
export function readMeta(db: Database.Database): Omit<Meta, "uncleanStart"> {
  const meta = { ...summed(db), lastLease: getMeta(db, "last_lease") as number };
  if (getMeta(db, "sum") !== metaSum(meta)) throw damaged(db.name, `the table "meta"`);
  return meta;
}

/** The facts under the checksum. */
function summed(db: Database.Database): Omit<Meta, "uncleanStart" | "lastLease"> {
  const restoredRev = getMeta(db, "restored_rev") as number;
  return {
    epoch: new Uint8Array(getMeta(db, "epoch") as Buffer),
    rev: getMeta(db, "rev") as number,
    compactRev: getMeta(db, "compact_rev") as number,
    restoredRev,
    newFrom: (getMeta(db, "new_from") as number | undefined) ?? unsaidStart(restoredRev),
  };
}

/** The error for what was not written so. */
export function damaged(file: string, what: string, cause?: unknown): MoorageError {
  return storeError(
    "STORE_DAMAGED",
    `Read "${file}": ${what} does not have its checksum; the file is damaged, restore the last backup`,
    { cause },
  );
}

/** Writes the checksum over `meta` as it is now; the last step of whoever changes it. */
export function sealMeta(db: Database.Database): void {
  putMeta(db, "sum", metaSum(summed(db)));
}

/** Writes one fact of `meta`. */
export function putMeta(db: Database.Database, k: string, v: number | Buffer): void {
  db.prepare("INSERT INTO meta(k, v) VALUES (?, ?) ON CONFLICT(k) DO UPDATE SET v = excluded.v").run(k, v);
}

/** One fact of `meta`; undefined when it is not there. */
export function getMeta(db: Database.Database, k: string): unknown {
  return db.prepare("SELECT v FROM meta WHERE k = ?").pluck().get(k);
}

/** Changes one number of `meta`. */
export function setMeta(db: Database.Database, k: string, v: number): void {
  db.prepare("UPDATE meta SET v = ? WHERE k = ?").run(v, k);
}
