import Database from "better-sqlite3";
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { systemClock } from "@moorage/shared/clock";
import type { Timer } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import { armFailpoint, failpoint } from "@moorage/shared/failpoint";
import { isStoreError, storeError } from "../errors.ts";
import { Applier } from "./apply.ts";
import { Compaction } from "./compaction.ts";
import type { Ack, ErrorMessage, Outcome, Reply, Request, WriterOptions, StoreStats } from "./protocol.ts";
import { Space, adds } from "./space.ts";
import { beginEpoch, configure, limitSize, markClean, openMeta, shrink, sizes } from "./schema.ts";

/**
 * The writer thread: owns the only write connection. It drains its port into one transaction, and
 * answers and events leave it after that transaction's COMMIT. An fsync here stalls no stream.
 */

/** Most requests in one group, so that the first of them need not wait for ever, and about the most bytes. */
const GROUP_REQUESTS = 1_024;
const GROUP_BYTES = 8 * 1024 * 1024;
/** A checkpoint starts after this much quiet, */
const IDLE_MS = 1_000;
/** or when the write-ahead log has grown to this, or to half of the ballast: what is left must hold all of it. */
const WAL_BYTES = 64 * 1024 * 1024;

/** Between two steps of giving free pages back to the disk. */
const SHRINK_PAUSE_MS = 50;
/** Pages that a backup copies in one step, between two groups: about a millisecond. */
const BACKUP_PAGES = 100;

/** Of requests that found no room together: so many that have none alone either, then the rest is refused untried. */
const MISFITS = 16;

/** Requests that are no part of a group. */
const alones: ReadonlySet<Request["kind"]> = new Set(["newEpoch", "stats", "backup", "close"]);

const port = parentPort as MessagePort;
const options = workerData as WriterOptions;

const post = (reply: Reply): void => port.postMessage(reply);

function errorMessage(thrown: unknown): ErrorMessage {
  const error =
    thrown instanceof MoorageError
      ? thrown
      : storeError("STORE_FAILED", `Write to "${options.file}": ${String(thrown)}; the store serves no more`);
  return { code: error.code, reason: error.reason, message: error.message, metadata: { ...error.metadata } };
}

/** Whether the disk or the file's size limit refused; what was tried is undone and the store goes on. */
const isFull = (thrown: unknown): boolean => (thrown as { code?: unknown }).code === "SQLITE_FULL";

/** Whether a request may take more room than it frees. */
const takesRoom = (r: Request): boolean => r.kind === "grant" || (r.kind === "txn" && adds(r.txn));

/** How many of the first `most` requests make a group: all, or until it has its bytes; at least one. */
function groupEnd(queue: readonly Request[], most: number): number {
  let bytes = 0;
  const end = Math.min(most, GROUP_REQUESTS);
  for (let i = 0; i < end; i++) {
    const request = queue[i] as Request;
    if (request.kind !== "txn") continue;
    for (const op of request.txn.then) if ("put" in op) bytes += op.put.value.length;
    for (const row of request.txn.rows) if ("upsertRes" in row) bytes += row.upsertRes.update.length;
    if (bytes > GROUP_BYTES) return i + 1;
  }
  return end;
}

