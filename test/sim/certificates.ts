/**
 * Certificates of simulated agents: readable bytes that only name their bearer and their time. Real ones
 * are checked with WebCrypto, which answers at a turn of the event loop that no seed controls; tests of
 * hub/identity and agent/identity hold that part. What time does to them is the same.
 */
import { Code, MoorageError } from "@moorage/shared/errors";

const HOUR_MS = 3_600_000;
/** Life of a certificate; it is renewed at two thirds of it. */
export const LIFE_MS = 24 * HOUR_MS;
/** Back-dated by so much, for clocks that disagree. */
const BACKDATED_MS = 10 * 60_000;

/** A certificate as its bearer sees it. */
export interface Certificate {
  der: Uint8Array;
  /** When to renew it, on the bearer's own monotonic clock: no wall clocks are compared. */
  renewAtMonotonicMs: number;
}

/** The bytes of a certificate for `uid`, valid from the issuer's now. */
export function issue(uid: string, nowMs: number): Uint8Array {
  return Buffer.from(JSON.stringify({ uid, from: nowMs - BACKDATED_MS, to: nowMs + LIFE_MS }));
}

/** The uid that a certificate speaks for; UNAUTHENTICATED outside its time by the verifier's clock. */
export function verify(der: Uint8Array | undefined, nowMs: number): string {
  const refuse = (why: string) => new MoorageError(Code.UNAUTHENTICATED, `Cannot authenticate: ${why}`);
  if (der === undefined || der.length === 0) throw refuse("no certificate");
  const { uid, from, to } = JSON.parse(Buffer.from(der).toString()) as {
    uid: string;
    from: number;
    to: number;
  };
  if (nowMs < from || nowMs > to) throw refuse("the certificate is not valid at this time");
  return uid;
}
