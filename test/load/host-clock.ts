import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";

const NANOS_PER_MS = 1e6;

/**
 * A clock whose monotonic time counts from the boot of the machine, so that stamps of the driver's
 * processes, of the hub's and of this one can be subtracted from each other.
 */
export const hostClock: Clock = {
  ...systemClock,
  monotonicMs: () => Number(process.hrtime.bigint()) / NANOS_PER_MS,
};
