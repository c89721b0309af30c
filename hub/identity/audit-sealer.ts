import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { ChainRecord, ChainSeal } from "@moorage/shared/audit-chain";
import { NO_DIGEST, PRUNE_METHOD, recordDigest, sealDigest, sealName } from "@moorage/shared/audit-chain";
import { failpoint } from "@moorage/shared/failpoint";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { isAbort } from "@moorage/shared/service";
import type { Service } from "@moorage/shared/service";
import { auditSealKey, prefixes } from "../core/keys.ts";
import { key, keyAfter, prefix } from "../store/bytes.ts";
import type { Op, Store } from "../store/store.ts";
import { auditOp } from "./audit.ts";
import type { SealAt } from "./audit-trail.ts";
import { newestSeal, recordsAfter, runBytes, sealBytes, seals } from "./audit-trail.ts";

/**
 * Closes runs of audit records into the hash chain, beside the write path: chaining inside each act's
 * transaction would make all writers wait for one another. A seal is created by compare on its own
 * absence and on the seal before it, so that two hubs over one store make one chain.
 */

/** Records are sealed this long after the first that is not, or as soon as there are many. */
const DELAY_MS = 5_000;
/** Records of a seal; whole revisions, so a few more may come. */
const MOST_RECORDS = 500;
/** How often retention is applied, and when it goes on after a round that left some. */
const PRUNE_MS = 600_000;
const PRUNE_ON_MS = 1_000;
/** Seals whose runs one round deletes. */
const MOST_PRUNED = 200;
/** Keys of records read at a time, and so many such pages in a round that look for old ones out of place. */
const PAGE = 1_000;
const LOOK_PAGES = 100;
const LOOK_PAUSE_MS = 5;
const RETRY_MS = 5_000;
/** Deletes a transaction. */
const DELETES = 100;

/** What the sealer needs. */
export interface AuditSealerOptions {
  store: Store;
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Sealed records older than this are deleted; 0 keeps all. */
  retentionMs: number;
  /** About the bytes of the store that sealed records may take: beyond, the oldest go before their time. Default: any. */
  maxBytes?: number;
}

/** The sealer as a service. */
export interface AuditSealer extends Service {
  /** Seals all that is not; answers how many records. */
  sealNow(): Promise<number>;
  /** Applies retention, in a bounded round; answers how many records were deleted. */
  pruneNow(): Promise<number>;
}

