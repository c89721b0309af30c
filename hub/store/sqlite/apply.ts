import type Database from "better-sqlite3";
import type { Commit } from "../memory/core.ts";
import { checkRev, deletion, futureRev, planTxn, unknownLease } from "../plan.ts";
import type { CheckedTxn, TxnView } from "../plan.ts";
import type { KV, LeaseId, Rev, RowOp, StoreEvent, TxnResult } from "../store.ts";
import type { Meta } from "./meta.ts";
import type { EpochBegun } from "./schema.ts";
import { damaged } from "./meta.ts";
import { headSum, logSum, metaSum, resSum } from "./sums.ts";

interface HeadRow {
  key: Buffer;
  mod_rev: number;
  create_rev: number;
  version: number;
  lease: number;
  value: Buffer;
}

/** The counters that a group of requests moves; restored when the group is rolled back. */
interface Counters {
  rev: Rev;
  compactRev: Rev;
  lastLease: LeaseId;
}

/** The writes of a group, made on the write connection between its BEGIN and COMMIT. */
export class Applier {
  #counters: Counters;
  #before: Counters;
  #commits: Commit[] = [];
  #history: EpochBegun & { epoch: Uint8Array };
  readonly #sql: ReturnType<typeof statements>;
  readonly #view: TxnView;

