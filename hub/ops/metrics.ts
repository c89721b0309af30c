/** The hub's metrics, beside those that sync counts itself; names as in docs/reference/metrics.md. */
import type { Clock } from "@moorage/shared/clock";
import { codeName } from "@moorage/shared/errors";
import type { CallReport } from "@moorage/shared/grpc/server";
import type { Logger } from "@moorage/shared/log";
import type { Metrics } from "@moorage/shared/metrics";
import type { Reader } from "../api/reader.ts";
import { trailBytes } from "../identity/audit-trail.ts";
import type { StoreStats } from "../store/sqlite/protocol.ts";
import type { Store } from "../store/store.ts";
import { Census, kinds } from "./census.ts";
import { version } from "./version.ts";

/** Gauges that are read at each scrape. */
export function hubMetrics(
  metrics: Metrics,
  from: {
    store: Store;
    reader: Reader;
    clock: Clock;
    /** Of a store in a file. */
    file?: { stats: () => Promise<StoreStats>; maxBytes: number };
  },
): void {
  if (from.file !== undefined) fileMetrics(metrics, from.file);
  const census = new Census(from);
  metrics.gauge({
    name: "moorage_build_info",
    help: "1, with the versions that run",
    labels: { version: "open", node_version: "open" },
    collect: (g) => g.set(1, { version, node_version: process.versions.node }),
  });
  metrics.gauge({
    name: "moorage_hub_store_revision",
    help: "Revision of the newest write",
    collect: async (g) => g.set((await from.store.status()).rev),
  });
  metrics.gauge({
    name: "moorage_hub_store_size_bytes",
    help: "Size of the store",
    collect: async (g) => g.set((await from.store.status()).bytes),
  });
  metrics.gauge({
    name: "moorage_hub_audit_bytes",
    help: "About how much of the store sealed audit records take",
    collect: async (g) => g.set(await trailBytes(from.store)),
  });
  metrics.gauge({
    name: "moorage_hub_entities",
    help: "Resources by kind and status of a condition",
    labels: {
      kind: kinds,
      condition: ["Ready", "Connected", "IsolationEnforced", "Healthy"],
      status: ["True", "False", "Unknown"],
    },
    collect: async (g) => {
      const counted = await census.newest();
      if (counted === undefined) return;
      g.reset();
      for (const [key, n] of counted.entities) {
        const [kind = "", condition = "", status = ""] = key.split("/");
        g.set(n, { kind, condition, status });
      }
    },
  });
  metrics.gauge({
    name: "moorage_hub_data_planes_stale",
    help: "Data planes whose agent was connected once and is not now",
    collect: async (g) => g.set((await census.newest())?.stale ?? 0),
  });
  metrics.gauge({
    name: "moorage_hub_client_certificate_earliest_expiry_timestamp_seconds",
    help: "When the first of the agents' newest certificates runs out; 0 without any",
    collect: async (g) => g.set(((await census.newest())?.earliestExpiryMs ?? 0) / 1_000),
  });
}

/** What only a store in a file has. */
function fileMetrics(
  metrics: Metrics,
  { stats, maxBytes }: { stats: () => Promise<StoreStats>; maxBytes: number },
): void {
  const gauge = (name: string, help: string, of: (s: StoreStats) => number): void => {
    metrics.gauge({
      name: `moorage_hub_store_${name}`,
      help,
      collect: async (g) => g.set(of(await stats())),
    });
  };
  gauge("used_bytes", "Of the size of the store's file, what holds content", (s) => s.usedBytes);
  gauge("limit_bytes", "Largest size of the store's file, near which writes are refused", () => maxBytes);
  gauge("wal_bytes", "Write-ahead log that is not yet in the store's file", (s) => s.walBytes);
  gauge("free_pages", "Pages of the store's file without content", (s) => s.freePages);
  gauge("disk_full", "1 while the disk is full and what adds is refused", (s) => Number(s.diskFull));
}

/** Tells of the store's groups: how long each took to be durable, and how many revisions it held. */
export function groupMetrics(metrics: Metrics): (group: { revisions: number; tookMs: number }) => void {
  const seconds = metrics.histogram({
    name: "moorage_hub_store_operation_duration_seconds",
    help: "Time of one group of writes until it is durable",
    labels: { operation: ["commit"] },
    buckets: "operationSeconds",
  });
  const revisions = metrics.counter({
    name: "moorage_hub_store_revisions_total",
    help: "Writes made durable; over the count of moorage_hub_store_operation_duration_seconds, how many share one sync",
  });
  return (group) => {
    seconds.observe(group.tookMs / 1_000, { operation: "commit" });
    revisions.inc({}, group.revisions);
  };
}

/** As the ecosystem's dashboards spell them, which is as the descriptors do. */
const grpcTypes = ["unary", "client_streaming", "server_streaming", "bidi_streaming"] as const;

/** Counts each call and logs what went wrong inside; the caller's own mistakes are not logged. */
export function callMetrics(metrics: Metrics, log: Logger): (report: CallReport) => void {
  const call = { grpc_type: grpcTypes, grpc_service: "open", grpc_method: "open" } as const;
  const handled = metrics.counter({
    name: "grpc_server_handled_total",
    help: "Calls that ended, by status",
    labels: { ...call, grpc_code: "open" },
  });
  const seconds = metrics.histogram({
    name: "grpc_server_handling_seconds",
    help: "Time from the start of a call to its end",
    labels: call,
    buckets: "operationSeconds",
  });
  return ({ method, ctx, durationMs, error }) => {
    const at = {
      grpc_type: method.methodKind,
      grpc_service: method.parent.typeName,
      grpc_method: method.name,
    };
    handled.inc({ ...at, grpc_code: error === undefined ? "OK" : codeName(error.code) });
    if (method.methodKind === "unary") seconds.observe(durationMs / 1_000, at);
    if (error !== undefined && ["INTERNAL", "DATA_LOSS", "UNKNOWN"].includes(codeName(error.code))) {
      log.error("call failed", { method: ctx.method, peer: ctx.peer, error: error.cause ?? error });
    }
  };
}
