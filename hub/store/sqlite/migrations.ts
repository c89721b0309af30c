import type Database from "better-sqlite3";
import { copyFileSync, existsSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import { failpoint } from "@moorage/shared/failpoint";
import { syncPath } from "../durable.ts";
import { putMeta, sealMeta } from "./meta.ts";
import { headSum, logSum, resSum } from "./sums.ts";

/**
 * Changes of the schema, numbered, each one transaction; the file is copied aside before the first. A
 * golden file of every former schema (golden/) is brought up to date by a test, which holds the result
 * against a fresh file.
 */

/** One step up to the schema `to`. `minSafe`: the oldest code, by its schema, that may open the result. */
interface Migration {
  to: number;
  minSafe: number;
  run(db: Database.Database): void;
}

const migrations: readonly Migration[] = [
  {
    // Checksums of rows.
    to: 2,
    minSafe: 2,
    run(db) {
      for (const table of ["log", "head", "res"])
        db.exec(`ALTER TABLE ${table} ADD COLUMN sum INTEGER NOT NULL DEFAULT 0`);
      const facts = { deterministic: true, directOnly: true };
      db.function("head_sum", facts, (key, value, modRev, createRev, version, lease) =>
        headSum({ key, value, modRev, createRev, version, lease } as never),
      );
      db.function("log_sum", { ...facts, varargs: true }, (...c) => {
        const [key, value, modRev, createRev, version, lease, sub, prevRev, del] = c;
        return logSum({ key, value, modRev, createRev, version, lease, sub, prevRev, del } as never);
      });
      db.function("res_sum", facts, (dp, rev, uid, name, del, update) =>
        resSum({ dp, rev, uid, name, del, update } as never),
      );
      db.exec("UPDATE head SET sum = head_sum(key, value, mod_rev, create_rev, version, lease)");
      db.exec(
        "UPDATE log SET sum = log_sum(key, value, rev, create_rev, version, lease, sub, prev_rev, del)",
      );
      db.exec("UPDATE res SET sum = res_sum(dp, rev, uid, name, del, update_bytes)");
      if (db.prepare("SELECT 1 FROM meta WHERE k = 'restored_rev'").get() === undefined)
        putMeta(db, "restored_rev", 0);
    },
  },
];

/** Brings a file from one schema to another, step by step. */
export function migrate(db: Database.Database, step: { from: number; to: number }): void {
  keepCopy(db, step.from);
  for (const m of migrations) {
    if (m.to <= step.from || m.to > step.to) continue;
    const run = db.transaction(() => {
      m.run(db);
      failpoint("store/mid-migration");
      putMeta(db, "schema", m.to);
      putMeta(db, "min_safe", m.minSafe);
      sealMeta(db);
    });
    run.immediate();
  }
}

/** The way back: the file as it was, beside it. Made aside and renamed, so that a copy is whole or not there. */
function keepCopy(db: Database.Database, schema: number): void {
  const copy = `${db.name}.schema-${schema}`;
  if (existsSync(copy)) return;
  db.pragma("wal_checkpoint(TRUNCATE)");
  copyFileSync(db.name, `${copy}.part`);
  syncPath(`${copy}.part`);
  renameSync(`${copy}.part`, copy);
  syncPath(dirname(copy));
}
