import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type {
  CertificateAuthority,
  GetCertificateAuthorityRequest,
  ListAuditRecordsRequest,
  ListAuditRecordsResponse,
  RotateCertificateAuthorityRequest,
} from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { CertificateAuthoritySchema } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { invalidField } from "@moorage/shared/errors";
import type { Store } from "../store/store.ts";
import { AuditList } from "./audit-list.ts";
import type { Actor, CertificateAuthorityState, Identity } from "./identity.ts";

/** The calls of HubService that are identity's. The caller has been authorized: all need the role admin. */

const AUTHORITY = "hub/certificateAuthority";

/** Looking at and rotating the certificate authority. */
export interface CertificateAuthorityHandlers {
  getCertificateAuthority(request: GetCertificateAuthorityRequest): Promise<CertificateAuthority>;
  /** FAILED_PRECONDITION `ROTATION_UNDER_WAY` unless forced. */
  rotateCertificateAuthority(
    request: RotateCertificateAuthorityRequest,
    by: Actor,
  ): Promise<CertificateAuthority>;
}

function checkName(name: string): void {
  if (name !== "" && name !== AUTHORITY) throw invalidField("name", `must be "${AUTHORITY}" or unset`);
}

function view(state: CertificateAuthorityState): CertificateAuthority {
  return create(CertificateAuthoritySchema, {
    name: AUTHORITY,
    certificates: state.certificates.map((c) => ({
      fingerprint: Buffer.from(c.info.fingerprint, "hex"),
      notBefore: timestampFromMs(c.info.notBeforeMs),
      notAfter: timestampFromMs(c.info.notAfterMs),
      signing: c.signing,
      ...(c.retireMs === undefined ? {} : { retireTime: timestampFromMs(c.retireMs) }),
    })),
    trustBundlePem: Buffer.from(state.bundlePem),
    rotating: state.rotating,
    dataPlanesRemaining: state.remaining,
  });
}

/** The handlers over an identity. */
export function certificateAuthorityHandlers(
  identity: Pick<Identity, "certificateAuthorities">,
): CertificateAuthorityHandlers {
  const { certificateAuthorities } = identity;
  return {
    async getCertificateAuthority(request) {
      checkName(request.name);
      return view(await certificateAuthorities.describe());
    },
    async rotateCertificateAuthority(request, by) {
      checkName(request.name);
      return view(await certificateAuthorities.rotate({ force: request.force }, by));
    },
  };
}

/** Reading the audit trail. */
export interface AuditHandlers {
  listAuditRecords(request: ListAuditRecordsRequest): Promise<ListAuditRecordsResponse>;
}

/** The handlers over a store. */
export function auditHandlers(deps: {
  store: Store;
  clock: Clock;
  reader?: { pageKey(): Promise<Uint8Array> };
}): AuditHandlers {
  const list = new AuditList(deps);
  return { listAuditRecords: (request) => list.page(request) };
}