function start(): void {
  armFailpoint(options.failpoint);
  const { file, ballastBytes } = options;
  const space = new Space({ dir: dirname(file), ballastBytes, clock: systemClock });
  const walLimit = ballastBytes > 0 ? Math.min(WAL_BYTES, ballastBytes / 2) : WAL_BYTES;
  // Even to open takes some room.
  space.atStart();
  const db = new Database(file, { timeout: 1_000 });
  configure(db);
  const meta = openMeta(db, options.epoch);
  const limited = options.maxBytes === undefined ? undefined : limitSize(db, options.maxBytes);
  const applier = new Applier(db, meta);
  const compaction = new Compaction(db);
  compaction.aim(meta.compactRev);
  const count = { txns: 0, commits: 0, checkpoints: 0 };
  const queue: Request[] = [];
  let idle: Timer | undefined;
  /** What adds is refused: as of the last look, once a group. */
  let noRoom = false;
  let running = false;
  let failed = false;
  let closing = false;
  let checkpointMs = Number.NEGATIVE_INFINITY;
  let shrunkMs = systemClock.monotonicMs();
  let backingUp: Promise<void> = Promise.resolve();

  const one = (request: Request): Outcome => {
    switch (request.kind) {
      case "txn":
        if (noRoom && adds(request.txn)) throw full();
        return applier.txn(request.txn);
      case "compact":
        return void applier.compact(request.rev);
      case "grant":
        return applier.grant(request.ttlMs);
      case "revoke":
        return void applier.revoke(request.lease);
      default:
        throw storeError("STORE_FAILED", `Group a request of kind "${request.kind}": it stands alone`);
    }
  };

  const applyAll = (group: readonly Request[]): Ack[] =>
    group.map((request, i): Ack => {
      if (i > 0) failpoint("store/mid-batch");
      try {
        return { id: request.id, value: one(request) };
      } catch (thrown) {
        // A refusal concerns one request and wrote nothing; anything else concerns the group.
        if (!(thrown instanceof MoorageError) || isStoreError(thrown, "STORE_DAMAGED")) throw thrown;
        return { id: request.id, error: errorMessage(thrown) };
      }
    });

  const full = (): MoorageError =>
    storeError("STORE_FULL", `Write to "${options.file}": no space is left; free some, reads go on`);

  /** Commits requests as one; false, and nothing is done or answered, when there is no room for all of them. */
  const commitTogether = (group: readonly Request[]): boolean => {
    const startMs = systemClock.monotonicMs();
    try {
      failpoint("store/before-begin");
      applier.begin();
      noRoom = space.full || limited?.reached() === true;
      const acks = applyAll(group);
      failpoint("store/before-commit");
      const commits = applier.commit();
      failpoint("store/after-commit");
      count.commits++;
      const tookMs = systemClock.monotonicMs() - startMs;
      post({ kind: "committed", acks, commits, compactRev: applier.compactRev, tookMs });
      return true;
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
      applier.rollback(db.inTransaction);
      space.ranOut();
      return false;
    }
  };

  /** Commits requests together, or where there is no room for all of them, each that has room. */
  const commitFitting = (part: readonly Request[]): void => {
    if (part.length === 0 || commitTogether(part)) return;
    let misfits = 0;
    for (const request of part) {
      if (misfits < MISFITS && commitTogether([request])) continue;
      misfits++;
      reply(request.id, { error: full() });
    }
  };

  const commitGroup = (group: readonly Request[]): void => {
    space.look();
    count.txns += group.length;
    if (!commitTogether(group)) {
      // What frees room goes first: a write without room must not keep it from making some.
      commitFitting(group.filter((r) => !takesRoom(r)));
      commitFitting(group.filter(takesRoom));
    }
    compaction.aim(applier.compactRev);
  };

  /** One step of what is left to remove; false if there is nothing, or no space to do it in. */
  const compactStep = (): boolean => {
    if (compaction.done) return false;
    try {
      applier.begin();
      compaction.step();
      failpoint("store/mid-compaction");
      applier.commit();
      failpoint("store/after-compaction-step");
      return true;
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
      applier.rollback(db.inTransaction);
      space.ranOut();
      return false;
    }
  };

  const walBytes = (): number => statSync(`${options.file}-wal`, { throwIfNoEntry: false })?.size ?? 0;

  /** Copies the log into the file; a reader in the way only postpones it, and so does a full disk. */
  const checkpoint = (): void => {
    checkpointMs = systemClock.monotonicMs();
    if (walBytes() === 0) return;
    failpoint("store/before-checkpoint");
    try {
      db.pragma("wal_checkpoint(TRUNCATE)");
    } catch (thrown) {
      // The file could not grow. All that is committed stays in the log, and is read from there.
      if (!isFull(thrown)) throw thrown;
      space.ranOut();
      return;
    }
    count.checkpoints++;
    failpoint("store/after-checkpoint");
  };

  /** Quiet: the log goes into the file, free pages back to the disk, and the reserve of room is made. */
  const onIdle = (): void => {
    space.look();
    checkpoint();
    if (!compaction.done) return void pump().catch(fail);
    const shrinking = shrinkStep();
    space.prepare();
    // A full disk is looked at until there is room, whether or not anybody writes.
    if (shrinking) idle = systemClock.setTimer(SHRINK_PAUSE_MS, () => guarded(onIdle));
    else if (space.full) idle = systemClock.setTimer(IDLE_MS, () => guarded(onIdle));
  };

  /** Gives some of the file's free pages back to the disk when they are many; false when that is done. */
  const shrinkStep = (): boolean => {
    shrunkMs = systemClock.monotonicMs();
    try {
      const more = shrink(db, { always: space.full });
      failpoint("store/after-shrink-step");
      return more;
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
      space.ranOut();
      return false;
    }
  };

  const drain = (): void => {
    for (let m = receiveMessageOnPort(port); m !== undefined; m = receiveMessageOnPort(port)) {
      queue.push(...(m.message as Request[]));
      if (queue.length >= GROUP_REQUESTS) return;
    }
  };

  /** Answers a request that is no part of a group. */
  const reply = (id: number, outcome: { value: Outcome } | { error: MoorageError }): void => {
    const ack: Ack = "error" in outcome ? { id, error: errorMessage(outcome.error) } : { id, ...outcome };
    post({ kind: "committed", acks: [ack], commits: [], compactRev: applier.compactRev });
  };

  const stats = (): StoreStats => ({
    ...sizes(db),
    walBytes: walBytes(),
    ...count,
    queueDepth: queue.length,
    diskFull: space.full,
  });

  const newEpoch = (request: Extract<Request, { kind: "newEpoch" }>): void => {
    try {
      const begun = beginEpoch(db, request);
      applier.began({ epoch: request.epoch, ...begun });
      reply(request.id, { value: begun });
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
      space.ranOut();
      reply(request.id, { error: full() });
    }
  };

  /** Copies the file while groups go on between the steps; on this connection, so that they do not restart it. */
  const backUp = async (request: Extract<Request, { kind: "backup" }>): Promise<void> => {
    const progress = (): number => {
      if (failed || closing) throw new Error("the store closes");
      failpoint("store/mid-backup");
      return BACKUP_PAGES;
    };
    try {
      await db.backup(request.file, { progress });
      reply(request.id, { value: undefined });
    } catch (thrown) {
      const why = `Back up to "${request.file}": ${String(thrown)}`;
      const reason = isFull(thrown) ? "STORE_FULL" : "BACKUP_FAILED";
      reply(request.id, { error: storeError(reason, why, { cause: thrown }) });
    }
  };

  const close = async (): Promise<void> => {
    closing = true;
    await backingUp;
    idle?.cancel();
    checkpoint();
    try {
      markClean(db);
    } catch (thrown) {
      // The next start finds the store as after a crash, which loses nothing.
      if (!isFull(thrown)) throw thrown;
    }
    db.close();
    post({ kind: "closed" });
    port.close();
    failed = true;
  };

  const alone = async (request: Request): Promise<void> => {
    if (request.kind === "stats") reply(request.id, { value: stats() });
    else if (request.kind === "newEpoch") newEpoch(request);
    else if (request.kind === "backup") {
      // Not waited for: one after the other, beside the groups.
      backingUp = backingUp.then(() => backUp(request));
    } else await close();
  };

  const pump = async (): Promise<void> => {
    if (running || failed) return;
    running = true;
    idle?.cancel();
    while (!failed) {
      drain();
      const special = queue.findIndex((r) => alones.has(r.kind));
      const group = queue.splice(0, groupEnd(queue, special < 0 ? queue.length : special));
      if (group.length > 0) commitGroup(group);
      else if (special === 0) await alone(queue.shift() as Request);
      const more = !failed && compactStep();
      if (group.length === 0 && special < 0 && !more) break;
      if (failed) break;
      // On a full disk too, though it is never quiet: an empty log is room for deletions.
      if (walBytes() > walLimit || (space.full && systemClock.monotonicMs() - checkpointMs >= IDLE_MS))
        checkpoint();
      if (!more && systemClock.monotonicMs() - shrunkMs >= SHRINK_PAUSE_MS) shrinkStep();
    }
    running = false;
    if (!failed) idle = systemClock.setTimer(IDLE_MS, () => guarded(onIdle));
  };

  /** The first unforeseen error ends the thread: what is on disk is then no longer known to it. */
  const fail = (thrown: unknown): void => {
    failed = true;
    post({ kind: "failed", error: errorMessage(thrown) });
    port.close();
  };
  const guarded = (fn: () => void): void => {
    try {
      fn();
    } catch (thrown) {
      fail(thrown);
    }
  };

  port.on("message", (requests: Request[]) => {
    queue.push(...requests);
    pump().catch(fail);
  });
  const leases = db.prepare("SELECT id, ttl_ms AS ttlMs FROM lease ORDER BY id").all() as {
    id: number;
    ttlMs: number;
  }[];
  failpoint("store/opened");
  idle = systemClock.setTimer(IDLE_MS, () => guarded(onIdle));
  post({ kind: "ready", meta, leases });
}

try {
  start();
} catch (thrown) {
  post({ kind: "failed", error: errorMessage(thrown) });
  port.close();
}
