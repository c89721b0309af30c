import { join } from "node:path";
import type { Clock, Timer } from "@moorage/shared/clock";
import { armedFailpoint } from "@moorage/shared/failpoint";
import type { Rng } from "@moorage/shared/rng";
import { MoorageError } from "@moorage/shared/errors";
import { isStoreError, storeError } from "../errors.ts";
import { leaseClock } from "../leases.ts";
import type { Leases } from "../leases.ts";
import { checkKeys, checkTtl, checkTxn, unknownLease } from "../plan.ts";
import type { CommitListener, LeaseId, Rev, Store, TxnResult } from "../store.ts";
import { watches } from "../watches.ts";
import type { Watches } from "../watches.ts";
import { makeBackup } from "./backup.ts";
import type { Backup } from "./backup.ts";
import { startWriter } from "./link.ts";
import { lockDirectory } from "./lock.ts";
import { refuseHalfRestored } from "./restore.ts";
import { openReader } from "./reader.ts";
import type { Reader } from "./reader.ts";
import type { StoreStats } from "./protocol.ts";
import { damaged } from "./meta.ts";
import { files } from "./schema.ts";
import type { EpochBegun } from "./schema.ts";

/**
 * Between two steps of the look at all rows: at least so long, and so many times what the step took. A hub that died
 * looks at its rows while its whole fleet comes back: it gets a fiftieth of the thread.
 */
const SCRUB_PAUSE_MS = 5;
const SCRUB_PAUSES = 50;

/** What a durable store needs. */
export interface SqliteStoreOptions {
  /** The data directory, on a local file system; created if missing. One hub at a time. */
  dir: string;
  clock: Clock;
  rng: Rng;
  /** See {@link import("../watches.ts").PROGRESS_MS}. */
  progressMs?: number;
  /** See {@link import("../watches.ts").RECENT_REVISIONS}. */
  recentRevisions?: number;
  /** Largest size of the database file; writes beyond it are refused with `STORE_FULL`. Default: the disk. */
  maxBytes?: number;
  /** Size of the file that is given up on a full disk, so that deletions still work; default 0: none. */
  ballastBytes?: number;
  /** Told of each group's commit, in milliseconds with the writes before it. */
  onGroup?: (group: { revisions: number; tookMs: number }) => void;
  /** Called once when the store can go on no more; every later call gets the same error. */
  onFailure?: (error: Error) => void;
}

/** A durable store, with what only a file can do. */
export interface SqliteStore extends Store {
  /** Writes a consistent copy of the store to a new file, while it serves. Errors as {@link makeBackup}. */
  backup(file: string): Promise<Backup>;
  /** What the writer knows of file and work. */
  stats(): Promise<StoreStats>;
}

/**
 * Opens or creates the store of a data directory. Errors: FAILED_PRECONDITION (`DATA_DIR_IN_USE`,
 * `SCHEMA_TOO_NEW`, `NOT_DURABLE`), UNAVAILABLE `STORE_FAILED` when the file cannot be opened.
 */
export async function openSqliteStore(options: SqliteStoreOptions): Promise<SqliteStore> {
  let unlock: (() => void) | undefined;
  try {
    unlock = lockDirectory(options.dir);
    refuseHalfRestored(options.dir);
    return await open(options, unlock);
  } catch (thrown) {
    unlock?.();
    throw readOnly(options.dir, thrown) ?? thrown;
  }
}

