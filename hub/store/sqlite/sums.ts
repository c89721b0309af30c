import { crc32 } from "node:zlib";
import { unsaidStart } from "../epochs.ts";

/**
 * Checksums of rows. SQLite notices a page whose structure broke, not one whose content changed: each
 * row carries the CRC-32 of all that it says, made by the writer and checked by whoever reads it, so
 * that a flipped bit is an error and never an answer. Numbers are exact below 2^53.
 */

/** What is summed is put together here as far as it fits: a call of crc32 costs more than most rows. */
const room = Buffer.alloc(4_096);
const numbers = new DataView(room.buffer, room.byteOffset, room.length);

function sum(bytes: readonly (Uint8Array | string)[], ...scalars: number[]): number {
  let at = 0;
  // The lengths are part of it: a byte that moved from one field to the next is seen.
  for (const part of bytes) numbers.setFloat64(8 * at++, part.length, true);
  for (const n of scalars) numbers.setFloat64(8 * at++, n, true);
  at *= 8;
  let crc = 0;
  for (const part of bytes) {
    if (typeof part !== "string" && at + part.length <= room.length) {
      room.set(part, at);
      at += part.length;
      continue;
    }
    crc = crc32(part, crc32(room.subarray(0, at), crc));
    at = 0;
  }
  return crc32(room.subarray(0, at), crc);
}

/** What a row of `head` says. */
export interface HeadFacts {
  key: Uint8Array;
  value: Uint8Array;
  createRev: number;
  modRev: number;
  version: number;
  lease: number;
}

/** The checksum of a row of `head`. */
export const headSum = (r: HeadFacts): number =>
  sum([r.key, r.value], r.modRev, r.createRev, r.version, r.lease);

/** The checksum of a row of `log`. */
export const logSum = (r: HeadFacts & { sub: number; prevRev: number; del: number }): number =>
  sum([r.key, r.value], r.modRev, r.createRev, r.version, r.lease, r.sub, r.prevRev, r.del);

/** The checksum of a row of `res`; `dp` is the number of the data plane. */
export const resSum = (r: {
  dp: number;
  rev: number;
  uid: string;
  name: string;
  del: number;
  update: Uint8Array;
}): number => sum([r.uid, r.name, r.update], r.dp, r.rev, r.del);

/**
 * The checksum over the facts of `meta` that decide about revisions. `newFrom` adds to it where it says more
 * than its absence: a file of before it was written has the sum that it had.
 */
export const metaSum = (r: {
  epoch: Uint8Array;
  rev: number;
  compactRev: number;
  restoredRev: number;
  newFrom: number;
}): number => {
  const said = r.newFrom === unsaidStart(r.restoredRev) ? [] : [r.newFrom];
  return sum([r.epoch], r.rev, r.compactRev, r.restoredRev, ...said);
};