/** Makes the sealer. */
export function createAuditSealer(o: AuditSealerOptions): AuditSealer {
  const { store, clock, log } = o;
  const maxBytes = o.maxBytes ?? Number.POSITIVE_INFINITY;
  /** Where the look for old records out of place goes on. */
  let lookedTo: Uint8Array | undefined;
  /** A head up to which there was nothing left to seal. */
  let sealedTo = 0;

  /**
   * The revision after which records may not be sealed. Long after the last one the log is compacted beyond its
   * seal, and looking on from there would be a look over all records, round after round.
   */
  const unsealedAfter = (newest: SealAt | undefined): number =>
    Math.max(newest?.seal.recordRevisions.at(-1) ?? 0, sealedTo);

  /** Seals one run; 0 when there was nothing to seal or another hub did it. */
  async function sealOne(signal?: AbortSignal): Promise<number> {
    const before = await newestSeal(store);
    const after = unsealedAfter(before);
    const atLeast = MOST_RECORDS;
    const { rev: head } = await store.status();
    const run = await recordsAfter(store, { after, atLeast, ...(signal === undefined ? {} : { signal }) });
    if (signal?.aborted === true) return 0;
    if (run.length === 0) {
      sealedTo = head;
      return 0;
    }
    const seal = nextSeal(before?.seal, run, clock.now());
    const storedBytes = (before?.storedBytes ?? 0) + runBytes(run, seal);
    failpoint("audit/before-seal");
    const { ok } = await store.txn({
      if: [
        { key: key(auditSealKey(seal.sequence)), target: "version", op: "=", to: 0 },
        ...(before === undefined
          ? []
          : [
              { key: before.kv.key, target: "createRev" as const, op: "=" as const, to: before.kv.createRev },
            ]),
      ],
      then: [{ put: { key: key(auditSealKey(seal.sequence)), value: sealBytes(seal, storedBytes) } }],
    });
    if (!ok) return 0;
    // The log leaves the hub: a digest in it is kept where nobody who edits the store can reach.
    const digest = Buffer.from(seal.digest).toString("hex");
    log.info("audit records sealed", { sequence: seal.sequence, records: run.length, digest });
    return run.length;
  }

  async function sealNow(signal?: AbortSignal): Promise<number> {
    let sealed = 0;
    for (let n = await sealOne(signal); n > 0; n = await sealOne(signal)) sealed += n;
    return sealed;
  }

  /** Settles once there is a record that is not sealed. */
  async function somethingNew(signal: AbortSignal): Promise<void> {
    const after = unsealedAfter(await newestSeal(store));
    for await (const batch of store.watch({ ...prefix(prefixes.audit), from: after + 1, signal }))
      if (batch.kind !== "events" || batch.events.some((e) => e.type === "put")) return;
  }

  async function sealing(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await somethingNew(signal);
        await sleep(clock, DELAY_MS, signal);
        await sealNow(signal);
      } catch (thrown) {
        if (isAbort(thrown, signal)) return;
        log.error("audit records could not be sealed, it is tried again", { error: thrown });
        await sleep(clock, RETRY_MS, signal).catch(() => undefined);
      }
    }
  }

  async function pruning(signal: AbortSignal): Promise<void> {
    let more = false;
    while (!signal.aborted) {
      try {
        await sleep(clock, more ? PRUNE_ON_MS : PRUNE_MS, signal);
        more = false;
        ({ more } = await pruneSome(signal));
      } catch (thrown) {
        if (isAbort(thrown, signal)) return;
        log.error("old audit records could not be deleted, it is tried again", { error: thrown });
      }
    }
  }

  async function pruneSome(signal?: AbortSignal): Promise<{ deleted: number; more: boolean }> {
    const newest = await newestSeal(store);
    if (newest === undefined) return { deleted: 0, more: false };
    const beforeMs = o.retentionMs === 0 ? Number.NEGATIVE_INFINITY : clock.now() - o.retentionMs;
    const { anchor, more } = await findAnchor(store, {
      beforeMs,
      toBytes: newest.storedBytes - maxBytes,
    });
    if (anchor === undefined) return { deleted: 0, more: false };
    const { sequence, sealTimeMs, recordRevisions } = anchor.seal;
    if (!anchor.seal.pruned) {
      const { ok } = await store.txn({
        if: [{ key: anchor.kv.key, target: "modRev", op: "=", to: anchor.kv.modRev }],
        then: [
          {
            put: {
              key: anchor.kv.key,
              value: sealBytes({ ...anchor.seal, pruned: true }, anchor.storedBytes),
            },
          },
          auditOp(o, { actor: "hub", method: PRUNE_METHOD, resource: sealName(sequence), outcome: "OK" }),
        ],
      });
      if (!ok) return { deleted: 0, more: false };
    }
    failpoint("audit/pruned");
    await deleteSealsBefore(store, sequence);
    const upTo = recordRevisions.at(-1) ?? 0;
    const deleted = (await deleteOldest(store, upTo)) + (await deleteMisplaced(upTo, signal));
    if (deleted > 0) log.info("old audit records deleted", { upToSeal: sequence, deleted });
    if (deleted > 0 && sealTimeMs >= beforeMs)
      log.warn("audit records were deleted before their time: they took their whole share of the store", {
        sealedAt: new Date(sealTimeMs).toISOString(),
        maxBytes,
      });
    return { deleted, more };
  }

  /**
   * Deletes old records that do not lie where the old ones are, as after the clock had been moved: a look at
   * some pages in each round, on from the last, round and round. Answers how many.
   */
  async function deleteMisplaced(upTo: number, signal?: AbortSignal): Promise<number> {
    let deleted = 0;
    for (let pages = 0; pages < LOOK_PAGES; pages++) {
      const page = await deleteOld(store, { start: lookedTo, upTo });
      deleted += page.deleted;
      lookedTo = page.next;
      if (page.next === undefined) break;
      await sleep(clock, LOOK_PAUSE_MS, signal);
    }
    return deleted;
  }

  return {
    name: "audit sealer",
    sealNow: () => sealNow(),
    pruneNow: async () => (await pruneSome()).deleted,
    async run(signal) {
      await Promise.all([sealing(signal), pruning(signal)]);
    },
  };
}

