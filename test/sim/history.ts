/** What happened in a simulated world: a hash over all events, and what the hub ever ordered. */
import { createHash } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import type { RowOp, Store, TxnRequest } from "@moorage/hub/store/store";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import type { FaultHits, FaultKind } from "./faults.ts";

/** A row as the hub has it now. */
export interface KnownRow {
  name: string;
  rev: number;
  del: boolean;
  /** SHA-256 of the body, hexadecimal; empty for a tombstone. */
  digest: string;
  bytes: number;
}

/** All that the hub wrote, and the events in order. */
export class History {
  /** Hashed in pieces: one call a line would cost more than the line. */
  #lines: string[] = [];
  readonly #hash = createHash("sha256");
  readonly #clock: Clock;
  readonly #trace: ((line: string) => void) | undefined;
  events = 0;
  /** Faults injected. */
  readonly hits: FaultHits = {};
  /** uids with a tombstone that the hub wrote. */
  readonly tombstones = new Set<string>();
  /** Resource name by uid, from the hub's rows. */
  readonly names = new Map<string, string>();
  /** Every transaction that wrote, for a restore from an older copy. */
  readonly txns: TxnRequest[] = [];
  /** The hub's rows of now by data plane and uid. */
  readonly rows = new Map<string, Map<string, KnownRow>>();
  /** Epoch of the store that {@link rows} are of, hexadecimal. */
  epochHex = "";

  constructor(deps: { clock: Clock; trace: ((line: string) => void) | undefined }) {
    this.#clock = deps.clock;
    this.#trace = deps.trace;
  }

  /** One event; goes with its virtual time into the hash. */
  event(line: string): void {
    const text = `${this.#clock.monotonicMs()} ${line}`;
    this.#lines.push(text);
    this.events++;
    this.#trace?.(text);
  }

  /** One fault. */
  fault(kind: FaultKind, where = ""): void {
    this.hits[kind] = (this.hits[kind] ?? 0) + 1;
    this.event(`fault ${kind} ${where}`);
  }

  /** Hash of all events so far. */
  digest(): string {
    this.#hash.update(`${this.#lines.join("\n")}\n`);
    this.#lines = [];
    return this.#hash.copy().digest("hex");
  }

  /** The store under the hub is another one from here on, and empty. */
  rebase(): void {
    this.rows.clear();
    this.txns.length = 0;
  }

  /** Rows that a transaction committed as `rev`. */
  wrote(rows: readonly RowOp[], rev: number): void {
    for (const row of rows) {
      if ("upsertRes" in row) this.#upsert(row.upsertRes, rev);
      else if ("dropRes" in row) this.rows.get(row.dropRes.dp)?.delete(row.dropRes.uid);
      else if ("dropDp" in row) this.rows.delete(row.dropDp.uid);
    }
  }

  #upsert(row: Extract<RowOp, { upsertRes: object }>["upsertRes"], rev: number): void {
    const { dp, uid, name, del, update } = row;
    this.names.set(uid, name);
    if (del) this.tombstones.add(uid);
    else this.tombstones.delete(uid);
    const { change } = fromBinary(UpdateSchema, update);
    const digest = change.case === "upsert" ? Buffer.from(change.value.digest).toString("hex") : "";
    let known = this.rows.get(dp);
    if (known === undefined) this.rows.set(dp, (known = new Map()));
    known.set(uid, { name, rev, del, digest, bytes: update.length });
  }
}

/** A store that tells the history of each commit. */
export function recorded(store: Store, history: History): Store {
  return {
    ...store,
    async txn(t) {
      const { rev: before, epoch } = await store.status();
      history.epochHex = Buffer.from(epoch).toString("hex");
      const result = await store.txn(t);
      if (result.rev === before) return result;
      history.txns.push(t);
      if (result.ok) history.wrote(t.rows ?? [], result.rev);
      history.event(`commit ${result.rev}`);
      return result;
    },
  };
}

/** What a process has around its store. */
export interface StoreProcess {
  clock: Clock;
  rng: Rng;
  ended: AbortSignal;
  /** Called at each step, where the process may end. */
  step(at: "read" | "write"): void;
}

/** A process's view of a store: answers take time, and after its end there are none. */
export function ofProcess(store: Store, on: StoreProcess): Store {
  const undo: (() => void)[] = [];
  on.ended.addEventListener("abort", () => undo.forEach((fn) => fn()), { once: true });
  const dead = () => new MoorageError(Code.UNAVAILABLE, "The process ended", { reason: "UNCERTAIN" });
  const live = async <T>(at: "read" | "write", fn: () => Promise<T>): Promise<T> => {
    on.step(at);
    if (on.ended.aborted) throw dead();
    const answer = await fn();
    on.step(at);
    if (on.ended.aborted) throw dead();
    return answer;
  };
  return {
    ...store,
    status: () => live("read", () => store.status()),
    range: (q) => live("read", () => store.range(q)),
    changes: (q) => live("read", () => store.changes(q)),
    resByUid: (dp, uid) => live("read", () => store.resByUid(dp, uid)),
    resAll: (dp, q) => live("read", () => store.resAll(dp, q)),
    floor: (dp) => live("read", () => store.floor(dp)),
    txn: (t) =>
      live("write", async () => {
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
