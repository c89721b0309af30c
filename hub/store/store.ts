/**
 * The hub's store: an ordered log of revisions over a flat key space, with compare-and-set
 * transactions, whole-revision watches and leases. etcd's rules, narrowed; one conformance suite
 * (test/conformance/store.test.ts) holds them for every engine.
 *
 * Rules
 * - A `txn` that writes is one revision, exactly one above the head, shared by all its events. One
 *   that writes nothing (the branch taken has no effect) does not bump. A fresh store is at
 *   revision 1, so its first write is 2.
 * - A txn holds at most `limits.storeTxnOps` compares, ops a branch and rows, no key twice in a
 *   branch, keys of 1 to `limits.storeKeyBytes`, values up to `limits.storeValueBytes`, and at most
 *   `limits.storeTxnBytes` in all (keys and values, 16 bytes for each op; rows counted apart under
 *   the same limit). Refused whole, before it is tried.
 * - A settled `txn` is durable: neither an answer nor an event leaves before the commit.
 * - `range` and the read model see every settled write; each answer is one snapshot.
 * - Unknown outcome is its own error, `UNCERTAIN`: re-read a key of the same txn to learn it.
 * - `compact(R)` gives up every state and event below R. State at R stays readable, and events
 *   above R. Compacting at or below `compactRev` does nothing.
 * - A lease never expires early and may expire late: by the clock of this process, and again from
 *   the start with its whole life when the store is reopened. Expiry and `revoke` delete the
 *   lease's keys in one normal revision.
 *
 * Bytes handed in are copied before the call returns; bytes handed out must not be changed.
 * Errors are made in errors.ts; each method names the reasons it may give.
 */

/** A revision: a positive integer below 2^53; the order of all writes. */
export type Rev = number;

/** A lease's number, positive, never used twice. 0 in {@link KV} means no lease. */
export type LeaseId = number;

/** One key as of a revision. `version` counts the puts since it was created (1 = just created). */
export interface KV {
  key: Uint8Array;
  value: Uint8Array;
  createRev: Rev;
  modRev: Rev;
  version: number;
  lease: LeaseId;
}

/** A condition on one key; a missing key counts as 0 in all three targets. */
export interface Compare {
  key: Uint8Array;
  target: "createRev" | "modRev" | "version";
  op: "=" | "<" | ">";
  to: number;
}

/** One operation of a txn. A put without `lease` takes the key off any lease. */
export type Op =
  | { put: { key: Uint8Array; value: Uint8Array; lease?: LeaseId } }
  | { delete: { key: Uint8Array } }
  | { get: { key: Uint8Array } };

/** What an {@link Op} did, in the order of the branch. `prevRev` 0: the key was created. */
export type OpResult =
  { kind: "put"; prevRev: Rev } | { kind: "delete"; deleted: boolean } | { kind: "get"; kv: KV | undefined };

/**
 * One change of the sync read model, committed with the txn when its compares hold. Applied in
 * order; a `dp` is a data plane's uid.
 * - `upsertRes`: the resource's only row in that data plane, at this txn's revision. An earlier row
 *   of the uid goes. `update` is an encoded `Update` without its revision, which only the commit
 *   knows; readers get both and the sync code appends the field.
 * - `dropRes`: removes the row of a uid and raises the data plane's `tombstone_floor` to the row's
 *   revision: a cursor below the floor can no longer be answered with a delta.
 * - `putDp`: registers a data plane (no effect if known). `dropDp`: forgets it and all its rows.
 */
export type RowOp =
  | { upsertRes: { dp: string; uid: string; name: string; del: boolean; update: Uint8Array } }
  | { dropRes: { dp: string; uid: string } }
  | { putDp: { uid: string } }
  | { dropDp: { uid: string } };

/** All of `if` holds: `then` and `rows`; else `else` alone. */
export interface TxnRequest {
  if?: readonly Compare[];
  then: readonly Op[];
  else?: readonly Op[];
  rows?: readonly RowOp[];
}

/** `rev` is the txn's revision if it wrote, else the head it saw. */
export interface TxnResult {
  ok: boolean;
  rev: Rev;
  results: OpResult[];
}

/** Keys in [`start`, `end`); without `end` the one key `start`. See bytes.ts for prefixes. */
export interface KeyRange {
  start: Uint8Array;
  end?: Uint8Array;
}

/** `rev`: read the past; default the head. `limit`: most keys to return; default all. */
export interface RangeRequest extends KeyRange {
  rev?: Rev;
  limit?: number;
  /** Leaves `value` empty. */
  keysOnly?: boolean;
}

/** `rev` is the head at the time of the read, the revision to use for the following pages. */
export interface RangeResult {
  rev: Rev;
  kvs: KV[];
  /** Keys were left off because of `limit`. */
  more: boolean;
}

/**
 * One key's change. A delete's `kv` holds key and `modRev` alone (value empty, the rest 0).
 * `prevRev` is the revision of the value it replaced, 0 when it created the key.
 */
export interface StoreEvent {
  type: "put" | "delete";
  kv: KV;
  prevRev: Rev;
}

/**
 * What a watch yields. `events`: all matching events of one revision, in the txn's order.
 * `progress`: every matching event up to `rev` was delivered. `compacted`: the position is no longer
 * in the log; the last item, the reader must list again and watch from the list's `rev` + 1.
 */
export type Batch =
  | { kind: "events"; rev: Rev; events: StoreEvent[] }
  | { kind: "progress"; rev: Rev }
  | { kind: "compacted"; compactRev: Rev };

