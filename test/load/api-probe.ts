/** Calls of the API at a steady pace, timed: what others feel meanwhile. */
import { sleep } from "@moorage/shared/clock";
import type { ApiClients } from "../world/world.ts";
import { hostClock } from "./host-clock.ts";

/** Times of the calls in milliseconds, and how many failed. */
export interface ProbeResult {
  tookMs: number[];
  failed: number;
}

/**
 * Reads and writes data planes, one after the other and in turn, a call each `everyMs` whether or not the
 * last one has answered, until the function is called, which answers what was measured. With many names
 * no write waits for another of its own resource.
 */
export function startApiProbe(
  api: ApiClients,
  on: { names: readonly string[]; everyMs: number },
): () => Promise<ProbeResult> {
  const result: ProbeResult = { tookMs: [], failed: 0 };
  const under = new Set<Promise<void>>();
  let stopped = false;
  const call = async (n: number): Promise<void> => {
    const name = on.names[(n >> 1) % on.names.length] as string;
    const start = hostClock.monotonicMs();
    try {
      if (n % 2 === 0) await api.dataPlanes.getDataPlane({ name });
      else
        await api.dataPlanes.updateDataPlane({
          dataPlane: { name, labels: { probe: `${n}` } },
          updateMask: { paths: ["labels"] },
        });
      result.tookMs.push(hostClock.monotonicMs() - start);
    } catch {
      result.failed++;
    }
  };
  const run = async (): Promise<void> => {
    for (let n = 0; !stopped; n++) {
      const one = call(n).finally(() => under.delete(one));
      under.add(one);
      await sleep(hostClock, on.everyMs);
    }
  };
  const running = run();
  return async () => {
    stopped = true;
    await running;
    await Promise.all(under);
    return result;
  };
}

/** `count` pieces of work, `perSecond`, each started at its time whether or not earlier ones have answered. */
export async function paced(
  work: { count: number; perSecond: number; mostUnderWay: number },
  call: (i: number) => Promise<unknown>,
): Promise<{ tookMs: number; failed: number }> {
  const start = hostClock.monotonicMs();
  const under = new Set<Promise<unknown>>();
  let failed = 0;
  for (let i = 0; i < work.count; i++) {
    const dueMs = start + (i / work.perSecond) * 1_000;
    const waitMs = dueMs - hostClock.monotonicMs();
    if (waitMs > 1) await sleep(hostClock, waitMs);
    while (under.size >= work.mostUnderWay) await Promise.race(under);
    const one: Promise<unknown> = call(i)
      .catch(() => failed++)
      .finally(() => under.delete(one));
    under.add(one);
  }
  await Promise.all(under);
  return { tookMs: hostClock.monotonicMs() - start, failed };
}
