/** Resource names: parsing, formatting and their rules. Pure. */
import { invalidField } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import type { Kind } from "./keys.ts";

/** An id: 1 to 40 lower-case letters, digits and hyphens, a letter first, no hyphen last. */
const id = /^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$/;
/** A bundle's version: semantic versioning without build metadata (semver.org 2.0.0). */
const version = /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$/;

/** The rule of an id, for error messages. */
export const idRule =
  "must be 1 to 40 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen";

/** True for a well-formed id. */
export const isId = (text: string): boolean => id.test(text);

/** Refuses a malformed id, naming the field. */
export function checkId(field: string, text: string): void {
  if (!isId(text)) throw invalidField(field, `"${text.slice(0, 64)}" ${idRule}`);
}

/** What a name says: its kind and, for applications, the name of its parent. */
export interface ParsedName {
  kind: Kind;
  /** Last part. */
  id: string;
  /** `tenants/{t}` or `dataPlanes/{dp}` of an application. */
  parent: string | undefined;
}

/** The parts of a data plane's, tenant's or application's name; undefined when it is none. */
export function parseName(name: string): ParsedName | undefined {
  const parts = name.split("/");
  const [a, b, c, d] = parts;
  if (b === undefined || !isId(b)) return undefined;
  if (parts.length === 2 && a === "dataPlanes") return { kind: "DataPlane", id: b, parent: undefined };
  if (parts.length === 2 && a === "tenants") return { kind: "Tenant", id: b, parent: undefined };
  if (
    parts.length === 4 &&
    (a === "tenants" || a === "dataPlanes") &&
    c === "applications" &&
    d !== undefined &&
    isId(d)
  ) {
    return { kind: "Application", id: d, parent: `${a}/${b}` };
  }
  return undefined;
}

const forms: Record<Kind, string> = {
  DataPlane: "dataPlanes/{id}",
  Tenant: "tenants/{id}",
  Application: "tenants/{id}/applications/{id} or dataPlanes/{id}/applications/{id}",
};

/** The parts of a name of `kind`; INVALID_ARGUMENT for `field` otherwise. */
export function requireName(kind: Kind, field: string, name: string): ParsedName {
  const parsed = parseName(name);
  if (parsed?.kind !== kind)
    throw invalidField(
      field,
      `"${name.slice(0, 128)}" is no name of the form ${forms[kind]}; an id ${idRule}`,
    );
  return parsed;
}

/** The name of an application's parent, checked. */
export function requireParent(field: string, parent: string): string {
  const parsed = parseName(parent);
  if (parsed === undefined || parsed.kind === "Application") {
    throw invalidField(
      field,
      `"${parent.slice(0, 128)}" is no name of the form ${forms.Tenant} or ${forms.DataPlane}`,
    );
  }
  return parent;
}

/** `bundles/{name}`, checked; answers the bundle's id. */
export function requireBundle(field: string, name: string): string {
  const [a, b, ...rest] = name.split("/");
  if (a !== "bundles" || b === undefined || !isId(b) || rest.length > 0)
    throw invalidField(field, `"${name.slice(0, 128)}" is no name of the form bundles/{id}`);
  return b;
}

/** A bundle version's text, checked. */
export function requireVersion(field: string, text: string): string {
  if (!version.test(text) || text.length > limits.bundleVersionBytes)
    throw invalidField(field, `"${text.slice(0, 64)}" is no semantic version, e.g. 1.4.0`);
  return text;
}

/** `bundles/{name}/versions/{version}`, checked. */
export function requireBundleVersion(field: string, name: string): { bundle: string; version: string } {
  const [a, b, c, d, ...rest] = name.split("/");
  if (
    a !== "bundles" ||
    c !== "versions" ||
    b === undefined ||
    d === undefined ||
    rest.length > 0 ||
    !isId(b)
  ) {
    throw invalidField(
      field,
      `"${name.slice(0, 160)}" is no name of the form bundles/{id}/versions/{version}`,
    );
  }
  return { bundle: b, version: requireVersion(field, d) };
}
