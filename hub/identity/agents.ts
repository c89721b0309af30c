import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { CertificateInfo } from "@moorage/shared/x509";
import { parseCertificate, verifyAgainstBundle } from "@moorage/shared/x509";
import { auditOp } from "./audit.ts";
import type { AuthorityContext } from "./context.ts";
import {
  credentialsWrite,
  dataPlaneByUid,
  hasKey,
  readCredentials,
  TRIES,
  unknownDataPlane,
} from "./credentials.ts";
import type { AgentPrincipal } from "./identity.ts";
import { agentUid } from "./spiffe.ts";

/** Which data plane a client certificate speaks for. */

/** The principal of a certificate. Everything is checked anew at each call: a stream, a renewal. */
export async function authenticateAgent(
  ctx: AuthorityContext,
  der: Uint8Array | undefined,
): Promise<AgentPrincipal> {
  if (der === undefined || der.length === 0)
    throw refusal("there is no client certificate", "NO_CERTIFICATE");
  const info = parse(der);
  const nowMs = ctx.clock.now();
  if (nowMs < info.notBeforeMs || nowMs > info.notAfterMs) {
    throw refusal("the certificate is not valid at this time; enrol again", "CERTIFICATE_EXPIRED");
  }
  // The handshake verified the chain already; a flaw in there must not be enough (CVE-2026-101916).
  const { bundlePem } = ctx.authority;
  if (info.isCa || !verifyAgainstBundle(der, { bundlePem, clock: ctx.clock })) {
    throw refusal("the certificate is not one of this hub's agents", "CERTIFICATE_UNTRUSTED");
  }
  const uid = agentUid(info, ctx.trustDomain);
  if (uid === undefined)
    throw refusal("the certificate does not name exactly one data plane", "CERTIFICATE_NAME");
  const dataPlane = await dataPlaneByUid(ctx.store, uid);
  if (dataPlane === undefined) throw unknownDataPlane(uid);
  const { credentials } = await readCredentials(ctx.store, uid);
  if (credentials.revokedTime !== undefined)
    throw refusal("the agent's credentials were revoked", "CREDENTIALS_REVOKED");
  if (!hasKey(credentials, info.keyThumbprint))
    throw refusal("the key is not registered for its data plane", "KEY_NOT_REGISTERED");
  return { dataPlaneUid: uid, dataPlane, thumbprint: info.keyThumbprint };
}

function parse(der: Uint8Array): CertificateInfo {
  try {
    return parseCertificate(der);
  } catch (cause) {
    throw refusal("the certificate cannot be read", "CERTIFICATE_MALFORMED", cause);
  }
}

function refusal(why: string, reason: string, cause?: unknown): MoorageError {
  return new MoorageError(Code.UNAUTHENTICATED, `Cannot authenticate the agent: ${why}`, { reason, cause });
}

/** A connection with a candidate key succeeded: from now on it is registered. */
export async function confirmAgentKey(ctx: AuthorityContext, principal: AgentPrincipal): Promise<void> {
  for (let i = 0; i < TRIES; i++) {
    const at = await readCredentials(ctx.store, principal.dataPlaneUid);
    const isKey = (thumbprint: Uint8Array) =>
      Buffer.from(thumbprint).toString("hex") === principal.thumbprint;
    if (!at.credentials.keys.some((k) => k.candidate && isKey(k.thumbprint))) return;
    const keys = at.credentials.keys.map((k) => (isKey(k.thumbprint) ? { ...k, candidate: false } : k));
    const write = credentialsWrite(principal.dataPlaneUid, at, { ...at.credentials, keys });
    const audit = auditOp(ctx, {
      actor: principal.dataPlane,
      method: "moorage.agent.v1.SyncService/Sync",
      resource: principal.dataPlane,
      outcome: "KEY_CONFIRMED",
    });
    failpoint("identity/before-confirm-txn");
    const { ok } = await ctx.store.txn({ if: write.if, then: [write.then, audit] });
    if (ok) return;
  }
}
