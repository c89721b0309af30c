import Database from "better-sqlite3";
import { checkLimit, checkReadable, unknownDp } from "../plan.ts";
import type {
  ChangesRequest,
  ChangesResult,
  KeyRange,
  KV,
  RangeRequest,
  RangeResult,
  ResRow,
  Rev,
  StoreEvent,
} from "../store.ts";
import type { LogPage, Revision } from "../watches.ts";
import { damaged } from "./meta.ts";
import { configure } from "./schema.ts";
import { headSum, logSum, resSum } from "./sums.ts";
import { verifyRows } from "./verify.ts";

/** Most log rows, bytes of values, and revisions, that one stretch of a watch's catch-up reads. */
const LOG_ROWS = 256;
const LOG_BYTES = 1024 * 1024;
const LOG_REVISIONS = 4_096;

interface KvRow {
  sum: number;
  key: Buffer;
  value: Buffer;
  createRev: number;
  modRev: number;
  version: number;
  lease: number;
}

interface LogRow extends KvRow {
  sub: number;
  prevRev: number;
  del: number;
}

interface UpdateRow {
  dp: number;
  sum: number;
  rev: number;
  uid: string;
  name: string;
  del: number;
  update_bytes: Buffer;
}

/** Reads of the store, on a read-only connection; each is one short snapshot. */
export interface Reader {
  /** Head, compaction and size of the file. */
  status(): { rev: Rev; compactRev: Rev; bytes: number };
  range(q: RangeRequest): RangeResult;
  getMany(keys: readonly Uint8Array[]): (KV | undefined)[];
  readLog(from: Rev, range: KeyRange): LogPage;
  changes(q: ChangesRequest): ChangesResult;
  resByUid(dp: string, uid: string): ResRow | undefined;
  resAll(dp: string, q: { afterUid?: string; limit: number }): ResRow[];
  floor(dp: string): Rev;
  /** Checks all rows, some between two yields. */
  verify(): Generator<number, void, void>;
  close(): void;
}

/** A view of the same bytes without Buffer's methods, so that engines answer alike. */
const plain = (b: Buffer): Uint8Array => new Uint8Array(b.buffer, b.byteOffset, b.length);

const toKv = (r: KvRow): KV => ({
  key: plain(r.key),
  value: plain(r.value),
  createRev: r.createRev,
  modRev: r.modRev,
  version: r.version,
  lease: r.lease,
});

/** Whose checksum a row of the log carries: a state of the past is read from there. */
type Source = "head" | "log";

/** A row as a key and value, checked. */
function checkedKv(file: string, r: KvRow & Partial<LogRow>, from: Source): KV {
  const kv = toKv(r);
  const sum =
    from === "head"
      ? headSum(kv)
      : logSum({ ...kv, sub: r.sub ?? 0, prevRev: r.prevRev ?? 0, del: r.del ?? 0 });
  if (sum !== r.sum) throw damaged(file, `revision ${r.modRev} in "${from}"`);
  return kv;
}

function checkedRes(file: string, r: UpdateRow): ResRow {
  if (resSum({ ...r, update: r.update_bytes }) !== r.sum) throw damaged(file, `revision ${r.rev} in "res"`);
  return { rev: r.rev, uid: r.uid, name: r.name, del: r.del === 1, update: plain(r.update_bytes) };
}

