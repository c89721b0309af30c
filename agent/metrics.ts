/** The agent's metrics (docs: metering-and-billing, section 6.2 of the design); collected on scrape. */
import type { ApplyResult } from "./apply/apply-set.ts";
import type { ObjectAction } from "./apply/types.ts";
import type { LoopMetrics } from "./control/loop.ts";
import { OUTCOME_KINDS } from "./control/outcome.ts";
import type { Metrics } from "@moorage/shared/metrics";
import type { LinkState } from "./link/hub-link.ts";
import type { Mirror } from "./mirror/mirror.ts";

/** What the gauges read; undefined while there is none. */
export interface MetricSources {
  link(): Readonly<LinkState> | undefined;
  mirror(): Mirror | undefined;
  leader(): boolean;
}

/** What is counted on its event. */
export interface AgentMetrics {
  streamEnded(reason: string): void;
  loop(controller: string): LoopMetrics;
  /** One run of the apply engine ended. */
  applied(result: ApplyResult): void;
}

/** Kinds that get a label of their own; names of all others come from bundles and count as `other`. */
const labelledKinds = [
  "ConfigMap",
  "CronJob",
  "DaemonSet",
  "Deployment",
  "HorizontalPodAutoscaler",
  "Ingress",
  "Job",
  "LimitRange",
  "Namespace",
  "NetworkPolicy",
  "PersistentVolumeClaim",
  "ResourceQuota",
  "RoleBinding",
  "Secret",
  "Service",
  "ServiceAccount",
  "StatefulSet",
];

const applyResults = ["created", "configured", "unchanged", "conflict", "failed"] as const;

/** An action in the words of apply_total; undefined for one that made no decision about the object. */
function applyResult(action: ObjectAction): (typeof applyResults)[number] | undefined {
  switch (action) {
    case "Created":
      return "created";
    case "Configured":
      return "configured";
    case "Confirmed":
    case "Unchanged":
      return "unchanged";
    case "Conflict":
      return "conflict";
    case "Stalled":
    case "Retry":
      return "failed";
    case "Skipped":
    case "Waiting":
      return undefined;
  }
}

/** Declares all of them in `metrics`. */
export function declareAgentMetrics(metrics: Metrics, sources: MetricSources): AgentMetrics {
  const fromLink = (
    name: string,
    help: string,
    value: (link: Readonly<LinkState>) => number | undefined,
  ): void => {
    metrics.gauge({
      name: `moorage_agent_${name}`,
      help,
      collect: (gauge) => {
        gauge.reset();
        const link = sources.link();
        const now = link === undefined ? undefined : value(link);
        if (now !== undefined) gauge.set(now);
      },
    });
  };
  fromLink("connected", "1 while the stream to the hub is up", (l) => Number(l.connected));
  fromLink("connection_start_timestamp_seconds", "When the stream came up", (l) =>
    l.connected ? l.connectedSinceMs / 1_000 : undefined,
  );
  fromLink("last_message_received_timestamp_seconds", "When the hub was last heard", (l) =>
    l.lastMessageMs > 0 ? l.lastMessageMs / 1_000 : undefined,
  );
  fromLink("desired_revision", "Newest hub revision received", (l) => l.desiredRevision);
  fromLink("applied_revision", "Newest hub revision that is durable here", (l) => l.appliedRevision);
  fromLink("clock_offset_seconds", "Own clock minus the hub's at the last hello", (l) =>
    l.clockOffsetMs === undefined ? undefined : l.clockOffsetMs / 1_000,
  );
  metrics.gauge({
    name: "moorage_agent_leader",
    help: "1 while this process holds the Lease",
    collect: (g) => g.set(Number(sources.leader())),
  });
  metrics.gauge({
    name: "moorage_agent_tenant_condition",
    help: "1 for the status that a tenant's condition has",
    labels: { tenant: "open", type: "open", status: ["True", "False", "Unknown"] },
    collect: (gauge) => {
      gauge.reset();
      for (const record of sources.mirror()?.list("Tenant") ?? []) {
        const tenant = record.name.replace(/^tenants\//, "");
        for (const { type, status } of record.status?.conditions ?? [])
          gauge.set(1, { tenant, type, status });
      }
    },
  });
  const reconnects = metrics.counter({
    name: "moorage_agent_reconnects_total",
    help: "Streams that ended or could not be opened",
    labels: { reason: "open" },
  });
  const results = [...OUTCOME_KINDS, "error"];
  const controllers = ["tenant", "application"];
  const reconciles = metrics.counter({
    name: "moorage_agent_reconcile_total",
    help: "Reconciles by their outcome",
    labels: { controller: controllers, result: results },
  });
  const took = metrics.histogram({
    name: "moorage_agent_reconcile_duration_seconds",
    help: "Time of one reconcile",
    labels: { controller: controllers },
    buckets: "operationSeconds",
  });
  const waited = metrics.histogram({
    name: "workqueue_queue_duration_seconds",
    help: "Time that a key waited in the queue",
    labels: { name: controllers },
    buckets: "operationSeconds",
  });
  const active = metrics.gauge({
    name: "workqueue_active_workers",
    help: "Keys under way",
    labels: { name: controllers },
  });
  const applies = metrics.counter({
    name: "moorage_agent_apply_total",
    help: "Objects by what their turn in a run came to",
    labels: { kind: labelledKinds, result: applyResults },
  });
  const drifts = metrics.counter({
    name: "moorage_agent_drift_corrected_total",
    help: "Objects that others changed and that were repaired",
    labels: { kind: labelledKinds },
  });
  const pruneResults = ["deleted", "deleting", "kept", "abandoned", "recreated", "failed"];
  const prunes = metrics.counter({
    name: "moorage_agent_prune_total",
    help: "Objects that left the desired set, by what became of them",
    labels: { result: pruneResults },
  });
  for (const result of pruneResults) prunes.inc({ result }, 0);
  for (const controller of controllers)
    for (const result of results) reconciles.inc({ controller, result }, 0);
  return {
    applied(result) {
      for (const o of result.objects) {
        const outcome = applyResult(o.action);
        if (outcome !== undefined) applies.inc({ kind: o.id.kind, result: outcome });
        if (o.drift && outcome === "configured") drifts.inc({ kind: o.id.kind });
      }
      for (const p of result.pruned) prunes.inc({ result: p.action.toLowerCase() });
    },
    streamEnded: (reason) => reconnects.inc({ reason }),
    loop: (controller) => ({
      reconciled(outcome, tookMs, waitedMs) {
        reconciles.inc({ controller, result: outcome });
        took.observe(tookMs / 1_000, { controller });
        waited.observe(waitedMs / 1_000, { name: controller });
      },
      active: (count) => active.set(count, { name: controller }),
    }),
  };
}
