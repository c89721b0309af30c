import type { Clock } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Service } from "@moorage/shared/service";
import { createChore } from "./chore.ts";
import type { Rev, Store } from "./store.ts";

/**
 * Gives up old history by time: whoever pages or watches has the retention to come back, then lists
 * anew. The store knows revisions alone, so the heads of now and then are remembered; a restart begins
 * to count again, and history stays a little longer.
 */

/** The head at a moment of the monotonic clock. */
export interface Mark {
  rev: Rev;
  atMs: number;
}

/**
 * What to compact to, and the marks that are still of use. Undefined while nothing is old enough. Pure.
 */
export function compactTo(
  marks: readonly Mark[],
  on: { nowMs: number; retentionMs: number },
): { rev: Rev | undefined; marks: readonly Mark[] } {
  const old = marks.findLastIndex((m) => on.nowMs - m.atMs >= on.retentionMs);
  return { rev: marks[old]?.rev, marks: marks.slice(old + 1) };
}

/** What a compactor needs; milliseconds. */
export interface CompactorOptions {
  store: Pick<Store, "status" | "compact">;
  clock: Clock;
  log: Logger;
  intervalMs: number;
  /** How long history stays readable, at least. */
  retentionMs: number;
}

/** Compacts while it runs. */
export function createCompactor(options: CompactorOptions): Service {
  const { store, clock, log, intervalMs, retentionMs } = options;
  let marks: readonly Mark[] = [];
  const once = async (): Promise<void> => {
    const { rev } = await store.status();
    const nowMs = clock.monotonicMs();
    const next = compactTo([...marks, { rev, atMs: nowMs }], { nowMs, retentionMs });
    ({ marks } = next);
    if (next.rev === undefined) return;
    await store.compact(next.rev);
    log.debug("history was compacted", { revision: next.rev });
  };
  const missed = "history could not be compacted";
  return createChore({ name: "compactor", intervalMs, atStart: true, missed, once }, { clock, log });
}
