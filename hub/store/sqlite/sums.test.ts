import { crc32 } from "node:zlib";
import { expect, test } from "vitest";
import { headSum, resSum } from "./sums.ts";

/** Little-endian doubles. */
function doubles(...values: number[]): Buffer {
  const out = Buffer.alloc(8 * values.length);
  for (const [i, n] of values.entries()) out.writeDoubleLE(n, 8 * i);
  return out;
}

const sizes = [0, 1, 4_000, 4_047, 4_048, 4_049, 4_096, 10_000];

test.each(sizes)("a sum is the CRC-32 of lengths, numbers and content, with a value of %i bytes", (size) => {
  for (const keyLength of sizes) {
    const row = { key: Buffer.alloc(keyLength, 3), value: Buffer.alloc(size, 7) };
    const facts = { modRev: 2 ** 52 + 1, createRev: 3, version: 1, lease: 0 };
    const whole = Buffer.concat([doubles(keyLength, size, 2 ** 52 + 1, 3, 1, 0), row.key, row.value]);
    expect(headSum({ ...row, ...facts })).toBe(crc32(whole));
    const [uid, name] = ["ü", "n".repeat(keyLength)];
    const texts = Buffer.concat([Buffer.from(uid + name), row.value]);
    expect(resSum({ dp: 1, rev: 2, uid, name, del: 1, update: row.value })).toBe(
      crc32(Buffer.concat([doubles(1, keyLength, size, 1, 2, 1), texts])),
    );
  }
});
