import { limits } from "@moorage/shared/limits";
import { owned } from "./bytes.ts";
import { storeError } from "./errors.ts";
import type { Compare, KV, LeaseId, Op, OpResult, Rev, RowOp, StoreEvent, TxnRequest } from "./store.ts";

/**
 * What a transaction means, without I/O: its limits, its compares and the events it makes. Both
 * engines apply what is planned here; how they keep it is theirs.
 */

/** Counted for each op and compare beside its key and value. */
const OP_OVERHEAD_BYTES = 16;

/** A checked request that owns all its bytes. */
export interface CheckedTxn {
  if: Compare[];
  then: Op[];
  else: Op[];
  rows: RowOp[];
}

/** What planning may ask of the state before the transaction. */
export interface TxnView {
  get(key: Uint8Array): KV | undefined;
  /** As {@link get}; an engine may leave `value` empty to spare reading it. */
  meta(key: Uint8Array): KV | undefined;
  hasLease(id: LeaseId): boolean;
  hasDp(uid: string): boolean;
}

/** The outcome of a plan: `events` carry the revision given to the plan, `rows` are to be applied. */
export interface TxnPlan {
  ok: boolean;
  results: OpResult[];
  events: StoreEvent[];
  rows: readonly RowOp[];
}

/** Checks the number of keys of one read. */
export function checkKeys(keys: readonly Uint8Array[]): readonly Uint8Array[] {
  if (keys.length <= limits.storeTxnOps) return keys;
  const message = `Read ${keys.length} keys at once: at most ${limits.storeTxnOps} (storeTxnOps)`;
  throw storeError("TOO_MANY_OPS", message);
}

/** Checks the limits of a request and copies it. Errors as {@link import("./store.ts").Store.txn}. */
export function checkTxn(t: TxnRequest): CheckedTxn {
  const lists = { if: t.if ?? [], then: t.then, else: t.else ?? [], rows: t.rows ?? [] };
  for (const [name, list] of Object.entries(lists)) {
    if (list.length > limits.storeTxnOps) {
      throw storeError(
        "TOO_MANY_OPS",
        `Run a transaction with ${list.length} entries in "${name}": at most ${limits.storeTxnOps} (storeTxnOps)`,
      );
    }
  }
  let bytes = 0;
  const compares = lists.if.map((c): Compare => {
    bytes += OP_OVERHEAD_BYTES + checkKey(c.key);
    return { ...c, key: owned(c.key) };
  });
  const branches = [lists.then, lists.else].map((ops) => {
    const seen = new Set<string>();
    return ops.map((op) => {
      const copy = copyOp(op);
      const k = opKey(copy);
      bytes += OP_OVERHEAD_BYTES + checkKey(k) + ("put" in copy ? copy.put.value.length : 0);
      const text = Buffer.from(k.buffer, k.byteOffset, k.length).toString("latin1");
      if (seen.has(text)) {
        throw storeError(
          "DUPLICATE_KEY",
          `Run a transaction with key "${printable(k)}": it occurs twice in a branch`,
        );
      }
      seen.add(text);
      return copy;
    });
  });
  checkBytes(bytes, "keys and values");
  const rows = lists.rows.map(copyRow);
  checkBytes(
    rows.reduce((n, r) => n + ("upsertRes" in r ? r.upsertRes.update.length : 0), 0),
    "rows",
  );
  return { if: compares, then: branches[0] as Op[], else: branches[1] as Op[], rows };
}

function checkBytes(bytes: number, what: string): void {
  if (bytes > limits.storeTxnBytes) {
    throw storeError(
      "TXN_TOO_LARGE",
      `Run a transaction of ${bytes} bytes of ${what}: at most ${limits.storeTxnBytes} (storeTxnBytes)`,
    );
  }
}

/** Checks the key's length and returns it. */
export function checkKey(k: Uint8Array): number {
  if (k.length < 1 || k.length > limits.storeKeyBytes) {
    throw storeError(
      "KEY_TOO_LARGE",
      `Use a key of ${k.length} bytes: 1 to ${limits.storeKeyBytes} (storeKeyBytes)`,
    );
  }
  return k.length;
}

function checkValue(value: Uint8Array, of: Uint8Array | string): Uint8Array {
  if (value.length > limits.storeValueBytes) {
    throw storeError(
      "VALUE_TOO_LARGE",
      `Put "${typeof of === "string" ? of : printable(of)}": ${value.length} bytes, at most ${limits.storeValueBytes} (storeValueBytes)`,
    );
  }
  return owned(value);
}

/** The key of an op. */
export function opKey(op: Op): Uint8Array {
  if ("put" in op) return op.put.key;
  return "delete" in op ? op.delete.key : op.get.key;
}

function copyOp(op: Op): Op {
  if ("put" in op) {
    const value = checkValue(op.put.value, op.put.key);
    return { put: { ...op.put, key: owned(op.put.key), value } };
  }
  return "delete" in op ? { delete: { key: owned(op.delete.key) } } : { get: { key: owned(op.get.key) } };
}

