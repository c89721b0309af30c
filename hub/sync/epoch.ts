import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { StoredDivergence } from "@moorage/proto/moorage/internal/v1/record_pb";
import {
  StoredDivergenceSchema,
  StoredEpochSchema,
  StoredStatusSchema,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import { divergenceKey, divergencesPrefix, epochKey, statusKey, uidKey } from "../core/keys.ts";
import { key, prefix } from "../store/bytes.ts";
import type { Compare, Op, Store } from "../store/store.ts";
import type { Restored } from "./plan-resume.ts";

/**
 * A hub after a lost history. A restore, or an unclean start that an agent's cursor proves to have lost
 * the end of the log, begins a new epoch; until an operator accepts it the streams hold back what could
 * undo the agents' later work, and every such resource is listed as a divergence. Acceptance is one key
 * of the store; what was held back is then written anew, at revisions above all that were ever given.
 */

/** Tries before a write that keeps losing its compare is given up. */
const TRIES = 16;
/** Divergences written in one transaction. */
const PART = 100;

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** The restored state of a store, undefined when its history is whole or was accepted. */
export async function readRestored(store: Store): Promise<Restored | undefined> {
  const { epoch, restoredRev, newFrom } = await store.status();
  if (restoredRev === 0) return undefined;
  const { kvs } = await store.range({ start: key(epochKey) });
  const accepted = kvs[0] && fromBinary(StoredEpochSchema, kvs[0].value).acceptedEpoch;
  if (accepted !== undefined && sameBytes(accepted, epoch)) return undefined;
  return { rev: restoredRev, newFrom };
}

/** The operation that accepts `epoch`, for the transaction of whoever accepts it. */
export function acceptEpochOp(epoch: Uint8Array): Op {
  const value = toBinary(StoredEpochSchema, create(StoredEpochSchema, { acceptedEpoch: epoch }));
  return { put: { key: key(epochKey), value } };
}

/** The divergences of a data plane by uid. */
export async function readDivergences(
  store: Store,
  dataPlane: string,
): Promise<Map<string, StoredDivergence>> {
  const { kvs } = await store.range(prefix(divergencesPrefix(dataPlane)));
  const all = kvs.map((kv) => fromBinary(StoredDivergenceSchema, kv.value));
  return new Map(all.map((d) => [d.uid, d]));
}

/** Keeps divergences of a data plane beside those that are there. */
export async function writeDivergences(
  store: Store,
  dataPlane: string,
  found: readonly StoredDivergence[],
): Promise<void> {
  const puts = found.map((d) => ({
    put: { key: key(divergenceKey(dataPlane, d.uid)), value: toBinary(StoredDivergenceSchema, d) },
  }));
  for (let at = 0; at < puts.length; at += PART) await store.txn({ then: puts.slice(at, at + PART) });
}

/**
 * Makes `unknown` all that a data plane holds and the hub does not know, in transactions of {@link PART}.
 * What is held back stays until {@link settleDivergences} has sent it.
 */
export async function replaceUnknown(
  store: Store,
  dataPlane: string,
  unknown: readonly StoredDivergence[],
): Promise<void> {
  const before = await readDivergences(store, dataPlane);
  const ops: Op[] = [];
  for (const d of unknown) {
    const value = toBinary(StoredDivergenceSchema, d);
    const old = before.get(d.uid);
    before.delete(d.uid);
    if (old !== undefined && sameBytes(toBinary(StoredDivergenceSchema, old), value)) continue;
    ops.push({ put: { key: key(divergenceKey(dataPlane, d.uid)), value } });
  }
  for (const { uid, kind } of before.values())
    if (isUnknown(kind)) ops.push({ delete: { key: key(divergenceKey(dataPlane, uid)) } });
  for (let at = 0; at < ops.length; at += PART) await store.txn({ then: ops.slice(at, at + PART) });
}

const isUnknown = (kind: number): boolean => (kind as DivergenceKind) === DivergenceKind.UNKNOWN_TO_HUB;

/**
 * Writes the row of a resource again, unchanged, at a revision of today, together with its record, whose
 * revision the row keeps. `more` rides in the same transaction. False when there is no such row.
 */
export async function restamp(
  store: Store,
  of: { dataPlaneUid: string; uid: string },
  more: readonly Op[] = [],
): Promise<boolean> {
  for (let i = 0; i < TRIES; i++) {
    const touch = await touchRecord(store, of.uid);
    const row = await store.resByUid(of.dataPlaneUid, of.uid);
    if (row === undefined) return false;
    const { uid, name, del, update } = row;
    const rows = [{ upsertRes: { dp: of.dataPlaneUid, uid, name, del, update } }];
    const { ok } = await store.txn({ if: [touch.if], then: [touch.then, ...more], rows });
    if (ok) return true;
  }
  throw new Error(`Cannot write "${of.uid}" anew: its keys kept changing`);
}

/** A compare that fails when the resource changes, and a write that changes nothing but its revision. */
async function touchRecord(store: Store, uid: string): Promise<{ if: Compare; then: Op }> {
  const uidAt = key(uidKey(uid));
  const target = (await store.range({ start: uidAt })).kvs[0];
  if (target === undefined) {
    // Forgotten by force: the tombstone alone is left, and ends with the key of its status.
    const at = key(statusKey(uid));
    const status = (await store.range({ start: at })).kvs[0];
    return {
      if: { key: at, target: "modRev", op: "=", to: status?.modRev ?? 0 },
      then: {
        put: { key: at, value: status?.value ?? toBinary(StoredStatusSchema, create(StoredStatusSchema)) },
      },
    };
  }
  const record = (await store.range({ start: target.value })).kvs[0];
  if (record === undefined) throw new Error(`Cannot write "${uid}" anew: its uid leads to no record`);
  return {
    if: { key: target.value, target: "modRev", op: "=", to: record.modRev },
    then: { put: { key: target.value, value: record.value } },
  };
}

/**
 * After the acceptance: everything that was held back goes out. Ends with the divergences that no
 * acceptance changes: what the hub does not know stays where it is. Idempotent, and to be called again
 * after a crash, or while some `failed`: what cannot be written holds up nothing else. `error` is the
 * first one's.
 */
export async function settleDivergences(
  store: Store,
  signal: AbortSignal,
): Promise<{ settled: number; failed: number; error: unknown }> {
  const out = { settled: 0, failed: 0, error: undefined as unknown };
  const { kvs } = await store.range(prefix(divergencesPrefix()));
  for (const kv of kvs) {
    if (signal.aborted) break;
    const d = fromBinary(StoredDivergenceSchema, kv.value);
    if (isUnknown(d.kind)) continue;
    const gone: Op = { delete: { key: kv.key } };
    try {
      const done = await restamp(store, { dataPlaneUid: d.dataPlaneUid, uid: d.uid }, [gone]);
      if (!done) await store.txn({ then: [gone] });
      out.settled++;
    } catch (thrown) {
      if (out.failed++ === 0) out.error = thrown;
    }
  }
  return out;
}
