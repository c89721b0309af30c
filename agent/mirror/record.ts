/** Records as custom resources and back: pure. */
import { createHash } from "node:crypto";
import { create, fromBinary, fromJson, type JsonValue, toBinary, toJson } from "@bufbuild/protobuf";
import {
  ApplicationBodySchema,
  DataPlaneBodySchema,
  TenantBodySchema,
} from "@moorage/proto/moorage/agent/v1/body_pb";
import { Encoding, type Resource } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Condition } from "@moorage/shared/conditions/conditions";
import { API_VERSION } from "@moorage/shared/install/crds";
import { asMap, dig, type KubeObject, wholeNumber } from "../kube/object.ts";
import type { Body, MirrorKind, MirrorRecord, Origin, RecordStatus, Removal } from "./mirror.ts";

/** The kinds, in the order in which they are read. */
export const mirrorKinds: readonly MirrorKind[] = ["DataPlane", "Tenant", "Application"];

/** The version of the bodies that this agent decodes. */
export const BODY_VERSION = "v1";

/** Why the newest revision was refused, and what it was. */
export interface Rejection {
  revision: number;
  digest: string;
  reason: string;
  message: string;
}

/** A record with what only the mirror looks at. Immutable. */
export interface Entry {
  record: MirrorRecord;
  /** The accepted body's bytes; undefined when none was ever accepted, and then the kinds never see it. */
  body: Uint8Array | undefined;
  rejected: Rejection | undefined;
  /** The removal is complete and not yet known at the hub. */
  gone: boolean;
  /** metadata as last read, for compare-and-set. */
  metadata: KubeObject["metadata"];
  /** What was read is not what was written: held no longer, so that the hub sends it again. */
  damaged: boolean;
}

