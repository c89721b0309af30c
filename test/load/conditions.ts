/** Under what conditions figures were measured; printed beside them and written with them. */
import { closeSync, fdatasyncSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { configure } from "@moorage/hub/store/sqlite/schema";
import { hostClock } from "./host-clock.ts";
import { quantile, round } from "./stats.ts";

/** The conditions of one run. */
export interface Conditions {
  node: string;
  kernel: string;
  cpus: number;
  cpuModel: string;
  memoryGb: number;
  /** One-minute load average when the run began: above the own work, others shared the machine. */
  loadAverage: number;
  scale: number;
  /** As the hub's own code sets them and SQLite reads them back, on the file system of the run. */
  pragmas: { journal_mode: string; synchronous: number; wal_autocheckpoint: number };
  /** Median and p99 of one 4 KiB write with fdatasync on that file system, milliseconds. */
  syncP50Ms: number;
  syncP99Ms: number;
}

const SYNCS = 200;
const PAGE_BYTES = 4_096;
/** SQLite's number for synchronous=FULL. */
const FULL = 2;
/** No disk answers faster: a shorter median means that nothing is synced. */
const LEAST_SYNC_MS = 0.005;

/** Measures them in a folder below `dir`; throws when figures of this place would be worthless. */
export function readConditions(dir: string, scale: number): Conditions {
  const own = join(dir, "conditions");
  mkdirSync(own, { recursive: true });
  try {
    const pragmas = readPragmas(own);
    if (pragmas.synchronous !== FULL || pragmas.journal_mode !== "wal")
      throw new Error(`Refuse to measure: the store would run with synchronous=${pragmas.synchronous}`);
    const syncs = timeSyncs(own);
    if (quantile(syncs, 0.5) < LEAST_SYNC_MS)
      throw new Error(`Refuse to measure: fdatasync in "${dir}" takes no time, so nothing is synced`);
    return {
      node: process.versions.node,
      kernel: release(),
      cpus: availableParallelism(),
      cpuModel: cpus()[0]?.model ?? "unknown",
      memoryGb: round(totalmem() / 1e9, 0),
      loadAverage: round(loadavg()[0] ?? Number.NaN),
      scale,
      pragmas,
      syncP50Ms: round(quantile(syncs, 0.5), 3),
      syncP99Ms: round(quantile(syncs, 0.99), 3),
    };
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
}

function readPragmas(dir: string): Conditions["pragmas"] {
  const db = new Database(join(dir, "pragmas.db"));
  try {
    configure(db);
    const read = (name: string): unknown => db.pragma(name, { simple: true });
    return {
      journal_mode: String(read("journal_mode")),
      synchronous: Number(read("synchronous")),
      wal_autocheckpoint: Number(read("wal_autocheckpoint")),
    };
  } finally {
    db.close();
  }
}

function timeSyncs(dir: string): number[] {
  const file = openSync(join(dir, "sync"), "w");
  const page = Buffer.alloc(PAGE_BYTES, 0x61);
  const took: number[] = [];
  try {
    for (let i = 0; i < SYNCS; i++) {
      writeSync(file, page, 0, PAGE_BYTES, (i % 16) * PAGE_BYTES);
      const start = hostClock.monotonicMs();
      fdatasyncSync(file);
      took.push(hostClock.monotonicMs() - start);
    }
  } finally {
    closeSync(file);
  }
  return took;
}

/** The conditions in one line. */
export function conditionsLine(c: Conditions): string {
  return `Node ${c.node}, ${c.cpus} CPUs (${c.cpuModel}), ${c.memoryGb} GB, Linux ${c.kernel}, load ${c.loadAverage}; store synchronous=FULL, ${c.pragmas.journal_mode}; fdatasync p50 ${c.syncP50Ms} ms, p99 ${c.syncP99Ms} ms; SCALE=${c.scale}`;
}
