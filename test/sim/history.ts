/** What happened in a simulated world: a hash over all events, and what the hub ever ordered. */
import { createHash } from "node:crypto";
import type { RowOp, Store, TxnRequest } from "@moorage/hub/store/store";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";

/** All that the hub wrote, and the events in order. */
export class History {
  readonly #hash = createHash("sha256");
  readonly #clock: Clock;
  readonly #trace: ((line: string) => void) | undefined;
  events = 0;
  /** uids with a tombstone that the hub wrote. */
  readonly tombstones = new Set<string>();
  /** Resource name by uid, from the hub's rows. */
  readonly names = new Map<string, string>();
  /** Every transaction that wrote, for a restore from an older copy. */
  readonly txns: TxnRequest[] = [];

  constructor(deps: { clock: Clock; trace: ((line: string) => void) | undefined }) {
    this.#clock = deps.clock;
    this.#trace = deps.trace;
  }

  /** One event; goes with its virtual time into the hash. */
  event(line: string): void {
    const text = `${this.#clock.monotonicMs()} ${line}`;
    this.#hash.update(`${text}\n`);
    this.events++;
    this.#trace?.(text);
  }

  /** Hash of all events so far. */
  digest(): string {
    return this.#hash.copy().digest("hex");
  }

  /** Rows that a transaction committed. */
  wrote(rows: readonly RowOp[]): void {
    for (const row of rows) {
      if (!("upsertRes" in row)) continue;
      const { uid, name, del } = row.upsertRes;
      this.names.set(uid, name);
      if (del) this.tombstones.add(uid);
    }
  }
}

/** A store that tells the history of each commit. */
export function recorded(store: Store, history: History): Store {
  return {
    ...store,
    async txn(t) {
      const { rev: before } = await store.status();
      const result = await store.txn(t);
      if (result.rev === before) return result;
      history.txns.push(t);
      if (result.ok) history.wrote(t.rows ?? []);
      history.event(`commit ${result.rev}`);
      return result;
    },
  };
}

/** A process's view of a store: answers take time, and after its end there are none. */
export function ofProcess(store: Store, on: { clock: Clock; rng: Rng; ended: AbortSignal }): Store {
  const undo: (() => void)[] = [];
  on.ended.addEventListener("abort", () => undo.forEach((fn) => fn()), { once: true });
  const dead = () => new MoorageError(Code.UNAVAILABLE, "The process ended", { reason: "UNCERTAIN" });
  const live = async <T>(fn: () => Promise<T>): Promise<T> => {
    if (on.ended.aborted) throw dead();
    const answer = await fn();
    if (on.ended.aborted) throw dead();
    return answer;
  };
  return {
    ...store,
    status: () => live(() => store.status()),
    range: (q) => live(() => store.range(q)),
    changes: (q) => live(() => store.changes(q)),
    resByUid: (dp, uid) => live(() => store.resByUid(dp, uid)),
    resAll: (dp, q) => live(() => store.resAll(dp, q)),
    floor: (dp) => live(() => store.floor(dp)),
    txn: (t) =>
      live(async () => {
        const result = await store.txn(t);
        // Between the commit and the answer the process may end: the write is there, unacknowledged.
        await sleep(on.clock, Math.floor(on.rng.float() * 4));
        return result;
      }),
    onCommit(fn) {
      const off = store.onCommit(fn);
      undo.push(off);
      return off;
    },
    close: () => Promise.resolve(),
  };
}
