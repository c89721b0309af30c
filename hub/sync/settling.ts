import type { Clock, Timer } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Backoff } from "@moorage/shared/service";
import { backoffMs } from "@moorage/shared/service";
import type { Store } from "../store/store.ts";
import { readRestored, settleDivergences } from "./epoch.ts";

/** Between runs that left something behind, as on a full disk. */
const BACKOFF: Backoff = { baseMs: 5_000, capMs: 5 * 60_000 };

/** What {@link Settling} needs. */
export interface SettlingOptions {
  store: Store;
  clock: Clock;
  rng: Rng;
  log: Logger;
}

/** Sends out what was held back once the epoch is accepted, until nothing is left of it. */
export class Settling {
  readonly #o: SettlingOptions;
  readonly #end = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #failures = 0;
  #again: Timer | undefined;

  constructor(options: SettlingOptions) {
    this.#o = options;
  }

  /** One run at a time, and one more when it was asked for meanwhile. */
  ask(): void {
    this.#running = this.#running.then(() => this.#run());
  }

  /** Asks for no run any more; settles once none is under way. */
  stop(): Promise<void> {
    this.#end.abort();
    this.#again?.cancel();
    return this.#running;
  }

  async #run(): Promise<void> {
    const { store, log, clock, rng } = this.#o;
    if (this.#end.signal.aborted) return;
    this.#again?.cancel();
    try {
      // Another epoch may have begun since, which waits for an acceptance of its own.
      if ((await readRestored(store)) !== undefined) return;
      const { settled, failed, error } = await settleDivergences(store, this.#end.signal);
      if (settled > 0) log.info("The epoch is accepted: what was held back goes out", { rows: settled });
      if (failed > 0) throw error;
      this.#failures = 0;
    } catch (error) {
      if (this.#end.signal.aborted) return;
      log.error("Cannot send all that was held back, it is tried again", { error });
      this.#again = clock.setTimer(backoffMs(BACKOFF, this.#failures++, rng), () => this.ask());
    }
  }
}
