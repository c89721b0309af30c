import { fromBinary } from "@bufbuild/protobuf";
import { StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock, Timer } from "@moorage/shared/clock";
import type { MoorageError } from "@moorage/shared/errors";
import type { Logger } from "@moorage/shared/log";
import { prefixes } from "../core/keys.ts";
import { keyText, prefix } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import type { Conflict } from "./links.ts";
import { storeConflict } from "./links.ts";

/**
 * Conflicts over an identity as stored facts: shown from the first refused attempt until none came for
 * {@link QUIET_MS}. Two transitions in the store, however often the other agent knocks.
 */

/** Without a refused attempt for this long the conflict counts as over. */
const QUIET_MS = 10 * 60_000;

/** The refusals that point to another agent with the same identity. */
const conflictOf: Readonly<Record<string, Conflict>> = {
  TWIN_AGENTS: "TwinAgents",
  CLUSTER_CHANGED: "ClusterChanged",
};

/** Keeps the stored conflicts of all data planes. */
export class Conflicts {
  readonly #o: { store: Store; clock: Clock; log: Logger };
  readonly #timers = new Map<string, Timer>();
  #stopped = false;

  constructor(options: { store: Store; clock: Clock; log: Logger }) {
    this.#o = options;
  }

  /** Takes up what is stored: it ends unless it goes on. */
  async start(): Promise<void> {
    const { kvs } = await this.#o.store.range(prefix(prefixes.links));
    for (const kv of kvs) {
      const uid = keyText(kv.key).slice(prefixes.links.length);
      if (fromBinary(StoredLinkSchema, kv.value).conflict !== "" && !this.#timers.has(uid)) this.#arm(uid);
    }
  }

  /** A stream was refused; stores the conflict when the refusal shows one. */
  async refused(dataPlaneUid: string, error: MoorageError): Promise<void> {
    const conflict = conflictOf[error.reason];
    if (conflict === undefined) return;
    const { store, clock, log } = this.#o;
    if (!this.#timers.has(dataPlaneUid)) log.warn("Two agents use one identity", { dataPlaneUid, error });
    this.#arm(dataPlaneUid);
    await storeConflict(store, dataPlaneUid, { conflict, message: error.message, nowMs: clock.now() });
  }

  /** Cancels every timer. */
  stop(): void {
    this.#stopped = true;
    for (const timer of this.#timers.values()) timer.cancel();
    this.#timers.clear();
  }

  #arm(uid: string): void {
    if (this.#stopped) return;
    this.#timers.get(uid)?.cancel();
    const over = async () => {
      this.#timers.delete(uid);
      try {
        await storeConflict(this.#o.store, uid, undefined);
      } catch (error) {
        this.#o.log.error("Cannot end the conflict of an identity", { dataPlaneUid: uid, error });
        this.#arm(uid);
      }
    };
    this.#timers.set(
      uid,
      this.#o.clock.setTimer(QUIET_MS, () => void over()),
    );
  }
}