async function open(options: SqliteStoreOptions, unlock: () => void): Promise<SqliteStore> {
  const { dir, clock, rng, progressMs, recentRevisions } = options;
  const file = join(dir, files.db);
  const listeners = new Set<CommitListener>();
  let dead: Error | undefined;
  let closing: Promise<void> | undefined;
  let compactRev: Rev = 0;
  let watching: Watches | undefined;
  let leases: Leases | undefined;

  /** The first fault ends all: what is on disk is not to be trusted any more, or not known. */
  const fail = (error: Error): void => {
    if (dead !== undefined) return;
    dead = error;
    leases?.close();
    watching?.end(error);
    options.onFailure?.(error);
  };

  /** Runs a read; one that shows the file to be damaged ends the store. */
  const checked = <T>(fn: () => T): T => {
    try {
      return fn();
    } catch (thrown) {
      const failure = fatal(file, thrown);
      if (failure === undefined) throw thrown;
      fail(failure);
      throw failure;
    }
  };

  const link = await startWriter(
    {
      file,
      epoch: rng.bytes(16),
      maxBytes: options.maxBytes,
      ballastBytes: options.ballastBytes ?? 0,
      failpoint: armedFailpoint(),
    },
    {
      committed(commits, { compactRev: compacted, tookMs }) {
        compactRev = compacted;
        if (tookMs !== undefined) options.onGroup?.({ revisions: commits.length, tookMs });
        watching?.publish(commits);
        for (const { rev, dps } of commits) for (const fn of [...listeners]) fn({ rev, dps });
      },
      failed: (error) => fail(error),
    },
  );
  compactRev = link.meta.compactRev;
  let history = {
    epoch: link.meta.epoch,
    uncleanStart: link.meta.uncleanStart,
    restoredRev: link.meta.restoredRev,
    newFrom: link.meta.newFrom,
  };
  let reader: Reader;
  try {
    reader = openReader(file);
  } catch (thrown) {
    await link.close();
    throw thrown;
  }
  watching = watches({
    clock,
    head: link.meta.rev,
    source: {
      compactRev: () => compactRev,
      readLog: (from, range) => checked(() => reader.readLog(from, range)),
      pause: () => new Promise((resolve) => setImmediate(resolve)),
    },
    ...(progressMs === undefined ? {} : { progressMs }),
    ...(recentRevisions === undefined ? {} : { recentRevisions }),
  });
  leases = leaseClock(clock, (lease) =>
    link.request({ kind: "revoke", lease }).then(
      () => true,
      // Gone by a revoke that overtook it, or the store is dead: either way there is nothing to retry.
      (e: unknown) => (e as { reason?: string }).reason !== "STORE_FULL",
    ),
  );
  for (const { id, ttlMs } of link.leases) leases.add(id, ttlMs);

  /** Runs a read now; its result or error as a promise. */
  const answer = async <T>(fn: () => T | Promise<T>): Promise<T> => {
    if (dead !== undefined) throw dead;
    return await checked(fn);
  };
  const watched = watching;
  const lives = leases;

  /** Looks at every row once after the start, between other work: what nobody reads may be damaged too. */
  const steps = reader.verify();
  let scrubbing: Timer | undefined;
  const scrub = (): void => {
    if (dead !== undefined) return;
    const startMs = clock.monotonicMs();
    try {
      if (checked(() => steps.next()).done === true) return;
      const tookMs = clock.monotonicMs() - startMs;
      scrubbing = clock.setTimer(Math.max(SCRUB_PAUSE_MS, SCRUB_PAUSES * tookMs), scrub);
    } catch {
      // It has ended the store, whose owner was told.
    }
  };
  scrubbing = clock.setTimer(SCRUB_PAUSE_MS, scrub);

  const close = async (): Promise<void> => {
    const error = storeError("STORE_CLOSED", "Use the store: it is closed");
    dead ??= error;
    scrubbing?.cancel();
    lives.close();
    watched.end(error);
    // Before the writer's connection, which as the last one folds the write-ahead log into the file.
    reader.close();
    await link.close();
    unlock();
  };

  return {
    status: () => answer(() => ({ ...history, ...reader.status() })),
    newEpoch: (ended) =>
      answer(async () => {
        const epoch = rng.bytes(16);
        const request = { kind: "newEpoch", epoch, nowMs: clock.now(), ended } as const;
        const begun = (await link.request(request)) as EpochBegun;
        history = { epoch, uncleanStart: false, ...begun };
        watched.jumped(begun.newFrom);
      }),
    range: (q) => answer(() => reader.range(q)),
    getMany: (keys) => answer(() => reader.getMany(checkKeys(keys))),
    txn: (t) => answer(() => link.request({ kind: "txn", txn: checkTxn(t) }) as Promise<TxnResult>),
    watch: (w) => watched.watch(w),
    compact: (rev) => answer(async () => void (await link.request({ kind: "compact", rev }))),
    grant: (ttlMs) =>
      answer(async () => {
        checkTtl(ttlMs);
        const id = (await link.request({ kind: "grant", ttlMs })) as LeaseId;
        lives.add(id, ttlMs);
        return { id, ttlMs };
      }),
    keepAlive: (id) =>
      answer(() => {
        if (!lives.touch(id)) throw unknownLease(id);
      }),
    revoke: (id) =>
      answer(async () => {
        await link.request({ kind: "revoke", lease: id });
        lives.remove(id);
      }),
    changes: (q) => answer(() => reader.changes(q)),
    resByUid: (dp, uid) => answer(() => reader.resByUid(dp, uid)),
    resAll: (dp, q) => answer(() => reader.resAll(dp, q)),
    floor: (dp) => answer(() => reader.floor(dp)),
    onCommit(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    stats: () => answer(async () => (await link.request({ kind: "stats" })) as StoreStats),
    backup: (to) => answer(() => makeBackup(to, (copy) => link.request({ kind: "backup", file: copy }))),
    close: () => (closing ??= close()),
  };
}

/** Codes and texts of a place that cannot be written. */
const UNWRITABLE =
  /EROFS|EACCES|EPERM|ENOENT|ENOTDIR|SQLITE_READONLY|SQLITE_CANTOPEN|readonly database|unable to open/;

/** The error for a data directory that cannot be written; undefined for any other fault. */
function readOnly(dir: string, thrown: unknown): MoorageError | undefined {
  if (thrown instanceof MoorageError && thrown.reason !== "STORE_FAILED") return undefined;
  const { code, message } = thrown as { code?: unknown; message?: unknown };
  if (!UNWRITABLE.test(`${String(code)} ${String(message)}`)) return undefined;
  const why = `Open the store in "${dir}": it cannot be written (${String(message)}); make the directory and its files writable for this user, or name another directory`;
  return storeError("STORE_READ_ONLY", why, { cause: thrown });
}

/** What a failed read says of the file: the error that ends the store, or undefined for a caller's own. */
function fatal(file: string, thrown: unknown): MoorageError | undefined {
  if (isStoreError(thrown, "STORE_DAMAGED")) return thrown;
  const code = (thrown as { code?: unknown }).code;
  if (typeof code !== "string") return undefined;
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB") return damaged(file, "a page", thrown);
  if (!code.startsWith("SQLITE_IOERR")) return undefined;
  const why = `Read "${file}": ${String(thrown)}; the store serves no more`;
  return storeError("STORE_FAILED", why, { cause: thrown });
}
