import type { Metrics } from "@moorage/shared/metrics";

/** What the streams count; each method is called on its event. */
export interface SyncCounts {
  opened(): void;
  closed(): void;
  resumed(mode: string): void;
  sent(frame: { items: number; bytes: number }): void;
  statusWritten(resources: number): void;
}

const nothing = () => undefined;

/** Counts into `metrics`, or nowhere. */
export function syncCounts(metrics: Metrics | undefined): SyncCounts {
  if (metrics === undefined) {
    return { opened: nothing, closed: nothing, resumed: nothing, sent: nothing, statusWritten: nothing };
  }
  let open = 0;
  const streams = metrics.gauge({ name: "moorage_hub_streams_connected", help: "Agent streams that are up" });
  const resumes = metrics.counter({
    name: "moorage_hub_sync_resumes_total",
    help: "Agent streams opened, by the mode of their first part",
    labels: { mode: ["DELTA", "COMPARE", "SNAPSHOT"] },
  });
  const items = metrics.counter({
    name: "moorage_hub_sync_updates_sent_total",
    help: "Updates sent to agents",
  });
  const bytes = metrics.counter({
    name: "moorage_hub_sync_sent_bytes_total",
    help: "Bytes of changes sent to agents",
  });
  const status = metrics.counter({
    name: "moorage_hub_status_writes_total",
    help: "Statuses of resources stored",
  });
  streams.set(0);
  return {
    opened: () => streams.set(++open),
    closed: () => streams.set(--open),
    resumed: (mode) => resumes.inc({ mode }),
    sent(frame) {
      items.inc({}, frame.items);
      bytes.inc({}, frame.bytes);
    },
    statusWritten: (n) => status.inc({}, n),
  };
}
