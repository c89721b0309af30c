import { create, equals, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ResourceStatus, Verdict } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ResourceStatusSchema, Verdict_State, VerdictSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { Logger } from "@moorage/shared/log";
import { statusKey, uidKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { Compare, Op, ResRow, Store } from "../store/store.ts";
import { changeLink } from "./links.ts";
import { AGENT_TOO_OLD, readStatus } from "./rows.ts";
import type { Finalise } from "./sync.ts";

/** Status reports of agents into the store: only what changed, in few transactions. */

/** Puts a txn, below the store's limit of operations. */
const PUTS = 60;
/** Bytes of values a txn, well below the store's limit. */
const PUT_BYTES = 512 * 1024;
/** Tries before a write that keeps losing its compare is given up. */
const TRIES = 16;

/** What writing status needs. */
export interface StatusDeps {
  store: Store;
  clock: Clock;
  log: Logger;
  finalise: Finalise;
}

/** On whose behalf a report is written. */
export interface Reporter {
  dataPlaneUid: string;
  agentGeneration: bigint;
}

/** What is written of a report. */
export interface Reported {
  statuses: readonly ResourceStatus[];
  /** The report's stream is over: a newer one may have stored what must stand. */
  over(): boolean;
}

/**
 * Writes a report; settles once all of it is durable. Resources that the hub does not know are left
 * out; one of another data plane is PERMISSION_DENIED `NOT_YOUR_RESOURCE`, and nothing of the report is
 * written. `gone` ends a resource only while its tombstone stands. A report of an older agent than the
 * stored status has is FAILED_PRECONDITION `STALE_GENERATION`. Resolves with the number of resources
 * written; once the stream is over no more of them are.
 */
export async function writeReport(deps: StatusDeps, by: Reporter, report: Reported): Promise<number> {
  const { statuses, over } = report;
  const gone: ResRow[] = [];
  const kept: ResourceStatus[] = [];
  for (const status of statuses) {
    const row = await deps.store.resByUid(by.dataPlaneUid, status.uid);
    if (row === undefined) {
      await refuseForeign(deps.store, by, status);
      if (!status.gone)
        deps.log.warn("Status of an unknown resource", { dataPlaneUid: by.dataPlaneUid, uid: status.uid });
    } else if (status.gone) {
      if (row.del) gone.push(row);
      else deps.log.warn("Gone without an order", { dataPlaneUid: by.dataPlaneUid, uid: status.uid });
    } else kept.push(status);
  }
  const written = await writeStatuses(deps, by, { statuses: kept, over });
  if (over()) return written;
  await Promise.all(gone.map((row) => finaliseRow(deps, by.dataPlaneUid, row)));
  failpoint("sync/before-status-ack");
  return written + gone.length;
}

/** A uid that the hub knows, and that has no row in the reporter's data plane, is another's. */
async function refuseForeign(store: Store, by: Reporter, status: ResourceStatus): Promise<void> {
  const { kvs } = await store.range({ start: key(uidKey(status.uid)), keysOnly: true });
  // Ended between the two reads, it is nobody's.
  if (kvs.length === 0 || (await store.resByUid(by.dataPlaneUid, status.uid)) !== undefined) return;
  throw new MoorageError(
    Code.PERMISSION_DENIED,
    `Cannot accept the status of "${status.uid}": it is not a resource of the caller's data plane`,
    { reason: "NOT_YOUR_RESOURCE" },
  );
}

interface Put {
  if: Compare;
  then: Op;
  bytes: number;
}

async function writeStatuses(deps: StatusDeps, by: Reporter, report: Reported): Promise<number> {
  const { statuses, over } = report;
  let written = 0;
  let rest = statuses;
  for (let i = 0; rest.length > 0; i++) {
    if (i >= TRIES)
      throw new MoorageError(Code.ABORTED, "Cannot store status: its keys kept changing", {
        retryAfterMs: 1_000,
      });
    const lost: ResourceStatus[] = [];
    for (const batch of batches(
      await Promise.all(rest.map(async (s) => ({ status: s, put: await putOf(deps, by, s) }))),
    )) {
      // What was read before may be a newer stream's, and the compare would hold.
      if (over()) return written;
      failpoint("sync/before-status-txn");
      const { ok } = await deps.store.txn({
        if: batch.map((b) => b.put.if),
        then: batch.map((b) => b.put.then),
      });
      failpoint("sync/after-status-txn");
      if (ok) written += batch.length;
      else lost.push(...batch.map((b) => b.status));
    }
    rest = lost;
  }
  const own = statuses.find((s) => s.uid === by.dataPlaneUid);
  if (own?.conditions.some((c) => c.type === "Ready" && c.status === "True"))
    await initialise(deps, by.dataPlaneUid);
  return written;
}

/** The write of one status; undefined when the stored one equals it. */
async function putOf(deps: StatusDeps, by: Reporter, status: ResourceStatus): Promise<Put | undefined> {
  const { stored, modRev } = await readStatus(deps.store, status.uid);
  if (stored !== undefined && stored.agentGeneration > by.agentGeneration) {
    throw new MoorageError(
      Code.FAILED_PRECONDITION,
      `Cannot accept a status of agent generation "${by.agentGeneration}": generation "${stored.agentGeneration}" has reported`,
      {
        reason: "STALE_GENERATION",
        metadata: { agent_generation: String(stored.agentGeneration) },
      },
    );
  }
  const before = stored?.withheld;
  // A verdict of the hub itself stands until the agent judges that revision or a newer one.
  const withheld =
    before !== undefined && before.revision > (status.verdict?.revision ?? 0n) ? before : undefined;
  const same = stored?.status !== undefined && equals(ResourceStatusSchema, stored.status, status);
  if (same && withheld === before) return undefined;
  return put(deps, by, { uid: status.uid, status, withheld, modRev });
}

interface PutOf {
  uid: string;
  status: ResourceStatus | undefined;
  withheld: Verdict | undefined;
  /** Revision of the key as it was read. */
  modRev: number;
}

function put(deps: StatusDeps, by: Reporter, of: PutOf): Put {
  const { status, withheld } = of;
  const k = key(statusKey(of.uid));
  const value = toBinary(
    StoredStatusSchema,
    create(StoredStatusSchema, {
      ...(status === undefined ? {} : { status }),
      ...(withheld === undefined ? {} : { withheld }),
      receivedTime: timestampFromMs(deps.clock.now()),
      agentGeneration: by.agentGeneration,
    }),
  );
  const compare: Compare = { key: k, target: "modRev", op: "=", to: of.modRev };
  return { if: compare, then: { put: { key: k, value } }, bytes: value.length };
}

type Pending = { status: ResourceStatus; put: Put };

function batches(all: readonly { status: ResourceStatus; put: Put | undefined }[]): Pending[][] {
  const out: Pending[][] = [];
  let open: Pending[] = [];
  let bytes = 0;
  for (const one of all) {
    if (one.put === undefined) continue;
    if (open.length >= PUTS || bytes + one.put.bytes > PUT_BYTES) {
      out.push(open);
      open = [];
      bytes = 0;
    }
    open.push({ status: one.status, put: one.put });
    bytes += one.put.bytes;
  }
  if (open.length > 0) out.push(open);
  return out;
}

/** Records, once, that the data plane was Ready. */
async function initialise(deps: StatusDeps, dataPlaneUid: string): Promise<void> {
  await changeLink(deps.store, dataPlaneUid, (link) =>
    link.initializedTime === undefined
      ? { ...link, initializedTime: timestampFromMs(deps.clock.now()) }
      : undefined,
  );
}

async function finaliseRow(deps: StatusDeps, dataPlaneUid: string, row: ResRow): Promise<void> {
  for (let i = 0; i < TRIES; i++) {
    const now = await deps.store.resByUid(dataPlaneUid, row.uid);
    // Withdrawn or ended meanwhile: then the confirmation speaks of an order that no longer stands.
    if (now === undefined || !now.del) return;
    const txn = await deps.finalise(dataPlaneUid, now);
    if (txn === undefined) return;
    failpoint("sync/before-finalise-txn");
    const { ok } = await deps.store.txn(txn);
    failpoint("sync/after-finalise-txn");
    if (ok) return;
  }
  throw new MoorageError(Code.ABORTED, `Cannot end "${row.name}": its keys kept changing`, {
    retryAfterMs: 1_000,
  });
}

/** Stores the hub's own verdict that the agent cannot take a row; nothing when it stands already. */
export async function writeWithheld(
  deps: StatusDeps,
  by: Reporter,
  withheld: { row: ResRow; message: string },
): Promise<void> {
  const { row, message } = withheld;
  const verdict = create(VerdictSchema, {
    state: Verdict_State.REJECTED,
    revision: BigInt(row.rev),
    reason: AGENT_TOO_OLD,
    message,
  });
  await changeWithheld(deps, by, { uid: row.uid, to: verdict });
}

/** Takes the hub's own verdict back: the agent has what it could not take before. */
export async function clearWithheld(deps: StatusDeps, by: Reporter, uid: string): Promise<void> {
  await changeWithheld(deps, by, { uid, to: undefined });
}

async function changeWithheld(
  deps: StatusDeps,
  by: Reporter,
  of: { uid: string; to: Verdict | undefined },
): Promise<void> {
  const { uid, to } = of;
  for (let i = 0; i < TRIES; i++) {
    const { stored, modRev } = await readStatus(deps.store, uid);
    const before = stored?.withheld;
    if (before === to || (before && to && equals(VerdictSchema, before, to))) return;
    const write = put(deps, by, { uid, status: stored?.status, withheld: to, modRev });
    const { ok } = await deps.store.txn({ if: [write.if], then: [write.then] });
    if (ok) return;
  }
}
