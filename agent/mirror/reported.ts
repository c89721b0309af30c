/** Records compared, and put into the protocol's words. Pure. */
import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { BlobRef, ResourceStatus } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ResourceStatusSchema, Verdict_State, VerdictSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ConditionSchema } from "@moorage/proto/moorage/common/v1/condition_pb";
import { truncateMessage } from "@moorage/shared/conditions/conditions";
import type { MirrorRecord } from "./mirror.ts";
import { newestRevision } from "./plan.ts";
import type { Entry } from "./record.ts";
import type { SyncPosition } from "./sync-state.ts";

/** What the kinds look at is equal. */
export function sameView(a: MirrorRecord | undefined, b: MirrorRecord | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  const tenant = (r: MirrorRecord) => (r.body.kind === "Application" ? r.body.value.tenantUid : "");
  return (
    a.revision === b.revision &&
    a.digest === b.digest &&
    a.objectUid === b.objectUid &&
    a.removal?.revision === b.removal?.revision &&
    a.removal?.orphan === b.removal?.orphan &&
    tenant(a) === tenant(b) &&
    (a.removal === undefined) === (b.removal === undefined)
  );
}

/** The same position. */
export function equalCursor(
  a: NonNullable<SyncPosition["cursor"]>,
  b: NonNullable<SyncPosition["cursor"]>,
): boolean {
  return a.revision === b.revision && Buffer.from(a.epoch).equals(b.epoch);
}

/** The report that a removal is complete. */
export function goneStatus(of: { name: string; uid: string; revision: number }): ResourceStatus {
  return create(ResourceStatusSchema, {
    name: of.name,
    uid: of.uid,
    observedRevision: BigInt(of.revision),
    gone: true,
  });
}

/** A record's status in the protocol's words. */
export function reported(entry: Entry): ResourceStatus {
  const { record, rejected } = entry;
  const status = record.status;
  const revision = BigInt(newestRevision(entry));
  return create(ResourceStatusSchema, {
    name: record.name,
    uid: record.uid,
    observedRevision: revision,
    observedGeneration: BigInt(status?.observedGeneration ?? 0),
    verdict: create(
      VerdictSchema,
      rejected === undefined
        ? { state: Verdict_State.ACCEPTED, revision }
        : {
            state: Verdict_State.REJECTED,
            revision: BigInt(rejected.revision),
            reason: rejected.reason,
            // It may repeat what an API server said.
            message: truncateMessage(rejected.message),
          },
    ),
    conditions: (status?.conditions ?? []).map((c) =>
      create(ConditionSchema, {
        type: c.type,
        status: c.status,
        reason: c.reason,
        message: c.message,
        lastTransitionTime: timestampFromDate(new Date(c.lastTransitionTime)),
        observedGeneration: BigInt(c.observedGeneration),
      }),
    ),
    gone: entry.gone,
    appliedVersion: status?.applied?.version ?? "",
    appliedGeneration: BigInt(status?.applied?.generation ?? 0),
    appliedDigest: status?.applied?.digest ?? "",
    namespaces: [...(status?.namespaces ?? [])],
  });
}

/** The bundles that records name, of what goes too; undefined while a record cannot be read: it may name any. */
export function bundlesOf(entries: Iterable<Entry>): BlobRef[] | undefined {
  const out: BlobRef[] = [];
  for (const { record, body, damaged } of entries) {
    if (record.body.kind !== "Application") continue;
    if (damaged || body === undefined) return undefined;
    if (record.body.value.bundle !== undefined) out.push(record.body.value.bundle);
  }
  return out;
}
