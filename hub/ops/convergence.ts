/**
 * How long resources take from a generation's commit to Ready for it, as this hub saw both: kept in
 * memory, so that what converges over a restart of the hub is not counted.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import type { Metrics } from "@moorage/shared/metrics";
import type { Service } from "@moorage/shared/service";
import type { Kind } from "../core/keys.ts";
import { prefixes } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import { kindOf } from "../core/resources.ts";
import { keyText, prefix } from "../store/bytes.ts";
import type { Store, StoreEvent } from "../store/store.ts";

/** Resources that are waited for; beyond, the oldest is no longer. */
const MOST_WAITED = 20_000;

/** Observes; `written` is told of each generation, the service follows the statuses. */
export interface Convergence extends Service {
  written(record: Resource): void;
}

/** Over the store and the metrics of a hub. */
export function createConvergence(deps: { store: Store; clock: Clock; metrics: Metrics }): Convergence {
  const { store, clock } = deps;
  const seconds = deps.metrics.histogram({
    name: "moorage_hub_convergence_seconds",
    help: "Time from the commit of a generation until it is Ready",
    labels: { kind: ["DataPlane", "Tenant", "Application"] satisfies Kind[] },
    buckets: "convergenceSeconds",
  });
  const waited = new Map<string, { kind: Kind; generation: bigint; sinceMs: number }>();

  const look = (event: StoreEvent): void => {
    const uid = keyText(event.kv.key).slice(prefixes.status.length);
    const of = waited.get(uid);
    if (of === undefined) return;
    if (event.type === "delete") return void waited.delete(uid);
    const conditions = fromBinary(StoredStatusSchema, event.kv.value).status?.conditions ?? [];
    const ready = conditions.find((c) => c.type === "Ready");
    if (ready?.status !== "True" || ready.observedGeneration < of.generation) return;
    waited.delete(uid);
    seconds.observe((clock.monotonicMs() - of.sinceMs) / 1_000, { kind: of.kind });
  };

  return {
    name: "convergence",
    written(record) {
      waited.delete(record.uid);
      waited.set(record.uid, {
        kind: kindOf(record),
        generation: record.generation,
        sinceMs: clock.monotonicMs(),
      });
      const [oldest] = waited.keys();
      if (waited.size > MOST_WAITED && oldest !== undefined) waited.delete(oldest);
    },
    async run(signal) {
      while (!signal.aborted) {
        const { rev } = await store.status();
        const watching = store.watch({ ...prefix(prefixes.status), from: rev + 1, signal });
        // Ends when it lies behind what is compacted: then on from the head.
        for await (const batch of watching) if (batch.kind === "events") batch.events.forEach(look);
      }
    },
  };
}
