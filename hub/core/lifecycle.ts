/**
 * How a resource is made, changed and marked for deletion. Pure: uid and time come in.
 *
 * generation counts changes of the spec, etag covers spec, labels and annotations; status touches
 * neither. A write that changes nothing gives back the very record, so that nothing is stored.
 */
import { createHash } from "node:crypto";
import type { DescField, DescMessage, JsonValue } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import type { Kind } from "./keys.ts";
import type { Resource } from "./resources.ts";
import { asJson, canonicalJson, clone, empty, fieldNames, kindOf, ofJson, schemas } from "./resources.ts";

/** The etag of a resource: 16 hexadecimal digits of a SHA-256 over spec, labels and annotations. */
export function etagOf(resource: Resource): string {
  const { spec, labels, annotations } = asJson(resource);
  const text = canonicalJson({ spec: spec ?? {}, labels: labels ?? {}, annotations: annotations ?? {} });
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** A new record from what the caller sent; output-only fields of the input are ignored. */
export function created(
  kind: Kind,
  input: Resource,
  at: { name: string; uid: string; nowMs: number },
): Resource {
  const record = empty(kind);
  const source = clone(input);
  record.name = at.name;
  record.uid = at.uid;
  record.generation = 1n;
  record.createTime = timestampFromMs(at.nowMs);
  record.updateTime = timestampFromMs(at.nowMs);
  record.labels = source.labels;
  record.annotations = source.annotations;
  Object.assign(record, { spec: source.spec ?? emptySpec(kind) });
  record.etag = etagOf(record);
  return record;
}

function emptySpec(kind: Kind): unknown {
  return ofJson(kind, { spec: {} }).spec;
}

/**
 * The record after an Update. `paths` are the mask's, relative to the resource; empty means spec,
 * labels and annotations whole. Errors: INVALID_ARGUMENT for a path that is unknown or output only,
 * ABORTED for another etag.
 */
export function updated(
  old: Resource,
  input: Resource,
  at: { paths: readonly string[]; nowMs: number },
): Resource {
  checkEtag(old, input.etag);
  const kind = kindOf(old);
  const before = asJson(old);
  const source = asJson(input);
  const after = structuredClone(before) as Record<string, JsonValue>;
  for (const path of at.paths.length === 0 || at.paths.includes("*")
    ? ["spec", "labels", "annotations"]
    : at.paths) {
    copyPath({ from: source, to: after }, jsonPath(kind, path));
  }
  const record = ofJson(kind, after);
  if (record.spec === undefined) Object.assign(record, { spec: emptySpec(kind) });
  record.etag = etagOf(record);
  if (record.etag === old.etag) return old;
  const specChanged =
    canonicalJson((asJson(record)["spec"] ?? {}) as JsonValue) !== canonicalJson(before["spec"] ?? {});
  if (specChanged) record.generation = old.generation + 1n;
  record.updateTime = timestampFromMs(at.nowMs);
  return record;
}

/** ABORTED when the caller's etag is set and not the current one. */
export function checkEtag(old: Pick<Resource, "name" | "etag">, etag: string): void {
  if (etag === "" || etag === old.etag) return;
  throw new MoorageError(
    Code.ABORTED,
    `Cannot change "${old.name}": etag "${etag.slice(0, 64)}" is not the current one; read it again and retry`,
    {
      reason: "ETAG_MISMATCH",
      metadata: { resource: old.name, etag: old.etag },
      fields: [{ field: "etag", description: "is not the current one" }],
    },
  );
}

/** The record marked for deletion; the same one when it is marked already. */
export function deleted(old: Resource, nowMs: number): Resource {
  if (old.deleteTime !== undefined) return old;
  const record = clone(old);
  record.deleteTime = timestampFromMs(nowMs);
  return record;
}

const writable = new Set(["spec", "labels", "annotations"]);

/** A mask path as keys of the JSON form; walks the descriptor, so that a typing error is found. */
function jsonPath(kind: Kind, path: string): string[] {
  const field = "update_mask";
  const parts = path.split(".");
  if (!writable.has(parts[0] ?? ""))
    throw invalidField(field, `"${path.slice(0, 128)}" must begin with spec, labels or annotations`);
  const out: string[] = [];
  let message: DescMessage | undefined = schemas[kind];
  for (let i = 0; i < parts.length; i++) {
    const f: DescField | undefined = message?.fields.find((x: DescField) => x.name === parts[i]);
    if (f === undefined)
      throw invalidField(field, `"${path.slice(0, 128)}" names no field of ${fieldNames[kind]}`);
    out.push(f.jsonName);
    if (f.fieldKind === "map" || f.message?.typeName === "google.protobuf.Struct") {
      if (i + 1 < parts.length) out.push(parts.slice(i + 1).join("."));
      return out;
    }
    message = f.fieldKind === "message" ? f.message : undefined;
  }
  return out;
}

/** Copies one path; what the source lacks goes. */
function copyPath(
  json: { from: Record<string, JsonValue>; to: Record<string, JsonValue> },
  path: readonly string[],
): void {
  let { from, to }: { from: Record<string, JsonValue> | undefined; to: Record<string, JsonValue> } = json;
  for (const key of path.slice(0, -1)) {
    from = objectAt(from, key);
    const next = objectAt(to, key);
    if (next === undefined) {
      if (from === undefined) return;
      to[key] = {};
    }
    to = to[key] as Record<string, JsonValue>;
  }
  const last = path.at(-1) as string;
  const value = from === undefined || !Object.hasOwn(from, last) ? undefined : from[last];
  if (value === undefined) delete to[last];
  else to[last] = value;
}

function objectAt(
  json: Record<string, JsonValue> | undefined,
  key: string,
): Record<string, JsonValue> | undefined {
  if (json === undefined || !Object.hasOwn(json, key)) return undefined;
  const value = json[key];
  return value !== null && typeof value === "object" && !Array.isArray(value)
    ? (value as Record<string, JsonValue>)
    : undefined;
}
