import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { hostClock } from "./host-clock.ts";

const PATIENCE_MS = 120_000;
const PAUSE_MS = 1_000;

/**
 * A call that prepares a run, made again while a hub that is busy refuses it with UNAVAILABLE. Never for
 * a call whose time or outcome is a figure.
 */
export async function patiently<T>(call: () => Promise<T>): Promise<T> {
  const start = hostClock.monotonicMs();
  for (;;) {
    try {
      return await call();
    } catch (thrown) {
      const error = MoorageError.from(thrown);
      if (error.code !== Code.UNAVAILABLE || hostClock.monotonicMs() - start > PATIENCE_MS) throw thrown;
      await sleep(hostClock, error.retryAfterMs ?? PAUSE_MS);
    }
  }
}
