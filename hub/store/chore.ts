import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Service } from "@moorage/shared/service";
import { isAbort } from "@moorage/shared/service";
import { isStoreError } from "./errors.ts";

/** What is done to the store now and then, beside all calls. */
export interface Chore {
  /** Name of the service. */
  name: string;
  /** Milliseconds from the end of one round to the next. */
  intervalMs: number;
  /** Whether the first round comes at once, not after an interval. */
  atStart?: boolean;
  /** For the log: what did not happen when the store had no room, e.g. "history could not be compacted". */
  missed: string;
  once(signal: AbortSignal): Promise<unknown>;
}

/**
 * A chore as a service. A store without room refuses it as it refuses writes: that is logged, and the
 * next round tries again. Any other error ends the service.
 */
export function createChore(chore: Chore, on: { clock: Clock; log: Logger }): Service {
  const round = (signal: AbortSignal): Promise<unknown> =>
    chore.once(signal).catch((thrown: unknown) => {
      if (!isStoreError(thrown, "STORE_FULL")) throw thrown;
      on.log.warn(chore.missed, { error: thrown });
    });
  return {
    name: chore.name,
    async run(signal) {
      try {
        if (chore.atStart === true) await round(signal);
        for (;;) {
          await sleep(on.clock, chore.intervalMs, signal);
          await round(signal);
        }
      } catch (thrown) {
        if (!isAbort(thrown, signal)) throw thrown;
      }
    },
  };
}
