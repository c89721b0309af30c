import type { CertificateInfo } from "@moorage/shared/x509";

/** The name of an agent, and reading it: pure. */

const UID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The URI of a data plane's agent. */
export function agentUri(trustDomain: string, dataPlaneUid: string): string {
  return `spiffe://${trustDomain}/dataplane/${dataPlaneUid}`;
}

/**
 * The data plane that a certificate's names speak for; undefined unless there is exactly one
 * alternative name and it is, byte for byte, the URI of a canonical uid. No prefix, case folding or
 * decoding of any kind: a prefix match is how CVE-2026-4740 let one cluster renew as another.
 */
export function agentUid(
  names: Pick<CertificateInfo, "uris" | "dnsNames" | "otherNames">,
  trustDomain: string,
): string | undefined {
  const uri = names.uris[0];
  if (uri === undefined || names.uris.length !== 1) return undefined;
  if (names.dnsNames.length !== 0 || names.otherNames !== 0) return undefined;
  const uid = uri.slice(agentUri(trustDomain, "").length);
  return UID.test(uid) && uri === agentUri(trustDomain, uid) ? uid : undefined;
}
