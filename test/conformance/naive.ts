import { compareKeys, inRange } from "@moorage/hub/store/bytes";
import { storeError } from "@moorage/hub/store/errors";
import type {
  Batch,
  ChangesRequest,
  ChangesResult,
  Compare,
  KV,
  Lease,
  Op,
  OpResult,
  RangeRequest,
  RangeResult,
  ResRow,
  Rev,
  RowOp,
  Store,
  StoreEvent,
  StoreStatus,
  TxnRequest,
  TxnResult,
  WatchRequest,
} from "@moorage/hub/store/store";

/** Everything the store holds at one revision. */
interface State {
  keys: readonly KV[];
  dps: ReadonlyMap<string, { floor: Rev; rows: readonly ResRow[] }>;
  events: readonly StoreEvent[];
}

/**
 * The rules of the store written as plainly as they read, sharing no code with the engines: each
 * revision is a whole copy of the state. A watch lists what there is and reports progress.
 */
export class NaiveStore implements Omit<Store, "newEpoch"> {
  /** states[r] is the state at revision r. */
  readonly #states: State[] = [empty, empty];
  readonly #leases = new Map<number, { ttlMs: number; deadline: number }>();
  #now = 0;
  #compactRev = 0;
  #lastLease = 0;

  get #head(): Rev {
    return this.#states.length - 1;
  }

  get #state(): State {
    return this.#states[this.#head] as State;
  }

  /** Moves time on; leases end in order of their deadlines, then of when that was set. */
  advance(ms: number): void {
    this.#now += ms;
    const over = [...this.#leases].filter(([, l]) => l.deadline <= this.#now);
    over.sort(([, a], [, b]) => a.deadline - b.deadline);
    for (const [id] of over) this.#end(id);
  }

  async status(): Promise<StoreStatus> {
    return {
      epoch: new Uint8Array(16),
      rev: this.#head,
      compactRev: this.#compactRev,
      bytes: 0,
      uncleanStart: false,
      restoredRev: 0,
      newFrom: 0,
    };
  }

  async range(q: RangeRequest): Promise<RangeResult> {
    const rev = q.rev ?? this.#head;
    if (rev < 1) throw storeError("INVALID_REVISION", "range");
    if (rev > this.#head) throw storeError("FUTURE_REVISION", "range");
    if (rev < this.#compactRev) throw storeError("COMPACTED", "range");
    const all = (this.#states[rev] as State).keys.filter((kv) => inRange(kv.key, q));
    const kvs = all.slice(0, q.limit ?? all.length);
    return { rev: this.#head, kvs, more: kvs.length < all.length };
  }

  async getMany(keys: readonly Uint8Array[]): Promise<(KV | undefined)[]> {
    return keys.map((k) => this.#state.keys.find((kv) => compareKeys(kv.key, k) === 0));
  }

  async txn(t: TxnRequest): Promise<TxnResult> {
    for (const branch of [t.then, t.else ?? []]) {
      const names = branch.map((op) => String(keyOf(op)));
      if (new Set(names).size < names.length) throw storeError("DUPLICATE_KEY", "txn");
    }
    const before = this.#state;
    const find = (k: Uint8Array) => before.keys.find((kv) => compareKeys(kv.key, k) === 0);
    const ok = (t.if ?? []).every((c) => holds(c, find(c.key)));
    const rev = this.#head + 1;
    const results: OpResult[] = [];
    const events: StoreEvent[] = [];
    for (const op of ok ? t.then : (t.else ?? [])) {
      const old = find(keyOf(op));
      if ("get" in op) results.push({ kind: "get", kv: old });
      else if ("delete" in op) {
        results.push({ kind: "delete", deleted: old !== undefined });
        if (old !== undefined) events.push(removal(old, rev));
      } else {
        const { key, value, lease = 0 } = op.put;
        if (lease !== 0 && !this.#leases.has(lease)) throw storeError("LEASE_NOT_FOUND", "txn");
        const kv = {
          key,
          value,
          createRev: old?.createRev ?? rev,
          modRev: rev,
          version: (old?.version ?? 0) + 1,
          lease,
        };
        results.push({ kind: "put", prevRev: old?.modRev ?? 0 });
        events.push({ type: "put", kv, prevRev: old?.modRev ?? 0 });
      }
    }
    const { dps, changed } = applyRows(before.dps, ok ? (t.rows ?? []) : [], rev);
    if (events.length > 0 || changed) this.#push(events, dps);
    return { ok, rev: this.#head, results };
  }

  async *watch(w: WatchRequest): AsyncGenerator<Batch> {
    if (w.from < 1) throw storeError("INVALID_REVISION", "watch");
    if (w.from <= this.#compactRev) {
      yield { kind: "compacted", compactRev: this.#compactRev };
      return;
    }
    for (let rev = w.from; rev <= this.#head; rev++) {
      const events = (this.#states[rev] as State).events.filter((e) => inRange(e.kv.key, w));
      if (events.length > 0) yield { kind: "events", rev, events };
    }
    yield { kind: "progress", rev: this.#head };
  }

  async compact(rev: Rev): Promise<void> {
    if (rev < 1) throw storeError("INVALID_REVISION", "compact");
    if (rev > this.#head) throw storeError("FUTURE_REVISION", "compact");
    this.#compactRev = Math.max(this.#compactRev, rev);
  }

  async grant(ttlMs: number): Promise<Lease> {
    const id = ++this.#lastLease;
    this.#leases.set(id, { ttlMs, deadline: this.#now + ttlMs });
    return { id, ttlMs };
  }

  async keepAlive(id: number): Promise<void> {
    const lease = this.#leases.get(id);
    if (lease === undefined) throw storeError("LEASE_NOT_FOUND", "keepAlive");
    this.#leases.delete(id);
    this.#leases.set(id, { ttlMs: lease.ttlMs, deadline: this.#now + lease.ttlMs });
  }

  async revoke(id: number): Promise<void> {
    if (!this.#leases.has(id)) throw storeError("LEASE_NOT_FOUND", "revoke");
    this.#end(id);
  }

  async changes(q: ChangesRequest): Promise<ChangesResult> {
    const { rows: held, floor } = this.#dp(q.dp);
    const all = held.filter((r) => r.rev > q.after).sort((a, b) => a.rev - b.rev || (a.uid < b.uid ? -1 : 1));
    const fits = (rows: ResRow[]) =>
      rows.length <= q.limit && rows.reduce((n, r) => n + r.update.length, 0) <= q.maxBytes;
    const revs = [...new Set(all.map((r) => r.rev))];
    let rows = all.filter((r) => r.rev === revs[0]);
    for (const rev of revs.slice(1)) {
      const longer = all.filter((r) => r.rev <= rev);
      if (!fits(longer)) break;
      rows = longer;
    }
    return { rows, head: this.#head, floor, more: rows.length < all.length };
  }

  async resByUid(dp: string, uid: string): Promise<ResRow | undefined> {
    return this.#state.dps.get(dp)?.rows.find((r) => r.uid === uid);
  }

  async resAll(dp: string, q: { afterUid?: string; limit: number }): Promise<ResRow[]> {
    const rows = this.#dp(dp).rows.filter((r) => r.uid > (q.afterUid ?? ""));
    return rows.sort((a, b) => (a.uid < b.uid ? -1 : 1)).slice(0, q.limit);
  }

  async floor(dp: string): Promise<Rev> {
    return this.#dp(dp).floor;
  }

  onCommit(): () => void {
    return () => undefined;
  }

  async close(): Promise<void> {}

  #dp(uid: string): { floor: Rev; rows: readonly ResRow[] } {
    const dp = this.#state.dps.get(uid);
    if (dp === undefined) throw storeError("DATA_PLANE_UNKNOWN", uid);
    return dp;
  }

  #end(id: number): void {
    this.#leases.delete(id);
    const rev = this.#head + 1;
    const events = this.#state.keys.filter((kv) => kv.lease === id).map((kv) => removal(kv, rev));
    if (events.length > 0) this.#push(events, this.#state.dps);
  }

  #push(events: readonly StoreEvent[], dps: State["dps"]): void {
    const touched = (kv: KV) => events.some((e) => compareKeys(e.kv.key, kv.key) === 0);
    const kept = this.#state.keys.filter((kv) => !touched(kv));
    const put = events.filter((e) => e.type === "put").map((e) => e.kv);
    const keys = [...kept, ...put].sort((a, b) => compareKeys(a.key, b.key));
    this.#states.push({ keys, dps, events });
  }
}

const empty: State = { keys: [], dps: new Map(), events: [] };

const keyOf = (op: Op): Uint8Array =>
  "put" in op ? op.put.key : "delete" in op ? op.delete.key : op.get.key;

function holds(c: Compare, kv: KV | undefined): boolean {
  const actual = kv === undefined ? 0 : kv[c.target];
  return c.op === "=" ? actual === c.to : c.op === "<" ? actual < c.to : actual > c.to;
}

function removal(kv: KV, rev: Rev): StoreEvent {
  const gone = { key: kv.key, value: new Uint8Array(0), createRev: 0, modRev: rev, version: 0, lease: 0 };
  return { type: "delete", kv: gone, prevRev: kv.modRev };
}

function applyRows(
  before: State["dps"],
  ops: readonly RowOp[],
  rev: Rev,
): { dps: State["dps"]; changed: boolean } {
  const dps = new Map(before);
  let changed = false;
  for (const op of ops) {
    if ("putDp" in op) {
      if (dps.has(op.putDp.uid)) continue;
      dps.set(op.putDp.uid, { floor: 0, rows: [] });
      changed = true;
    } else if ("dropDp" in op) {
      changed = dps.delete(op.dropDp.uid) || changed;
    } else {
      const { dp: name, uid } = "upsertRes" in op ? op.upsertRes : op.dropRes;
      const dp = dps.get(name);
      if (dp === undefined) throw storeError("DATA_PLANE_UNKNOWN", name);
      const others = dp.rows.filter((r) => r.uid !== uid);
      if ("upsertRes" in op) {
        const { dp: _, ...row } = op.upsertRes;
        dps.set(name, { floor: dp.floor, rows: [...others, { rev, ...row }] });
        changed = true;
      } else {
        const old = dp.rows.find((r) => r.uid === uid);
        if (old === undefined) continue;
        dps.set(name, { floor: Math.max(dp.floor, old.rev), rows: others });
        changed = true;
      }
    }
  }
  return { dps, changed };
}