function copyRow(row: RowOp): RowOp {
  if (!("upsertRes" in row)) return row;
  return { upsertRes: { ...row.upsertRes, update: checkValue(row.upsertRes.update, row.upsertRes.name) } };
}

/** A key for an error message: its text, cut short. */
function printable(k: Uint8Array): string {
  return new TextDecoder().decode(k.subarray(0, 200));
}

/**
 * The outcome of a checked request against a state, as if at revision `rev` (head + 1). Errors:
 * `LEASE_NOT_FOUND`, `DATA_PLANE_UNKNOWN`; then nothing of it may be applied.
 */
export function planTxn(t: CheckedTxn, view: TxnView, rev: Rev): TxnPlan {
  const ok = t.if.every((c) => holds(c, view.meta(c.key)));
  const plan: TxnPlan = { ok, results: [], events: [], rows: ok ? t.rows : [] };
  for (const op of ok ? t.then : t.else) planOp(op, view, rev, plan);
  const known = new Map<string, boolean>();
  for (const row of plan.rows) {
    if ("putDp" in row) known.set(row.putDp.uid, true);
    else if ("dropDp" in row) known.set(row.dropDp.uid, false);
    else {
      const dp = "upsertRes" in row ? row.upsertRes.dp : row.dropRes.dp;
      if (!(known.get(dp) ?? view.hasDp(dp))) throw unknownDp(dp);
    }
  }
  return plan;
}

/** The error for a data plane that the read model does not hold. */
export function unknownDp(uid: string): Error {
  return storeError("DATA_PLANE_UNKNOWN", `Use the rows of data plane "${uid}": it is not registered`);
}

/** The error for a lease that expired, was revoked or never was. */
export function unknownLease(id: LeaseId): Error {
  return storeError("LEASE_NOT_FOUND", `Use lease "${id}": it expired, was revoked or never existed`);
}

function holds(c: Compare, kv: KV | undefined): boolean {
  const actual = kv === undefined ? 0 : kv[c.target];
  if (c.op === "=") return actual === c.to;
  return c.op === "<" ? actual < c.to : actual > c.to;
}

function planOp(op: Op, view: TxnView, rev: Rev, plan: TxnPlan): void {
  if ("get" in op) {
    plan.results.push({ kind: "get", kv: view.get(op.get.key) });
    return;
  }
  const before = view.meta(opKey(op));
  if ("delete" in op) {
    plan.results.push({ kind: "delete", deleted: before !== undefined });
    if (before !== undefined) plan.events.push(deletion(before, rev));
  } else {
    const { key, value, lease = 0 } = op.put;
    if (lease !== 0 && !view.hasLease(lease)) throw unknownLease(lease);
    const kv: KV = {
      key,
      value,
      createRev: before?.createRev ?? rev,
      modRev: rev,
      version: (before?.version ?? 0) + 1,
      lease,
    };
    plan.results.push({ kind: "put", prevRev: before?.modRev ?? 0 });
    plan.events.push({ type: "put", kv, prevRev: before?.modRev ?? 0 });
  }
}

/** The event that deletes `before` at `rev`. */
export function deletion(before: KV, rev: Rev): StoreEvent {
  const kv: KV = {
    key: before.key,
    value: new Uint8Array(0),
    createRev: 0,
    modRev: rev,
    version: 0,
    lease: 0,
  };
  return { type: "delete", kv, prevRev: before.modRev };
}

/** Refuses what is no positive integer. */
export function checkRev(rev: Rev, what: string): void {
  if (!Number.isSafeInteger(rev) || rev < 1) {
    throw storeError("INVALID_REVISION", `${what} "${rev}": a revision is an integer from 1`);
  }
}

/** Refuses a read at a revision that is not there yet or no longer. */
export function checkReadable(rev: Rev, at: { head: Rev; compactRev: Rev }): void {
  checkRev(rev, "Read at revision");
  if (rev > at.head) throw futureRev("Read at", rev, at.head);
  if (rev < at.compactRev) {
    throw storeError("COMPACTED", `Read at revision "${rev}": compacted up to ${at.compactRev}`, {
      metadata: { compact_revision: String(at.compactRev) },
    });
  }
}

/** The error for a revision above the head. */
export function futureRev(verb: string, rev: Rev, head: Rev): Error {
  return storeError("FUTURE_REVISION", `${verb} revision "${rev}": the head is ${head}`, {
    metadata: { head_revision: String(head) },
  });
}

/** Refuses a limit that is no positive integer. */
export function checkLimit(limit: number, name: string): void {
  if (!Number.isSafeInteger(limit) || limit < 1) {
    throw storeError("INVALID_LIMIT", `Use "${name}" ${limit}: it must be an integer from 1`);
  }
}

/** Refuses a lease's life that is no integer from 1 to 2^31 - 1 milliseconds. */
export function checkTtl(ttlMs: number): void {
  if (!Number.isSafeInteger(ttlMs) || ttlMs < 1 || ttlMs > 2 ** 31 - 1) {
    throw storeError("INVALID_TTL", `Grant a lease of "${ttlMs}" ms: an integer from 1 to ${2 ** 31 - 1}`);
  }
}
