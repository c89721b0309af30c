import { key } from "@moorage/hub/store/bytes";
import type { Store } from "@moorage/hub/store/store";
import type { Clock } from "@moorage/shared/clock";

/** What a run of {@link benchStore} measured. */
export interface StoreBench {
  clients: number;
  valueBytes: number;
  /** Durable one-put transactions a second, all clients together. */
  writesPerSecond: number;
  /** Latency of one write in milliseconds. */
  p50Ms: number;
  p99Ms: number;
}

/**
 * Writes from `clients` at a time, each waiting for its answer before the next, for `durationMs`.
 * The store is the caller's and keeps what was written.
 */
export async function benchStore(
  store: Store,
  options: { clock: Clock; clients?: number; valueBytes?: number; durationMs?: number },
): Promise<StoreBench> {
  const { clock, clients = 64, valueBytes = 1024, durationMs = 3_000 } = options;
  const value = new Uint8Array(valueBytes).fill(0x61);
  const took: number[] = [];
  const start = clock.monotonicMs();
  const client = async (c: number): Promise<void> => {
    for (let i = 0; clock.monotonicMs() - start < durationMs; i++) {
      const before = clock.monotonicMs();
      await store.txn({ then: [{ put: { key: key(`bench/${c}/${i % 1_000}`), value } }] });
      took.push(clock.monotonicMs() - before);
    }
  };
  await Promise.all(Array.from({ length: clients }, (_, c) => client(c)));
  const seconds = (clock.monotonicMs() - start) / 1_000;
  took.sort((a, b) => a - b);
  const at = (q: number): number => took[Math.min(took.length - 1, Math.floor(took.length * q))] ?? 0;
  return { clients, valueBytes, writesPerSecond: took.length / seconds, p50Ms: at(0.5), p99Ms: at(0.99) };
}
