import type { Clock } from "@moorage/shared/clock";
import { limits } from "@moorage/shared/limits";
import type { Logger } from "@moorage/shared/log";
import type { Service } from "@moorage/shared/service";
import { createChore } from "./chore.ts";

/** How often the size is looked at, and said again while it is too near its limit. */
const LOOK_MS = 600_000;

/** Warns in the log while a store holds more than `storeWarnPercent` of its largest size: beyond that writes are refused. */
export function createSizeWatch(o: {
  stats: () => Promise<{ usedBytes: number }>;
  maxBytes: number;
  clock: Clock;
  log: Logger;
}): Service {
  const { maxBytes, log } = o;
  const once = async (): Promise<void> => {
    const { usedBytes } = await o.stats();
    if (usedBytes * 100 < maxBytes * limits.storeWarnPercent) return;
    const percent = Math.floor((usedBytes * 100) / maxBytes);
    log.warn("the store nears its largest size, at which it refuses writes: raise --store-max-bytes", {
      usedBytes,
      maxBytes,
      percent,
    });
  };
  const missed = "the size of the store could not be read";
  return createChore({ name: "store size", intervalMs: LOOK_MS, atStart: true, missed, once }, o);
}
