import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { ApiPrincipal } from "./identity.ts";

/** What roles and scopes allow: one pure table. */

/** What a call does to what it names. */
export type Verb = "get" | "list" | "watch" | "create" | "update" | "delete";

/** `name`: a resource (`tenants/acme`), or a collection (`tenants`, `tenants/acme/applications`). */
export interface Access {
  verb: Verb;
  name: string;
}

/** Collections that only an administrator touches: keys and trust. */
const TRUST = new Set(["apiKeys", "joinTokens", "credentials", "audit"]);
/** Collections of the wanted state. */
const DESIRED = new Set(["dataPlanes", "tenants", "applications", "bundles", "versions"]);
/** Collections about money. */
const MONEY = new Set(["usage", "invoices", "subscriptions", "plans"]);

const READS = new Set<Verb>(["get", "list", "watch"]);

/** The last collection of a name: `tenants/acme/applications/web` and its parent are `applications`. */
function collection(name: string): string {
  const parts = name.split("/");
  return parts[parts.length % 2 === 0 ? parts.length - 2 : parts.length - 1] ?? "";
}

function roleAllows(role: Role, access: Access): boolean {
  const kind = collection(access.name);
  switch (role) {
    case Role.ADMIN:
      return true;
    case Role.OPERATOR:
      return !TRUST.has(kind) && (DESIRED.has(kind) || READS.has(access.verb));
    case Role.VIEWER:
      return !TRUST.has(kind) && READS.has(access.verb);
    case Role.BILLING:
      return MONEY.has(kind) && READS.has(access.verb);
    default:
      return false;
  }
}

/** A scope covers its own name and everything below it, by whole segments. */
function scopeCovers(scope: string, name: string): boolean {
  return name === scope || name.startsWith(`${scope}/`);
}

/** Whether a principal may do something. */
export function allows(principal: Pick<ApiPrincipal, "role" | "scopes">, access: Access): boolean {
  if (!roleAllows(principal.role, access)) return false;
  return principal.scopes.length === 0 || principal.scopes.some((s) => scopeCovers(s, access.name));
}

/** Throws PERMISSION_DENIED unless {@link allows}. */
export function authorize(principal: ApiPrincipal, access: Access): void {
  if (allows(principal, access)) return;
  const why = roleAllows(principal.role, access)
    ? "its scopes do not cover it"
    : "its role does not allow it";
  throw new MoorageError(
    Code.PERMISSION_DENIED,
    `Cannot ${access.verb} "${access.name}" as "${principal.actor}": ${why}`,
    { reason: "PERMISSION_DENIED", metadata: { verb: access.verb, resource: access.name } },
  );
}
