/** The hub's metrics, beside those that sync counts itself; names as in docs/reference/metrics.md. */
import { fromBinary } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { codeName } from "@moorage/shared/errors";
import type { CallReport } from "@moorage/shared/grpc/server";
import type { Logger } from "@moorage/shared/log";
import type { Metrics } from "@moorage/shared/metrics";
import {
  LinkState,
  StoredCredentialsSchema,
  StoredLinkSchema,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { statusOf } from "./status-of.ts";
import { version } from "./version.ts";
import type { Kind } from "../core/keys.ts";
import { prefixes } from "../core/keys.ts";
import { viewInto } from "../core/views.ts";
import { Snapshot } from "../api/snapshot.ts";
import type { Reader } from "../api/reader.ts";
import { prefix } from "../store/bytes.ts";
import type { StoreStats } from "../store/sqlite/protocol.ts";
import type { Rev, Store } from "../store/store.ts";

const kinds: readonly Kind[] = ["DataPlane", "Tenant", "Application"];

/** Gauges that are read at each scrape. */
export function hubMetrics(
  metrics: Metrics,
  from: { store: Store; reader: Reader; stats?: () => Promise<StoreStats> },
): void {
  if (from.stats !== undefined) fileMetrics(metrics, from.stats);
  let counted: Rev | undefined;
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
    name: "moorage_hub_entities",
    help: "Resources by kind and status of a condition",
    labels: {
      kind: kinds,
      condition: ["Ready", "Connected", "IsolationEnforced", "Healthy"],
      status: ["True", "False", "Unknown"],
    },
    collect: async (g) => {
      const { rev } = await from.store.status();
      // Counting reads everything; a store that did not change is not counted again.
      if (rev === counted) return;
      const counts = await countEntities(from.reader, rev);
      counted = rev;
      g.reset();
      for (const [key, n] of counts) {
        const [kind = "", condition = "", status = ""] = key.split("/");
        g.set(n, { kind, condition, status });
      }
    },
  });
  metrics.gauge({
    name: "moorage_hub_data_planes_stale",
    help: "Data planes whose agent was connected once and is not now",
    collect: async (g) => {
      const links = (await from.store.range(prefix(prefixes.links))).kvs;
      const stale: LinkState[] = [LinkState.DISCONNECTED, LinkState.SILENT];
      g.set(links.filter((kv) => stale.includes(fromBinary(StoredLinkSchema, kv.value).state)).length);
    },
  });
  metrics.gauge({
    name: "moorage_hub_client_certificate_earliest_expiry_timestamp_seconds",
    help: "When the first of the agents' newest certificates runs out; 0 without any",
    collect: async (g) => {
      const all = (await from.store.range(prefix(prefixes.credentials))).kvs;
      const ends = all
        .flatMap((kv) => fromBinary(StoredCredentialsSchema, kv.value).keys)
        .flatMap((k) => (k.notAfter === undefined ? [] : [timestampMs(k.notAfter)]));
      g.set(ends.length === 0 ? 0 : ends.reduce((a, b) => Math.min(a, b)) / 1_000);
    },
  });
}

/** What only a store in a file has. */
function fileMetrics(metrics: Metrics, stats: () => Promise<StoreStats>): void {
  const gauge = (name: string, help: string, of: (s: StoreStats) => number): void => {
    metrics.gauge({
      name: `moorage_hub_store_${name}`,
      help,
      collect: async (g) => g.set(of(await stats())),
    });
  };
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
    help: "Writes made durable",
  });
  return (group) => {
    seconds.observe(group.tookMs / 1_000, { operation: "commit" });
    revisions.inc({}, group.revisions);
  };
}

/** Resources by `kind/condition/status`. */
async function countEntities(reader: Reader, rev: Rev): Promise<Map<string, number>> {
  const snapshot = new Snapshot(reader, rev);
  await snapshot.readStatuses();
  const counts = new Map<string, number>();
  for (const kind of kinds) {
    for (const found of await reader.all(kind, rev)) {
      const resource = viewInto(found.value, await snapshot.stored(found), View.FULL);
      for (const condition of statusOf(kind)) {
        const status = resource.status?.conditions.find((c) => c.type === condition)?.status ?? "Unknown";
        const key = `${kind}/${condition}/${status}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
    }
  }
  return counts;
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
