/**
 * R4: flipped bits and truncations in database and write-ahead log of a store that does not run. The rule:
 * an error that names the file, or right data; never wrong data. A damaged log looks like an older
 * database: then the head is lower and the start unclean, which is what makes the hub begin a new epoch.
 */
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { key, prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Store } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { rounds, seed } from "./scale.ts";
import { copyStore } from "./ledger.ts";

const DB = "moorage.db";
const WAL = "moorage.db-wal";
const damages = rounds(40, 1_000);

/** Everything that a store says: keys, history, rows. */
interface Content {
  head: number;
  now: Map<string, string>;
  history: Map<number, string>;
  rows: Map<string, string>;
}

const show = (b: Uint8Array): string => Buffer.from(b).toString("latin1");

async function contentOf(store: Store): Promise<Content> {
  const { rev: head } = await store.status();
  const now = new Map(
    (await store.range(prefix(""))).kvs.map((kv) => [show(kv.key), `${kv.modRev} ${show(kv.value)}`]),
  );
  const history = new Map<number, string>();
  for await (const batch of store.watch({ ...prefix(""), from: 1, progress: true })) {
    if (batch.kind !== "events") break;
    history.set(
      batch.rev,
      batch.events.map((e) => `${e.type} ${show(e.kv.key)} ${show(e.kv.value)}`).join("\n"),
    );
  }
  const rows = new Map(
    (await store.resAll("dp", { limit: 1_000 })).map((r) => [
      r.uid,
      `${r.rev} ${r.name} ${r.del} ${show(r.update)}`,
    ]),
  );
  return { head, now, history, rows };
}

async function write(store: Store, from: number, to: number): Promise<void> {
  for (let i = from; i < to; i++)
    await store.txn({
      then: [
        { put: { key: key(`k${i % 97}`), value: key(`${i}:${"v".repeat((i * 31) % 600)}`) } },
        { put: { key: key(`once/${i}`), value: key(`${i}`) } },
      ],
      rows: [
        {
          upsertRes: {
            dp: "dp",
            uid: `u${i % 50}`,
            name: `n${i % 50}`,
            del: false,
            update: key(`update ${i}`),
          },
        },
      ],
    });
}

/** A folder with a database of half of the history and a log of the other half, as a kill leaves them. */
async function makeStore(): Promise<{ dir: string; truth: Content }> {
  const dir = mkdtempSync(join(tmpdir(), "moorage-rot-"));
  const first = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
  await first.txn({ then: [], rows: [{ putDp: { uid: "dp" } }] });
  await write(first, 0, 300);
  await first.close();
  const second = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
  await write(second, 300, 600);
  const truth = await contentOf(second);
  const killed = copyStore(dir);
  await second.close();
  rmSync(dir, { recursive: true });
  return { dir: killed, truth };
}

/** Opens a damaged store and reads all of it. Its offences, and how it took the damage. */
async function judge(dir: string, truth: Content): Promise<{ offences: string[]; outcome: string }> {
  const offences: string[] = [];
  let found: Content;
  let unclean: boolean;
  try {
    const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
    try {
      unclean = (await store.status()).uncleanStart;
      found = await contentOf(store);
    } finally {
      await store.close();
    }
  } catch (thrown) {
    const error = MoorageError.from(thrown);
    if (!error.message.includes(dir)) offences.push(`an error that does not name the file: ${error.message}`);
    return { offences, outcome: "refused" };
  }
  if (found.head > truth.head) offences.push(`the head is ${found.head}, it was ${truth.head}`);
  for (const [rev, events] of found.history)
    if (truth.history.get(rev) !== events) offences.push(`revision ${rev} reads as another write`);
  if (found.history.size < found.head - 2)
    offences.push(`the history has ${found.history.size} of ${found.head - 2} revisions`);
  // The state must be that of the head it names, older or not.
  const state = new Map<string, string>();
  for (const [rev, events] of truth.history) {
    if (rev > found.head) break;
    for (const event of events.split("\n")) {
      const [, k = "", value = ""] = event.split(" ");
      state.set(k, `${rev} ${value}`);
    }
  }
  for (const [k, v] of state)
    if (found.now.get(k) !== v) offences.push(`key ${k} reads as ${found.now.get(k)?.slice(0, 40)}`);
  for (const k of found.now.keys()) if (!state.has(k)) offences.push(`key ${k} was never written`);
  if (found.head === truth.head)
    for (const [uid, row] of truth.rows)
      if (found.rows.get(uid) !== row) offences.push(`row ${uid} is another`);
  if (found.head < truth.head && !unclean)
    offences.push(`the head fell to ${found.head} and the start passes as clean`);
  return { offences: offences.slice(0, 3), outcome: found.head < truth.head ? "older" : "right" };
}

describe("R4: a store whose files rot", () => {
  let made: { dir: string; truth: Content };
  beforeAll(async () => {
    made = await makeStore();
    expect(statSync(join(made.dir, WAL)).size).toBeGreaterThan(100_000);
  }, 120_000);
  afterAll(() => rmSync(made.dir, { recursive: true, force: true }));

  /** Damages a copy and judges it. */
  async function damaged(
    file: string,
    damage: (path: string) => void,
  ): Promise<{ offences: string[]; outcome: string }> {
    const dir = mkdtempSync(join(tmpdir(), "moorage-rot-"));
    try {
      for (const name of [DB, WAL]) copyFileSync(join(made.dir, name), join(dir, name));
      damage(join(dir, file));
      return await judge(dir, made.truth);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }

  const flip = (at: number, bit: number) => (path: string) => {
    const bytes = readFileSync(path);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
    writeFileSync(path, bytes);
  };

  it("is right without damage", async () => {
    expect(await damaged(DB, () => undefined)).toEqual({ offences: [], outcome: "right" });
  });

  it.each([DB, WAL])("never serves wrong data after one flipped bit in %s", async (file) => {
    const rng = seededRng(seed);
    const { size } = statSync(join(made.dir, file));
    const outcomes = new Map<string, number>();
    for (let i = 0; i < damages; i++) {
      const at = Math.floor(rng.float() * size);
      const bit = Math.floor(rng.float() * 8);
      const { offences, outcome } = await damaged(file, flip(at, bit));
      expect(offences, `bit ${bit} of byte ${at} of ${size}, seed ${seed}`).toEqual([]);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    console.log(`${file}: ${damages} flipped bits: ${[...outcomes].map(([o, n]) => `${n} ${o}`).join(", ")}`);
    expect([...outcomes.values()].reduce((a, b) => a + b, 0)).toBe(damages);
  });

  it.each([DB, WAL])("never serves wrong data after %s was cut short", async (file) => {
    const rng = seededRng(seed + 1);
    const { size } = statSync(join(made.dir, file));
    const outcomes = new Map<string, number>();
    for (let i = 0; i < damages / 4; i++) {
      const length = Math.floor(rng.float() * size);
      const { offences, outcome } = await damaged(file, (path) => truncateSync(path, length));
      expect(offences, `${file} of ${size} cut to ${length}, seed ${seed}`).toEqual([]);
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    console.log(`${file}: cut short: ${[...outcomes].map(([o, n]) => `${n} ${o}`).join(", ")}`);
  });

  it("looks like an older database after a damaged log, and says that its start was unclean", async () => {
    const { size } = statSync(join(made.dir, WAL));
    const found = await damaged(WAL, flip(Math.floor(size / 2), 3));
    expect(found).toEqual({ offences: [], outcome: "older" });
  });
});
