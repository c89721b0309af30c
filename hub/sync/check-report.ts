import type { ResourceStatus, StatusReport } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Condition } from "@moorage/proto/moorage/common/v1/condition_pb";
import { MoorageError, Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { brokenTime } from "../core/times.ts";

/**
 * The rules of a status report: what is stored is shown to whoever lists and watches, so that nothing may
 * get in that cannot be shown. Pure.
 */

/** Refuses a report that breaks a rule of the protocol, naming the rule. */
export function checkReport(report: StatusReport, expectedSeq: bigint): void {
  const rule = brokenRule(report, expectedSeq);
  if (rule === undefined) return;
  throw new MoorageError(Code.INVALID_ARGUMENT, `Cannot accept status report "${report.seq}": ${rule}`, {
    reason: "INVALID_STATUS",
  });
}

/** The first rule that a report breaks, in words. */
function brokenRule(report: StatusReport, expectedSeq: bigint): string | undefined {
  if (report.seq !== expectedSeq) return `its seq must be ${expectedSeq}`;
  const uids = new Set(report.statuses.map((s) => s.uid));
  if (uids.size !== report.statuses.length) return "it names a resource twice";
  return firstOf(report.statuses, ruleOfStatus);
}

function ruleOfStatus(status: ResourceStatus): string | undefined {
  if (status.uid === "" || status.uid.length > 64) return `the uid "${status.uid.slice(0, 64)}" is malformed`;
  const { conditions } = status;
  if (conditions.length > limits.conditionsPerResource) {
    return `"${status.name}" has ${conditions.length} conditions, at most ${limits.conditionsPerResource} are taken`;
  }
  return firstOf(conditions, (c) => {
    const rule = ruleOfCondition(c);
    return rule === undefined ? undefined : `condition "${c.type}" of "${status.name}" has ${rule}`;
  });
}

function ruleOfCondition(c: Condition): string | undefined {
  if (Buffer.byteLength(c.message) > limits.conditionMessageBytes)
    return `a message over ${limits.conditionMessageBytes} bytes`;
  const time = c.lastTransitionTime;
  if (time === undefined) return undefined;
  // It could be stored, but not be written as JSON: each list and watch that filters by it would fail.
  const rule = brokenTime(time);
  return rule === undefined ? undefined : `a last_transition_time ${rule}`;
}

function firstOf<T>(items: readonly T[], rule: (item: T) => string | undefined): string | undefined {
  for (const item of items) {
    const found = rule(item);
    if (found !== undefined) return found;
  }
  return undefined;
}
