import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { key, prefix } from "@moorage/hub/store/bytes";
import { openMemoryStore } from "@moorage/hub/store/memory/memory";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Batch, KeyRange, Op, Rev, Store, TxnResult } from "@moorage/hub/store/store";
import type { Clock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";

/** What the engines under test have in common to be opened with. */
export interface OpenOptions {
  clock: Clock;
  recentRevisions?: number;
}

/** An engine under test. `open` makes a fresh store; `dispose` closes it and removes its files. */
export interface Engine {
  name: string;
  open(options: OpenOptions): Promise<{ store: Store; dispose: () => Promise<void> }>;
}

export const memoryEngine: Engine = {
  name: "memory",
  open(options) {
    const store = openMemoryStore({ rng: seededRng(1), ...options });
    return Promise.resolve({ store, dispose: () => store.close() });
  },
};

export const sqliteEngine: Engine = {
  name: "SQLite",
  async open(options) {
    const dir = tempDir();
    const store = await openSqliteStore({ dir, rng: seededRng(1), ...options });
    const dispose = async (): Promise<void> => {
      await store.close();
      rmSync(dir, { recursive: true, force: true });
    };
    return { store, dispose };
  },
};

/** Every engine that the suite holds to the rules. */
export const engines: readonly Engine[] = [memoryEngine, sqliteEngine];

/** An empty directory of its own. */
export function tempDir(): string {
  return mkdtempSync(join(tmpdir(), "moorage-store-"));
}

/** A clock that moves only when told. */
export interface ManualClock extends Clock {
  /** Moves time on, firing what falls due in order of its deadline. */
  advance(ms: number): void;
}

export function manualClock(): ManualClock {
  let at = 0;
  let timers: { due: number; fn: () => void }[] = [];
  return {
    now: () => 1_700_000_000_000 + at,
    monotonicMs: () => at,
    setTimer(delayMs, fn) {
      const timer = { due: at + Math.max(0, delayMs), fn };
      timers.push(timer);
      return { cancel: () => void (timers = timers.filter((t) => t !== timer)) };
    },
    advance(ms) {
      const end = at + ms;
      for (;;) {
        const next = timers.filter((t) => t.due <= end).sort((a, b) => a.due - b.due)[0];
        if (next === undefined) break;
        timers = timers.filter((t) => t !== next);
        at = next.due;
        next.fn();
      }
      at = end;
    },
  };
}

/** The range of every key. */
export const everything = prefix("");

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
export const text = (b: Uint8Array): string => new TextDecoder().decode(b);
export const putOp = (k: string, value = k, lease?: number): Op => ({
  put: { key: key(k), value: bytes(value), ...(lease === undefined ? {} : { lease }) },
});
export const delOp = (k: string): Op => ({ delete: { key: key(k) } });
export const getOp = (k: string): Op => ({ get: { key: key(k) } });

/** One unconditional txn. */
export const run = (store: Pick<Store, "txn">, ...then: Op[]): Promise<TxnResult> => store.txn({ then });

/** Keys and values of a range as text, at a revision. */
export async function list(
  store: Pick<Store, "range">,
  range: KeyRange = everything,
  rev?: Rev,
): Promise<string[]> {
  const { kvs } = await store.range({ ...range, ...(rev === undefined ? {} : { rev }) });
  return kvs.map((kv) => `${text(kv.key)}=${text(kv.value)}`);
}

/** A batch in one line: `5 put a=1, delete b`, `progress 7`, `compacted 3`. */
export function show(b: Batch): string {
  if (b.kind === "compacted") return `compacted ${b.compactRev}`;
  if (b.kind === "progress") return `progress ${b.rev}`;
  const events = b.events.map(({ type, kv }) =>
    type === "put" ? `put ${text(kv.key)}=${text(kv.value)}` : `delete ${text(kv.key)}`,
  );
  return `${b.rev} ${events.join(", ")}`;
}

/** Reads a watch from `from` until it has caught up, or was told that it is compacted. */
export async function history(
  store: Pick<Store, "watch" | "status">,
  from: Rev,
  range: KeyRange = everything,
): Promise<Batch[]> {
  const batches: Batch[] = [];
  for await (const batch of store.watch({ ...range, from, progress: true })) {
    batches.push(batch);
    if (batch.kind !== "events") break;
  }
  return batches;
}

/** The next `n` items of a watch that stays open. */
export async function take(iterator: AsyncIterator<Batch>, n: number): Promise<Batch[]> {
  const batches: Batch[] = [];
  while (batches.length < n) {
    const { value, done } = await iterator.next();
    if (done === true) break;
    batches.push(value);
  }
  return batches;
}
