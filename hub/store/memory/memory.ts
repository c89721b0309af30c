import type { Clock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { epochStart } from "../epochs.ts";
import { storeError } from "../errors.ts";
import { leaseClock } from "../leases.ts";
import { checkKeys, checkTtl, checkTxn, unknownLease } from "../plan.ts";
import type { CommitListener, Store } from "../store.ts";
import { watches } from "../watches.ts";
import { MemoryCore } from "./core.ts";

/** What an in-memory store needs. */
export interface MemoryStoreOptions {
  clock: Clock;
  rng: Rng;
  /** See {@link import("../watches.ts").PROGRESS_MS}. */
  progressMs?: number;
  /** See {@link import("../watches.ts").RECENT_REVISIONS}. */
  recentRevisions?: number;
}

/**
 * A store that lives as long as the process. Each call takes effect at once, before its promise is
 * returned, so a seeded scheduler over `clock` sees one order of events.
 */
export function openMemoryStore(options: MemoryStoreOptions): Store {
  const { clock, rng, progressMs, recentRevisions } = options;
  let epoch = rng.bytes(16);
  let restoredRev = 0;
  let newFrom = 0;
  const listeners = new Set<CommitListener>();
  let closed: Error | undefined;

  const core = new MemoryCore((commit) => {
    watching.publish([commit]);
    for (const fn of [...listeners]) fn({ rev: commit.rev, dps: commit.dps });
  });
  const watching = watches({
    clock,
    head: core.rev,
    source: {
      compactRev: () => core.compactRev,
      readLog: (from, range) => core.readLog(from, range),
      pause: () => Promise.resolve(),
    },
    ...(progressMs === undefined ? {} : { progressMs }),
    ...(recentRevisions === undefined ? {} : { recentRevisions }),
  });
  const leases = leaseClock(clock, (id) => {
    core.revoke(id);
    return Promise.resolve(true);
  });

  /** Runs `fn` now; its result or error as a promise. */
  const answer = <T>(fn: () => T): Promise<T> =>
    closed === undefined ? Promise.try(fn) : Promise.reject(closed);

  return {
    status: () =>
      answer(() => ({
        epoch,
        rev: core.rev,
        compactRev: core.compactRev,
        bytes: core.bytes,
        uncleanStart: false,
        restoredRev,
        newFrom,
      })),
    newEpoch: (ended) =>
      answer(() => {
        restoredRev = ended ?? core.rev;
        epoch = rng.bytes(16);
        newFrom = epochStart(core.rev, clock.now());
        core.jump(newFrom);
        watching.jumped(newFrom);
      }),
    range: (q) => answer(() => core.range(q)),
    getMany: (keys) => answer(() => checkKeys(keys).map((k) => core.get(k))),
    txn: (t) => answer(() => core.txn(checkTxn(t))),
    watch: (w) => watching.watch(w),
    compact: (rev) => answer(() => core.compact(rev)),
    grant: (ttlMs) =>
      answer(() => {
        checkTtl(ttlMs);
        const id = core.grant();
        leases.add(id, ttlMs);
        return { id, ttlMs };
      }),
    keepAlive: (id) =>
      answer(() => {
        if (!leases.touch(id)) throw unknownLease(id);
      }),
    revoke: (id) =>
      answer(() => {
        core.revoke(id);
        leases.remove(id);
      }),
    changes: (q) => answer(() => core.rows.changes(q, core.rev)),
    resByUid: (dp, uid) => answer(() => core.rows.resByUid(dp, uid)),
    resAll: (dp, q) => answer(() => core.rows.resAll(dp, q)),
    floor: (dp) => answer(() => core.rows.floor(dp)),
    onCommit(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    close() {
      closed ??= storeError("STORE_CLOSED", "Use the store: it is closed");
      leases.close();
      watching.end(closed);
      return Promise.resolve();
    },
  };
}
