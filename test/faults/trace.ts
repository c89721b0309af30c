/** The trace of the fault shim, and what a disk may hold of it when the power fails. */
import type { Rng } from "@moorage/shared/rng";

/** One record, see shim/shim.c. */
export interface TraceRecord {
  op: "open" | "write" | "truncate" | "sync" | "rename" | "unlink";
  inode: string;
  /** Offset of a write, new size of a truncation, size at an open. */
  offset: number;
  created: boolean;
  truncated: boolean;
  folder: boolean;
  name: string;
  data: Buffer;
}

const OPS = ["", "open", "write", "truncate", "sync", "rename", "unlink"] as const;
const HEAD = 24;

/** The records of a trace; a last one that a kill cut short is left out. */
export function* records(trace: Buffer): Generator<TraceRecord> {
  for (let at = 0; at + HEAD <= trace.length;) {
    const op = OPS[trace.readUInt8(at)];
    if (op === undefined || op === "") throw new Error(`The trace is damaged at byte ${at}`);
    const flags = trace.readUInt8(at + 1);
    const nameLength = trace.readUInt16LE(at + 2);
    const dataLength = trace.readUInt32LE(at + 4);
    const end = at + HEAD + nameLength + dataLength;
    if (end > trace.length) return;
    yield {
      op,
      inode: String(trace.readBigUInt64LE(at + 8)),
      offset: Number(trace.readBigUInt64LE(at + 16)),
      created: (flags & 1) !== 0,
      truncated: (flags & 2) !== 0,
      folder: (flags & 4) !== 0,
      name: trace.toString("utf8", at + HEAD, at + HEAD + nameLength),
      data: trace.subarray(at + HEAD + nameLength, end),
    };
    at = end;
  }
}

type Change = { offset: number; data: Buffer } | { size: number };

/** A disk writes sectors whole and nothing larger. */
const SECTOR = 512;

/** One file: what is on the disk for certain, and what was written since its last sync. */
class DiskFile {
  #bytes = Buffer.alloc(0);
  #size = 0;
  pending: Change[] = [];

  sync(): void {
    for (const c of this.pending) this.#apply(c);
    this.pending = [];
  }

  /** The durable bytes, with those of `changes` on top. */
  image(changes: readonly Change[]): Buffer {
    const copy = new DiskFile();
    copy.#bytes = Buffer.from(this.#bytes.subarray(0, this.#size));
    copy.#size = this.#size;
    for (const c of changes) copy.#apply(c);
    return copy.#bytes.subarray(0, copy.#size);
  }

  #apply(c: Change): void {
    if ("size" in c) {
      if (c.size > this.#size) this.#grow(c.size);
      // What is cut off reads as zeros when the file grows again.
      else this.#bytes.fill(0, c.size, this.#size);
      this.#size = c.size;
      return;
    }
    this.#grow(c.offset + c.data.length);
    c.data.copy(this.#bytes, c.offset);
  }

  #grow(size: number): void {
    if (size > this.#bytes.length) {
      const larger = Buffer.alloc(Math.max(size, 2 * this.#bytes.length));
      this.#bytes.copy(larger);
      this.#bytes = larger;
    }
    this.#size = Math.max(this.#size, size);
  }
}

/** What becomes of the writes that were not synced when the power fails. */
export type Loss = "dropped" | "reordered" | "torn";

/** The folder's files as a disk: apply records in order, and ask at any moment what may be left. */
export class Disk {
  readonly #files = new Map<string, DiskFile>();
  #names = new Map<string, string>();
  #durableNames = new Map<string, string>();
  readonly #folders = new Set<string>();

  apply(r: TraceRecord): void {
    switch (r.op) {
      case "open":
        if (r.folder) this.#folders.add(r.inode);
        else this.#open(r);
        return;
      case "write":
        this.#file(r.inode).pending.push({ offset: r.offset, data: r.data });
        return;
      case "truncate":
        this.#file(r.inode).pending.push({ size: r.offset });
        return;
      case "sync":
        if (this.#folders.has(r.inode)) this.#durableNames = new Map(this.#names);
        else this.#file(r.inode).sync();
        return;
      case "rename": {
        const [from = "", to = ""] = r.name.split("\0");
        const inode = this.#names.get(from);
        this.#names.delete(from);
        if (inode !== undefined) this.#names.set(to, inode);
        return;
      }
      case "unlink":
        this.#names.delete(r.name);
    }
  }

  /** The path of a file by its inode, as of now. */
  nameOf(inode: string): string | undefined {
    for (const [name, of] of this.#names) if (of === inode) return name;
    return undefined;
  }

  /** What the disk may hold after a power loss at this moment, by path. */
  image(loss: Loss, rng: Rng): Map<string, Buffer> {
    const names = loss !== "dropped" && rng.float() < 0.5 ? this.#names : this.#durableNames;
    const out = new Map<string, Buffer>();
    for (const [name, inode] of names) {
      const file = this.#file(inode);
      out.set(name, file.image(file.pending.flatMap((c) => survivors(c, loss, rng))));
    }
    return out;
  }

  #open(r: TraceRecord): void {
    if (r.created) this.#files.set(r.inode, new DiskFile());
    else if (!this.#files.has(r.inode) && r.offset > 0)
      throw new Error(`"${r.name}" has ${r.offset} bytes that the trace does not know`);
    this.#names.set(r.name, r.inode);
    if (r.truncated && !r.created) this.#file(r.inode).pending.push({ size: 0 });
  }

  #file(inode: string): DiskFile {
    let file = this.#files.get(inode);
    if (file === undefined) this.#files.set(inode, (file = new DiskFile()));
    return file;
  }
}

/** What is left of one change: a later one may survive an earlier one, and a write in part. */
function survivors(c: Change, loss: Loss, rng: Rng): Change[] {
  if (loss === "dropped" || rng.float() < 0.4) return [];
  if (loss === "reordered" || "size" in c) return [c];
  const kept: Change[] = [];
  for (let at = 0; at < c.data.length; at += SECTOR) {
    // From one sector boundary of the disk to the next, wherever the write began.
    const first = at === 0 ? SECTOR - (c.offset % SECTOR) : SECTOR;
    if (rng.float() < 0.5) kept.push({ offset: c.offset + at, data: c.data.subarray(at, at + first) });
    at += first - SECTOR;
  }
  return kept;
}
