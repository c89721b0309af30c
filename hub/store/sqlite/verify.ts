import type Database from "better-sqlite3";
import { damaged } from "./meta.ts";
import { headSum, logSum, resSum } from "./sums.ts";

/**
 * Looks at every row of a file once. What is read is checked anyway; this finds what nobody reads, and
 * rows that a broken key hides, before somebody misses them.
 */

/** Rows looked at in one step: about a millisecond. */
const STEP_ROWS = 500;

interface LogRow {
  rev: number;
  sub: number;
  key: Buffer;
  create_rev: number;
  prev_rev: number;
  version: number;
  lease: number;
  del: number;
  value: Buffer;
  sum: number;
}

interface HeadRow {
  key: Buffer;
  mod_rev: number;
  create_rev: number;
  version: number;
  lease: number;
  value: Buffer;
  sum: number;
}

interface ResRow {
  dp: number;
  rev: number;
  uid: string;
  name: string;
  del: number;
  update_bytes: Buffer;
  sum: number;
}

/** Checks {@link STEP_ROWS} rows between two yields. Error: `STORE_DAMAGED`. */
export function* verifyRows(db: Database.Database): Generator<number, void, void> {
  yield* table<LogRow>(db, {
    name: "log",
    after: "(rev, sub) > (@rev, @sub)",
    first: { rev: 0, sub: -1 },
    order: "rev, sub",
    rev: (r) => r.rev,
    sum: (r) => logSum({ ...r, modRev: r.rev, createRev: r.create_rev, prevRev: r.prev_rev }),
  });
  yield* table<HeadRow>(db, {
    name: "head",
    after: "key > @key",
    first: { key: Buffer.alloc(0) },
    order: "key",
    rev: (r) => r.mod_rev,
    sum: (r) => headSum({ ...r, modRev: r.mod_rev, createRev: r.create_rev }),
  });
  yield* table<ResRow>(db, {
    name: "res",
    after: "(dp, rev, uid) > (@dp, @rev, @uid)",
    first: { dp: 0, rev: 0, uid: "" },
    order: "dp, rev, uid",
    rev: (r) => r.rev,
    sum: (r) => resSum({ ...r, update: r.update_bytes }),
  });
}

function* table<Row extends { sum: number }>(
  db: Database.Database,
  of: {
    name: string;
    after: string;
    first: object;
    order: string;
    rev: (row: Row) => number;
    sum: (row: Row) => number;
  },
): Generator<number, void, void> {
  const page = db.prepare(
    `SELECT * FROM ${of.name} WHERE ${of.after} ORDER BY ${of.order} LIMIT ${STEP_ROWS}`,
  );
  let at = of.first;
  for (;;) {
    const rows = page.all(at) as Row[];
    for (const row of rows)
      if (of.sum(row) !== row.sum) throw damaged(db.name, `revision ${of.rev(row)} in "${of.name}"`);
    yield rows.length;
    if (rows.length < STEP_ROWS) return;
    at = rows.at(-1) as object;
  }
}

/** Checks pages and rows of a whole file at once. Error: `STORE_DAMAGED`. */
export function verifyFile(db: Database.Database): void {
  const found = db.pragma("quick_check(1)", { simple: true });
  if (found !== "ok") throw damaged(db.name, `a page (${String(found)})`);
  for (const _ of verifyRows(db));
}
