/**
 * The layout of the store: every key of the hub, in one place. Keys are UTF-8 text, ordered by byte.
 * Resource names hold only [a-z0-9-./] and ids never hold "/", so no part needs escaping.
 *
 * | key                                 | value (proto)                          | written by            |
 * | ----------------------------------- | -------------------------------------- | --------------------- |
 * | `dataPlanes/<name>`                 | hub.v1.DataPlane without status        | api                   |
 * | `tenants/<name>`                    | hub.v1.Tenant without status           | api                   |
 * | `applications/<name>`               | hub.v1.Application without status      | api                   |
 * | `bundleVersions/<name>`             | hub.v1.BundleVersion                   | api                   |
 * | `uids/<uid>`                        | the key of the resource, UTF-8         | api, with the above   |
 * | `placements/<dp name>/<tenant name>` | the tenant's uid, UTF-8                | api, with the tenant  |
 * | `placementStamps/<dp name>`         | empty; its revision is that of the newest change of the placements | api, with the tenant |
 * | `bundleStamp`                       | empty; its revision is that of the newest version that was published | api, with the version |
 * | `blobs/<sha256 hex of chunk>`       | the bytes of a bundle chunk            | api, before the version |
 * | `status/<uid>`                      | internal.v1.StoredStatus               | sync                  |
 * | `links/<data plane uid>`            | internal.v1.StoredLink                 | sync                  |
 * | `credentials/<data plane uid>`      | internal.v1.StoredCredentials          | identity              |
 * | `joinTokens/<dp id>/<id>`           | internal.v1.StoredJoinToken            | identity              |
 * | `joinTokenHashes/<sha256 hex>`      | the key of the token, UTF-8            | identity              |
 * | `apiKeys/<id>`                      | internal.v1.StoredApiKey               | identity              |
 * | `apiKeyHashes/<sha256 hex>`         | the key of the API key, UTF-8          | identity              |
 * | `requests/<actor>/<request id>`     | internal.v1.StoredRequest              | api, in the write's txn |
 * | `pageTokenKey`                      | 32 random bytes that page tokens are signed with | api |
 * | `epoch`                             | internal.v1.StoredEpoch                | sync, when an operator accepts |
 * | `divergences/<dp id>/<uid>`         | internal.v1.StoredDivergence           | sync, after a lost history |
 * | `audit/<time ms, 13 digits>/<uuid>` | internal.v1.StoredAuditRecord          | whoever acts, in the act's txn |
 * | `auditSeals/<sequence, 16 digits>`  | internal.v1.StoredAuditSeal            | identity's sealer     |
 *
 * `<name>` is the whole resource name (`tenants/acme/applications/web`), so that one kind is one
 * contiguous range and a parent's children are a range in it.
 */

/** The kinds that have a generation, a status and a place in a data plane's desired state. */
export type Kind = "DataPlane" | "Tenant" | "Application";

/** The collection prefix of every key family, with its final slash. */
export const prefixes = {
  dataPlanes: "dataPlanes/",
  tenants: "tenants/",
  applications: "applications/",
  bundleVersions: "bundleVersions/",
  uids: "uids/",
  placements: "placements/",
  placementStamps: "placementStamps/",
  blobs: "blobs/",
  status: "status/",
  links: "links/",
  credentials: "credentials/",
  joinTokens: "joinTokens/",
  joinTokenHashes: "joinTokenHashes/",
  apiKeys: "apiKeys/",
  apiKeyHashes: "apiKeyHashes/",
  requests: "requests/",
  divergences: "divergences/",
  audit: "audit/",
  auditSeals: "auditSeals/",
} as const;

/** The prefix of the resources of a kind. */
export function kindPrefix(kind: Kind): string {
  switch (kind) {
    case "DataPlane":
      return prefixes.dataPlanes;
    case "Tenant":
      return prefixes.tenants;
    case "Application":
      return prefixes.applications;
  }
}

/** The key of a resource by kind and whole name. */
export const resourceKey = (kind: Kind, name: string): string => kindPrefix(kind) + name;
/** The key that leads from a uid to its resource. */
export const uidKey = (uid: string): string => prefixes.uids + uid;
/** The key that a tenant's place is found by, from its data plane; there as long as the tenant's record. */
export const placementKey = (dataPlane: string, tenant: string): string =>
  `${prefixes.placements}${dataPlane}/${tenant}`;
/** The key whose revision tells when the tenants of a data plane were last counted anew. */
export const placementStampKey = (dataPlane: string): string => prefixes.placementStamps + dataPlane;
/** The key of the stored status of a resource. */
export const statusKey = (uid: string): string => prefixes.status + uid;
/** The key of a data plane's stored link. */
export const linkKey = (dataPlaneUid: string): string => prefixes.links + dataPlaneUid;
/** The key of a data plane's registered agent keys. */
export const credentialsKey = (dataPlaneUid: string): string => prefixes.credentials + dataPlaneUid;
/** The key whose revision tells when a bundle version was published last; there is one. */
export const bundleStampKey = "bundleStamp";
/** The key of a bundle chunk by the hexadecimal SHA-256 of its bytes. */
export const blobKey = (digestHex: string): string => prefixes.blobs + digestHex;
/** The key of the key of page tokens; there is one. */
export const pageTokenKey = "pageTokenKey";
/** The key of the accepted epoch; there is one. */
export const epochKey = "epoch";
/** The keys of the divergences of a data plane (`dataPlanes/<id>`), or of all of them. */
export const divergencesPrefix = (dataPlane?: string): string =>
  dataPlane === undefined
    ? prefixes.divergences
    : `${prefixes.divergences}${dataPlane.slice(prefixes.dataPlanes.length)}/`;
/** The key of one divergence. */
export const divergenceKey = (dataPlane: string, uid: string): string => divergencesPrefix(dataPlane) + uid;
/** The key of a seal of the audit trail; in byte order of the sequence. */
export const auditSealKey = (sequence: number): string =>
  prefixes.auditSeals + String(sequence).padStart(16, "0");
