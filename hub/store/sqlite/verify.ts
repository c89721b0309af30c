import type Database from "better-sqlite3";
import { damaged } from "./meta.ts";
import { headSum, logSum, resSum } from "./sums.ts";

/**
 * Looks at every row of a file once. What is read is checked anyway; this finds what nobody reads, and
 * rows that a broken key hides, before somebody misses them.
 */

/** Rows and bytes looked at in one step: about a millisecond, but for one row that is larger. */
const STEP_ROWS = 100;
const STEP_BYTES = 256 * 1024;

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

/** Checks up to {@link STEP_ROWS} rows between two yields. Error: `STORE_DAMAGED`. */
export function* verifyRows(db: Database.Database): Generator<number, void, void> {
  yield* table<LogRow>(db, {
    name: "log",
    bytes: "value",
    after: "(rev, sub) > (@rev, @sub)",
    first: { rev: 0, sub: -1 },
    order: "rev, sub",
    rev: (r) => r.rev,
    sum: (r) => logSum({ ...r, modRev: r.rev, createRev: r.create_rev, prevRev: r.prev_rev }),
  });
  yield* table<HeadRow>(db, {
    name: "head",
    bytes: "value",
    after: "key > @key",
    first: { key: Buffer.alloc(0) },
    order: "key",
    rev: (r) => r.mod_rev,
    sum: (r) => headSum({ ...r, modRev: r.mod_rev, createRev: r.create_rev }),
  });
  yield* table<ResRow>(db, {
    name: "res",
    bytes: "update_bytes",
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
    /** The column that makes a row large. */
    bytes: string;
    after: string;
    first: object;
    order: string;
    rev: (row: Row) => number;
    sum: (row: Row) => number;
  },
): Generator<number, void, void> {
  const from = `FROM ${of.name} WHERE ${of.after} ORDER BY ${of.order} LIMIT`;
  // Sizes first: rows of a megabyte each must not come a hundred at a time.
  const sizes = db.prepare(`SELECT length(${of.bytes}) ${from} ${STEP_ROWS}`).pluck();
  const page = db.prepare(`SELECT * ${from} @limit`);
  let at = of.first;
  for (;;) {
    let bytes = 0;
    const ahead = sizes.all(at) as number[];
    const over = ahead.findIndex((n, i) => i > 0 && (bytes += n) > STEP_BYTES);
    const limit = over < 0 ? ahead.length : over;
    const rows = limit === 0 ? [] : (page.all({ ...at, limit }) as Row[]);
    for (const row of rows)
      if (of.sum(row) !== row.sum) throw damaged(db.name, `revision ${of.rev(row)} in "${of.name}"`);
    yield rows.length;
    if (ahead.length < STEP_ROWS && over < 0) return;
    at = rows.at(-1) as object;
  }
}

/** Checks pages and rows of a whole file at once. Error: `STORE_DAMAGED`. */
export function verifyFile(db: Database.Database): void {
  const found = db.pragma("quick_check(1)", { simple: true });
  if (found !== "ok") throw damaged(db.name, `a page (${String(found)})`);
  for (const _ of verifyRows(db));
}
