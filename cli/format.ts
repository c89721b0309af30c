/** What the command prints: tables, YAML, JSON and descriptions, as pure functions of resources and a time. */
import { toJson } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Condition } from "@moorage/proto/moorage/common/v1/condition_pb";
import type { ApiKey } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApiKeySchema, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import type { Application } from "@moorage/proto/moorage/hub/v1/application_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import type { DataPlane } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { IsolationLevel, TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { stringifyYamlAll } from "@moorage/shared/yaml";
import { formatAge } from "./duration.ts";

/** A resource of the three main kinds. */
export type Resource = DataPlane | Tenant | Application;
/** Anything that `get` prints. */
export type Printable = Resource | BundleVersion | ApiKey;

/** How `get` prints. */
export const outputs = ["table", "wide", "yaml", "json", "name"] as const;
export type Output = (typeof outputs)[number];

/** Rows as aligned columns, two spaces between; the last column is not padded. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return tableInParts(head)(rows);
}

/** A {@link table} whose rows come in parts, the head with the first; a part is as wide as all before it at least. */
export function tableInParts(head: readonly string[]): (rows: readonly (readonly string[])[]) => string {
  let widths = head.map((c) => c.length);
  let headed = false;
  return (part) => {
    const rows = part.map((r) => r.map(printable));
    widths = widths.map((width, i) => rows.reduce((most, r) => Math.max(most, (r[i] ?? "").length), width));
    const lines = headed ? rows : [head, ...rows];
    headed = true;
    return lines
      .map((r) => r.map((c, i) => (i === r.length - 1 ? c : c.padEnd(widths[i] ?? 0))).join("  "))
      .map((line) => `${line.trimEnd()}\n`)
      .join("");
  };
}

/** Text of others without control characters, which could rewrite a terminal. */
export function printable(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, " ");
}

/** The time since `at`, or "-" when it is not known. */
export function age(at: Timestamp | undefined, nowMs: number): string {
  return at === undefined ? "-" : formatAge(nowMs - timestampMs(at));
}

function find(conditions: readonly Condition[], type: string): Condition | undefined {
  return conditions.find((c) => c.type === type);
}

/** A condition's status in one word; Unknown always with its age. */
export function statusCell(conditions: readonly Condition[], type: string, nowMs: number): string {
  const c = find(conditions, type);
  if (c === undefined) return "Unknown";
  if (c.status !== "Unknown") return c.status;
  return c.lastTransitionTime === undefined ? "Unknown" : `Unknown (${age(c.lastTransitionTime, nowMs)})`;
}

interface Column<R> {
  head: string;
  wide?: boolean;
  cell(resource: R, nowMs: number): string;
}

const conditionsOf = (r: Resource): readonly Condition[] => r.status?.conditions ?? [];
const ready = {
  head: "READY",
  cell: (r: Resource, now: number) =>
    r.deleteTime === undefined ? statusCell(conditionsOf(r), "Ready", now) : "Deleting",
};
const created = {
  head: "AGE",
  cell: (r: { createTime?: Timestamp | undefined }, now: number) => age(r.createTime, now),
};
const reason = {
  head: "REASON",
  wide: true,
  cell: (r: Resource) => find(conditionsOf(r), "Ready")?.reason || "-",
};
const last = (name: string): string => name.split("/").at(-1) ?? name;

const dataPlaneColumns: readonly Column<DataPlane>[] = [
  { head: "NAME", cell: (r) => last(r.name) },
  ready,
  { head: "CONNECTED", cell: (r, now) => statusCell(conditionsOf(r), "Connected", now) },
  { head: "LAST-SEEN", cell: (r, now) => age(r.status?.lastSeenTime, now) },
  { head: "TENANTS", cell: (r) => String(r.status?.tenants ?? 0) },
  { head: "AGENT", cell: (r) => r.status?.agentVersion || "-" },
  created,
  { head: "REGION", wide: true, cell: (r) => r.spec?.region || "-" },
  { head: "KUBERNETES", wide: true, cell: (r) => r.status?.kubernetesVersion || "-" },
  reason,
];

const tenantColumns: readonly Column<Tenant>[] = [
  { head: "NAME", cell: (r) => last(r.name) },
  ready,
  { head: "ISOLATION", cell: (r) => levelName(r.spec?.isolation?.level) },
  { head: "DATA-PLANE", cell: (r) => last(r.spec?.dataPlane ?? "") || "-" },
  { head: "SUSPENDED", cell: (r) => suspended(r) },
  created,
  { head: "CUSTOMER", wide: true, cell: (r) => r.spec?.customerId || "-" },
  { head: "PLAN", wide: true, cell: (r) => r.spec?.planId || "-" },
  { head: "NAMESPACES", wide: true, cell: (r) => r.status?.namespaces.join(",") || "-" },
  reason,
];

const applicationColumns: readonly Column<Application>[] = [
  { head: "NAME", cell: (r) => r.name },
  ready,
  { head: "VERSION", cell: (r) => r.status?.applied?.version || "-" },
  { head: "WANTED", cell: (r) => r.spec?.version || "-" },
  { head: "HELD-BY", cell: (r) => heldBy(r) },
  created,
  { head: "BUNDLE", wide: true, cell: (r) => last(r.spec?.bundle ?? "") || "-" },
  { head: "GENERATION", wide: true, cell: (r) => `${r.status?.observedGeneration ?? 0n}/${r.generation}` },
  reason,
];

const bundleColumns: readonly Column<BundleVersion>[] = [
  { head: "NAME", cell: (r) => r.name.split("/")[1] ?? r.name },
  { head: "VERSION", cell: (r) => last(r.name) },
  { head: "SIZE", cell: (r) => String(r.sizeBytes) },
  { head: "YANKED", cell: (r) => (r.yanked ? "True" : "False") },
  created,
  { head: "DIGEST", wide: true, cell: (r) => r.digest },
];

