/** R3: a store's writes traced, and the store opened on what a power loss at each sync boundary may leave. */
import Database from "better-sqlite3";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { key } from "@moorage/hub/store/bytes";
import type { Rev } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { Shim } from "./shim/shim.ts";
import type { Loss } from "./trace.ts";
import { Disk, records } from "./trace.ts";

/** An acknowledged write as of a moment in the trace. */
interface Told {
  rev: Rev;
  key: string;
  value: string;
}

/** What a replay came to. */
export interface Replay {
  writes: number;
  /** Sync boundaries at which the power failed. */
  boundaries: number;
  /** Stores opened on what was left. */
  images: number;
  /** Transactions in the write-ahead log, and syncs of it. */
  commits: number;
  syncs: number;
  offences: string[];
}

/** Runs `count` writes under the shim; the folder that holds the trace. `root`: another source tree. */
export async function traceWrites(count: number, root?: string): Promise<string> {
  const work = mkdtempSync(join(tmpdir(), "moorage-power-"));
  const dir = join(work, "disk");
  const shim = new Shim({ dir, work, trace: true });
  const script =
    root === undefined
      ? fileURLToPath(new URL("./power-child.ts", import.meta.url))
      : `${root}/test/faults/power-child.ts`;
  const child = spawn(process.execPath, [script, join(dir, "data"), join(dir, "acks"), String(count)], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, ...shim.env },
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
  const [, signal] = (await once(child, "close")) as [number | null, string | null];
  shim.demandLoaded();
  if (signal !== "SIGKILL") throw new Error(`The traced store ended by itself: ${errors}`);
  return work;
}

/**
 * Fails the power at every sync boundary of a trace, once with all unsynced writes dropped and once with
 * some of them reordered or torn. Every `storeEvery`-th image is opened by the whole store. Stops at
 * `stopAfter` offences.
 */
export async function replay(
  work: string,
  on: { seed: number; storeEvery: number; stopAfter?: number },
): Promise<Replay> {
  const rng = seededRng(on.seed);
  const disk = new Disk();
  const told: Told[] = [];
  let watched: Rev = 0;
  let openCommit = false;
  const result: Replay = { writes: 0, boundaries: 0, images: 0, commits: 0, syncs: 0, offences: [] };
  const image = mkdtempSync(join(work, "image-"));
  for (const r of records(readFileSync(join(work, "shim.trace")))) {
    const name = basename(disk.nameOf(r.inode) ?? "");
    if (r.op === "write" && name === "acks") {
      for (const line of r.data.toString().split("\n")) {
        const [rev = "", k = "", value = ""] = line.split(" ");
        if (rev === "watch") watched = Math.max(watched, Number(value));
        else if (rev !== "") told.push({ rev: Number(rev), key: k, value });
      }
    }
    if (r.op === "write" && name.endsWith("-wal") && isCommit(r.data)) {
      // D1: the next transaction does not begin in the log before the one before it is synced.
      if (openCommit)
        result.offences.push(`transaction ${result.commits} of the log was not synced before the next`);
      openCommit = true;
      result.commits++;
    }
    if (r.op === "sync") {
      if (name.endsWith("-wal")) {
        openCommit = false;
        result.syncs++;
      }
      result.boundaries++;
      for (const loss of ["dropped", rng.float() < 0.5 ? "reordered" : "torn"] as const) {
        result.images++;
        const whole = result.images % on.storeEvery === 0;
        const found = await judge(disk, { image, loss, rng, told, watched, whole });
        for (const f of found)
          result.offences.push(`boundary ${result.boundaries}, ${loss}, seed ${on.seed}: ${f}`);
        if (result.offences.length >= (on.stopAfter ?? 20)) return { ...result, writes: told.length };
      }
    }
    disk.apply(r);
  }
  return { ...result, writes: told.length };
}

/** A frame header of the log whose size of the database is set ends a transaction. */
const isCommit = (data: Buffer): boolean => data.length === 24 && data.readUInt32BE(4) !== 0;

async function judge(
  disk: Disk,
  on: { image: string; loss: Loss; rng: Rng; told: readonly Told[]; watched: Rev; whole: boolean },
): Promise<string[]> {
  rmSync(on.image, { recursive: true, force: true });
  mkdirSync(on.image);
  for (const [path, bytes] of disk.image(on.loss, on.rng)) {
    const name = basename(path);
    if (/^moorage\.db(-wal|-journal)?$/.test(name)) writeFileSync(join(on.image, name), bytes);
  }
  try {
    return on.whole ? await judgeStore(on) : judgeFile(on);
  } catch (thrown) {
    return [`the store does not open: ${String(thrown)}`];
  }
}

const highest = (on: { told: readonly Told[]; watched: Rev }): Rev =>
  on.told.reduce((max, t) => Math.max(max, t.rev), on.watched);

/** Looks into the file as SQLite recovers it: sound, and with everything that was told in it. */
function judgeFile(on: { image: string; told: readonly Told[]; watched: Rev }): string[] {
  const offences: string[] = [];
  const db = new Database(join(on.image, "moorage.db"));
  try {
    const sound = db.pragma("quick_check", { simple: true });
    if (sound !== "ok") return [`quick_check says ${String(sound)}`];
    const exists = db.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get() !== undefined;
    if (!exists) return on.told.length > 0 ? ["the store is empty"] : [];
    const head = db.prepare("SELECT v FROM meta WHERE k = 'rev'").pluck().get() as number;
    if (head < highest(on)) offences.push(`the head is ${head}, ${highest(on)} was told`);
    const whole = db.prepare("SELECT count(DISTINCT rev) FROM log").pluck().get();
    if (whole !== head - 1) offences.push(`the log holds ${String(whole)} revisions below head ${head}`);
    const value = db.prepare("SELECT value FROM log WHERE rev = ? AND key = ?").pluck();
    for (const t of on.told.slice(-50)) {
      const found = value.get(t.rev, Buffer.from(t.key)) as Buffer | undefined;
      if (found?.toString() !== t.value) offences.push(`acknowledged revision ${t.rev} is lost or another`);
    }
    return offences;
  } finally {
    db.close();
  }
}

/** Opens the whole store: all that was told is there, and the next write gets a new revision. */
async function judgeStore(on: { image: string; told: readonly Told[]; watched: Rev }): Promise<string[]> {
  const offences: string[] = [];
  const store = await openSqliteStore({ dir: on.image, clock: systemClock, rng: systemRng });
  try {
    const { rev: head } = await store.status();
    if (head < highest(on)) offences.push(`the head is ${head}, ${highest(on)} was told`);
    const seen = new Map<string, string>();
    const all = { start: new Uint8Array(0), end: new Uint8Array([255]) };
    for await (const batch of store.watch({ ...all, from: 1, progress: true })) {
      if (batch.kind !== "events") break;
      for (const e of batch.events)
        seen.set(`${batch.rev} ${Buffer.from(e.kv.key).toString()}`, Buffer.from(e.kv.value).toString());
    }
    for (const t of on.told)
      if (seen.get(`${t.rev} ${t.key}`) !== t.value)
        offences.push(`acknowledged revision ${t.rev} is lost or another`);
    const next = await store.txn({ then: [{ put: { key: key("after"), value: key("after") } }] });
    if (next.rev !== head + 1) offences.push(`the write after head ${head} is ${next.rev}`);
    return offences.slice(0, 5);
  } finally {
    await store.close();
  }
}
