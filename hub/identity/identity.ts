import type { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import type { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import type { ApiKey, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import type { JoinToken } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import type { Clock } from "@moorage/shared/clock";
import type { Handlers } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { CertifiedKey } from "@moorage/shared/x509";
import type { Rev, Store } from "../store/store.ts";
import type { Plan } from "./act.ts";
import type { TrustedCa } from "./authority.ts";
import type { Grant } from "./grants.ts";
import type { OidcOptions } from "./oidc.ts";

/**
 * Who speaks to the hub: the contract of this folder; `create-identity.ts` makes one.
 *
 * - An agent is its client certificate: exactly one URI name, equal byte for byte to
 *   `spiffe://<trust domain>/dataplane/<uid>`, and a key registered for that uid.
 * - Secrets are random 256 bits, shown once, kept as SHA-256.
 * - Every act, and every refusal that points to theft, leaves an audit record in its transaction.
 */

/** An agent, by its client certificate. */
export interface AgentPrincipal {
  dataPlaneUid: string;
  /** Resource name, e.g. `dataPlanes/eu-1`. */
  dataPlane: string;
  /** SHA-256 of the public key in lower-case hex. */
  thumbprint: string;
}

/** A caller of the public API. */
export interface ApiPrincipal {
  /** For audit records, e.g. `apiKeys/backend`. */
  actor: string;
  role: Role;
  /** Name prefixes, whole segments; empty means everything. */
  scopes: readonly string[];
  /** Wall time at which the credential ends; absent for one without an end. Long calls are to end then. */
  expireMs?: number;
  /** At which the hub's record of the credential was written; absent for one without a record. */
  revision?: Rev;
}

/** Who does something, for the audit record. */
export interface Actor {
  actor: string;
  requestId?: string;
}

/** A join token just made; `token` is shown this once. */
export interface NewToken {
  joinToken: JoinToken;
  token: string;
  dataPlaneUid: string;
}

/**
 * Join tokens and agent credentials. Errors: NOT_FOUND for an unknown name, INVALID_ARGUMENT by field. A method
 * that ends in -ing answers the plan of an act, for the API's writer; the others carry it out.
 */
export interface JoinTokens {
  /** `lifetimeMs` up to `limits.joinTokenMaxMs`, default `limits.joinTokenMs`. */
  create(request: { dataPlane: string; lifetimeMs?: number }, by: Actor): Promise<NewToken>;
  creating(request: { dataPlane: string; lifetimeMs?: number }): Plan<NewToken>;
  list(dataPlane: string): Promise<JoinToken[]>;
  deleting(name: string): Plan<JoinToken>;
  /** Ends all keys of the data plane's agent and its unused tokens; answers the number of keys ended. */
  revoke(request: { dataPlane: string; reason: string }, by: Actor): Promise<number>;
  revoking(request: { dataPlane: string; reason: string }): Plan<number>;
  /** Forgets tokens a day after they expired, also those of data planes that are gone; answers how many. */
  sweep(signal?: AbortSignal): Promise<number>;
}

/** An API key to make. `expireMs`: wall time; absent means never. */
export interface NewApiKey {
  id: string;
  displayName: string;
  role: Role;
  scopes: readonly string[];
  expireMs?: number;
}

/** API keys. Errors and methods as of {@link JoinTokens}; ALREADY_EXISTS for a taken id. */
export interface ApiKeys {
  /** `secret` is shown this once. */
  create(request: NewApiKey, by: Actor): Promise<{ apiKey: ApiKey; secret: string }>;
  creating(request: NewApiKey): Plan<{ apiKey: ApiKey; secret: string }>;
  get(name: string): Promise<ApiKey>;
  /** Keys after a name, in order of name. */
  list(q: { afterName?: string; limit: number }): Promise<{ apiKeys: ApiKey[]; more: boolean }>;
  delete(name: string, by: Actor): Promise<ApiKey>;
  deleting(name: string): Plan<ApiKey>;
  /**
   * The principal of a call: of its client certificate (DER) where the port demands one, else of its
   * `authorization` header, an API key or a JWT. UNAUTHENTICATED otherwise; PERMISSION_DENIED for a known
   * caller without a grant.
   */
  authenticate(authorization: string | undefined, certificateDer?: Uint8Array): Promise<ApiPrincipal>;
  /**
   * Calls `fn` with the actor of each key that was made, changed or deleted, and the revision of that: who
   * was authenticated by an older one of this actor is nobody any more.
   */
  onChange(fn: (actor: string, revision: Rev) => void): () => void;
  /**
   * Makes `apiKeys/bootstrap`, role ADMIN, when there is no key at all; answers its secret then. `keep`
   * gets the secret before the key is committed: a crash between the two makes another one next time,
   * and locks nobody out.
   */
  bootstrap(keep?: (secret: string) => Promise<void>): Promise<string | undefined>;
}

/** Keeps the authority's key. */
export interface KeyProvider {
  load(): Promise<Authority | undefined>;
  /** Replaces what is kept, whole; called before anything is signed with its key. */
  save(authority: Authority): Promise<void>;
}

/** The built-in certificate authority and what agents are to trust. */
export interface Authority {
  ca: CertifiedKey;
  /** CA certificates in PEM; holds the one of `ca`. */
  bundlePem: string;
  /**
   * Certificates that lead from this authority to the oldest, newest first, and the oldest itself; empty
   * before a rotation.
   */
  crossPem: string;
}

/** The certificate authority at a moment. */
export interface CertificateAuthorityState {
  /** The signing one first. */
  certificates: TrustedCa[];
  bundlePem: string;
  rotating: boolean;
  /** Agents whose newest certificate is of a former authority and has not run out. */
  remaining: number;
}

/** Looking at and rotating the certificate authority. */
export interface CertificateAuthorities {
  describe(): Promise<CertificateAuthorityState>;
  /**
   * Makes a new signing authority; the former stays trusted until {@link retireWhenDue} ends it. Error:
   * FAILED_PRECONDITION `ROTATION_UNDER_WAY` unless `force`. Records that it began, or failed; that it is done,
   * the caller records.
   */
  rotate(request: { force: boolean }, by: Actor): Promise<CertificateAuthorityState>;
  /** Ends former authorities that no agent needs any more, or whose certificates have all run out. */
  retireWhenDue(): Promise<void>;
}

/** A server certificate that is issued anew in time. */
export interface ServerCertificate {
  current(): CertifiedKey;
  /** Calls `fn` with each new one. */
  onRenewed(fn: (certificate: CertifiedKey) => void): () => void;
}

/** What {@link Identity} is made of; one of `dataDir` and `keyProvider`. */
export interface IdentityOptions {
  store: Store;
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Holds `ca.key` (0600), `ca.crt` and `ca-bundle.pem`, made once. */
  dataDir?: string;
  keyProvider?: KeyProvider;
  trustDomain: string;
  /** Accepts JWTs of an issuer on the API port. */
  oidc?: OidcOptions;
  /** Accepts client certificates of this authority on the API port that demands them. */
  clientCertificates?: { caPem: string; grants: readonly Grant[] };
}

/** Identity of agents and API callers. */
export interface Identity {
  readonly name: string;
  readonly trustDomain: string;
  /** CA certificates in PEM, the listeners' and the agents', as of now: a rotation changes them. */
  readonly trustBundlePem: string;
  readonly certificateAuthorities: CertificateAuthorities;
  readonly joinTokens: JoinTokens;
  readonly apiKeys: ApiKeys;
  readonly enrolmentHandlers: Handlers<typeof EnrolmentService>;
  readonly identityHandlers: Handlers<typeof IdentityService>;
  /** UNAUTHENTICATED or PERMISSION_DENIED unless the certificate may speak for a data plane now. */
  authenticateAgent(certificateDer: Uint8Array | undefined): Promise<AgentPrincipal>;
  /** A connection with this key succeeded: a candidate becomes registered. */
  confirmAgentKey(principal: AgentPrincipal): Promise<void>;
  /** Calls `fn` with a data plane and the thumbprints that may still speak for it, on each change. */
  onCredentials(fn: (dataPlaneUid: string, valid: ReadonlySet<string>) => void): () => void;
  /** Calls `fn` with the CA certificates whenever they changed. */
  onTrustBundle(fn: (bundlePem: string) => Promise<void> | void): () => void;
  /** A certificate of the listeners for these names; renewed while `run` runs, and at each rotation. */
  serverCertificate(names: { dnsNames: string[]; ipAddresses?: string[] }): Promise<ServerCertificate>;
  /**
   * Follows changes of credentials and keys, renews server certificates and ends former authorities, until
   * `signal` aborts.
   */
  run(signal: AbortSignal): Promise<void>;
}
