import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { StoredAuditRecordSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { uuid } from "@moorage/shared/rng";
import { prefixes } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { Op } from "../store/store.ts";

/** One act; `outcome` is OK or the reason of the refusal. No secrets. */
export interface AuditFacts {
  actor: string;
  /** e.g. `moorage.agent.v1.EnrolmentService/Enrol`. */
  method: string;
  resource: string;
  outcome: string;
  requestId?: string;
  /** Refusals that were too many to be recorded before this one. */
  suppressed?: number;
}

const audited = new WeakSet<object>();

/** Notes that a refusal left its record already, with more facts than its caller's port knows. */
export function markAudited(error: object): void {
  audited.add(error);
}

/** Whether {@link markAudited} was called for it. */
export function isAudited(error: object): boolean {
  return audited.has(error);
}

/** The operation that keeps a record of an act, for the act's own transaction. */
export function auditOp(at: { clock: Clock; rng: Rng }, facts: AuditFacts): Op {
  const nowMs = at.clock.now();
  const { suppressed, ...rest } = facts;
  const record = create(StoredAuditRecordSchema, {
    ...rest,
    time: timestampFromMs(nowMs),
    suppressed: BigInt(suppressed ?? 0),
  });
  const name = `${prefixes.audit}${String(nowMs).padStart(13, "0")}/${uuid(at.rng)}`;
  return { put: { key: key(name), value: toBinary(StoredAuditRecordSchema, record) } };
}
