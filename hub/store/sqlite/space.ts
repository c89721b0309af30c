import { closeSync, fsyncSync, openSync, rmSync, statSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "@moorage/shared/clock";
import { failpoint } from "@moorage/shared/failpoint";
import type { CheckedTxn } from "../plan.ts";
import { files } from "./schema.ts";

/**
 * Room on the disk. On a full disk SQLite can neither write nor delete: a file of no use, the ballast,
 * is given up then, so that deletes and the compaction have room to make more. Meanwhile writes that
 * add are refused at once. It is made again when the disk has room for it twice.
 */

/** How often a full disk is looked at. */
const LOOK_MS = 1_000;
const BLOCK = Buffer.alloc(1024 * 1024);

/** What a file system says of itself; a test passes its own. */
export type FreeBytes = (dir: string) => number;

const freeBytesOf: FreeBytes = (dir) => {
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize;
};

/** The state of the disk under a store. `ballastBytes` 0: no ballast, and the disk is never looked at. */
export class Space {
  readonly #o: { dir: string; ballastBytes: number; clock: Clock; freeBytes?: FreeBytes };
  #full = false;
  #lookedMs = Number.NEGATIVE_INFINITY;

  constructor(options: { dir: string; ballastBytes: number; clock: Clock; freeBytes?: FreeBytes }) {
    this.#o = options;
  }

  get full(): boolean {
    return this.#full;
  }

  get #ballast(): string {
    return join(this.#o.dir, files.ballast);
  }

  get #free(): number {
    return (this.#o.freeBytes ?? freeBytesOf)(this.#o.dir);
  }

  /** A write found no room. Gives up the ballast when it is the disk that is full, not the file's own limit. */
  ranOut(): void {
    const { ballastBytes } = this.#o;
    if (ballastBytes === 0 || this.#full || this.#free >= ballastBytes) return;
    this.#full = true;
    this.#lookedMs = this.#o.clock.monotonicMs();
    rmSync(this.#ballast, { force: true });
    failpoint("store/ballast-dropped");
  }

  /** Before the file is opened, which takes a little room itself. */
  atStart(): void {
    if (this.#o.ballastBytes > 0 && this.#free < BLOCK.length) this.ranOut();
  }

  /** Whether there is room again; looks at most every {@link LOOK_MS}. */
  look(): void {
    const nowMs = this.#o.clock.monotonicMs();
    if (!this.#full || nowMs - this.#lookedMs < LOOK_MS) return;
    this.#lookedMs = nowMs;
    if (this.#free < 2 * this.#o.ballastBytes) return;
    this.#full = false;
    this.prepare();
  }

  /**
   * Makes the ballast when there is none, or too small a one, and room for it. Called when nothing else is to be
   * done.
   */
  prepare(): void {
    const { ballastBytes } = this.#o;
    if (ballastBytes === 0 || this.#full) return;
    // A hub that died while it wrote one leaves a part of it.
    if ((statSync(this.#ballast, { throwIfNoEntry: false })?.size ?? 0) >= ballastBytes) return;
    if (this.#free < 2 * ballastBytes) return;
    const fd = openSync(this.#ballast, "w", 0o600);
    try {
      // Real blocks: a hole would hold no room.
      for (let at = 0; at < ballastBytes; at += BLOCK.length)
        writeSync(fd, BLOCK, 0, Math.min(BLOCK.length, ballastBytes - at));
      fsyncSync(fd);
    } catch {
      // Somebody else took the room meanwhile: there is none to keep.
      rmSync(this.#ballast, { force: true });
    } finally {
      closeSync(fd);
    }
  }
}

/** Whether a transaction may need more room than it frees. A mark without a value, as deletions leave, is none. */
export function adds(t: CheckedTxn): boolean {
  return (
    [...t.then, ...t.else].some((op) => "put" in op && op.put.value.length > 0) ||
    t.rows.some((row) => "upsertRes" in row || "putDp" in row)
  );
}