/** The seal after `before` over a run; pure. */
export function nextSeal(
  before: ChainSeal | undefined,
  run: readonly ChainRecord[],
  nowMs: number,
): ChainSeal {
  const seal = {
    sequence: (before?.sequence ?? 0) + 1,
    previousDigest: before?.digest ?? NO_DIGEST,
    sealTimeMs: nowMs,
    recordRevisions: run.map((r) => r.revision),
    recordDigests: run.map(recordDigest),
    pruned: false,
  };
  return { ...seal, digest: sealDigest(seal) };
}

/**
 * The last of the oldest seals that were made before `beforeMs`, or up to which all took no more than
 * `toBytes`: the last one whose records have had their time, or their room. `more`: the round has enough.
 */
async function findAnchor(
  store: Store,
  q: { beforeMs: number; toBytes: number },
): Promise<{ anchor: SealAt | undefined; more: boolean }> {
  let anchor: SealAt | undefined;
  let found = 0;
  for await (const at of seals(store)) {
    if (at.seal.sealTimeMs >= q.beforeMs && at.storedBytes > q.toBytes) break;
    anchor = at;
    if (++found > MOST_PRUNED) return { anchor, more: true };
  }
  return { anchor, more: false };
}

async function deleteAll(store: Store, keys: readonly Uint8Array[]): Promise<void> {
  for (let i = 0; i < keys.length; i += DELETES) {
    const then: Op[] = keys.slice(i, i + DELETES).map((k) => ({ delete: { key: k } }));
    await store.txn({ then });
  }
}

async function deleteSealsBefore(store: Store, sequence: number): Promise<void> {
  const { kvs } = await store.range({
    start: prefix(prefixes.auditSeals).start,
    end: key(auditSealKey(sequence)),
    keysOnly: true,
  });
  await deleteAll(
    store,
    kvs.map((kv) => kv.key),
  );
}

/** Deletes those records of one page of keys that were made up to a revision; `next` unless it is the last page. */
async function deleteOld(
  store: Store,
  q: { start: Uint8Array | undefined; upTo: number },
): Promise<{ deleted: number; next: Uint8Array | undefined }> {
  const { start, end } = prefix(prefixes.audit);
  const { kvs, more } = await store.range({ start: q.start ?? start, end, limit: PAGE, keysOnly: true });
  const old = kvs.filter((kv) => kv.createRev <= q.upTo).map((kv) => kv.key);
  await deleteAll(store, old);
  const last = kvs.at(-1);
  return { deleted: old.length, next: more && last !== undefined ? keyAfter(last.key) : undefined };
}

/** Deletes records up to a revision from where they are: keys are in order of time, as revisions but for steps of the clock. */
async function deleteOldest(store: Store, upTo: number): Promise<number> {
  let deleted = 0;
  for (let start: Uint8Array | undefined; ;) {
    const page = await deleteOld(store, { start, upTo });
    deleted += page.deleted;
    if (page.deleted === 0 || page.next === undefined) return deleted;
    start = page.next;
  }
}
