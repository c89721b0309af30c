import { readFile } from "node:fs/promises";
import { get as httpGet } from "node:http";
import { get as httpsGet } from "node:https";
import type { IncomingMessage } from "node:http";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Logger } from "@moorage/shared/log";
import type { JWK } from "jose";

/** The public keys of an issuer (RFC 7517), from a file or a URL, kept and refreshed within bounds. */

/** Where keys come from; `caPem` is trusted instead of the machine's authorities. */
export type JwksSource = { file: string } | { url: URL; caPem?: string };

/** Keys are read anew after this time. */
const FRESH_MS = 10 * 60_000;
/** Keys that could not be read anew are used this long. */
const STALE_MS = 3_600_000;
/** An unknown key id makes the keys be read anew at most this often. */
const COOLDOWN_MS = 30_000;
const FETCH_MS = 5_000;
const MOST_BYTES = 256 * 1_024;
const MOST_KEYS = 64;
/** Signature keys alone: a symmetric one in the set must never verify anything. */
const KEY_TYPES = new Set(["RSA", "EC", "OKP"]);

/** An issuer's keys. */
export interface Jwks {
  /** The keys of now; UNAVAILABLE when there are none that are recent enough. */
  keys(): Promise<JWK[]>;
  /** After an unknown key id: newer keys, or undefined while it is too early to ask again. */
  newer(): Promise<JWK[] | undefined>;
}

/** Keeps the keys of a source. */
export function createJwks(source: JwksSource, on: { clock: Clock; log: Logger }): Jwks {
  const { clock, log } = on;
  let kept: { keys: JWK[]; atMs: number } | undefined;
  let triedMs = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  // One at a time, whoever asks.
  const refresh = (): Promise<void> =>
    (reading ??= (async () => {
      triedMs = clock.monotonicMs();
      try {
        const text = "file" in source ? await readFile(source.file, "utf8") : await fetchText(source, clock);
        kept = { keys: parseJwks(text), atMs: clock.monotonicMs() };
      } catch (error) {
        log.warn("keys of the token issuer could not be read", { error });
      }
    })().finally(() => (reading = undefined)));

  const ageMs = () => clock.monotonicMs() - (kept?.atMs ?? Number.NEGATIVE_INFINITY);
  const early = () => clock.monotonicMs() - triedMs < COOLDOWN_MS;
  return {
    async keys() {
      if (ageMs() >= FRESH_MS && !early()) await refresh();
      else if (reading !== undefined && kept === undefined) await reading;
      if (kept === undefined || ageMs() >= STALE_MS) {
        throw new MoorageError(
          Code.UNAVAILABLE,
          "Cannot verify the token: the keys of its issuer could not be read",
          { reason: "JWKS_UNAVAILABLE", retryAfterMs: COOLDOWN_MS },
        );
      }
      return kept.keys;
    },
    async newer() {
      if (early()) return undefined;
      const before = kept;
      await refresh();
      return kept === before ? undefined : kept?.keys;
    },
  };
}

/** The usable keys of a set; throws an Error for anything that is no set, or one above the bounds. */
export function parseJwks(text: string): JWK[] {
  if (text.length > MOST_BYTES) throw new Error(`the key set has more than ${MOST_BYTES} bytes`);
  const parsed = JSON.parse(text) as { keys?: unknown } | null;
  const keys = parsed?.keys;
  if (!Array.isArray(keys)) throw new Error('the key set has no list "keys"');
  if (keys.length > MOST_KEYS) throw new Error(`the key set has more than ${MOST_KEYS} keys`);
  return (keys as (JWK | null)[]).filter(
    (k): k is JWK =>
      k !== null &&
      typeof k === "object" &&
      KEY_TYPES.has(String(k.kty)) &&
      // A private key in a public place is anybody's key.
      k.d === undefined &&
      (k.use === undefined || k.use === "sig"),
  );
}

function fetchText(source: { url: URL; caPem?: string }, clock: Clock): Promise<string> {
  const limit = new AbortController();
  const timer = clock.setTimer(FETCH_MS, () => limit.abort(new Error(`no answer within ${FETCH_MS} ms`)));
  const options = {
    signal: limit.signal,
    headers: { accept: "application/json" },
    ...(source.caPem === undefined ? {} : { ca: source.caPem }),
  };
  const get = source.url.protocol === "https:" ? httpsGet : httpGet;
  return new Promise<IncomingMessage>((resolve, reject) => {
    get(source.url, options, resolve).once("error", reject);
  })
    .then(async (response) => {
      // No redirect is followed: the keys come from where the configuration says.
      if (response.statusCode !== 200) {
        response.destroy();
        throw new Error(`the answer has status ${response.statusCode}`);
      }
      const parts: Buffer[] = [];
      let bytes = 0;
      for await (const part of response as AsyncIterable<Buffer>) {
        bytes += part.length;
        if (bytes > MOST_BYTES) throw new Error(`the answer has more than ${MOST_BYTES} bytes`);
        parts.push(part);
      }
      return Buffer.concat(parts).toString("utf8");
    })
    .finally(() => timer.cancel());
}
