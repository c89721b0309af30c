/** The hub's metrics, beside those that sync counts itself; names as in docs/reference/metrics.md. */
import { codeName } from "@moorage/shared/errors";
import type { CallReport } from "@moorage/shared/grpc/server";
import type { Logger } from "@moorage/shared/log";
import type { Metrics } from "@moorage/shared/metrics";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { statusOf } from "./status-of.ts";
import type { Kind } from "../core/keys.ts";
import { viewInto } from "../core/views.ts";
import { Snapshot } from "../api/snapshot.ts";
import type { Reader } from "../api/reader.ts";
import type { Store } from "../store/store.ts";
import type { Sync } from "../sync/sync.ts";

const kinds: readonly Kind[] = ["DataPlane", "Tenant", "Application"];

/** Gauges that are read at each scrape. */
export function hubMetrics(metrics: Metrics, from: { store: Store; sync: Sync; reader: Reader }): void {
  metrics.gauge({
    name: "moorage_build_info",
    help: "1, with the versions that run",
    labels: { version: "open", node_version: "open" },
    collect: (g) => g.set(1, { version: "0.1.0", node_version: process.versions.node }),
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
    name: "moorage_hub_entities",
    help: "Resources by kind and status of a condition",
    labels: {
      kind: kinds,
      condition: ["Ready", "Connected", "IsolationEnforced", "Healthy"],
      status: ["True", "False", "Unknown"],
    },
    async collect(g) {
      g.reset();
      const { rev } = await from.store.status();
      const snapshot = new Snapshot(from.reader, rev);
      await snapshot.readStatuses();
      const counts = new Map<string, number>();
      for (const kind of kinds) {
        for (const found of await from.reader.all(kind, rev)) {
          const resource = viewInto(found.value, await snapshot.stored(found), View.FULL);
          for (const condition of statusOf(kind)) {
            const status = resource.status?.conditions.find((c) => c.type === condition)?.status ?? "Unknown";
            const key = `${kind}/${condition}/${status}`;
            counts.set(key, (counts.get(key) ?? 0) + 1);
          }
        }
      }
      for (const [key, n] of counts) {
        const [kind = "", condition = "", status = ""] = key.split("/");
        g.set(n, { kind, condition, status });
      }
    },
  });
}

/** Counts each call and logs what went wrong inside; the caller's own mistakes are not logged. */
export function callMetrics(metrics: Metrics, log: Logger): (report: CallReport) => void {
  const labels = { grpc_service: "open", grpc_method: "open", grpc_code: "open" } as const;
  const handled = metrics.counter({
    name: "grpc_server_handled_total",
    help: "Calls that ended, by status",
    labels,
  });
  const seconds = metrics.histogram({
    name: "grpc_server_handling_seconds",
    help: "Time from the start of a call to its end",
    labels: { grpc_service: "open", grpc_method: "open" },
    buckets: "operationSeconds",
  });
  return ({ method, ctx, durationMs, error }) => {
    const at = { grpc_service: method.parent.typeName, grpc_method: method.name };
    handled.inc({ ...at, grpc_code: error === undefined ? "OK" : codeName(error.code) });
    if (method.methodKind === "unary") seconds.observe(durationMs / 1_000, at);
    if (error !== undefined && ["INTERNAL", "DATA_LOSS", "UNKNOWN"].includes(codeName(error.code))) {
      log.error("call failed", { method: ctx.method, peer: ctx.peer, error: error.cause ?? error });
    }
  };
}
