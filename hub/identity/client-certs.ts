import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CertificateInfo } from "@moorage/shared/x509";
import { parseCertificate, verifyAgainstBundle } from "@moorage/shared/x509";
import type { Grant } from "./grants.ts";
import { actorOf, findGrant } from "./grants.ts";
import type { ApiPrincipal } from "./identity.ts";

/**
 * Callers of the API by client certificate, on the port that demands one. A grant names `uri` (the one
 * alternative name of the certificate) or `subject` (the whole subject, RFC 4514), compared byte for byte.
 */

/** Makes the function from a certificate in DER to its principal. */
export function clientCertificates(
  options: { caPem: string; grants: readonly Grant[] },
  clock: Clock,
): (der: Uint8Array) => Promise<ApiPrincipal> {
  return async (der) => {
    let info: CertificateInfo;
    let subject: string;
    try {
      info = parseCertificate(der);
      ({ subject } = info);
    } catch (cause) {
      throw refusal("it cannot be read", "CERTIFICATE_MALFORMED", cause);
    }
    const nowMs = clock.now();
    if (nowMs < info.notBeforeMs || nowMs > info.notAfterMs)
      throw refusal("it is not valid at this time", "CERTIFICATE_EXPIRED");
    // The handshake verified it already; it must not be the only one to do so.
    if (info.isCa || !verifyAgainstBundle(der, { bundlePem: options.caPem, clock }))
      throw refusal("it was not issued by the authority of --client-ca-file", "CERTIFICATE_UNTRUSTED");
    const grant = findGrant(options.grants, (name) => namesOf(info, name));
    const named = info.uris[0] ?? subject;
    if (grant === undefined) {
      throw new MoorageError(
        Code.PERMISSION_DENIED,
        "Cannot admit the caller: no rule of --client-cert-grants fits its certificate",
        { reason: "NO_GRANT", metadata: { actor: actorOf("certificates", named) } },
      );
    }
    return {
      actor: actorOf("certificates", named),
      role: grant.role,
      scopes: grant.scopes,
      expireMs: info.notAfterMs,
    };
  };
}

function namesOf(info: CertificateInfo, name: string): readonly string[] {
  if (name === "subject") return info.subject === "" ? [] : [info.subject];
  const alone = info.uris.length === 1 && info.dnsNames.length === 0 && info.otherNames === 0;
  return name === "uri" && alone ? info.uris : [];
}

function refusal(why: string, reason: string, cause?: unknown): MoorageError {
  return new MoorageError(Code.UNAUTHENTICATED, `Cannot admit the client certificate: ${why}`, {
    reason,
    cause,
  });
}
