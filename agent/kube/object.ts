import { isRawNumber } from "./json.ts";

/**
 * Kubernetes objects as raw JSON. No typed model stands between a bundle and the wire: a client that
 * drops a field it does not know makes server-side apply delete that field.
 */

/** An owner reference as the API server stores it. */
export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

/** One entry of `metadata.managedFields`. `fieldsV1` is the nested `f:`/`k:`/`v:`/`i:` form. */
export interface ManagedFieldsEntry {
  manager?: string;
  operation?: "Apply" | "Update";
  apiVersion?: string;
  time?: string;
  fieldsType?: string;
  fieldsV1?: FieldsV1;
  subresource?: string;
}

/** A set of field paths: structured-merge-diff's serialisation, one key per path element. */
export interface FieldsV1 {
  [element: string]: FieldsV1;
}

/** `metadata`, with the fields that the engine reads; all others are kept. */
export interface ObjectMeta {
  name: string;
  namespace?: string;
  generateName?: string;
  uid?: string;
  /** Opaque but for equality; see {@link compareResourceVersions}. */
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string | null;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  finalizers?: string[];
  ownerReferences?: OwnerReference[];
  managedFields?: ManagedFieldsEntry[];
  [field: string]: unknown;
}

/** Any object of any kind. Values are plain JSON, plus `JSON.rawJSON` for integers beyond 2^53. */
export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
  [field: string]: unknown;
}

/** A kind at a version, e.g. `{apiVersion: "apps/v1", kind: "Deployment"}`. */
export interface KindRef {
  apiVersion: string;
  kind: string;
}

/** One object's address. `namespace` is absent for cluster-scoped kinds. */
export interface ObjectRef extends KindRef {
  namespace?: string;
  name: string;
}

/** The group of an apiVersion; `""` for the core group. */
export function groupOf(apiVersion: string): string {
  const slash = apiVersion.indexOf("/");
  return slash < 0 ? "" : apiVersion.slice(0, slash);
}

/** The version of an apiVersion, e.g. `v1` of `apps/v1`. */
export function versionOf(apiVersion: string): string {
  return apiVersion.slice(apiVersion.indexOf("/") + 1);
}

/** Joins group and version; the core group is empty. */
export function apiVersionOf(group: string, version: string): string {
  return group === "" ? version : `${group}/${version}`;
}

/** The address of `object`. */
export function refOf(object: KubeObject): ObjectRef {
  const { namespace, name } = object.metadata;
  const ref: ObjectRef = { apiVersion: object.apiVersion, kind: object.kind, name };
  if (namespace !== undefined && namespace !== "") ref.namespace = namespace;
  return ref;
}

/** An address for people: `apps/v1 Deployment shop/web`. */
export function describeRef(ref: ObjectRef): string {
  const where =
    ref.namespace === undefined || ref.namespace === "" ? ref.name : `${ref.namespace}/${ref.name}`;
  return `${ref.apiVersion} ${ref.kind} ${where}`;
}

/**
 * Orders two resource versions of one kind: negative when `a` is older. Decimal strings of any length
 * are compared as numbers (KEP-5504 makes that a guarantee); anything else compares as equal (0).
 */
export function compareResourceVersions(a: string, b: string): number {
  if (!/^[1-9][0-9]*$/.test(a) || !/^[1-9][0-9]*$/.test(b)) return 0;
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}

/** `value` as a map, or undefined. Arrays and raw numbers are not maps. */
export function asMap(value: unknown): Record<string, unknown> | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  return isRawNumber(value) ? undefined : (value as Record<string, unknown>);
}

/** The value under `keys`, one map key each; undefined where the path ends early. */
export function dig(value: unknown, ...keys: string[]): unknown {
  let at: unknown = value;
  for (const key of keys) {
    const map = asMap(at);
    if (map === undefined || !Object.hasOwn(map, key)) return undefined;
    at = map[key];
  }
  return at;
}

/** `value` as a whole number from 0 to 2^53 - 1: a revision, generation or term. Undefined for anything else. */
export function wholeNumber(value: unknown): number | undefined {
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : undefined;
}
