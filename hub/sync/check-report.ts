import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { ResourceStatus, StatusReport, Verdict } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Condition } from "@moorage/proto/moorage/common/v1/condition_pb";
import { MoorageError, Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { brokenTime } from "../core/times.ts";

/**
 * The rules of a status report: what is stored is shown to whoever lists and watches, so that nothing may
 * get in that cannot be shown. Pure.
 */

const STATUSES = new Set(["True", "False", "Unknown"]);

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
  const name = long("a name", status.name, limits.resourceNameBytes);
  if (name !== undefined) return `"${status.uid}" has ${name}`;
  const rule = ruleOfVerdict(status.verdict) ?? ruleOfApplied(status) ?? ruleOfNamespaces(status.namespaces);
  if (rule !== undefined) return `"${status.name}" has ${rule}`;
  const { conditions } = status;
  if (conditions.length > limits.conditionsPerResource) {
    return `"${status.name}" has ${conditions.length} conditions, at most ${limits.conditionsPerResource} are taken`;
  }
  return firstOf(conditions, (c) => {
    const type = long("a condition with a type", c.type, limits.conditionWordBytes);
    if (type !== undefined) return `"${status.name}" has ${type}`;
    const found = ruleOfCondition(c);
    return found === undefined ? undefined : `condition "${c.type}" of "${status.name}" has ${found}`;
  });
}

function ruleOfVerdict(verdict: Verdict | undefined): string | undefined {
  if (verdict === undefined) return undefined;
  return (
    long("a verdict's reason", verdict.reason, limits.conditionWordBytes) ??
    long("a verdict's message", verdict.message, limits.conditionMessageBytes)
  );
}

function ruleOfApplied(status: ResourceStatus): string | undefined {
  return (
    long("an applied_version", status.appliedVersion, limits.bundleVersionBytes) ??
    long("an applied_digest", status.appliedDigest, limits.bundleDigestBytes)
  );
}

function ruleOfNamespaces(namespaces: readonly string[]): string | undefined {
  if (namespaces.length > limits.namespacesPerTenant)
    return `${namespaces.length} namespaces, at most ${limits.namespacesPerTenant} are taken`;
  return firstOf(namespaces, (n) => long("a namespace", n, limits.namespaceBytes));
}

function ruleOfCondition(c: Condition): string | undefined {
  if (!STATUSES.has(c.status))
    return `the status "${c.status.slice(0, 64)}", which must be True, False or Unknown`;
  const rule =
    long("a reason", c.reason, limits.conditionWordBytes) ??
    long("a message", c.message, limits.conditionMessageBytes);
  return rule ?? ruleOfTime(c.lastTransitionTime);
}

function ruleOfTime(time: Timestamp | undefined): string | undefined {
  if (time === undefined) return undefined;
  // It could be stored, but not be written as JSON: each list and watch that filters by it would fail.
  const rule = brokenTime(time);
  return rule === undefined ? undefined : `a last_transition_time ${rule}`;
}

/** That a text is longer than its limit, in words. */
function long(what: string, text: string, maxBytes: number): string | undefined {
  return Buffer.byteLength(text) > maxBytes ? `${what} over ${maxBytes} bytes` : undefined;
}

function firstOf<T>(items: readonly T[], rule: (item: T) => string | undefined): string | undefined {
  for (const item of items) {
    const found = rule(item);
    if (found !== undefined) return found;
  }
  return undefined;
}