/** Opens the file for reading; the writer must have created it. */
export function openReader(file: string): Reader {
  const db = new Database(file, { readonly: true, timeout: 1_000 });
  configure(db);
  const sql = statements(db);
  const meta = (): { rev: Rev; compactRev: Rev } => sql.meta.get() as { rev: Rev; compactRev: Rev };
  const dpRow = (uid: string): { id: number; floor: Rev } => {
    const row = sql.dp.get(uid) as { id: number; floor: Rev } | undefined;
    if (row === undefined) throw unknownDp(uid);
    return row;
  };
  /** `fn` in one snapshot. */
  const snapshot = <A extends unknown[], R>(fn: (...args: A) => R): ((...args: A) => R) =>
    db.transaction(fn as (...args: unknown[]) => R) as (...args: A) => R;

  const range = snapshot((q: RangeRequest): RangeResult => {
    const { rev: head, compactRev } = meta();
    const at = q.rev ?? head;
    checkReadable(at, { head, compactRev });
    if (q.limit !== undefined) checkLimit(q.limit, "limit");
    const [start, end] = bounds(q);
    // One more than asked tells whether there are more; -1 is SQLite's "no limit".
    const limit = q.limit === undefined ? -1 : q.limit + 1;
    const keys = q.keysOnly === true ? 1 : 0;
    const rows = (
      at === head ? sql.now.all({ start, end, limit, keys }) : sql.past.all({ start, end, limit, keys, at })
    ) as KvRow[];
    const more = q.limit !== undefined && rows.length > q.limit;
    if (more) rows.pop();
    const from = at === head ? "head" : "log";
    return { rev: head, kvs: rows.map((r) => (keys === 1 ? toKv(r) : checkedKv(file, r, from))), more };
  });
  /**
   * One key that is there now, which most reads ask for: a single statement is a snapshot by itself, at a third of the
   * cost. Undefined when it is not there: then the revision at which it is not must be of the same snapshot.
   */
  const point = (q: RangeRequest): RangeResult | undefined => {
    if (q.end !== undefined || q.rev !== undefined || q.limit !== undefined) return undefined;
    const row = sql.point.get(Buffer.from(q.start)) as (KvRow & { rev: Rev }) | undefined;
    if (row === undefined) return undefined;
    const kv = checkedKv(file, row, "head");
    return {
      rev: row.rev,
      kvs: [q.keysOnly === true ? { ...kv, value: new Uint8Array() } : kv],
      more: false,
    };
  };

  const pageBytes = db.pragma("page_size", { simple: true }) as number;

  return {
    status: snapshot(() => ({
      ...meta(),
      bytes: (sql.pageCount.get() as number) * pageBytes,
    })),
    range: (q) => point(q) ?? range(q),
    getMany: snapshot((keys: readonly Uint8Array[]) =>
      keys.map((k) => {
        const row = sql.point.get(Buffer.from(k)) as KvRow | undefined;
        return row === undefined ? undefined : checkedKv(file, row, "head");
      }),
    ),
    readLog: snapshot((from: Rev, range: KeyRange): LogPage => {
      const { rev: head, compactRev } = meta();
      if (from <= compactRev) return { compactRev };
      const [start, end] = bounds(range);
      // Revisions without a row are passed at once, be they few or the jump of an epoch.
      const first = sql.firstLogged.get(from) as Rev | null;
      if (first === null) return { revisions: [], next: head + 1 };
      const to = Math.min(head, first + LOG_REVISIONS - 1);
      const sizes = sql.logSizes.all({ from, to, start, end, limit: LOG_ROWS + 1 }) as {
        rev: Rev;
        bytes: number;
      }[];
      const through = lastWhole(sizes, to);
      const rows = sql.log.all({ from, to: through, start, end }) as LogRow[];
      return { revisions: group(file, rows), next: through + 1 };
    }),
    changes: snapshot((q: ChangesRequest): ChangesResult => {
      checkLimit(q.limit, "limit");
      checkLimit(q.maxBytes, "maxBytes");
      const { rev: head } = meta();
      const dp = dpRow(q.dp);
      const { rows, more } = wholeRevisions(sql, dp.id, q);
      return { rows: rows.map((r) => checkedRes(file, r)), more, head, floor: dp.floor };
    }),
    resByUid(dp, uid) {
      const row = sql.res.get(dp, uid) as UpdateRow | undefined;
      return row === undefined ? undefined : checkedRes(file, row);
    },
    resAll: snapshot((dp: string, q: { afterUid?: string; limit: number }): ResRow[] => {
      checkLimit(q.limit, "limit");
      return (sql.resAll.all(dpRow(dp).id, q.afterUid ?? "", q.limit) as UpdateRow[]).map((r) =>
        checkedRes(file, r),
      );
    }),
    floor: (dp) => dpRow(dp).floor,
    verify: () => verifyRows(db),
    close: () => db.close(),
  };
}

/**
 * The last revision of a stretch: `to`, or the one before that in which rows or bytes run out, but
 * never none. `sizes` are the rows in order, one more than a stretch may hold.
 */
function lastWhole(sizes: readonly { rev: Rev; bytes: number }[], to: Rev): Rev {
  let bytes = 0;
  const over = sizes.findIndex((s, i) => i >= LOG_ROWS || (bytes += s.bytes) > LOG_BYTES);
  if (over < 0) return to;
  const cut = (sizes[over] as { rev: Rev }).rev;
  const before = sizes.findLast((s, i) => i < over && s.rev < cut);
  return before?.rev ?? cut;
}

type Statements = ReturnType<typeof statements>;

