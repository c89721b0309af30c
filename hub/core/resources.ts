/**
 * The three kinds as one: data planes, tenants and applications share their metadata, field by field,
 * so that one lifecycle, one list and one watch serve all. Pure.
 */
import { create, fromBinary, fromJson, toBinary, toJson } from "@bufbuild/protobuf";
import type { DescMessage, JsonValue } from "@bufbuild/protobuf";
import type { Application } from "@moorage/proto/moorage/hub/v1/application_pb";
import { ApplicationSchema, ApplicationSpecSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import type { DataPlane } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { DataPlaneSchema, DataPlaneSpecSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { TenantSchema, TenantSpecSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import type { Kind } from "./keys.ts";
import { brokenTime, canShowDuration } from "./times.ts";

/** Any of the three. */
export type Resource = DataPlane | Tenant | Application;

/** The message of each kind. */
export const schemas = {
  DataPlane: DataPlaneSchema,
  Tenant: TenantSchema,
  Application: ApplicationSchema,
} as const;
/** The spec message of each kind. */
export const specSchemas = {
  DataPlane: DataPlaneSpecSchema,
  Tenant: TenantSpecSchema,
  Application: ApplicationSpecSchema,
} as const;
/** The field that holds the resource in requests, for error messages. */
export const fieldNames: Record<Kind, string> = {
  DataPlane: "data_plane",
  Tenant: "tenant",
  Application: "application",
};

/** The kind of a message. */
export function kindOf(resource: Resource): Kind {
  switch (resource.$typeName) {
    case "moorage.hub.v1.DataPlane":
      return "DataPlane";
    case "moorage.hub.v1.Tenant":
      return "Tenant";
    case "moorage.hub.v1.Application":
      return "Application";
  }
}

/** Encodes a resource as it is stored. */
export const encode = (resource: Resource): Uint8Array =>
  toBinary(schemas[kindOf(resource)] as DescMessage, resource);

/** Decodes a stored resource. */
export const decode = (kind: Kind, bytes: Uint8Array): Resource =>
  fromBinary(schemas[kind] as DescMessage, bytes) as unknown as Resource;

/**
 * A deep copy of a message or of JSON, with the keys of every map in order and without unknown fields:
 * protobuf writes maps as they come, and equal resources must encode to equal bytes.
 */
export function ordered<T>(value: T): T {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(ordered) as T;
  if (value instanceof Uint8Array) return value.slice() as T;
  const source = value as Record<string, unknown>;
  const keys = Object.keys(source);
  const out: Record<string, unknown> = {};
  // A message keeps the order of its fields, for the engine's sake; it is encoded by number in any case.
  if (!Object.hasOwn(source, "$typeName")) keys.sort();
  for (const k of keys) if (k !== "$unknown") setOwn(out, k, ordered(source[k]));
  return out as T;
}

/** Sets a property whatever its name: `__proto__` by assignment would change the prototype. */
export function setOwn(object: Record<string, unknown>, name: string, value: unknown): void {
  if (name === "__proto__")
    Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
  else object[name] = value;
}

/** A deep copy in canonical order. */
export const clone = <R extends Resource>(resource: R): R => ordered(resource);

/**
 * A copy of a message that can be written as JSON: without the times that cannot be shown, and with null
 * for numbers that JSON has not. Such are refused, but older hubs have stored them.
 */
function showable<T>(value: T): T {
  if (typeof value === "number" && !Number.isFinite(value)) return null as T;
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map((v) => showable<unknown>(v)) as T;
  const source = value as Record<string, unknown>;
  if (source["$typeName"] === "google.protobuf.Timestamp" && brokenTime(value as never) !== undefined)
    return undefined as T;
  if (source["$typeName"] === "google.protobuf.Duration" && !canShowDuration(value as never))
    return undefined as T;
  const out: Record<string, unknown> = {};
  for (const k of Object.keys(source)) setOwn(out, k, showable(source[k]));
  return out as T;
}

/** A resource as proto3 JSON; what of it JSON cannot show is absent ({@link showable}). */
export function asJson(resource: Resource): Record<string, JsonValue> {
  const schema = schemas[kindOf(resource)] as DescMessage;
  const json = (of: Resource) => toJson(schema, of) as Record<string, JsonValue>;
  try {
    return json(resource);
  } catch {
    // Seldom: looking at all of each resource before would cost as much as writing it.
    return json(showable(resource));
  }
}

/** A resource from proto3 JSON. */
export const ofJson = (kind: Kind, json: JsonValue): Resource =>
  fromJson(schemas[kind] as DescMessage, json) as unknown as Resource;

/** A new, empty resource of a kind. */
export const empty = (kind: Kind): Resource => create(schemas[kind] as DescMessage) as unknown as Resource;

/** The name of the data plane that a resource lives in; of an application in a tenant, its tenant's. */
export function dataPlaneOf(resource: Resource, tenant?: Tenant): string {
  switch (resource.$typeName) {
    case "moorage.hub.v1.DataPlane":
      return resource.name;
    case "moorage.hub.v1.Tenant":
      return resource.spec?.dataPlane ?? "";
    case "moorage.hub.v1.Application":
      return resource.name.startsWith("dataPlanes/")
        ? resource.name.split("/").slice(0, 2).join("/")
        : (tenant?.spec?.dataPlane ?? "");
  }
}

/** JSON with its keys in order, so that equal values give equal text whatever order maps came in. */
export function canonicalJson(value: JsonValue): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.keys(value)
      .sort()
      .map(
        (k) => `${JSON.stringify(k)}:${canonicalJson((value as Record<string, JsonValue>)[k] as JsonValue)}`,
      )
      .join(",")}}`;
  }
  return JSON.stringify(value);
}
