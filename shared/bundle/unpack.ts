/**
 * Unpacking in bounds: nothing touches a disk, and work ends at the byte that crosses a limit.
 */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import type { Bundle } from "./bundle.ts";
import { openBundle } from "./manifest.ts";
import { refuseBundle } from "./refuse.ts";
import { tarReader } from "./tar.ts";

/** Below this many bytes unpacked the ratio says nothing: the padding of small files alone is 100:1. */
const ratioFloorBytes = 1024 * 1024;

/** A bundle as it arrives: whole, or in chunks of any size. */
export type PackedSource = Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

function tooLarge(what: string, limit: number): MoorageError {
  return refuseBundle("TOO_LARGE", `Unpack bundle: ${what} is above the limit of ${limit}`);
}

/** The source's chunks; its own failure is told apart from a bad stream. */
async function* guarded(source: PackedSource, failed: (error: unknown) => void): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of source instanceof Uint8Array ? [source] : source) yield chunk;
  } catch (error) {
    failed(error);
    throw error;
  }
}

/**
 * The bundle in `source`, and the digest of the packed bytes.
 * @param expected refuses another digest, before anything is parsed as YAML.
 * @throws MoorageError INVALID_ARGUMENT `TOO_LARGE`, `DIGEST_MISMATCH` or `MALFORMED`; an error of
 * the source is thrown on as it is.
 */
export async function unpackBundle(
  source: PackedSource,
  expected?: string,
): Promise<Bundle & { digest: string }> {
  const hash = createHash("sha256");
  const reader = tarReader();
  let packed = 0;
  let unpacked = 0;
  let failed: { error: unknown } | undefined;
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const chunk of guarded(source, (error) => (failed = { error }))) {
      packed += chunk.length;
      if (packed > limits.bundlePackedBytes) throw tooLarge("packed size", limits.bundlePackedBytes);
      hash.update(chunk);
      yield chunk;
    }
  }
  const input = Readable.from(counted());
  const gunzip = createGunzip();
  // An error of the source ends the reading loop below with that very error.
  input.once("error", (error) => gunzip.destroy(error));
  try {
    for await (const chunk of input.pipe(gunzip) as AsyncIterable<Uint8Array>) {
      unpacked += chunk.length;
      if (unpacked > limits.bundleUnpackedBytes) throw tooLarge("unpacked size", limits.bundleUnpackedBytes);
      if (unpacked > ratioFloorBytes && unpacked > packed * limits.bundleRatio)
        throw tooLarge("ratio", limits.bundleRatio);
      reader.push(chunk);
    }
  } catch (error) {
    const { error: cause } = failed ?? { error };
    if (failed !== undefined || cause instanceof MoorageError) throw cause;
    throw refuseBundle("MALFORMED", "Unpack bundle: not a whole gzip stream", error);
  } finally {
    gunzip.destroy();
    input.destroy();
  }
  const files = reader.finish();
  const digest = `sha256:${hash.digest("hex")}`;
  if (expected !== undefined && digest !== expected) {
    throw refuseBundle("DIGEST_MISMATCH", `Verify bundle "${expected}": the digest is "${digest}"`);
  }
  return { ...openBundle(files), digest };
}
