import { createHash } from "node:crypto";
import { canonicalJson, equalJson } from "../kube/json.ts";
import { asMap, type FieldsV1, type KubeObject, type ManagedFieldsEntry } from "../kube/object.ts";

/**
 * The ownership projection: the values that live under the paths of one manager's Apply entry. A
 * changed, missing or released field of ours changes its hash; nothing else does. No OpenAPI schema:
 * `metadata.managedFields` already says which lists are keyed.
 *
 * Grammar of fieldsV1 (structured-merge-diff, fieldpath/serialize.go): `f:name` a map key,
 * `k:{"name":"x"}` a list element by its key fields, `v:value` a member of a set, `i:n` a list index,
 * `.` the element itself. A node without children is a leaf and takes its whole value.
 */

/** Prefix of our field managers. */
export const MANAGER_PREFIX = "moorage.";

/** A field that is left out of the projection: fieldsV1 elements from the root, `*` for any element. */
export type IgnoredPath = readonly string[];

/** The Apply entry of `manager` on the main resource, if any. */
export function applyEntryOf(object: KubeObject, manager: string): ManagedFieldsEntry | undefined {
  return object.metadata.managedFields?.find(
    (entry) => entry.manager === manager && entry.operation === "Apply" && (entry.subresource ?? "") === "",
  );
}

/** Hash of the fields that `manager` owns by apply, as hex; `""` when it owns none. */
export function ownHash(object: KubeObject, manager: string, ignored: readonly IgnoredPath[] = []): string {
  const fields = applyEntryOf(object, manager)?.fieldsV1;
  if (fields === undefined) return "";
  return createHash("sha256")
    .update(project(fields, object, ignored))
    .digest("hex");
}

/** {@link ownHash} of every `moorage.*` Apply manager on the object. */
export function ownHashes(object: KubeObject, ignored: readonly IgnoredPath[] = []): Record<string, string> {
  const out: Record<string, string> = {};
  for (const entry of object.metadata.managedFields ?? []) {
    const manager = entry.manager ?? "";
    if (
      manager.startsWith(MANAGER_PREFIX) &&
      entry.operation === "Apply" &&
      (entry.subresource ?? "") === ""
    ) {
      out[manager] = ownHash(object, manager, ignored);
    }
  }
  return out;
}

/** The projection as text: canonical, so that equal text means equal owned values. */
export function project(fields: FieldsV1, value: unknown, ignored: readonly IgnoredPath[] = []): string {
  const elements = Object.keys(fields).sort();
  if (elements.length === 0) return value === undefined ? "-" : canonicalJson(value);
  const parts: string[] = [];
  for (const element of elements) {
    if (ignored.some((path) => path.length === 1 && matches(path[0], element))) continue;
    const below = ignored
      .filter((path) => path.length > 1 && matches(path[0], element))
      .map((path) => path.slice(1));
    const text =
      element === "."
        ? value === undefined
          ? "-"
          : "+"
        : project(fields[element] as FieldsV1, childOf(value, element), below);
    parts.push(`${JSON.stringify(element)}:${text}`);
  }
  return `{${parts.join(",")}}`;
}

function matches(pattern: string | undefined, element: string): boolean {
  return pattern === "*" || pattern === element;
}

/** The value that one fieldsV1 element selects in `value`; undefined when it is not there. */
export function childOf(value: unknown, element: string): unknown {
  const argument = element.slice(2);
  switch (element.slice(0, 2)) {
    case "f:": {
      const map = asMap(value);
      return map !== undefined && Object.hasOwn(map, argument) ? map[argument] : undefined;
    }
    case "k:": {
      const key = asMap(JSON.parse(argument)) ?? {};
      if (!Array.isArray(value)) return undefined;
      return value.find((item) => {
        const map = asMap(item);
        return (
          map !== undefined && Object.entries(key).every(([name, wanted]) => equalJson(map[name], wanted))
        );
      }) as unknown;
    }
    case "v:": {
      const wanted: unknown = JSON.parse(argument);
      return Array.isArray(value) ? (value.find((item) => equalJson(item, wanted)) as unknown) : undefined;
    }
    case "i:":
      return Array.isArray(value) ? (value[Number(argument)] as unknown) : undefined;
    default:
      return undefined;
  }
}

/** The union of two field sets. A leaf united with an inner node becomes the inner node plus `.`. */
export function uniteFields(a: FieldsV1, b: FieldsV1): FieldsV1 {
  const out: FieldsV1 = { ...a };
  for (const [element, fields] of Object.entries(b)) {
    const mine = out[element];
    out[element] = mine === undefined ? fields : uniteFields(mine, fields);
  }
  return out;
}

/** `fields` without `path` and without parents that it leaves empty. Undefined when nothing is left. */
export function withoutPath(fields: FieldsV1, path: readonly string[]): FieldsV1 | undefined {
  const [head, ...tail] = path;
  if (head === undefined) return undefined;
  const child = fields[head];
  if (child === undefined) return fields;
  const out: FieldsV1 = { ...fields };
  const left = tail.length === 0 ? undefined : withoutPath(child, tail);
  if (left === undefined) delete out[head];
  else out[head] = left;
  return Object.keys(out).every((element) => element === ".") ? undefined : out;
}
