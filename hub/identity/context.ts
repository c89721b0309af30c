import { hash, timingSafeEqual } from "node:crypto";
import type { Clock } from "@moorage/shared/clock";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import { issueClientCertificate, parseCertificate } from "@moorage/shared/x509";
import type { Store } from "../store/store.ts";
import type { Authority } from "./identity.ts";
import { agentUri } from "./spiffe.ts";

/** What the parts of identity share. */
export interface IdentityContext {
  store: Store;
  clock: Clock;
  rng: Rng;
  log: Logger;
  trustDomain: string;
}

/** {@link IdentityContext} with the authority that signs; read anew at each use, a rotation changes it. */
export interface AuthorityContext extends IdentityContext {
  readonly authority: Authority;
}

/** A new secret: a prefix that says what it is, and 256 random bits. */
export function newSecret(prefix: string, rng: Rng): string {
  return `${prefix}_${Buffer.from(rng.bytes(32)).toString("base64url")}`;
}

/** The form in which a secret is kept. 256 random bits need no slow hash. */
export function secretHash(secret: string): Uint8Array {
  return new Uint8Array(hash("sha256", secret, "buffer"));
}

/** Compares in constant time. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** A certificate just signed; PEM, and its key and end. */
export interface IssuedAgent {
  chainPem: string;
  thumbprint: string;
  notAfterMs: number;
  /** SHA-256 of the authority's certificate in hex. */
  caFingerprint: string;
}

/** Signs a certificate for an agent's request: of the request only the proven key is used. */
export async function issueAgent(
  ctx: AuthorityContext,
  dataPlaneUid: string,
  csrDer: Uint8Array,
): Promise<IssuedAgent> {
  const uri = agentUri(ctx.trustDomain, dataPlaneUid);
  const { ca } = ctx.authority;
  const chainPem = await issueClientCertificate({ ca, csrDer, uri, ttlMs: limits.certificateMs }, ctx);
  failpoint("identity/mid-issue");
  const { keyThumbprint, notAfterMs } = parseCertificate(chainPem);
  const caFingerprint = parseCertificate(ca.certPem).fingerprint;
  return { chainPem, thumbprint: keyThumbprint, notAfterMs, caFingerprint };
}

/** When an agent is to renew: two thirds of a certificate's life. */
export const RENEW_AFTER_MS = (limits.certificateMs * 2) / 3;
