/** Content by digest from the hub, on a connection of its own, so that it never delays the stream. */
import { createHash } from "node:crypto";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import type { BlobRef } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Clock, Timer } from "@moorage/shared/clock";
import type { Link } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Backoff } from "@moorage/shared/service";
import { backoffSleep } from "@moorage/shared/service";

/** Tries of one chunk; each goes on where the last one broke off. */
const TRIES = 3;
/** A read on which nothing comes for this long is dead. */
export const READ_IDLE_MS = 30_000;
/** Between fetches of a body that failed. */
const BACKOFF: Backoff = { baseMs: 1_000, capMs: 120_000 };

/** The largest content that is taken at all. */
const MAX_BYTES = limits.bundlePackedBytes;

/** Where content comes from. */
export interface BlobSource {
  connect(signal: AbortSignal): Promise<Link>;
  clock: Clock;
  signal: AbortSignal;
}

/**
 * Fetches the chunks of `ref` in order, each verified. Errors: DATA_LOSS `DIGEST_MISMATCH` for wrong
 * bytes, INVALID_ARGUMENT `TOO_LARGE`, DEADLINE_EXCEEDED when nothing comes, and the hub's own, e.g. NOT_FOUND.
 */
export async function fetchBlob(ref: BlobRef, from: BlobSource): Promise<readonly Uint8Array[]> {
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
    for (const part of parts) out.push(await fetchPart(link, part, from));
    return out;
  } finally {
    link.close();
  }
}

/** What says that another try would bring the same. */
const FINAL: ReadonlySet<Code> = new Set([
  Code.DATA_LOSS,
  Code.INVALID_ARGUMENT,
  Code.NOT_FOUND,
  Code.OUT_OF_RANGE,
]);

/**
 * A body that came by reference, fetched until it is there: a hub or a line that is away for a while ends
 * no stream. Undefined when the hub has no such content. Rejects only when `signal` aborts.
 */
export async function fetchBody(
  ref: BlobRef,
  from: {
    fetchBlob(ref: BlobRef, signal: AbortSignal): Promise<readonly Uint8Array[]>;
    clock: Clock;
    rng: Rng;
    log: Logger;
  },
  signal: AbortSignal,
): Promise<Uint8Array | undefined> {
  const { clock, rng, log } = from;
  for (let attempt = 0; ; attempt++) {
    try {
      return new Uint8Array(Buffer.concat(await from.fetchBlob(ref, signal)));
    } catch (thrown) {
      signal.throwIfAborted();
      const error = MoorageError.from(thrown);
      const final = FINAL.has(error.code);
      log.warn(final ? "cannot fetch a body" : "cannot fetch a body, it is tried again", { error });
      if (final) return undefined;
    }
    await backoffSleep(BACKOFF, attempt, { clock, rng, signal });
  }
}

async function fetchPart(
  link: Link,
  part: { digest: Uint8Array; size: number },
  from: BlobSource,
): Promise<Uint8Array> {
  const client = link.client(BlobService);
  const pieces: Uint8Array[] = [];
  let got = 0;
  for (let attempt = 1; ; attempt++) {
    const idle = new AbortController();
    let timer: Timer | undefined;
    const wait = () => {
      timer?.cancel();
      timer = from.clock.setTimer(READ_IDLE_MS, () => idle.abort(tooSlow()));
    };
    wait();
    try {
      const signal = AbortSignal.any([from.signal, idle.signal]);
      for await (const { data } of client.readBlob(
        { digest: part.digest, offset: BigInt(got) },
        { signal },
      )) {
        wait();
        got += data.length;
        if (got > part.size) throw mismatch();
        pieces.push(data);
      }
      break;
    } catch (thrown) {
      const late = idle.signal.aborted && !from.signal.aborted;
      const error = late ? tooSlow() : MoorageError.from(thrown);
      const broke = late || error.code === Code.UNAVAILABLE;
      if (!broke || attempt >= TRIES || from.signal.aborted) throw error;
    } finally {
      timer?.cancel();
    }
  }
  const bytes = new Uint8Array(Buffer.concat(pieces));
  if (!createHash("sha256").update(bytes).digest().equals(part.digest)) throw mismatch();
  return bytes;
}

function tooSlow(): MoorageError {
  return new MoorageError(
    Code.DEADLINE_EXCEEDED,
    `Cannot fetch content: nothing came from the hub for ${READ_IDLE_MS} ms`,
  );
}

function mismatch(): MoorageError {
  return new MoorageError(Code.DATA_LOSS, "Cannot use content: it does not have the digest announced", {
    reason: "DIGEST_MISMATCH",
  });
}
