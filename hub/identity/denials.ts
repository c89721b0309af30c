import type { Clock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import type { CallReport } from "@moorage/shared/grpc/server";
import type { Logger } from "@moorage/shared/log";
import type { CounterMetric, Metrics } from "@moorage/shared/metrics";
import type { Rng } from "@moorage/shared/rng";
import { parseCertificate } from "@moorage/shared/x509";
import type { Store } from "../store/store.ts";
import type { AuditFacts } from "./audit.ts";
import { auditOp, isAudited } from "./audit.ts";
import { peerHost, TryLimiter } from "./rate.ts";

/**
 * Records of refused calls. Anybody who reaches a port can make refusals, so they are bounded twice, by
 * caller and in all; how many were left out is counted, and stands in the next record.
 */

/** Records of one caller. */
const EACH = { burst: 20, everyMs: 6_000, what: "audit of refusals" };
/** Records of all callers together. */
const ALL = { burst: 200, everyMs: 100, what: "audit of refusals" };
/** Names as they may stand in a record; a caller can write anything where a name belongs. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9/._=~%-]{0,255}$/;

/** Records refusals. */
export interface DenialAudit {
  /** For the `onCall` of every port. Never throws; the record is written behind the answer. */
  onCall(report: CallReport): void;
  /** Refusals left out since the start. */
  suppressed(): number;
  /** Settles once all records that were begun are written. */
  settled(): Promise<void>;
}

/** The facts of a refusal; undefined for any other outcome, and for one that is recorded already. */
export function denialOf({
  ctx,
  error,
}: Pick<CallReport, "ctx" | "error">): (AuditFacts & { host: string }) | undefined {
  if (error === undefined || isAudited(error)) return undefined;
  if (error.code !== Code.UNAUTHENTICATED && error.code !== Code.PERMISSION_DENIED) return undefined;
  const host = peerHost(ctx.peer);
  const named = error.metadata["actor"] ?? certificateName(ctx.peerCertificateDer);
  const resource = error.metadata["resource"] ?? "";
  return {
    actor: named === undefined || !NAME.test(named) ? `peers/${host}` : named,
    method: ctx.method.replace(/^\//, ""),
    resource: NAME.test(resource) ? resource : "",
    outcome: error.reason,
    host,
  };
}

/** What a verified certificate calls itself, as the tail of its URI: `dataplane/<uid>`. */
function certificateName(der: Uint8Array | undefined): string | undefined {
  if (der === undefined) return undefined;
  try {
    return /^spiffe:\/\/[^/]+\/(.+)$/.exec(parseCertificate(der).uris[0] ?? "")?.[1];
  } catch {
    return undefined;
  }
}

/** The counter of refusals that were left out. */
export function denialCounts(metrics: Metrics): CounterMetric {
  return metrics.counter({
    name: "moorage_hub_audit_suppressed_total",
    help: "Refused calls that left no audit record, for want of budget",
  });
}

/** Makes the recorder. */
export function createDenialAudit(o: {
  store: Store;
  clock: Clock;
  rng: Rng;
  log: Logger;
  metrics?: Metrics;
}): DenialAudit {
  const each = new TryLimiter({ clock: o.clock, ...EACH });
  const all = new TryLimiter({ clock: o.clock, ...ALL });
  const left = o.metrics === undefined ? undefined : denialCounts(o.metrics);
  const writing = new Set<Promise<void>>();
  let suppressed = 0;
  let unreported = 0;
  const admitted = (facts: { actor: string; host: string }): boolean => {
    try {
      // By host as well: a caller that invents names is still one.
      each.take(facts.actor);
      if (facts.actor !== `peers/${facts.host}`) each.take(`peers/${facts.host}`);
      all.take("");
      return true;
    } catch {
      return false;
    }
  };
  return {
    onCall(report) {
      const facts = denialOf(report);
      if (facts === undefined) return;
      if (!admitted(facts)) {
        suppressed += 1;
        unreported += 1;
        left?.inc();
        return;
      }
      const { host: _host, ...record } = facts;
      const before = unreported;
      unreported = 0;
      const write = o.store
        .txn({ then: [auditOp(o, { ...record, suppressed: before })] })
        .then(() => undefined)
        .catch((error: unknown) => {
          unreported += before + 1;
          suppressed += 1;
          left?.inc();
          o.log.error("refusal could not be recorded", { error });
        })
        .finally(() => writing.delete(write));
      writing.add(write);
    },
    suppressed: () => suppressed,
    async settled() {
      await Promise.all(writing);
    },
  };
}
