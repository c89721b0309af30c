import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { parseName } from "../core/names.ts";
import type { ApiPrincipal } from "./identity.ts";

/** What roles and scopes allow: one pure table. */

/** What a call does to what it names. */
export type Verb = "get" | "list" | "watch" | "create" | "update" | "delete";

/**
 * `name`: a resource (`tenants/acme`), or a collection (`tenants`, `tenants/acme/applications`). To place a
 * tenant is to create in `dataPlanes/{id}/tenants`.
 */
export interface Access {
  verb: Verb;
  name: string;
  /** The field of the request that it comes from, where the call is about another resource. */
  field?: string;
}

/** Collections that only an administrator touches: keys and trust, and the hub itself. */
const TRUST = new Set(["apiKeys", "joinTokens", "credentials", "audit", "hub"]);
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

/** Whether a name is about keys and trust, or the hub itself and what is below it. */
function isTrust(name: string): boolean {
  return TRUST.has(collection(name)) || name === "hub" || name.startsWith("hub/");
}

function roleAllows(role: Role, access: Access): boolean {
  const kind = collection(access.name);
  switch (role) {
    case Role.ADMIN:
      return true;
    case Role.OPERATOR:
      return !isTrust(access.name) && (DESIRED.has(kind) || READS.has(access.verb));
    case Role.VIEWER:
      return !isTrust(access.name) && READS.has(access.verb);
    case Role.BILLING:
      return MONEY.has(kind) && READS.has(access.verb);
    default:
      return false;
  }
}

/** What a scope is, for refusals. */
export const scopeRule =
  "is no name of a data plane, tenant or application, nor dataPlanes/{id}/tenants, the right to place tenants there";

const PLACEMENT = /^(dataPlanes\/[^/]+)\/tenants$/;

/** Whether a text can be a scope: see {@link scopeRule}. */
export function isScope(text: string): boolean {
  return parseName(PLACEMENT.exec(text)?.[1] ?? text) !== undefined;
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
  if (!allows(principal, access)) throw denied(principal, access);
}

/** What a caller may see of a collection: undefined is all of it, else what lies within these scopes. */
export type Within = readonly string[] | undefined;

/** Whether a resource of a listed or watched collection is shown. */
export function isWithin(within: Within, name: string): boolean {
  return within === undefined || within.some((s) => scopeCovers(s, name));
}

/** Whether a scope names, or lies above, members of a collection that it does not cover whole. */
function reaches(scope: string, collectionName: string): boolean {
  // Who may place tenants there sees none of what is there.
  if (PLACEMENT.test(scope)) return false;
  // Every tenant and data plane may have applications.
  if (collectionName === "applications") return /^(tenants|dataPlanes)\//.test(scope);
  const [family, dash] = collectionName.split("/");
  if (dash === "-") return scope.startsWith(`${family}/`);
  const depth = collectionName.split("/").length + 1;
  return scope.startsWith(`${collectionName}/`) && scope.split("/").length <= depth;
}

/**
 * For the list or watch of a collection (`tenants`, `applications`, `tenants/-/applications`,
 * `tenants/acme/applications`): the part of it that the caller may see. Throws PERMISSION_DENIED when that
 * is nothing, whether or not anything exists.
 */
export function authorizeCollection(
  principal: ApiPrincipal,
  access: Access & { verb: "list" | "watch" },
): Within {
  if (allows(principal, access)) return undefined;
  const within = principal.scopes.filter((s) => reaches(s, access.name));
  if (within.length === 0 || !roleAllows(principal.role, access)) throw denied(principal, access);
  return within;
}

function denied(principal: ApiPrincipal, access: Access): MoorageError {
  const why = roleAllows(principal.role, access)
    ? "its scopes do not cover it"
    : "its role does not allow it";
  // As long as a name can be: what a caller sends in its place goes into headers of limited size.
  const name = access.name.slice(0, 160);
  return new MoorageError(
    Code.PERMISSION_DENIED,
    `Cannot ${access.verb} "${name}" as "${principal.actor}": ${why}`,
    {
      reason: "PERMISSION_DENIED",
      metadata: { verb: access.verb, resource: name, actor: principal.actor },
      ...(access.field === undefined
        ? {}
        : {
            fields: [
              { field: access.field, description: `needs the right to ${access.verb} "${name}": ${why}` },
            ],
          }),
    },
  );
}
