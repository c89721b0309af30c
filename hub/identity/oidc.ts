import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Logger } from "@moorage/shared/log";
import type { JWK, JWTPayload } from "jose";
import { createLocalJWKSet, decodeProtectedHeader, errors, jwtVerify } from "jose";
import type { Grant } from "./grants.ts";
import { actorOf, findGrant } from "./grants.ts";
import type { ApiPrincipal } from "./identity.ts";
import type { JwksSource } from "./jwks.ts";
import { createJwks } from "./jwks.ts";

/** Callers of the API by a JSON Web Token (RFC 7519) of one issuer, as an OpenID Connect provider signs it. */

/** Whose tokens are accepted, and what they grant. */
export interface OidcOptions {
  /** Must equal the claim `iss`. */
  issuer: string;
  /** Must be in the claim `aud`. */
  audience: string;
  jwks: JwksSource;
  /** Rules over the claims. */
  grants: readonly Grant[];
  /** The claim that names the caller in audit records, e.g. `sub`. */
  actorClaim: string;
  /** A claim with the resource names that the caller is limited to; without it the rule's scopes count alone. */
  scopesClaim?: string;
}

/** Asymmetric algorithms alone; never `none`, never one that a public key could be the secret of. */
const ALGORITHMS = ["RS256", "ES256", "EdDSA"];
/** Difference between the clocks of issuer and hub. */
const SKEW_S = 60;
const MOST_TOKEN_BYTES = 16 * 1_024;
const MOST_SCOPES = 64;

/** Makes the function from a token to its principal. */
export function createJwtVerifier(
  options: OidcOptions,
  on: { clock: Clock; log: Logger },
): (token: string) => Promise<ApiPrincipal> {
  const jwks = createJwks(options.jwks, on);

  async function verify(token: string, keys: JWK[]): Promise<JWTPayload> {
    const { payload } = await jwtVerify(token, createLocalJWKSet({ keys }), {
      algorithms: ALGORITHMS,
      issuer: options.issuer,
      audience: options.audience,
      clockTolerance: SKEW_S,
      currentDate: new Date(on.clock.now()),
      requiredClaims: ["exp"],
    });
    return payload;
  }

  return async (token) => {
    if (token.length > MOST_TOKEN_BYTES)
      throw refusal(`it has more than ${MOST_TOKEN_BYTES} bytes`, "TOKEN_TOO_LARGE");
    checkHeader(token);
    try {
      return principalOf(await verify(token, await jwks.keys()), options);
    } catch (thrown) {
      if (!(thrown instanceof errors.JWKSNoMatchingKey)) throw refusalOf(thrown);
    }
    // The issuer may have a new key. How often it is asked does not depend on how many tokens say so.
    const newer = await jwks.newer();
    if (newer === undefined) throw refusal("its key is not known", "TOKEN_KEY_UNKNOWN");
    try {
      return principalOf(await verify(token, newer), options);
    } catch (thrown) {
      throw refusalOf(thrown);
    }
  };
}

/** Before any key is looked for: the algorithm, and what kind of token it claims to be. */
function checkHeader(token: string): void {
  let header: { alg?: unknown; typ?: unknown; kid?: unknown };
  try {
    header = decodeProtectedHeader(token);
  } catch {
    throw refusal("it cannot be read", "TOKEN_MALFORMED");
  }
  if (!ALGORITHMS.includes(String(header.alg)))
    throw refusal(`its algorithm must be one of ${ALGORITHMS.join(", ")}`, "TOKEN_ALGORITHM");
  if (header.typ !== undefined && !/^(application\/)?(at\+)?jwt$/i.test(String(header.typ)))
    throw refusal("it is of another type", "TOKEN_MALFORMED");
  if (header.kid !== undefined && (typeof header.kid !== "string" || header.kid.length > 256))
    throw refusal("its key id is malformed", "TOKEN_MALFORMED");
}

/** The values of a claim: a text, or a list of texts. */
function claimValues(payload: JWTPayload, claim: string): string[] {
  const value = Object.hasOwn(payload, claim) ? payload[claim] : undefined;
  if (typeof value === "string") return [value];
  return Array.isArray(value) ? value.filter((v): v is string => typeof v === "string") : [];
}

function principalOf(payload: JWTPayload, options: OidcOptions): ApiPrincipal {
  const [name] = claimValues(payload, options.actorClaim);
  if (name === undefined || name === "")
    throw refusal(`it has no claim "${options.actorClaim}"`, "TOKEN_CLAIM_MISSING");
  const actor = actorOf("oidc", name);
  const denied = (why: string) =>
    new MoorageError(Code.PERMISSION_DENIED, `Cannot admit the caller "${actor}": ${why}`, {
      reason: "NO_GRANT",
      metadata: { actor },
    });
  const grant = findGrant(options.grants, (claim) => claimValues(payload, claim));
  if (grant === undefined) throw denied("no rule of --oidc-grants fits its claims");
  const expireMs = (Number(payload.exp) + SKEW_S) * 1_000;
  if (options.scopesClaim === undefined) return { actor, role: grant.role, scopes: grant.scopes, expireMs };
  const asked = claimValues(payload, options.scopesClaim).slice(0, MOST_SCOPES);
  const covered = (s: string) => grant.scopes.some((g) => s === g || s.startsWith(`${g}/`));
  const scopes = grant.scopes.length === 0 ? asked : asked.filter(covered);
  // No scopes at all would mean everywhere; a limit that leaves nothing leaves nothing.
  if (scopes.length === 0) throw denied(`its claim "${options.scopesClaim}" leaves it nothing`);
  return { actor, role: grant.role, scopes, expireMs };
}

const REASONS: readonly [new (...args: never[]) => Error, string, string][] = [
  [errors.JWTExpired, "it has expired", "TOKEN_EXPIRED"],
  [errors.JWSSignatureVerificationFailed, "its signature does not match", "TOKEN_SIGNATURE"],
  [errors.JWTClaimValidationFailed, "a claim does not fit this hub", "TOKEN_CLAIM"],
  [errors.JWKSNoMatchingKey, "its key is not known", "TOKEN_KEY_UNKNOWN"],
  [errors.JWKSMultipleMatchingKeys, "it names no key, and several fit", "TOKEN_KEY_UNKNOWN"],
  [errors.JOSEAlgNotAllowed, "its algorithm is not allowed", "TOKEN_ALGORITHM"],
];

/** What the library found, without its text: that may quote the token. */
function refusalOf(thrown: unknown): MoorageError {
  if (thrown instanceof MoorageError) return thrown;
  const known = REASONS.find(([type]) => thrown instanceof type);
  const claim = thrown instanceof errors.JWTClaimValidationFailed ? ` ("${thrown.claim}")` : "";
  return refusal(`${known?.[1] ?? "it cannot be verified"}${claim}`, known?.[2] ?? "TOKEN_INVALID");
}

function refusal(why: string, reason: string): MoorageError {
  return new MoorageError(Code.UNAUTHENTICATED, `Cannot authenticate the token: ${why}`, { reason });
}
