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
import { newestSeal, recordsAfter, sealBytes, seals } from "./audit-trail.ts";

/**
 * Closes runs of audit records into the hash chain, beside the write path: chaining inside each act's
 * transaction would make all writers wait for one another. A seal is created by compare on its own
 * absence and on the seal before it, so that two hubs over one store make one chain.
 */

/** Records are sealed this long after the first that is not, or as soon as there are many. */
const DELAY_MS = 5_000;
/** Records of a seal; whole revisions, so a few more may come. */
const MOST_RECORDS = 500;
/** How often retention is applied. */
const PRUNE_MS = 3_600_000;
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
}

/** The sealer as a service. */
export interface AuditSealer extends Service {
  /** Seals all that is not; answers how many records. */
  sealNow(): Promise<number>;
  /** Applies retention; answers how many records were deleted. */
  pruneNow(): Promise<number>;
}

/** Makes the sealer. */
export function createAuditSealer(o: AuditSealerOptions): AuditSealer {
  const { store, clock, log } = o;

  /** Seals one run; 0 when there was nothing to seal or another hub did it. */
  async function sealOne(signal?: AbortSignal): Promise<number> {
    const before = await newestSeal(store);
    const after = before?.seal.recordRevisions.at(-1) ?? 0;
    const atLeast = MOST_RECORDS;
    const run = await recordsAfter(store, { after, atLeast, ...(signal === undefined ? {} : { signal }) });
    if (run.length === 0 || signal?.aborted === true) return 0;
    const seal = nextSeal(before?.seal, run, clock.now());
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
      then: [{ put: { key: key(auditSealKey(seal.sequence)), value: sealBytes(seal) } }],
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
    const after = (await newestSeal(store))?.seal.recordRevisions.at(-1) ?? 0;
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
    while (!signal.aborted) {
      try {
        await sleep(clock, PRUNE_MS, signal);
        await pruneNow();
      } catch (thrown) {
        if (isAbort(thrown, signal)) return;
        log.error("old audit records could not be deleted, it is tried again", { error: thrown });
      }
    }
  }

  async function pruneNow(): Promise<number> {
    if (o.retentionMs === 0) return 0;
    const anchor = await findAnchor(store, clock.now() - o.retentionMs);
    if (anchor === undefined) return 0;
    if (!anchor.seal.pruned) {
      const resource = sealName(anchor.seal.sequence);
      const { ok } = await store.txn({
        if: [{ key: anchor.kv.key, target: "modRev", op: "=", to: anchor.kv.modRev }],
        then: [
          { put: { key: anchor.kv.key, value: sealBytes({ ...anchor.seal, pruned: true }) } },
          auditOp(o, { actor: "hub", method: PRUNE_METHOD, resource, outcome: "OK" }),
        ],
      });
      if (!ok) return 0;
    }
    failpoint("audit/pruned");
    await deleteSealsBefore(store, anchor.seal.sequence);
    const deleted = await deleteRecords(store, anchor.seal.recordRevisions.at(-1) ?? 0);
    if (deleted > 0) log.info("old audit records deleted", { upToSeal: anchor.seal.sequence, deleted });
    return deleted;
  }

  return {
    name: "audit sealer",
    sealNow: () => sealNow(),
    pruneNow,
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

/** The newest seal made before `beforeMs`: the last one whose records have had their time. */
async function findAnchor(store: Store, beforeMs: number): Promise<SealAt | undefined> {
  let anchor: SealAt | undefined;
  for await (const at of seals(store)) {
    if (at.seal.sealTimeMs >= beforeMs) break;
    anchor = at;
  }
  return anchor;
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

/** Deletes records up to a revision. Keys are in order of time, which is that of revisions but for steps of the clock. */
async function deleteRecords(store: Store, upTo: number): Promise<number> {
  const all = prefix(prefixes.audit);
  let deleted = 0;
  for (let start = all.start; ;) {
    const { kvs, more } = await store.range({ start, end: all.end, limit: 1_000, keysOnly: true });
    const old = kvs.filter((kv) => kv.createRev <= upTo).map((kv) => kv.key);
    await deleteAll(store, old);
    deleted += old.length;
    const last = kvs.at(-1);
    if (!more || last === undefined || old.length === 0) return deleted;
    start = keyAfter(last.key);
  }
}
