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
import { EPOCH_JUMP } from "../store.ts";
import { Applier } from "./apply.ts";
import { Compaction } from "./compaction.ts";
import type { Ack, ErrorMessage, Outcome, Reply, Request, WriterOptions } from "./protocol.ts";
import { Space, adds } from "./space.ts";
import { beginEpoch, configure, limitSize, markClean, openMeta } from "./schema.ts";

/**
 * The writer thread: owns the only write connection. It drains its port into one transaction, and
 * answers and events leave it after that transaction's COMMIT. An fsync here stalls no stream.
 */

/** Most requests in one group, so that the first of them need not wait for ever. */
const GROUP_REQUESTS = 1_024;
/** A checkpoint starts after this much quiet, */
const IDLE_MS = 1_000;
/** or when the write-ahead log has grown to this. */
const WAL_BYTES = 64 * 1024 * 1024;

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

/** Whether the disk or the file's size limit refused; the group is undone and the store goes on. */
const isFull = (thrown: unknown): boolean => (thrown as { code?: unknown }).code === "SQLITE_FULL";

function start(): void {
  armFailpoint(options.failpoint);
  const db = new Database(options.file, { timeout: 1_000 });
  configure(db);
  const meta = openMeta(db, options.epoch);
  if (options.maxBytes !== undefined) limitSize(db, options.maxBytes);
  const applier = new Applier(db, meta);
  const compaction = new Compaction(db);
  compaction.aim(meta.compactRev);
  const space = new Space({
    dir: dirname(options.file),
    ballastBytes: options.ballastBytes,
    clock: systemClock,
  });
  const count = { txns: 0, commits: 0, checkpoints: 0 };
  const queue: Request[] = [];
  let idle: Timer | undefined;
  let running = false;
  let failed = false;

  const one = (request: Request): Outcome => {
    switch (request.kind) {
      case "txn":
        if (space.full && adds(request.txn)) throw full();
        count.txns++;
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

  const full = (cause?: unknown): MoorageError =>
    storeError("STORE_FULL", `Write to "${options.file}": no space is left; free some, reads go on`, {
      cause,
    });

  const commitGroup = (group: readonly Request[]): void => {
    const startMs = systemClock.monotonicMs();
    space.look();
    try {
      failpoint("store/before-begin");
      applier.begin();
      const acks = applyAll(group);
      failpoint("store/before-commit");
      const commits = applier.commit();
      failpoint("store/after-commit");
      count.commits++;
      const tookMs = systemClock.monotonicMs() - startMs;
      post({ kind: "committed", acks, commits, compactRev: applier.compactRev, tookMs });
    } catch (thrown) {
      if (!isFull(thrown)) throw thrown;
      applier.rollback(db.inTransaction);
      space.ranOut();
      const error = errorMessage(full(thrown));
      const acks = group.map((r): Ack => ({ id: r.id, error }));
      post({ kind: "committed", acks, commits: [], compactRev: applier.compactRev });
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
      return false;
    }
  };

  const walBytes = (): number => statSync(`${options.file}-wal`, { throwIfNoEntry: false })?.size ?? 0;

  /** Copies the log into the file; a reader in the way only postpones it. */
  const checkpoint = (): void => {
    if (walBytes() === 0) return;
    failpoint("store/before-checkpoint");
    db.pragma("wal_checkpoint(TRUNCATE)");
    count.checkpoints++;
    failpoint("store/after-checkpoint");
  };

  /** Quiet: the log goes into the file, and the reserve of room is made. */
  const onIdle = (): void => {
    space.look();
    checkpoint();
    space.prepare();
    // A full disk is looked at until there is room, whether or not anybody writes.
    if (space.full) idle = systemClock.setTimer(IDLE_MS, () => guarded(onIdle));
  };

  const drain = (): void => {
    for (let m = receiveMessageOnPort(port); m !== undefined; m = receiveMessageOnPort(port)) {
      queue.push(...(m.message as Request[]));
      if (queue.length >= GROUP_REQUESTS) return;
    }
  };

  const alone = async (request: Request): Promise<void> => {
    if (request.kind === "stats") {
      const freePages = db.pragma("freelist_count", { simple: true }) as number;
      const value = { walBytes: walBytes(), freePages, ...count, diskFull: space.full };
      post({
        kind: "committed",
        acks: [{ id: request.id, value }],
        commits: [],
        compactRev: applier.compactRev,
      });
      return;
    }
    if (request.kind === "newEpoch") {
      const head = beginEpoch(db, request.epoch);
      applier.began({ epoch: request.epoch, rev: head, restoredRev: head - EPOCH_JUMP });
      const acks: Ack[] = [{ id: request.id, value: head }];
      post({ kind: "committed", acks, commits: [], compactRev: applier.compactRev });
      return;
    }
    if (request.kind === "backup") {
      let ack: Ack = { id: request.id, value: undefined };
      try {
        await db.backup(request.file);
      } catch (thrown) {
        ack = {
          id: request.id,
          error: errorMessage(storeError("STORE_FULL", `Back up to "${request.file}": ${String(thrown)}`)),
        };
      }
      post({ kind: "committed", acks: [ack], commits: [], compactRev: applier.compactRev });
      return;
    }
    idle?.cancel();
    checkpoint();
    markClean(db);
    db.close();
    post({ kind: "closed" });
    port.close();
    failed = true;
  };

  const pump = async (): Promise<void> => {
    if (running || failed) return;
    running = true;
    idle?.cancel();
    while (!failed) {
      drain();
      const special = queue.findIndex((r) => alones.has(r.kind));
      const group = queue.splice(0, Math.min(special < 0 ? queue.length : special, GROUP_REQUESTS));
      if (group.length > 0) commitGroup(group);
      else if (special === 0) await alone(queue.shift() as Request);
      const more = !failed && compactStep();
      if (group.length === 0 && special < 0 && !more) break;
      if (!failed && walBytes() > WAL_BYTES) checkpoint();
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
