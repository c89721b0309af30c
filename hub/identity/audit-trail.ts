import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { StoredAuditRecordSchema, StoredAuditSealSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { ChainRecord, ChainSeal } from "@moorage/shared/audit-chain";
import { chainSeal, compareRecords } from "@moorage/shared/audit-chain";
import { othersTurn } from "@moorage/shared/pace";
import { auditSealKey, prefixes } from "../core/keys.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { KV, Rev, Store } from "../store/store.ts";

/** The audit trail as it is stored: records in order of revision, and seals. */

/** Keys read from the store at a time, between two turns of everybody else: a few milliseconds. */
const PAGE = 1_000;
/** Seals read at a time, each with the digests of its run. */
const SEALS = 16;

/** The id of a record, from its key. */
export const recordName = (k: Uint8Array): string => keyText(k).slice(prefixes.audit.length);
/** The key of a record, from its id. */
export const recordKey = (name: string): Uint8Array => key(prefixes.audit + name);

/** A record as the chain has it; its revision is that of its act, whatever was done to it later. */
export function recordOf(kv: KV): ChainRecord {
  let method = "";
  let resource = "";
  try {
    ({ method, resource } = fromBinary(StoredAuditRecordSchema, kv.value));
  } catch {
    // Bytes that are no record any more: the chain tells.
  }
  return { name: recordName(kv.key), revision: kv.createRev, encoded: kv.value, method, resource };
}

/** A seal as the chain has it. */
export const sealOf = (value: Uint8Array): ChainSeal => chainSeal(fromBinary(StoredAuditSealSchema, value));

/** The stored form of a seal; `storedBytes` as in {@link SealAt}. */
export function sealBytes(s: ChainSeal, storedBytes: number): Uint8Array {
  return toBinary(
    StoredAuditSealSchema,
    create(StoredAuditSealSchema, {
      sequence: BigInt(s.sequence),
      previousDigest: s.previousDigest,
      digest: s.digest,
      sealTime: timestampFromMs(s.sealTimeMs),
      recordRevisions: s.recordRevisions.map(BigInt),
      recordDigests: [...s.recordDigests],
      pruned: s.pruned,
      storedBytes: BigInt(storedBytes),
    }),
  );
}

/** A seal and its stored record. */
export interface SealAt {
  seal: ChainSeal;
  /** About what all up to it took in the store since the trail began; what was pruned stays counted. */
  storedBytes: number;
  kv: KV;
}

function sealAt(kv: KV): SealAt {
  const stored = fromBinary(StoredAuditSealSchema, kv.value);
  return { seal: chainSeal(stored), storedBytes: Number(stored.storedBytes), kv };
}

/** About what a key that is written once takes in the store: in the head and in the log, with the log's index (measured). */
const rowBytes = (keyLength: number, valueLength: number): number => 3 * keyLength + 2 * valueLength + 128;

/** About what a run of records and its seal take in the store. */
export function runBytes(run: readonly ChainRecord[], seal: ChainSeal): number {
  return run.reduce(
    (n, r) => n + rowBytes(recordKey(r.name).length, r.encoded.length),
    rowBytes(auditSealKey(seal.sequence).length, sealBytes(seal, 0).length),
  );
}

/** About what the sealed trail takes in the store now. */
export async function trailBytes(store: Store): Promise<number> {
  const newest = await newestSeal(store);
  if (newest === undefined) return 0;
  for await (const first of seals(store))
    return newest.storedBytes - (first.seal.pruned ? first.storedBytes : 0);
  return 0;
}

/** Seals in order, after a sequence. */
export async function* seals(store: Store, q: { after?: number; rev?: Rev } = {}): AsyncGenerator<SealAt> {
  const all = prefix(prefixes.auditSeals);
  let start = q.after === undefined ? all.start : keyAfter(key(auditSealKey(q.after)));
  for (;;) {
    const { kvs, more } = await store.range({
      start,
      end: all.end,
      limit: SEALS,
      ...(q.rev === undefined ? {} : { rev: q.rev }),
    });
    for (const kv of kvs) yield sealAt(kv);
    const last = kvs.at(-1);
    if (!more || last === undefined) return;
    start = keyAfter(last.key);
    await othersTurn();
  }
}

/** The newest seal, found by the order of keys in as many reads as its number has bits. */
export async function newestSeal(store: Store): Promise<SealAt | undefined> {
  const all = prefix(prefixes.auditSeals);
  const from = async (sequence: number): Promise<KV | undefined> =>
    (await store.range({ start: key(auditSealKey(sequence)), end: all.end, limit: 1 })).kvs[0];
  let found = await from(0);
  if (found === undefined) return undefined;
  // The least distance at which nothing is left lies between the two.
  let low = sealOf(found.value).sequence;
  let step = 1;
  for (let next = await from(low + step); next !== undefined; next = await from(low + step)) {
    found = next;
    low = sealOf(next.value).sequence;
    step *= 2;
  }
  for (; step >= 1; step = Math.floor(step / 2)) {
    const next = await from(low + step);
    if (next === undefined) continue;
    found = next;
    low = sealOf(next.value).sequence;
  }
  return sealAt(found);
}

/**
 * Records by revision, as far as `keep` wants them: keys alone, over all of the trail at one revision, by default
 * the head of the first page. Of two records that are written meanwhile, none is found without the other.
 */
export async function scanRecords(
  store: Store,
  q: { rev?: Rev; keep: (revision: Rev) => boolean },
): Promise<{ name: string; revision: Rev }[]> {
  const all = prefix(prefixes.audit);
  const found: { name: string; revision: Rev }[] = [];
  let at = q.rev;
  for (let start = all.start; ;) {
    const page = { start, end: all.end, limit: PAGE, keysOnly: true };
    const { kvs, more, rev } = await store.range(at === undefined ? page : { ...page, rev: at });
    at ??= rev;
    for (const kv of kvs)
      if (q.keep(kv.createRev)) found.push({ name: recordName(kv.key), revision: kv.createRev });
    const last = kvs.at(-1);
    if (!more || last === undefined) return found.sort(compareRecords);
    start = keyAfter(last.key);
    await othersTurn();
  }
}

/** Records by their ids, in the given order; those that are gone are left out. */
export async function readRecords(
  store: Store,
  q: { names: readonly string[]; rev?: Rev },
): Promise<ChainRecord[]> {
  const out: ChainRecord[] = [];
  for (let i = 0; i < q.names.length; i += 64) {
    const part = await Promise.all(
      q.names
        .slice(i, i + 64)
        .map((name) =>
          store.range({ start: recordKey(name), ...(q.rev === undefined ? {} : { rev: q.rev }) }),
        ),
    );
    for (const { kvs } of part) if (kvs[0] !== undefined) out.push(recordOf(kvs[0]));
  }
  return out;
}

/**
 * Whole revisions of records above `after`, in order, as many as reach `atLeast` or all that there are.
 * From the log; from the records themselves where the log was compacted.
 */
export async function recordsAfter(
  store: Store,
  q: { after: Rev; atLeast: number; signal?: AbortSignal },
): Promise<ChainRecord[]> {
  const { rev: head } = await store.status();
  if (head <= q.after) return [];
  const records: ChainRecord[] = [];
  const watched = store.watch({
    ...prefix(prefixes.audit),
    from: q.after + 1,
    progress: true,
    ...(q.signal === undefined ? {} : { signal: q.signal }),
  });
  for await (const batch of watched) {
    if (batch.kind === "compacted") return scanAfter(store, q);
    if (batch.kind === "events") {
      const put = batch.events.filter((e) => e.type === "put").map((e) => recordOf(e.kv));
      records.push(...put.sort(compareRecords));
    }
    if (batch.rev >= head || records.length >= q.atLeast) break;
  }
  return records;
}

async function scanAfter(store: Store, q: { after: Rev; atLeast: number }): Promise<ChainRecord[]> {
  const all = await scanRecords(store, { keep: (rev) => rev > q.after });
  const end = all[Math.min(all.length, q.atLeast) - 1]?.revision ?? 0;
  return readRecords(store, { names: all.filter((r) => r.revision <= end).map((r) => r.name) });
}
