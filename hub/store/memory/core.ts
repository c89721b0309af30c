import { inRange } from "../bytes.ts";
import { checkLimit, checkReadable, checkRev, deletion, futureRev, planTxn, unknownLease } from "../plan.ts";
import type { CheckedTxn } from "../plan.ts";
import type {
  KeyRange,
  KV,
  LeaseId,
  RangeRequest,
  RangeResult,
  Rev,
  StoreEvent,
  TxnResult,
} from "../store.ts";
import type { LogPage, Revision } from "../watches.ts";
import { Rows } from "./rows.ts";
import { SortedMap } from "./sorted.ts";

/** A commit for those who watch: the revision's events and the data planes whose rows changed. */
export interface Commit extends Revision {
  dps: string[];
}

/** Bytes as a string of the same order. */
const text = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");

/**
 * The store's state in memory, without clock or promise: the model that the durable engines are
 * compared with. Every mutation that writes hands its commit to `onCommit` before it returns.
 */
export class MemoryCore {
  readonly rows = new Rows();
  /** Every version of a key that is still kept, oldest first; a deletion has version 0. */
  readonly #history = new SortedMap<KV[]>();
  readonly #leases = new Map<LeaseId, Set<string>>();
  readonly #onCommit: (commit: Commit) => void;
  #log: Revision[] = [];
  #lastLease = 0;
  #rev: Rev = 1;
  #compactRev: Rev = 0;
  #bytes = 0;

  constructor(onCommit: (commit: Commit) => void) {
    this.#onCommit = onCommit;
  }

  get rev(): Rev {
    return this.#rev;
  }

  get compactRev(): Rev {
    return this.#compactRev;
  }

  /** Bytes of keys and values kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Moves the head up without a write: the revisions between are never given. */
  jump(to: Rev): void {
    this.#rev = to;
  }

  txn(t: CheckedTxn): TxnResult {
    const rev = this.#rev + 1;
    const get = (key: Uint8Array): KV | undefined => this.get(key);
    const view = {
      get,
      meta: get,
      hasLease: (id: LeaseId) => this.#leases.has(id),
      hasDp: (uid: string) => this.rows.has(uid),
    };
    const plan = planTxn(t, view, rev);
    const dps = [...this.rows.apply(plan.rows, rev)];
    this.#commit({ rev, events: plan.events, dps });
    return { ok: plan.ok, rev: this.#rev, results: plan.results };
  }

  get(key: Uint8Array): KV | undefined {
    return live(this.#history.get(text(key))?.at(-1));
  }

  range(q: RangeRequest): RangeResult {
    const at = q.rev ?? this.#rev;
    checkReadable(at, { head: this.#rev, compactRev: this.#compactRev });
    if (q.limit !== undefined) checkLimit(q.limit, "limit");
    const start = text(q.start);
    const kvs: KV[] = [];
    let more = false;
    for (const [, versions] of this.#history.from(start, q.end === undefined ? `${start}\0` : text(q.end))) {
      const kv = live(versions.findLast((v) => v.modRev <= at));
      if (kv === undefined) continue;
      more = kvs.length === q.limit;
      if (more) break;
      kvs.push(q.keysOnly === true ? { ...kv, value: new Uint8Array(0) } : kv);
    }
    return { rev: this.#rev, kvs, more };
  }

  readLog(from: Rev, range: KeyRange): LogPage {
    if (from <= this.#compactRev) return { compactRev: this.#compactRev };
    const revisions: Revision[] = [];
    for (const { rev, events } of this.#log) {
      const matching = rev < from ? [] : events.filter((e) => inRange(e.kv.key, range));
      if (matching.length > 0) revisions.push({ rev, events: matching });
    }
    return { revisions, next: this.#rev + 1 };
  }

  compact(rev: Rev): void {
    checkRev(rev, "Compact revision");
    if (rev > this.#rev) throw futureRev("Compact", rev, this.#rev);
    if (rev <= this.#compactRev) return;
    this.#compactRev = rev;
    this.#log = this.#log.filter((r) => r.rev > rev);
    for (const [key, versions] of [...this.#history.from("")]) {
      const visible = versions.findLastIndex((v) => v.modRev <= rev);
      const kept = versions.slice(Math.max(0, visible));
      if (visible >= 0 && kept[0]?.version === 0) kept.shift();
      this.#bytes += kept.reduce((n, v) => n + size(v), 0) - versions.reduce((n, v) => n + size(v), 0);
      if (kept.length === 0) this.#history.delete(key);
      else this.#history.set(key, kept);
    }
  }

  grant(): LeaseId {
    this.#leases.set(++this.#lastLease, new Set());
    return this.#lastLease;
  }

  hasLease(id: LeaseId): boolean {
    return this.#leases.has(id);
  }

  revoke(id: LeaseId): void {
    const keys = this.#leases.get(id);
    if (keys === undefined) throw unknownLease(id);
    const rev = this.#rev + 1;
    const events = [...keys].sort().map((k): StoreEvent => {
      const kv = this.#history.get(k)?.at(-1) as KV;
      return deletion(kv, rev);
    });
    this.#commit({ rev, events, dps: [] });
    this.#leases.delete(id);
  }

  /** Makes a revision of it, unless it holds nothing. */
  #commit(commit: Commit): void {
    if (commit.events.length === 0 && commit.dps.length === 0) return;
    this.#rev = commit.rev;
    for (const { kv } of commit.events) {
      const k = text(kv.key);
      const versions = this.#history.get(k);
      const before = versions?.at(-1);
      if (before !== undefined) this.#leases.get(before.lease)?.delete(k);
      this.#leases.get(kv.lease)?.add(k);
      if (versions === undefined) this.#history.set(k, [kv]);
      else versions.push(kv);
      this.#bytes += size(kv);
    }
    this.#log.push({ rev: commit.rev, events: commit.events });
    this.#onCommit(commit);
  }
}

const live = (kv: KV | undefined): KV | undefined => (kv === undefined || kv.version === 0 ? undefined : kv);

const size = (kv: KV): number => kv.key.length + kv.value.length;