/** Rows after a position, cut between revisions; the first revision always comes whole. */
function wholeRevisions(
  sql: Statements,
  dp: number,
  q: ChangesRequest,
): { rows: UpdateRow[]; more: boolean } {
  const sizes = sql.sizes.all({ dp, after: q.after, limit: q.limit + 1 }) as {
    rev: Rev;
    n: number;
    bytes: number;
  }[];
  let rows = 0;
  let bytes = 0;
  let through = q.after;
  for (const s of sizes) {
    if (rows > 0 && (rows + s.n > q.limit || bytes + s.bytes > q.maxBytes)) break;
    rows += s.n;
    bytes += s.bytes;
    through = s.rev;
  }
  const found = sql.changes.all({ dp, after: q.after, through }) as UpdateRow[];
  return { rows: found, more: through !== (sizes.at(-1)?.rev ?? q.after) };
}

/** The range as SQL wants it; one key is the range up to its successor. */
function bounds(r: KeyRange): [Buffer, Buffer] {
  const start = Buffer.from(r.start);
  return [start, r.end === undefined ? Buffer.concat([start, Buffer.alloc(1)]) : Buffer.from(r.end)];
}

function group(file: string, rows: readonly LogRow[]): Revision[] {
  const revisions: Revision[] = [];
  for (const row of rows) {
    const event: StoreEvent = {
      type: row.del === 1 ? "delete" : "put",
      kv: checkedKv(file, row, "log"),
      prevRev: row.prevRev,
    };
    const last = revisions.at(-1);
    if (last?.rev === row.modRev) last.events.push(event);
    else revisions.push({ rev: row.modRev, events: [event] });
  }
  return revisions;
}

function statements(db: Database.Database) {
  const value = "CASE WHEN @keys = 1 THEN x'' ELSE value END AS value";
  const cols = "create_rev AS createRev, version, lease, sum";
  // By revision whatever the planner thinks: the log's primary key is the order wanted.
  const stretch =
    "FROM log NOT INDEXED WHERE rev >= @from AND rev <= @to AND key >= @start AND key < @end ORDER BY rev, sub";
  return {
    // Prepared once: every stream that opens asks for the state of the store.
    pageCount: db.prepare("PRAGMA page_count").pluck(),
    meta: db.prepare(
      "SELECT (SELECT v FROM meta WHERE k = 'rev') AS rev, (SELECT v FROM meta WHERE k = 'compact_rev') AS compactRev",
    ),
    point: db.prepare(
      `SELECT (SELECT v FROM meta WHERE k = 'rev') AS rev, key, mod_rev AS modRev, ${cols}, value FROM head WHERE key = ?`,
    ),
    now: db.prepare(
      `SELECT key, mod_rev AS modRev, ${cols}, ${value} FROM head WHERE key >= @start AND key < @end ORDER BY key LIMIT @limit`,
    ),
    past: db.prepare(
      `SELECT key, rev AS modRev, sub, prev_rev AS prevRev, del, ${cols}, ${value} FROM log AS l INDEXED BY log_key
       WHERE key >= @start AND key < @end AND rev <= @at AND del = 0
         AND NOT EXISTS (SELECT 1 FROM log AS n WHERE n.key = l.key AND n.rev > l.rev AND n.rev <= @at)
       ORDER BY key LIMIT @limit`,
    ),
    logSizes: db.prepare(`SELECT rev, length(value) AS bytes ${stretch} LIMIT @limit`),
    firstLogged: db.prepare("SELECT min(rev) FROM log WHERE rev >= ?").pluck(),
    log: db.prepare(`SELECT key, rev AS modRev, sub, ${cols}, value, prev_rev AS prevRev, del ${stretch}`),
    dp: db.prepare("SELECT id, tombstone_floor AS floor FROM dp WHERE uid = ?"),
    res: db.prepare("SELECT res.* FROM res JOIN dp ON dp.id = res.dp WHERE dp.uid = ? AND res.uid = ?"),
    resAll: db.prepare("SELECT * FROM res WHERE dp = ? AND uid > ? ORDER BY uid LIMIT ?"),
    sizes: db.prepare(
      `SELECT rev, count(*) AS n, sum(length(update_bytes)) AS bytes FROM
         (SELECT rev, update_bytes FROM res WHERE dp = @dp AND rev > @after ORDER BY rev)
       GROUP BY rev ORDER BY rev LIMIT @limit`,
    ),
    changes: db.prepare(
      "SELECT * FROM res WHERE dp = @dp AND rev > @after AND rev <= @through ORDER BY rev, uid",
    ),
  };
}
