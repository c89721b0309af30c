import { createHash } from "node:crypto";
import type { SetIdentity } from "./apply-set.ts";

/** Keys and values that mark members of an application (ApplySet, KEP-3659; Kubernetes label reference). */
export const PART_OF_LABEL = "applyset.kubernetes.io/part-of";
/** On the parent. */
export const SET_ID_LABEL = "applyset.kubernetes.io/id";
export const MANAGED_BY_LABEL = "app.kubernetes.io/managed-by";
export const MANAGED_BY = "moorage";
export const APPLICATION_LABEL = "moorage.dev/application";
export const TENANT_LABEL = "moorage.dev/tenant";
export const DATA_PLANE_LABEL = "moorage.dev/data-plane";
/** `Merge`: additions by people are left alone. `IfNotPresent`: create, never change. */
export const APPLY_ANNOTATION = "moorage.dev/apply";
/** `true`: the object is left as it is. */
export const SUSPEND_ANNOTATION = "moorage.dev/suspend";
/** `keep`: survives its removal from the application. */
export const ON_REMOVE_ANNOTATION = "moorage.dev/on-remove";
/** `Recreate`: delete and create when an immutable field changes. */
export const IMMUTABLE_ANNOTATION = "moorage.dev/immutable";
export const DEPENDS_ON_ANNOTATION = "moorage.dev/depends-on";

const LABEL_VALUE_MAX = 63;

/** The set's id: `applyset-<base64url(sha256("<name>.<namespace>.<kind>.<group>"))>-v1`. */
export function applySetId(parent: SetIdentity["parent"]): string {
  const text = `${parent.name}.${parent.namespace}.${parent.kind}.${parent.group}`;
  return `applyset-${createHash("sha256").update(text).digest("base64url")}-v1`;
}

/** Labels of every member. Never the application's revision: each release would rewrite every object. */
export function memberLabels(identity: SetIdentity): Record<string, string> {
  return {
    [MANAGED_BY_LABEL]: MANAGED_BY,
    [PART_OF_LABEL]: applySetId(identity.parent),
    [APPLICATION_LABEL]: labelValue(identity.application),
    [DATA_PLANE_LABEL]: labelValue(identity.dataPlane),
    ...(identity.tenant === undefined ? {} : { [TENANT_LABEL]: labelValue(identity.tenant) }),
  };
}

/** `text` where it fits into a label value, else its hash. */
export function labelValue(text: string): string {
  if (text.length <= LABEL_VALUE_MAX && /^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/.test(text))
    return text;
  return createHash("sha256").update(text).digest("hex").slice(0, LABEL_VALUE_MAX);
}

/** Annotations of the ApplySet parent. Both lists sorted, comma separated. */
export function parentAnnotations(set: {
  groupKinds: Iterable<{ group: string; kind: string }>;
  namespaces: Iterable<string>;
  version: string;
}): Record<string, string> {
  const kinds = new Set([...set.groupKinds].map((k) => (k.group === "" ? k.kind : `${k.kind}.${k.group}`)));
  const namespaces = new Set([...set.namespaces].filter((n) => n !== ""));
  return {
    "applyset.kubernetes.io/tooling": `moorage/${set.version}`,
    "applyset.kubernetes.io/contains-group-kinds": [...kinds].sort().join(","),
    "applyset.kubernetes.io/additional-namespaces": [...namespaces].sort().join(","),
  };
}