/** SHA-256 in lower-case hex. */
export function sha256Hex(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/**
 * metadata.name of a record: `<tenant>.<uid8>`, `<tenant>.<application>.<uid8>`, `<application>.<uid8>`
 * at data-plane scope, `<id>.<uid8>` for the data plane itself. Ids hold no dot.
 */
export function objectName(name: string, uid: string): string {
  const parts = name.split("/");
  const ids = parts.filter((_, i) => i % 2 === 1);
  const shown = parts[0] === "dataPlanes" && ids.length > 1 ? ids.slice(1) : ids;
  const uid8 = uid
    .toLowerCase()
    .replace(/[^a-z0-9]/g, "")
    .slice(0, 8);
  return [...shown, uid8].join(".");
}

/** The kind that a resource name is of; undefined for a name of no known form. */
export function kindOfName(name: string): MirrorKind | undefined {
  if (/^dataPlanes\/[^/]+$/.test(name)) return "DataPlane";
  if (/^tenants\/[^/]+$/.test(name)) return "Tenant";
  return /^(dataPlanes|tenants)\/[^/]+\/applications\/[^/]+$/.test(name) ? "Application" : undefined;
}

/** The decoded body; throws on bytes that are none. */
export function decodeBody(kind: MirrorKind, bytes: Uint8Array): Body {
  switch (kind) {
    case "DataPlane":
      return { kind, value: fromBinary(DataPlaneBodySchema, bytes) };
    case "Tenant":
      return { kind, value: fromBinary(TenantBodySchema, bytes) };
    case "Application":
      return { kind, value: fromBinary(ApplicationBodySchema, bytes) };
  }
}

function fromDesired(kind: MirrorKind, json: JsonValue): Body {
  switch (kind) {
    case "DataPlane":
      return { kind, value: fromJson(DataPlaneBodySchema, json) };
    case "Tenant":
      return { kind, value: fromJson(TenantBodySchema, json) };
    case "Application":
      return { kind, value: fromJson(ApplicationBodySchema, json) };
  }
}

/** The bytes of a body. */
export function encodeBody(body: Body): Uint8Array {
  switch (body.kind) {
    case "DataPlane":
      return toBinary(DataPlaneBodySchema, body.value);
    case "Tenant":
      return toBinary(TenantBodySchema, body.value);
    case "Application":
      return toBinary(ApplicationBodySchema, body.value);
  }
}

function readable(body: Body): JsonValue {
  switch (body.kind) {
    case "DataPlane":
      return toJson(DataPlaneBodySchema, body.value);
    case "Tenant":
      return toJson(TenantBodySchema, body.value);
    case "Application":
      return toJson(ApplicationBodySchema, body.value);
  }
}

function emptyBody(kind: MirrorKind): Body {
  switch (kind) {
    case "DataPlane":
      return { kind, value: create(DataPlaneBodySchema) };
    case "Tenant":
      return { kind, value: create(TenantBodySchema) };
    case "Application":
      return { kind, value: create(ApplicationBodySchema) };
  }
}

/** A received resource judged: its body, or why it cannot be worked on. */
export type Judged = { bytes: Uint8Array; body: Body } | { reason: string; message: string };

/** Judges a received resource. Its body must be inline: the link has resolved every reference that it could. */
export function judge(name: string, resource: Resource): Judged {
  const refuse = (reason: string, message: string) => ({ reason, message });
  const kind = kindOfName(name);
  if (kind === undefined || kind !== resource.kind) {
    return refuse(
      "UnknownKind",
      `Cannot take "${name}": this agent knows no kind "${resource.kind}" of that name`,
    );
  }
  if (resource.version !== BODY_VERSION) {
    return refuse(
      "UnknownVersion",
      `Cannot take "${name}": its body is of version "${resource.version}", this agent reads ${BODY_VERSION}`,
    );
  }
  if (resource.content.case === "blob")
    return refuse("NotFound", `Cannot take "${name}": the hub does not have the body that it announced`);
  if (resource.encoding !== Encoding.PROTO || resource.content.case !== "body") {
    return refuse(
      "UnknownEncoding",
      `Cannot take "${name}": its body is encoded in a way that this agent does not read`,
    );
  }
  const bytes = resource.content.value;
  if (sha256Hex(bytes) !== Buffer.from(resource.digest).toString("hex")) {
    return refuse("DigestMismatch", `Cannot take "${name}": its body does not have the digest announced`);
  }
  let body: Body;
  try {
    body = decodeBody(kind, bytes);
  } catch {
    return refuse("Malformed", `Cannot take "${name}": its body cannot be decoded`);
  }
  try {
    // A time beyond the year 9999, say: the custom resource could not show it, and none after it would be written.
    readable(body);
  } catch (thrown) {
    const { message } = thrown as Error;
    return refuse("Malformed", `Cannot take "${name}": its body cannot be shown: ${message}`);
  }
  return { bytes, body };
}

/** The custom resource of an entry, without status. */
export function toObject(entry: Entry, namespace: string): KubeObject {
  const { record } = entry;
  const { managedFields: _, ...metadata } = entry.metadata;
  return {
    apiVersion: API_VERSION,
    kind: record.kind,
    metadata: {
      ...metadata,
      name: record.objectName,
      namespace,
      labels: { ...metadata.labels, "moorage.dev/origin": record.origin },
    },
    spec: {
      origin: record.origin,
      name: record.name,
      uid: record.uid,
      revision: record.revision,
      generation: record.generation,
      digest: record.digest,
      bodyVersion: BODY_VERSION,
      ...(entry.body === undefined
        ? {}
        : { body: Buffer.from(entry.body).toString("base64"), desired: readable(record.body) }),
      ...(record.removal === undefined
        ? {}
        : {
            removal: {
              revision: record.removal.revision,
              orphan: record.removal.orphan,
              ...(record.removal.authorization.length === 0
                ? {}
                : { authorization: Buffer.from(record.removal.authorization).toString("base64") }),
            },
          }),
      ...(entry.rejected === undefined ? {} : { rejected: entry.rejected }),
    },
  };
}

/** The status that is written for `status`, as a merge patch: a `gone` of before is taken away. */
export function statusObject(status: RecordStatus, gone: boolean): Record<string, unknown> {
  return {
    observedGeneration: status.observedGeneration,
    conditions: status.conditions,
    ...(status.applied === undefined
      ? {}
      : {
          appliedGeneration: status.applied.generation,
          appliedVersion: status.applied.version,
          appliedDigest: status.applied.digest,
        }),
    ...(status.namespaces === undefined ? {} : { namespaces: status.namespaces }),
    gone: gone ? true : null,
  };
}

function statusOf(object: KubeObject): RecordStatus | undefined {
  const status = asMap(object["status"]);
  if (status === undefined || !Array.isArray(status["conditions"])) return undefined;
  const out: RecordStatus = {
    observedGeneration: wholeNumber(status["observedGeneration"]) ?? 0,
    conditions: (status["conditions"] as Condition[]).map((c) => ({
      ...c,
      message: c.message ?? "",
      observedGeneration: wholeNumber(c.observedGeneration) ?? 0,
    })),
  };
  if (status["appliedGeneration"] !== undefined) {
    out.applied = {
      generation: wholeNumber(status["appliedGeneration"]) ?? 0,
      version: text(status["appliedVersion"]),
      digest: text(status["appliedDigest"]),
    };
  }
  if (Array.isArray(status["namespaces"])) out.namespaces = (status["namespaces"] as unknown[]).map(text);
  return out;
}

/** The entry that a custom resource stands for; undefined when it names no resource at all. */
export function fromObject(object: KubeObject): Entry | undefined {
  const spec = asMap(object["spec"]);
  const name = text(spec?.["name"]);
  const kind = mirrorKinds.find((k) => k === object.kind);
  if (spec === undefined || name === "" || kind === undefined) return undefined;
  return spec["origin"] === "hub"
    ? hubEntry(object, spec, { kind, name })
    : localEntry(object, spec, { kind, name });
}

interface Named {
  kind: MirrorKind;
  name: string;
}

function base(object: KubeObject, named: Named, origin: Origin) {
  return {
    ...named,
    origin,
    objectName: object.metadata.name,
    objectUid: object.metadata.uid ?? "",
    status: statusOf(object),
  };
}

function hubEntry(object: KubeObject, spec: Record<string, unknown>, named: Named): Entry {
  const digest = text(spec["digest"]);
  const bytes =
    spec["body"] === undefined ? undefined : new Uint8Array(Buffer.from(text(spec["body"]), "base64"));
  const rejected = rejectionOf(spec);
  let body: Body | undefined;
  let damaged = bytes === undefined && rejected === undefined;
  if (bytes !== undefined) {
    try {
      if (sha256Hex(bytes) === digest) body = decodeBody(named.kind, bytes);
    } catch {
      // Told apart below: a body that cannot be read is damaged.
    }
    damaged = body === undefined;
  }
  const revision = wholeNumber(spec["revision"]);
  // Without it nothing says which of two orders is newer: the hub is asked again.
  damaged ||= revision === undefined;
  const record: MirrorRecord = {
    ...base(object, named, "hub"),
    uid: text(spec["uid"]),
    revision: revision ?? 0,
    generation: wholeNumber(spec["generation"]) ?? 0,
    digest,
    body: body ?? emptyBody(named.kind),
    removal: removalOf(spec),
    rejected,
  };
  return {
    record,
    body: body === undefined ? undefined : bytes,
    rejected,
    // A record that is wanted is not gone, whatever somebody wrote into its status.
    gone: dig(object, "status", "gone") === true && asMap(spec["removal"]) !== undefined,
    metadata: slim(object),
    damaged,
  };
}

function localEntry(object: KubeObject, spec: Record<string, unknown>, named: Named): Entry {
  const generation = object.metadata.generation ?? 1;
  let body: Body | undefined;
  let rejected: Rejection | undefined;
  try {
    if (kindOfName(named.name) !== named.kind)
      throw new Error(`"${named.name}" is no name of a ${named.kind}`);
    body = fromDesired(named.kind, (spec["desired"] ?? {}) as JsonValue);
  } catch (thrown) {
    rejected = {
      revision: generation,
      digest: "",
      reason: "Malformed",
      message: `Cannot read spec.desired: ${(thrown as Error).message}`,
    };
  }
  const bytes = body === undefined ? undefined : encodeBody(body);
  const record: MirrorRecord = {
    ...base(object, named, "local"),
    uid: object.metadata.uid ?? "",
    revision: generation,
    generation,
    digest: bytes === undefined ? "" : sha256Hex(bytes),
    body: body ?? emptyBody(named.kind),
    removal:
      object.metadata.deletionTimestamp === undefined
        ? undefined
        : {
            revision: 0,
            orphan: dig(object, "metadata", "annotations", "moorage.dev/on-remove") === "keep",
            authorization: new Uint8Array(),
          },
    rejected,
  };
  return { record, body: bytes, rejected, gone: false, metadata: slim(object), damaged: false };
}

function removalOf(spec: Record<string, unknown>): Removal | undefined {
  const removal = asMap(spec["removal"]);
  if (removal === undefined) return undefined;
  return {
    revision: wholeNumber(removal["revision"]) ?? 0,
    orphan: removal["orphan"] === true,
    authorization: new Uint8Array(Buffer.from(text(removal["authorization"]), "base64")),
  };
}

function rejectionOf(spec: Record<string, unknown>): Rejection | undefined {
  const rejected = asMap(spec["rejected"]);
  if (rejected === undefined) return undefined;
  return {
    revision: wholeNumber(rejected["revision"]) ?? 0,
    digest: text(rejected["digest"]),
    reason: text(rejected["reason"]),
    message: text(rejected["message"]),
  };
}

function slim(object: KubeObject): KubeObject["metadata"] {
  const { managedFields: _, ...metadata } = object.metadata;
  return metadata;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
