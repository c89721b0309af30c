import type { Service } from "@moorage/shared/service";
import type { Outcome } from "./outcome.ts";
import { Priority, type QueueItem, type WorkQueue } from "./queue.ts";

/** What the loop reports; every method must be cheap and must not throw. */
export interface LoopMetrics {
  /** One reconcile ended. Times in milliseconds. */
  reconciled(outcome: Outcome["kind"] | "error", tookMs: number, waitedMs: number): void;
  /** Keys under way, after a change. */
  active(count: number): void;
}

/** What the loop runs on. */
export interface LoopOptions {
  name: string;
  queue: WorkQueue;
  /**
   * Reads all it needs by `key` and makes it so. It throws only on what it did not expect: that is
   * retried with back-off. The signal aborts when the process ends.
   */
  reconcile(key: string, turn: { item: QueueItem; signal: AbortSignal }): Promise<Outcome>;
  /** Reconciles under way at a time; default 8. */
  workers?: number;
  /** Monotonic milliseconds. */
  monotonicMs(): number;
  /** Told of every thrown value, once. */
  onError(key: string, thrown: unknown): void;
  /** Fairness group of a key that comes back. */
  tenantOf?(key: string): string;
  metrics?: LoopMetrics;
}

/**
 * The worker pool over one queue, as a Service. `drain` stops taking keys and waits for those under
 * way. After the abort, `run` resolves when the last worker has ended.
 */
export function createLoop(options: LoopOptions): Service {
  let active = 0;
  let idle: (() => void)[] = [];
  const settle = () => {
    if (active === 0) for (const wake of idle.splice(0)) wake();
  };

  const turn = async (item: QueueItem, signal: AbortSignal): Promise<void> => {
    const started = options.monotonicMs();
    options.metrics?.active(++active);
    let kind: Outcome["kind"] | "error";
    try {
      const outcome = await options.reconcile(item.key, { item, signal });
      kind = outcome.kind;
      act(options, item, outcome);
    } catch (thrown) {
      kind = "error";
      if (!signal.aborted) {
        options.onError(item.key, thrown);
        options.queue.addAfterFailure(item.key, { priority: item.priority, ...tenant(options, item.key) });
      }
    } finally {
      options.queue.done(item.key);
      options.metrics?.active(--active);
      settle();
    }
    options.metrics?.reconciled(kind, options.monotonicMs() - started, item.waitedMs);
  };

  const worker = async (signal: AbortSignal): Promise<void> => {
    for (;;) {
      const item = await options.queue.next();
      if (item === undefined) return;
      await turn(item, signal);
    }
  };

  return {
    name: options.name,
    async run(signal) {
      const close = () => options.queue.close();
      if (signal.aborted) close();
      signal.addEventListener("abort", close, { once: true });
      try {
        await Promise.all(Array.from({ length: options.workers ?? 8 }, () => worker(signal)));
      } finally {
        signal.removeEventListener("abort", close);
      }
    },
    async drain() {
      options.queue.close();
      if (active > 0) await new Promise<void>((resolve) => idle.push(resolve));
    },
  };
}

/** The one place where an outcome turns into what happens next. */
function act(options: LoopOptions, item: QueueItem, outcome: Outcome): void {
  const { queue } = options;
  const group = tenant(options, item.key);
  switch (outcome.kind) {
    case "done":
      queue.forget(item.key);
      if (outcome.recheckAfterMs !== undefined) {
        queue.add(item.key, { priority: Priority.resync, delayMs: outcome.recheckAfterMs, ...group });
      }
      return;
    case "again":
      queue.forget(item.key);
      queue.add(item.key, { priority: Priority.health, delayMs: outcome.afterMs, ...group });
      return;
    case "retry":
      queue.addAfterFailure(item.key, {
        priority: item.priority,
        ...(outcome.minDelayMs === undefined ? {} : { minDelayMs: outcome.minDelayMs }),
        ...group,
      });
      return;
    case "terminal":
      // Not re-queued: only a new generation or the curing event makes a difference.
      queue.forget(item.key);
      return;
  }
}

function tenant(options: LoopOptions, key: string): { tenant?: string } {
  return options.tenantOf === undefined ? {} : { tenant: options.tenantOf(key) };
}
