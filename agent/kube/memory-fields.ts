import { canonicalJson, cloneJson, defineKey, equalJson } from "./json.ts";
import { asMap, type FieldsV1, type KubeObject, type ManagedFieldsEntry } from "./object.ts";

/**
 * Field ownership for the in-memory cluster: enough of server-side apply (structured-merge-diff) for
 * one purpose, that our engine sees the same owners, conflicts and removals as on a real API server.
 * Instead of OpenAPI schemas a table says which lists are keyed; every other list is atomic.
 */

/** Key fields of associative lists, by field name; the first row whose keys an element has is used. */
const LIST_KEYS: Readonly<Record<string, readonly (readonly string[])[]>> = {
  containers: [["name"]],
  initContainers: [["name"]],
  ephemeralContainers: [["name"]],
  volumes: [["name"]],
  env: [["name"]],
  imagePullSecrets: [["name"]],
  volumeMounts: [["mountPath"]],
  ports: [
    ["containerPort", "protocol"],
    ["port", "protocol"],
  ],
  conditions: [["type"]],
  ownerReferences: [["uid"]],
};
const SET_LISTS = new Set(["finalizers"]);
const UNOWNED_METADATA = new Set([
  "name",
  "namespace",
  "uid",
  "resourceVersion",
  "generation",
  "creationTimestamp",
  "deletionTimestamp",
  "deletionGracePeriodSeconds",
  "managedFields",
  "selfLink",
  "generateName",
]);

const SEPARATOR = "\u0001";

/** A set of leaf paths; each the fieldsV1 elements joined by U+0001. */
export type FieldSet = Set<string>;

/** The leaves of an object by path, identity and server fields left out. */
export function leavesOf(object: KubeObject): Map<string, unknown> {
  const out = new Map<string, unknown>();
  for (const [key, value] of Object.entries(object)) {
    if (key === "apiVersion" || key === "kind") continue;
    if (key !== "metadata") walk(value, { path: `f:${key}`, name: key }, out);
    else
      for (const [name, item] of Object.entries(object.metadata))
        if (!UNOWNED_METADATA.has(name)) walk(item, { path: `f:metadata${SEPARATOR}f:${name}`, name }, out);
  }
  return out;
}

function walk(value: unknown, at: { path: string; name: string }, out: Map<string, unknown>): void {
  const { path, name } = at;
  const map = asMap(value);
  if (map !== undefined) {
    const names = Object.keys(map);
    for (const key of names) walk(map[key], { path: `${path}${SEPARATOR}f:${key}`, name: key }, out);
    if (names.length > 0) return;
  }
  if (Array.isArray(value) && value.length > 0) {
    if (SET_LISTS.has(name)) {
      for (const item of value) out.set(`${path}${SEPARATOR}v:${JSON.stringify(item)}`, item);
      return;
    }
    const keys = keysOf(name, value);
    if (keys !== undefined) {
      for (const item of value) {
        const below = `${path}${SEPARATOR}${elementOf(item, keys)}`;
        out.set(`${below}${SEPARATOR}.`, true);
        walk(item, { path: below, name: "" }, out);
      }
      return;
    }
  }
  out.set(path, value);
}

function keysOf(name: string, list: readonly unknown[]): readonly string[] | undefined {
  if (!Object.hasOwn(LIST_KEYS, name)) return undefined;
  return LIST_KEYS[name]?.find((keys) =>
    list.every((item) => keys.every((key) => asMap(item)?.[key] !== undefined)),
  );
}

function elementOf(item: unknown, keys: readonly string[]): string {
  const key: Record<string, unknown> = {};
  for (const name of keys) key[name] = asMap(item)?.[name];
  return `k:${canonicalJson(key)}`;
}

/** fieldsV1 of a set. */
export function encodeFields(set: ReadonlySet<string> | ReadonlyMap<string, unknown>): FieldsV1 {
  const out: FieldsV1 = {};
  for (const path of [...set.keys()].sort()) {
    let at = out;
    for (const element of path.split(SEPARATOR)) {
      if (!Object.hasOwn(at, element)) defineKey(at, element, {});
      at = at[element] as FieldsV1;
    }
  }
  return out;
}

