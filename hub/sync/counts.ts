import type { SyncRequest } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Metrics } from "@moorage/shared/metrics";

/** How an attempt to open a stream came out. */
export type ConnectionResult = "accepted" | "unauthenticated" | "refused" | "replaced" | "throttled";
/** Why a stream ended. */
export type DisconnectReason =
  | "closed"
  | "goodbye"
  | "replaced"
  | "revoked"
  | "silent"
  | "stuck"
  | "stopping"
  | "epoch"
  | "protocol"
  | "internal";

/** What the streams count; each method is called on its event. */
export interface SyncCounts {
  connection(result: ConnectionResult): void;
  opened(): void;
  closed(reason: DisconnectReason): void;
  resumed(mode: string): void;
  messageSent(type: string): void;
  messageReceived(type: SyncRequest["message"]["case"]): void;
  sent(frame: { items: number; bytes: number }): void;
  statusWritten(resources: number): void;
  /** A new epoch began because an agent proved that history was lost. */
  epochChanged(): void;
  /** Resources of a data plane held back, or unknown to the hub. */
  withheld(resources: number): void;
}

const results: readonly ConnectionResult[] = [
  "accepted",
  "unauthenticated",
  "refused",
  "replaced",
  "throttled",
];
const reasons: readonly DisconnectReason[] = [
  "closed",
  "goodbye",
  "replaced",
  "revoked",
  "silent",
  "stuck",
  "stopping",
  "epoch",
  "protocol",
  "internal",
];
const sentTypes = [
  "hello",
  "changes",
  "bookmark",
  "statusAck",
  "reportRequest",
  "policy",
  "goodbye",
] as const;
const receivedTypes = [
  "hello",
  "ack",
  "status",
  "heartbeat",
  "inventory",
  "usageHello",
  "usageSegment",
  "records",
  "other",
] as const;

const nothing = () => undefined;
const silent: SyncCounts = {
  connection: nothing,
  opened: nothing,
  closed: nothing,
  resumed: nothing,
  messageSent: nothing,
  messageReceived: nothing,
  sent: nothing,
  statusWritten: nothing,
  epochChanged: nothing,
  withheld: nothing,
};

/** Counts into `metrics`, or nowhere. */
export function syncCounts(metrics: Metrics | undefined): SyncCounts {
  if (metrics === undefined) return silent;
  let open = 0;
  const counter = (name: string, help: string, labels: Record<string, readonly string[]> = {}) =>
    metrics.counter({ name: `moorage_hub_${name}`, help, labels });
  const streams = metrics.gauge({ name: "moorage_hub_streams_connected", help: "Agent streams that are up" });
  const connections = counter("stream_connections_total", "Attempts to open an agent stream, by outcome", {
    result: results,
  });
  const disconnects = counter("stream_disconnects_total", "Agent streams that ended, by reason", {
    reason: reasons,
  });
  const received = counter("stream_messages_received_total", "Messages of agents, by type", {
    type: receivedTypes,
  });
  const messages = counter("stream_messages_sent_total", "Messages to agents, by type", { type: sentTypes });
  const resumes = counter("sync_resumes_total", "Agent streams opened, by the mode of their first part", {
    mode: ["DELTA", "COMPARE", "SNAPSHOT"],
  });
  const items = counter("sync_updates_sent_total", "Updates sent to agents");
  const bytes = counter("sync_sent_bytes_total", "Bytes of changes sent to agents");
  const status = counter("status_writes_total", "Statuses of resources stored");
  const epochs = counter("epoch_changes_total", "New epochs begun because history was lost while running");
  const withheld = counter("sync_withheld_total", "Rows held back until an operator accepts the epoch");
  streams.set(0);
  return {
    connection: (result) => connections.inc({ result }),
    opened: () => streams.set(++open),
    closed(reason) {
      streams.set(--open);
      disconnects.inc({ reason });
    },
    resumed: (mode) => resumes.inc({ mode }),
    messageSent: (type) => messages.inc({ type }),
    messageReceived: (type) => received.inc({ type: type ?? "other" }),
    sent(frame) {
      items.inc({}, frame.items);
      bytes.inc({}, frame.bytes);
    },
    statusWritten: (n) => status.inc({}, n),
    epochChanged: () => epochs.inc(),
    withheld: (n) => withheld.inc({}, n),
  };
}