const apiKeyColumns: readonly Column<ApiKey>[] = [
  { head: "NAME", cell: (r) => last(r.name) },
  { head: "ROLE", cell: (r) => enumName(Role, r.role) },
  { head: "SCOPES", cell: (r) => r.scopes.join(",") || "all" },
  {
    head: "EXPIRES",
    cell: (r, now) =>
      r.expireTime === undefined
        ? "never"
        : timestampMs(r.expireTime) <= now
          ? "expired"
          : `in ${formatAge(timestampMs(r.expireTime) - now)}`,
  },
  created,
];

/** The name of an enum's value; its number when this build does not know it. */
function enumName(values: Readonly<Record<string, number>>, value: number): string {
  return Object.entries(values).find(([, v]) => v === value)?.[0] ?? String(value);
}

function levelName(level: IsolationLevel | undefined): string {
  return level === undefined || level === IsolationLevel.UNSPECIFIED
    ? "-"
    : enumName(IsolationLevel, level).toLowerCase();
}

function suspended(tenant: Tenant): string {
  const s = tenant.spec?.suspension;
  const levers = [
    s?.trafficBlocked && "traffic",
    s?.computeZero && "compute",
    s?.changesFrozen && "changes",
    s?.billingStopped && "billing",
  ].filter((x) => typeof x === "string");
  return levers.length === 0 ? "-" : levers.join(",");
}

/** Reasons that say an application waits for something other than itself. */
const holding =
  /^(Paused|PausedByCustomer|Suspended|DependencyNotReady|DependencyNotFound|ApprovalRequired|AwaitingApproval|OutsideWindow|WaitingForDependencies|Held|ObserveOnly|TooManyRemovals)/;

function heldBy(application: Application): string {
  if (application.spec?.suspended === true) return "suspended";
  const held = conditionsOf(application).find((c) => c.status !== "True" && holding.test(c.reason));
  return held?.reason ?? "-";
}

const columnsOf = {
  "moorage.hub.v1.DataPlane": dataPlaneColumns,
  "moorage.hub.v1.Tenant": tenantColumns,
  "moorage.hub.v1.Application": applicationColumns,
  "moorage.hub.v1.BundleVersion": bundleColumns,
  "moorage.hub.v1.ApiKey": apiKeyColumns,
} as const;

/** The column heads of a message type. */
export function heads(typeName: Printable["$typeName"], wide: boolean): string[] {
  return (columnsOf[typeName] as readonly Column<never>[])
    .filter((c) => wide || c.wide !== true)
    .map((c) => c.head);
}

/** One resource as the cells of its kind's columns. */
export function cells(resource: Printable, at: { nowMs: number; wide: boolean }): string[] {
  const columns = columnsOf[resource.$typeName] as readonly Column<Printable>[];
  return columns.filter((c) => at.wide || c.wide !== true).map((c) => c.cell(resource, at.nowMs));
}

/** A resource as the object that YAML and JSON show, `kind` first; `apply` reads it back. */
export function asObject(resource: Printable): Record<string, unknown> {
  switch (resource.$typeName) {
    case "moorage.hub.v1.DataPlane":
      return { kind: "DataPlane", ...(toJson(DataPlaneSchema, resource) as object) };
    case "moorage.hub.v1.Tenant":
      return { kind: "Tenant", ...(toJson(TenantSchema, resource) as object) };
    case "moorage.hub.v1.Application":
      return { kind: "Application", ...(toJson(ApplicationSchema, resource) as object) };
    case "moorage.hub.v1.BundleVersion":
      return { kind: "BundleVersion", ...(toJson(BundleVersionSchema, resource) as object) };
    case "moorage.hub.v1.ApiKey":
      return { kind: "ApiKey", ...(toJson(ApiKeySchema, resource) as object) };
  }
}

/** A list of one kind in the wanted form. JSON is one array for a list, one object for a single resource. */
export function formatList(
  resources: readonly Printable[],
  how: { output: Output; nowMs: number; single?: boolean },
): string {
  const [first] = resources;
  if (how.output === "json") {
    const objects = resources.map(asObject);
    return `${JSON.stringify(how.single === true ? objects[0] : objects, undefined, 2)}\n`;
  }
  if (first === undefined) return "";
  if (how.output === "yaml") return stringifyYamlAll(resources.map(asObject));
  if (how.output === "name") return resources.map((r) => `${r.name}\n`).join("");
  const wide = how.output === "wide";
  return table(
    heads(first.$typeName, wide),
    resources.map((r) => cells(r, { nowMs: how.nowMs, wide })),
  );
}

/** Everything about one resource for a person: its fields, then its conditions with their ages. */
export function describe(resource: Resource, nowMs: number): string {
  const { kind, status: _status, ...rest } = asObject(resource);
  const { conditions: _conditions, ...status } = (_status ?? {}) as Record<string, unknown>;
  const body = stringifyYamlAll([{ kind, ...rest, ...(Object.keys(status).length === 0 ? {} : { status }) }]);
  const conditions = conditionsOf(resource);
  if (conditions.length === 0) return `${body}\nConditions: none reported yet\n`;
  const rows = conditions.map((c) => [
    c.type,
    c.status,
    age(c.lastTransitionTime, nowMs),
    c.reason || "-",
    String(c.observedGeneration),
    c.message,
  ]);
  return `${body}\nConditions:\n${table(["TYPE", "STATUS", "SINCE", "REASON", "GEN", "MESSAGE"], rows)}`;
}
