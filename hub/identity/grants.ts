import { createHash } from "node:crypto";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { isScope, scopeRule } from "./authorize.ts";

/** What a name of a caller from outside, a claim of a JWT or a name in a certificate, is granted: pure. */

/** One rule: whoever has `name` equal to `value` (`*`: any) has the role in the scopes (none: everywhere). */
export interface Grant {
  name: string;
  value: string;
  role: Role;
  scopes: readonly string[];
}

const ROLES: Readonly<Record<string, Role>> = {
  admin: Role.ADMIN,
  operator: Role.OPERATOR,
  viewer: Role.VIEWER,
  billing: Role.BILLING,
};

const RULE = /^([A-Za-z0-9_.:/-]+?)=(.+):(admin|operator|viewer|billing)(?:@(.+))?$/;

/** The form of the rules, for help and errors. */
export const grantForm = "NAME=VALUE:ROLE[@SCOPE[+SCOPE]], joined by semicolons";

/**
 * Rules in the form of {@link grantForm}, e.g. `groups=platform:admin;sub=ci:operator@tenants/acme`. The
 * first that fits is taken. Throws an Error whose message is the rule that was broken.
 */
export function parseGrants(text: string): Grant[] {
  return text
    .split(";")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((part) => {
      const [, name, value, role, scopes] = RULE.exec(part) ?? [];
      if (name === undefined || value === undefined || role === undefined)
        throw new Error(`must be ${grantForm}; "${part}" is not`);
      const list = scopes === undefined ? [] : scopes.split("+");
      const bad = list.find((s) => !isScope(s));
      if (bad !== undefined) throw new Error(`"${bad}" ${scopeRule}`);
      return { name, value, role: ROLES[role] as Role, scopes: list };
    });
}

/** The first rule that fits; `valuesOf` answers what the caller has under a name. */
export function findGrant(
  grants: readonly Grant[],
  valuesOf: (name: string) => readonly string[],
): Grant | undefined {
  return grants.find((g) => {
    const values = valuesOf(g.name);
    return g.value === "*" ? values.length > 0 : values.includes(g.value);
  });
}

/**
 * The actor of a caller from outside, e.g. `oidc/alice`: safe in keys and logs, and never equal for two
 * names. A long one is shown as its hash.
 */
export function actorOf(family: string, name: string): string {
  // A lone surrogate, which encodeURIComponent throws on, has a hash like any other name.
  const safe = name.isWellFormed() ? encodeURIComponent(name) : undefined;
  if (safe !== undefined && safe.length <= 96) return `${family}/${safe}`;
  // encodeURIComponent leaves no "=", so that no name can look like a hash.
  return `${family}/sha256=${createHash("sha256").update(name).digest("hex")}`;
}