  constructor(db: Database.Database, meta: Meta) {
    this.#counters = { rev: meta.rev, compactRev: meta.compactRev, lastLease: meta.lastLease };
    this.#before = { ...this.#counters };
    this.#history = { epoch: meta.epoch, restoredRev: meta.restoredRev, newFrom: meta.newFrom };
    const sql = statements(db);
    this.#sql = sql;
    const read = (statement: Database.Statement<unknown[]>, key: Uint8Array): KV | undefined => {
      const row = statement.get(key) as HeadRow | undefined;
      return row === undefined ? undefined : toKv(row);
    };
    const checked = (key: Uint8Array): KV | undefined => {
      const row = sql.head.get(key) as (HeadRow & { sum: number }) | undefined;
      if (row === undefined) return undefined;
      const kv = toKv(row);
      if (headSum(kv) !== row.sum) throw damaged(db.name, `revision ${row.mod_rev} in "head"`);
      return kv;
    };
    this.#view = {
      get: checked,
      meta: (key) => read(sql.headMeta, key),
      hasLease: (id) => sql.lease.get(id) !== undefined,
      hasDp: (uid) => sql.dp.get(uid) !== undefined,
    };
  }

  get compactRev(): Rev {
    return this.#counters.compactRev;
  }

  /** A new epoch began outside of a group. */
  began(history: EpochBegun & { epoch: Uint8Array }): void {
    this.#history = history;
    this.#counters.rev = history.newFrom;
  }

  /** Starts a group. */
  begin(): void {
    this.#before = { ...this.#counters };
    this.#commits = [];
    this.#sql.begin.run();
  }

  /** Writes the counters and ends the group durably; returns its revisions in order. */
  commit(): Commit[] {
    const { rev, compactRev, lastLease } = this.#counters;
    if (rev !== this.#before.rev) this.#sql.meta.run(rev, "rev");
    if (compactRev !== this.#before.compactRev) this.#sql.meta.run(compactRev, "compact_rev");
    if (lastLease !== this.#before.lastLease) this.#sql.meta.run(lastLease, "last_lease");
    if (rev !== this.#before.rev || compactRev !== this.#before.compactRev)
      this.#sql.meta.run(metaSum({ ...this.#history, rev, compactRev }), "sum");
    this.#sql.commit.run();
    return this.#commits;
  }

  /** Forgets the group. */
  rollback(inTransaction: boolean): void {
    this.#counters = { ...this.#before };
    if (inTransaction) this.#sql.rollback.run();
  }

  txn(t: CheckedTxn): TxnResult {
    const rev = this.#counters.rev + 1;
    // All that can be refused is refused by the plan, before the first write.
    const plan = planTxn(t, this.#view, rev);
    this.#write({ rev, events: plan.events, dps: [...this.#rows(plan.rows, rev)] });
    return { ok: plan.ok, rev: this.#counters.rev, results: plan.results };
  }

  compact(rev: Rev): void {
    checkRev(rev, "Compact revision");
    if (rev > this.#counters.rev) throw futureRev("Compact", rev, this.#counters.rev);
    this.#counters.compactRev = Math.max(this.#counters.compactRev, rev);
  }

  grant(ttlMs: number): LeaseId {
    const id = ++this.#counters.lastLease;
    this.#sql.grant.run(id, ttlMs);
    return id;
  }

  revoke(id: LeaseId): void {
    if (!this.#view.hasLease(id)) throw unknownLease(id);
    const rev = this.#counters.rev + 1;
    const held = this.#sql.leaseKeys.all(id) as HeadRow[];
    this.#write({ rev, events: held.map((row): StoreEvent => deletion(toKv(row), rev)), dps: [] });
    this.#sql.revoke.run(id);
  }

  #write(commit: Commit): void {
    if (commit.events.length === 0 && commit.dps.length === 0) return;
    this.#counters.rev = commit.rev;
    commit.events.forEach(({ type, kv, prevRev }, sub) => {
      const { key, value, createRev, modRev, version, lease } = kv;
      this.#sql.log.run(
        modRev,
        sub,
        key,
        createRev,
        prevRev,
        version,
        lease,
        type === "delete" ? 1 : 0,
        value,
        logSum({ ...kv, sub, prevRev, del: type === "delete" ? 1 : 0 }),
      );
      if (type === "delete") this.#sql.remove.run(key);
      else this.#sql.put.run(key, modRev, createRev, version, lease, value, headSum(kv));
    });
    this.#commits.push(commit);
  }

  #rows(ops: readonly RowOp[], rev: Rev): Set<string> {
    const sql = this.#sql;
    const changed = new Set<string>();
    const note = (dp: string, changes: number): void => void (changes > 0 && changed.add(dp));
    for (const op of ops) {
      if ("putDp" in op) note(op.putDp.uid, sql.putDp.run(op.putDp.uid).changes);
      else if ("dropDp" in op) note(op.dropDp.uid, sql.dropDp.run(op.dropDp.uid).changes);
      else if ("dropRes" in op) {
        const { dp, uid } = op.dropRes;
        const id = sql.dp.get(dp) as number;
        const at = sql.resRev.get(id, uid) as number | undefined;
        if (at === undefined) continue;
        sql.raiseFloor.run(at, id);
        note(dp, sql.dropRes.run(id, uid).changes);
      } else {
        const { dp, uid, name, del, update } = op.upsertRes;
        const id = sql.dp.get(dp) as number;
        // The revision is part of the primary key: moving a resource is delete + insert.
        sql.dropRes.run(id, uid);
        const sum = resSum({ dp: id, rev, uid, name, del: del ? 1 : 0, update });
        note(dp, sql.insertRes.run(id, rev, uid, name, del ? 1 : 0, update, sum).changes);
      }
    }
    return changed;
  }
}

/** A head row as the interface has it. */
function toKv(row: HeadRow): KV {
  return {
    key: new Uint8Array(row.key),
    value: new Uint8Array(row.value),
    createRev: row.create_rev,
    modRev: row.mod_rev,
    version: row.version,
    lease: row.lease,
  };
}

function statements(db: Database.Database) {
  const p = (sql: string) => db.prepare(sql);
  return {
    begin: p("BEGIN IMMEDIATE"),
    commit: p("COMMIT"),
    rollback: p("ROLLBACK"),
    meta: p("UPDATE meta SET v = ? WHERE k = ?"),
    head: p("SELECT * FROM head WHERE key = ?"),
    headMeta: p("SELECT key, mod_rev, create_rev, version, lease, x'' AS value FROM head WHERE key = ?"),
    put: p(
      "INSERT INTO head(key, mod_rev, create_rev, version, lease, value, sum) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET mod_rev = excluded.mod_rev, create_rev = excluded.create_rev, version = excluded.version, lease = excluded.lease, value = excluded.value, sum = excluded.sum",
    ),
    remove: p("DELETE FROM head WHERE key = ?"),
    log: p(
      "INSERT INTO log(rev, sub, key, create_rev, prev_rev, version, lease, del, value, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    ),
    lease: p("SELECT 1 FROM lease WHERE id = ?"),
    leaseKeys: p("SELECT * FROM head WHERE lease = ? AND lease <> 0 ORDER BY key"),
    grant: p("INSERT INTO lease(id, ttl_ms) VALUES (?, ?)"),
    revoke: p("DELETE FROM lease WHERE id = ?"),
    dp: p("SELECT id FROM dp WHERE uid = ?").pluck(),
    putDp: p("INSERT INTO dp(uid) VALUES (?) ON CONFLICT(uid) DO NOTHING"),
    dropDp: p("DELETE FROM dp WHERE uid = ?"),
    raiseFloor: p("UPDATE dp SET tombstone_floor = max(tombstone_floor, ?) WHERE id = ?"),
    resRev: p("SELECT rev FROM res WHERE dp = ? AND uid = ?").pluck(),
    dropRes: p("DELETE FROM res WHERE dp = ? AND uid = ?"),
    insertRes: p("INSERT INTO res(dp, rev, uid, name, del, update_bytes, sum) VALUES (?, ?, ?, ?, ?, ?, ?)"),
  };
}
