/** Packing: the same files give the same bytes, whenever and wherever. */
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { limits } from "../limits.ts";
import type { BundleFiles, PackedBundle } from "./bundle.ts";
import { openBundle } from "./manifest.ts";
import { refuseBundle } from "./refuse.ts";
import { writeTar } from "./tar.ts";

/** The digest of packed bytes: "sha256:" and 64 hexadecimal digits. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Refuses bytes whose digest is not the expected one. */
export function verifyDigest(bytes: Uint8Array, expected: string): void {
  const actual = digestOf(bytes);
  if (actual !== expected) {
    throw refuseBundle("DIGEST_MISMATCH", `Verify bundle "${expected}": the digest is "${actual}"`);
  }
}

/** Checks the files as a bundle and packs them. @throws MoorageError INVALID_ARGUMENT, see refuse.ts. */
export function packBundle(files: BundleFiles): PackedBundle {
  const { manifest } = openBundle(files);
  const bytes = gzipSync(writeTar(files), { level: 9, memLevel: 9 });
  // Byte 9 of a gzip header names the operating system; 255 is "unknown". Its time is zero already.
  bytes[9] = 255;
  if (bytes.length > limits.bundlePackedBytes) {
    throw refuseBundle(
      "TOO_LARGE",
      `Pack bundle "${manifest.name}": size is ${bytes.length} bytes, limit ${limits.bundlePackedBytes}`,
    );
  }
  return { bytes, digest: digestOf(bytes), manifest };
}