/** The leaf paths of fieldsV1. */
export function decodeFields(fields: FieldsV1, prefix = "", out: FieldSet = new Set()): FieldSet {
  const elements = Object.keys(fields);
  if (elements.length === 0 && prefix !== "") out.add(prefix.slice(0, -1));
  for (const element of elements) decodeFields(fields[element] ?? {}, `${prefix}${element}${SEPARATOR}`, out);
  return out;
}

/** The value at a leaf path; for `.` the element itself. */
function valueAt(object: unknown, path: string): unknown {
  let at = object;
  for (const element of path.split(SEPARATOR)) {
    if (element === ".") return at === undefined ? undefined : true;
    at = child(at, element);
    if (at === undefined) return undefined;
  }
  return at;
}

function child(value: unknown, element: string): unknown {
  const argument = element.slice(2);
  if (element.startsWith("f:")) {
    const map = asMap(value);
    return map !== undefined && Object.hasOwn(map, argument) ? map[argument] : undefined;
  }
  if (!Array.isArray(value)) return undefined;
  if (element.startsWith("v:")) return value.find((item) => JSON.stringify(item) === argument) as unknown;
  const key = asMap(JSON.parse(argument)) ?? {};
  return value.find((item) =>
    Object.entries(key).every(([name, wanted]) => equalJson(asMap(item)?.[name], wanted)),
  ) as unknown;
}

function removeAt(object: unknown, path: string): void {
  const elements = path.split(SEPARATOR);
  const whole = elements.at(-1) === ".";
  if (whole) elements.pop();
  const last = elements.pop() as string;
  let at: unknown = object;
  for (const element of elements) at = child(at, element);
  const map = asMap(at);
  if (last.startsWith("f:") && map !== undefined) delete map[last.slice(2)];
  else if (Array.isArray(at)) {
    const found = child(at, last);
    const index = at.findIndex((item) => item === found);
    if (index >= 0) at.splice(index, 1);
  }
}

/** Drops maps and lists that removals left empty along `path`. */
function removeEmptyParents(object: unknown, path: string): void {
  const elements = path.split(SEPARATOR);
  for (let length = elements.length - 1; length > 0; length--) {
    const parent = elements.slice(0, length).join(SEPARATOR);
    const value = valueAt(object, parent);
    const empty = Array.isArray(value)
      ? value.length === 0
      : asMap(value) !== undefined && Object.keys(asMap(value) ?? {}).length === 0;
    if (!empty) return;
    removeAt(object, parent);
  }
}

/** Who writes. */
export interface Manager {
  name: string;
  apiVersion: string;
  subresource: string;
  time: string;
}

/** A field that an apply would take from another manager. */
export interface FieldConflict {
  manager: string;
  apiVersion: string;
  field: string;
}

/** The result of an apply, or the conflicts against it. */
export function applyFields(
  live: KubeObject | undefined,
  applied: KubeObject,
  options: { manager: Manager; force: boolean },
): { object: KubeObject } | { conflicts: FieldConflict[] } {
  const { manager, force } = options;
  const entries = (live?.metadata.managedFields ?? []).map((e) => ({
    entry: e,
    set: decodeFields(e.fieldsV1 ?? {}),
  }));
  const isMine = (e: ManagedFieldsEntry) =>
    e.manager === manager.name && e.operation === "Apply" && (e.subresource ?? "") === manager.subresource;
  const fresh = leavesOf(applied);
  const conflicts: FieldConflict[] = [];
  for (const { entry, set } of entries) {
    if (isMine(entry)) continue;
    for (const [path, value] of fresh) {
      if (!set.has(path) || equalJson(valueAt(live, path), value)) continue;
      conflicts.push({
        manager: entry.manager ?? "",
        apiVersion: entry.apiVersion ?? "",
        field: fieldText(path),
      });
      if (force) set.delete(path);
    }
  }
  if (conflicts.length > 0 && !force) return { conflicts };
  const object = live === undefined ? cloneJson(applied) : (merge(live, applied, "") as KubeObject);
  const before = entries.find(({ entry }) => isMine(entry))?.set ?? new Set<string>();
  const others = entries.filter(({ entry }) => !isMine(entry));
  // Children before their element: a removed element takes all with it.
  const dropped = [...before]
    .filter((path) => !fresh.has(path) && !others.some(({ set }) => set.has(path)))
    .sort((a, b) => b.length - a.length);
  for (const path of dropped) {
    removeAt(object, path);
    removeEmptyParents(object, path);
  }
  const kept = others
    .filter(({ set }) => set.size > 0)
    .map(({ entry, set }) => ({ ...entry, fieldsV1: encodeFields(set) }));
  object.metadata.managedFields = [entryFor(manager, "Apply", fresh), ...kept];
  return { object };
}