/**
 * `from`: the first revision to show; above the head it waits. `progress`: also yield progress, once
 * when the log is caught up and then at most every `progressMs` of the engine while other keys
 * change. `signal`: ends the iteration normally.
 */
export interface WatchRequest extends KeyRange {
  from: Rev;
  progress?: boolean;
  signal?: AbortSignal;
}

/** A granted lease. */
export interface Lease {
  id: LeaseId;
  ttlMs: number;
}

/** `epoch`: 16 random bytes, new whenever history was lost. `bytes`: size on disk or in memory. */
export interface StoreStatus {
  epoch: Uint8Array;
  rev: Rev;
  compactRev: Rev;
  bytes: number;
  /** The last process did not close the store, and no epoch began since: a cursor above `rev` means lost history. */
  uncleanStart: boolean;
  /** Head of the history that the present epoch began after; 0 while history is whole. */
  restoredRev: Rev;
  /** Revisions of the present epoch lie above this one, which was never given; 0 while history is whole. */
  newFrom: Rev;
}

/** One resource of a data plane as last changed; `update` lacks the revision field. */
export interface ResRow {
  rev: Rev;
  uid: string;
  name: string;
  del: boolean;
  update: Uint8Array;
}

/** `after`: rows above this revision. `limit` rows and `maxBytes` of `update`. */
export interface ChangesRequest {
  dp: string;
  after: Rev;
  limit: number;
  maxBytes: number;
}

/**
 * Rows in order of revision, of one revision in order of uid, whole revisions only: one that alone
 * exceeds the limits is returned whole. `more`: further rows wait; if false the reader is at `head`.
 * `floor`: an `after` below it misses dropped tombstones.
 */
export interface ChangesResult {
  rows: ResRow[];
  head: Rev;
  floor: Rev;
  more: boolean;
}

/** Told after each commit, before its txns settle: the new head and the data planes whose rows changed. */
export type CommitListener = (commit: { rev: Rev; dps: readonly string[] }) => void;

/**
 * The store. Any method after `close` or a fatal fault: UNAVAILABLE (`STORE_CLOSED`, `STORE_FAILED`), or
 * DATA_LOSS `STORE_DAMAGED` once something was read that was not written so.
 */
export interface Store {
  /** Head, epoch and size; reflects every settled write. */
  status(): Promise<StoreStatus>;

  /**
   * Begins a new epoch, because history was lost: `restoredRev` is from now on `ended`, the last revision
   * that surely is of the history kept (default: the head), and the head moves up to where
   * {@link import("./epochs.ts").epochStart} says, `newFrom`. Durable once settled. Reads of older revisions
   * go on.
   */
  newEpoch(ended?: Rev): Promise<void>;

  /** Keys of a range in byte order. Errors: OUT_OF_RANGE `FUTURE_REVISION`, OUT_OF_RANGE `COMPACTED`. */
  range(q: RangeRequest): Promise<RangeResult>;

  /**
   * The values of up to `limits.storeTxnOps` keys at the head, in one snapshot; undefined for a key that
   * is not there. Error: INVALID_ARGUMENT `TOO_MANY_OPS`.
   */
  getMany(keys: readonly Uint8Array[]): Promise<(KV | undefined)[]>;

  /**
   * Compares, then applies one branch as one revision. Errors: INVALID_ARGUMENT (`TOO_MANY_OPS`,
   * `DUPLICATE_KEY`, `KEY_TOO_LARGE`, `VALUE_TOO_LARGE`, `TXN_TOO_LARGE`), NOT_FOUND
   * (`LEASE_NOT_FOUND`, `DATA_PLANE_UNKNOWN`), RESOURCE_EXHAUSTED `STORE_FULL`, UNAVAILABLE
   * `UNCERTAIN` (it may or may not have happened).
   */
  txn(t: TxnRequest): Promise<TxnResult>;

  /**
   * Whole revisions from `from` on, each once, without gap: a position in the log, never a queue, so
   * a slow reader costs nothing. One iteration per call. Stop it with `break` or `signal`. A store
   * that closes or fails makes it throw.
   */
  watch(w: WatchRequest): AsyncIterable<Batch>;

  /** Gives up history below `rev`. Error: OUT_OF_RANGE `FUTURE_REVISION`. */
  compact(rev: Rev): Promise<void>;

  /** A new lease of `ttlMs` (1 to 2^31 - 1). */
  grant(ttlMs: number): Promise<Lease>;
  /** Restarts the lease's life. Error: NOT_FOUND `LEASE_NOT_FOUND` once it expired. */
  keepAlive(id: LeaseId): Promise<void>;
  /** Ends the lease and deletes its keys. Error: NOT_FOUND `LEASE_NOT_FOUND`. */
  revoke(id: LeaseId): Promise<void>;

  /** Rows changed after a revision. Error: NOT_FOUND `DATA_PLANE_UNKNOWN`. */
  changes(q: ChangesRequest): Promise<ChangesResult>;
  /** The row of one uid, live or tombstone; undefined if there is none. */
  resByUid(dp: string, uid: string): Promise<ResRow | undefined>;
  /** Rows in order of uid after `afterUid`, tombstones included; a short page is the last one. */
  resAll(dp: string, q: { afterUid?: string; limit: number }): Promise<ResRow[]>;
  /** The data plane's tombstone floor (0 = nothing dropped yet). Error: NOT_FOUND `DATA_PLANE_UNKNOWN`. */
  floor(dp: string): Promise<Rev>;

  /** Calls `fn` after each commit, until the returned function is called. It must not throw. */
  onCommit(fn: CommitListener): () => void;

  /** Settles what is under way, ends watches and releases everything. Idempotent. */
  close(): Promise<void>;
}
