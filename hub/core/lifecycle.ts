/**
 * How a resource is made, changed and marked for deletion. Pure: uid and time come in.
 *
 * generation counts changes of the spec, etag covers spec, labels and annotations; status touches
 * neither. A write that changes nothing gives back the very record, so that nothing is stored.
 */
import { hash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import type { DescField, DescMessage, Message } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import type { Kind } from "./keys.ts";
import type { Resource } from "./resources.ts";
import {
  clone,
  empty,
  encode,
  fieldNames,
  kindOf,
  ordered,
  schemas,
  setOwn,
  specSchemas,
} from "./resources.ts";

/**
 * The etag of a resource: 16 hexadecimal digits of a SHA-256 over spec, labels and annotations, which
 * must be in canonical order ({@link ordered}).
 */
export function etagOf(resource: Resource): string {
  const kind = kindOf(resource);
  const { spec, labels, annotations } = resource;
  const covered = { ...empty(kind), spec: spec ?? emptySpec(kind), labels, annotations } as Resource;
  return hash("sha256", encode(covered), "hex").slice(0, 16);
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

const emptySpec = (kind: Kind): Message => create(specSchemas[kind] as DescMessage);

const specBytes = (resource: Resource): Uint8Array => {
  const kind = kindOf(resource);
  return toBinary(specSchemas[kind] as DescMessage, resource.spec ?? emptySpec(kind));
};

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
  const record = clone(old);
  for (const path of at.paths.length === 0 || at.paths.includes("*")
    ? ["spec", "labels", "annotations"]
    : at.paths) {
    copyPath({ from: input, to: record }, fieldsOf(kind, path));
  }
  if (record.spec === undefined) Object.assign(record, { spec: emptySpec(kind) });
  record.etag = etagOf(record);
  if (record.etag === old.etag) return old;
  if (Buffer.compare(specBytes(record), specBytes(clone(old))) !== 0) record.generation = old.generation + 1n;
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

/** A mask path: the fields it walks, and the key of a map or document that it ends with, if any. */
interface MaskPath {
  fields: DescField[];
  key: string | undefined;
}

/** Walks the descriptor along a mask path, so that a typing error is found. */
function fieldsOf(kind: Kind, path: string): MaskPath {
  const field = "update_mask";
  const parts = path.split(".");
  if (!writable.has(parts[0] ?? ""))
    throw invalidField(field, `"${path.slice(0, 128)}" must begin with spec, labels or annotations`);
  const fields: DescField[] = [];
  let message: DescMessage | undefined = schemas[kind];
  for (let i = 0; i < parts.length; i++) {
    const f: DescField | undefined = message?.fields.find((x: DescField) => x.name === parts[i]);
    if (f === undefined)
      throw invalidField(field, `"${path.slice(0, 128)}" names no field of ${fieldNames[kind]}`);
    fields.push(f);
    const rest = i + 1 < parts.length ? parts.slice(i + 1).join(".") : undefined;
    if (f.fieldKind === "map" || f.message?.typeName === "google.protobuf.Struct")
      return { fields, key: rest };
    message = f.fieldKind === "message" ? f.message : undefined;
  }
  return { fields, key: undefined };
}

type Fields = Record<string, unknown>;

/** Copies one path; what the source lacks goes. */
function copyPath(at: { from: Message; to: Message }, path: MaskPath): void {
  let from: Fields | undefined = at.from as unknown as Fields;
  let to = at.to as unknown as Fields;
  const last = path.fields.at(-1) as DescField;
  for (const f of path.fields.slice(0, -1)) {
    from = from?.[f.localName] as Fields | undefined;
    if (to[f.localName] === undefined) {
      if (from === undefined) return;
      to[f.localName] = create(f.message as DescMessage);
    }
    to = to[f.localName] as Fields;
  }
  const value = (from ?? (create(last.parent) as unknown as Fields))[last.localName];
  if (path.key === undefined) to[last.localName] = ordered(value);
  else copyKey({ from: value as Fields | undefined, to, field: last.localName }, path.key);
}

/** Copies one entry of a map or document, which the path names in full: label keys hold dots. */
function copyKey(at: { from: Fields | undefined; to: Fields; field: string }, key: string): void {
  const has = at.from !== undefined && Object.hasOwn(at.from, key);
  const entries = { ...(at.to[at.field] as Fields | undefined) };
  if (has) setOwn(entries, key, (at.from as Fields)[key]);
  else delete entries[key];
  if (has || at.to[at.field] !== undefined) at.to[at.field] = ordered(entries);
}