/** Ownership after a plain write that turned `live` into `next`. */
export function updateFields(
  live: KubeObject | undefined,
  next: KubeObject,
  manager: Manager,
): ManagedFieldsEntry[] {
  const given = next.metadata.managedFields ?? live?.metadata.managedFields ?? [];
  const reset = given.length === 1 && Object.keys(given[0] as object).length === 0;
  const base = reset ? [] : given;
  const before = live === undefined ? new Map<string, unknown>() : leavesOf(live);
  const after = leavesOf(next);
  const changed = new Set<string>();
  for (const [path, value] of after)
    if (!before.has(path) || !equalJson(before.get(path), value)) changed.add(path);
  const removed = [...before.keys()].filter((path) => !after.has(path));
  const isMine = (e: ManagedFieldsEntry) =>
    e.manager === manager.name && e.operation === "Update" && (e.subresource ?? "") === manager.subresource;
  const out: ManagedFieldsEntry[] = [];
  const mine: FieldSet = new Set(changed);
  for (const entry of base) {
    const set = decodeFields(entry.fieldsV1 ?? {});
    for (const path of removed) set.delete(path);
    if (isMine(entry)) for (const path of set) mine.add(path);
    else {
      for (const path of changed) set.delete(path);
      if (set.size > 0) out.push({ ...entry, fieldsV1: encodeFields(set) });
    }
  }
  const old = base.find(isMine);
  if (changed.size > 0) out.push(entryFor(manager, "Update", mine));
  else if (old !== undefined && mine.size > 0) out.push({ ...old, fieldsV1: encodeFields(mine) });
  return out;
}

function entryFor(
  manager: Manager,
  operation: "Apply" | "Update",
  set: ReadonlySet<string> | ReadonlyMap<string, unknown>,
): ManagedFieldsEntry {
  return {
    manager: manager.name,
    operation,
    apiVersion: manager.apiVersion,
    time: manager.time,
    fieldsType: "FieldsV1",
    fieldsV1: encodeFields(set),
    ...(manager.subresource === "" ? {} : { subresource: manager.subresource }),
  };
}

function merge(live: unknown, applied: unknown, name: string): unknown {
  const a = asMap(live);
  const b = asMap(applied);
  if (a !== undefined && b !== undefined) {
    const out: Record<string, unknown> = cloneJson(a);
    for (const [key, value] of Object.entries(b))
      defineKey(out, key, Object.hasOwn(a, key) ? merge(a[key], value, key) : cloneJson(value));
    return out;
  }
  if (Array.isArray(live) && Array.isArray(applied)) {
    if (SET_LISTS.has(name))
      return [...live, ...applied.filter((item) => !live.some((old) => equalJson(old, item)))];
    const keys = keysOf(name, [...live, ...applied]);
    if (keys !== undefined) {
      const old = new Map(live.map((item) => [elementOf(item, keys), item as unknown]));
      const fresh = new Map(applied.map((item) => [elementOf(item, keys), item as unknown]));
      const kept = [...old].map(([key, item]) =>
        fresh.has(key) ? merge(item, fresh.get(key), "") : cloneJson(item),
      );
      return [...kept, ...[...fresh].filter(([key]) => !old.has(key)).map(([, item]) => cloneJson(item))];
    }
  }
  return cloneJson(applied);
}

/** A path as the server prints it: `.spec.template.spec.containers[name="web"].image`. */
function fieldText(path: string): string {
  return path
    .split(SEPARATOR)
    .map((element) => {
      if (element === ".") return "";
      const argument = element.slice(2);
      if (element.startsWith("f:")) return `.${argument}`;
      if (element.startsWith("v:")) return `[=${argument}]`;
      return `[${Object.entries(asMap(JSON.parse(argument)) ?? {})
        .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
        .join(",")}]`;
    })
    .join("");
}
