/** Content by digest from the hub, on a connection of its own, so that it never delays the stream. */
import { createHash } from "node:crypto";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import type { BlobRef } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Link } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";

/** Tries of one chunk; each goes on where the last one broke off. */
const TRIES = 3;

/** The largest content that is taken at all. */
const MAX_BYTES = limits.bundlePackedBytes;

/**
 * Fetches the chunks of `ref` in order, each verified. Errors: DATA_LOSS `DIGEST_MISMATCH` for wrong
 * bytes, INVALID_ARGUMENT `TOO_LARGE`, and the hub's own, e.g. NOT_FOUND.
 */
export async function fetchBlob(
  ref: BlobRef,
  from: { connect(signal: AbortSignal): Promise<Link>; signal: AbortSignal },
): Promise<readonly Uint8Array[]> {
  const parts =
    ref.chunks.length > 0
      ? ref.chunks.map((c) => ({ digest: c.digest, size: c.sizeBytes }))
      : [{ digest: ref.digest, size: Number(ref.sizeBytes) }];
  const total = parts.reduce((sum, p) => sum + p.size, 0);
  if (total > MAX_BYTES) {
    throw new MoorageError(
      Code.INVALID_ARGUMENT,
      `Cannot fetch content: ${total} bytes are above the limit of ${MAX_BYTES}`,
      { reason: "TOO_LARGE" },
    );
  }
  const link = await from.connect(from.signal);
  try {
    const out: Uint8Array[] = [];
    for (const part of parts) out.push(await fetchPart(link, part, from.signal));
    return out;
  } finally {
    link.close();
  }
}

async function fetchPart(
  link: Link,
  part: { digest: Uint8Array; size: number },
  signal: AbortSignal,
): Promise<Uint8Array> {
  const client = link.client(BlobService);
  const pieces: Uint8Array[] = [];
  let got = 0;
  for (let attempt = 1; ; attempt++) {
    try {
      for await (const { data } of client.readBlob(
        { digest: part.digest, offset: BigInt(got) },
        { signal },
      )) {
        got += data.length;
        if (got > part.size) throw mismatch();
        pieces.push(data);
      }
      break;
    } catch (thrown) {
      const error = MoorageError.from(thrown);
      if (error.code !== Code.UNAVAILABLE || attempt >= TRIES || signal.aborted) throw error;
    }
  }
  const bytes = new Uint8Array(Buffer.concat(pieces));
  if (!createHash("sha256").update(bytes).digest().equals(part.digest)) throw mismatch();
  return bytes;
}

function mismatch(): MoorageError {
  return new MoorageError(Code.DATA_LOSS, "Cannot use content: it does not have the digest announced", {
    reason: "DIGEST_MISMATCH",
  });
}
