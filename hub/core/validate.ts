/**
 * What a data plane, a tenant or an application must be to be accepted. Pure. Each refusal names the
 * field and the rule; the broken rules of a resource are reported at once, up to a number.
 */
import type { JsonValue } from "@bufbuild/protobuf";
import type { ApplicationSpec } from "@moorage/proto/moorage/hub/v1/application_pb";
import type { DataPlaneSpec } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import type { NetworkPeer, TenantSpec } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { DataPolicy, IsolationLevel } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { contains, metadataRanges, parseCidr } from "@moorage/shared/cidr";
import type { FieldViolation } from "@moorage/shared/errors";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { isId, parseName } from "./names.ts";
import type { Resource } from "./resources.ts";
import { fieldNames, kindOf } from "./resources.ts";
import { brokenTime } from "./times.ts";

/** Collects violations below a field path. */
type Report = (field: string, description: string) => void;

/** Throws INVALID_ARGUMENT with the broken rules of `resource`; `old` is the stored one of an update. */
export function validate(resource: Resource, old?: Resource): void {
  const found: FieldViolation[] = [];
  const root = fieldNames[kindOf(resource)];
  const report: Report = (field, description) => found.push({ field: `${root}.${field}`, description });
  checkMaps(resource, report);
  switch (resource.$typeName) {
    case "moorage.hub.v1.DataPlane":
      if (resource.spec !== undefined) checkDataPlane(resource.spec, report);
      break;
    case "moorage.hub.v1.Tenant":
      if (resource.spec !== undefined) checkTenant(resource.spec, report);
      if (old?.$typeName === "moorage.hub.v1.Tenant" && old.spec?.dataPlane !== resource.spec?.dataPlane) {
        report("spec.data_plane", "cannot change: moving a tenant is not supported");
      }
      break;
    case "moorage.hub.v1.Application":
      if (resource.spec !== undefined) checkApplication(resource.name, resource.spec, report);
      break;
  }
  refuse(found);
}

/** Throws INVALID_ARGUMENT with what is wrong in the labels and annotations of `root`. */
export function validateMaps(root: string, maps: Maps): void {
  const found: FieldViolation[] = [];
  checkMaps(maps, (field, description) => found.push({ field: `${root}.${field}`, description }));
  refuse(found);
}

/** Broken rules that are named; they travel in a header, which has its limit. */
const NAMED = 32;

function refuse(found: readonly FieldViolation[]): void {
  const [first] = found;
  if (first === undefined) return;
  const more = found.length > 1 ? ` (and ${found.length - 1} more)` : "";
  throw new MoorageError(Code.INVALID_ARGUMENT, `Invalid "${first.field}": ${first.description}${more}`, {
    reason: "INVALID_FIELD",
    fields: found.slice(0, NAMED),
  });
}

/** What may be attached to any resource. */
type Maps = { labels: Record<string, string>; annotations: Record<string, string> };

const labelName = /^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)$/;
const labelPrefix = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const labelValue = /^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/;

/** True for a label key as Kubernetes takes it: an optional DNS prefix and a name of at most 63 characters. */
export function isLabelKey(key: string): boolean {
  const slash = key.indexOf("/");
  if (slash < 0) return labelName.test(key);
  return labelPrefix.test(key.slice(0, slash)) && labelName.test(key.slice(slash + 1));
}

function checkMaps(resource: Maps, report: Report): void {
  const labels = Object.entries(resource.labels);
  if (labels.length > limits.labelsPerResource)
    report(
      "labels",
      `has ${labels.length} entries, the limit labelsPerResource is ${limits.labelsPerResource}`,
    );
  for (const [k, v] of labels) {
    if (!isLabelKey(k))
      report(
        `labels["${k.slice(0, 80)}"]`,
        "is no label key: an optional DNS prefix and 63 characters of letters, digits, '-', '_', '.'",
      );
    if (!labelValue.test(v))
      report(
        `labels["${k.slice(0, 80)}"]`,
        "its value must have at most 63 letters, digits, '-', '_', '.', and begin and end with a letter or digit",
      );
  }
  let bytes = 0;
  for (const [k, v] of Object.entries(resource.annotations)) {
    bytes += Buffer.byteLength(k) + Buffer.byteLength(v);
    if (!isLabelKey(k))
      report(
        `annotations["${k.slice(0, 80)}"]`,
        "is no annotation key: an optional DNS prefix and 63 characters of letters, digits, '-', '_', '.'",
      );
  }
  if (bytes > limits.annotationsBytes)
    report("annotations", `has ${bytes} bytes, the limit annotationsBytes is ${limits.annotationsBytes}`);
}

/** Opaque ids are the vendor's own; they only have to be storable and fit on a metric. */
function checkOpaque(field: string, text: string, report: Report): void {
  if (text.length > 128) report(field, `has ${text.length} characters, at most 128 are taken`);
}

function checkDataPlane(spec: DataPlaneSpec, report: Report): void {
  checkOpaque("spec.customer_id", spec.customerId, report);
  checkOpaque("spec.region", spec.region, report);
  for (const [size, count] of Object.entries(spec.capacity)) {
    if (!isId(size))
      report(
        `spec.capacity["${size.slice(0, 64)}"]`,
        "is no size class: lower-case letters, digits and hyphens",
      );
    if (count < 0) report(`spec.capacity["${size.slice(0, 64)}"]`, "must not be negative");
  }
  const until = spec.pause?.until === undefined ? undefined : brokenTime(spec.pause.until);
  if (until !== undefined) report("spec.pause.until", `is a time ${until}`);
  if (spec.maxRemovalsPerSync < 0) report("spec.max_removals_per_sync", "must not be negative");
}

/** Kubernetes' quantity: digits with a decimal or binary suffix (resource.Quantity). */
const quantity = /^\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$/;

function checkQuantities(field: string, map: Record<string, string>, report: Report): void {
  for (const [k, v] of Object.entries(map))
    if (!quantity.test(v))
      report(`${field}["${k.slice(0, 64)}"]`, `"${v.slice(0, 32)}" is no quantity, e.g. 500m or 2Gi`);
}

function checkTenant(spec: TenantSpec, report: Report): void {
  if (parseName(spec.dataPlane)?.kind !== "DataPlane")
    report("spec.data_plane", "is required and has the form dataPlanes/{id}");
  checkOpaque("spec.customer_id", spec.customerId, report);
  checkOpaque("spec.plan_id", spec.planId, report);
  const level = spec.isolation?.level ?? IsolationLevel.UNSPECIFIED;
  if (level !== IsolationLevel.UNSPECIFIED && level !== IsolationLevel.NAMESPACE) {
    report("spec.isolation.level", "only NAMESPACE is supported by this release");
  }
  spec.isolation?.network?.allowFrom.forEach((p, i) =>
    checkPeer(`spec.isolation.network.allow_from[${i}]`, p, report),
  );
  spec.isolation?.network?.allowTo.forEach((p, i) =>
    checkPeer(`spec.isolation.network.allow_to[${i}]`, p, report),
  );
  checkQuantities("spec.quota", spec.quota, report);
  checkQuantities("spec.limits.default_request", spec.limits?.defaultRequest ?? {}, report);
  checkQuantities("spec.limits.default_limit", spec.limits?.defaultLimit ?? {}, report);
  checkQuantities("spec.limits.max", spec.limits?.max ?? {}, report);
  if (spec.suspension?.computeZero === true)
    report("spec.suspension.compute_zero", "is not supported by this release");
  if (spec.suspension?.billingStopped === true)
    report("spec.suspension.billing_stopped", "is not supported by this release");
  if (spec.retention?.onDelete === DataPolicy.RETAIN)
    report("spec.retention.on_delete", "only DESTROY is supported by this release");
  const grace = spec.retention?.grace;
  if (grace !== undefined && (grace.seconds !== 0n || grace.nanos !== 0))
    report("spec.retention.grace", "is not supported by this release");
  if (spec.sizeClass !== "" && !isId(spec.sizeClass))
    report("spec.size_class", "is no size class: lower-case letters, digits and hyphens");
}

const namespaceName = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

function checkPeer(field: string, peer: NetworkPeer, report: Report): void {
  switch (peer.peer.case) {
    case "tenant":
      if (parseName(peer.peer.value)?.kind !== "Tenant")
        report(`${field}.tenant`, "has the form tenants/{id}");
      break;
    case "namespace":
      if (!namespaceName.test(peer.peer.value)) report(`${field}.namespace`, "is no name of a namespace");
      break;
    case "cidr": {
      const cidr = parseCidr(peer.peer.value);
      if (cidr === undefined)
        report(
          `${field}.cidr`,
          `"${peer.peer.value.slice(0, 64)}" is no range, e.g. 10.0.0.0/8, without bits below its prefix`,
        );
      else if (metadataRanges.some((m) => contains(parseCidr(m) as never, cidr)))
        report(`${field}.cidr`, "is a cloud metadata address, which no tenant may reach");
      break;
    }
    default:
      report(
        field,
        "names no peer: one of tenant, namespace, cidr is required; an empty peer would mean everybody",
      );
  }
  peer.ports.forEach((p, i) => {
    if (!["", "TCP", "UDP", "SCTP"].includes(p.protocol))
      report(`${field}.ports[${i}].protocol`, "must be TCP, UDP or SCTP");
    if (p.port < 1 || p.port > 65_535) report(`${field}.ports[${i}].port`, "must be 1 to 65535");
  });
}

function checkApplication(name: string, spec: ApplicationSpec, report: Report): void {
  const [collection, bundle, ...rest] = spec.bundle.split("/");
  if (collection !== "bundles" || bundle === undefined || !isId(bundle) || rest.length > 0)
    report("spec.bundle", "is required and has the form bundles/{id}");
  if (spec.version === "") report("spec.version", "is required");
  if (spec.parameters !== undefined) {
    const bytes = Buffer.byteLength(JSON.stringify(spec.parameters));
    if (bytes > limits.parametersBytes)
      report("spec.parameters", `has ${bytes} bytes, the limit parametersBytes is ${limits.parametersBytes}`);
    if (depth(spec.parameters) > limits.jsonDepth)
      report(
        "spec.parameters",
        `is nested ${depth(spec.parameters)} levels deep or more, the limit jsonDepth is ${limits.jsonDepth}`,
      );
    else if (!hasJsonNumbers(spec.parameters))
      report("spec.parameters", "holds a number that JSON has not: NaN or an infinity");
  }
  if (spec.dependsOn.length > limits.dependsOn)
    report(
      "spec.depends_on",
      `has ${spec.dependsOn.length} entries, the limit dependsOn is ${limits.dependsOn}`,
    );
  const parent = parseName(name)?.parent;
  spec.dependsOn.forEach((d, i) => {
    const other = parseName(d);
    if (other?.kind !== "Application") report(`spec.depends_on[${i}]`, "is no name of an application");
    else if (d === name) report(`spec.depends_on[${i}]`, "is the application itself");
    else if (other.parent !== parent && other.parent?.startsWith("tenants/") === true)
      report(`spec.depends_on[${i}]`, "is an application of another tenant");
  });
  if (new Set(spec.dependsOn).size !== spec.dependsOn.length)
    report("spec.depends_on", "names an application twice");
  for (const [k, ref] of Object.entries(spec.secretReferences)) {
    if (!/^[a-zA-Z][a-zA-Z0-9_]{0,62}$/.test(k))
      report(
        `spec.secret_references["${k.slice(0, 64)}"]`,
        "its name must be letters, digits and underscores",
      );
    if (ref.name === "" || ref.key === "")
      report(`spec.secret_references["${k.slice(0, 64)}"]`, "needs name and key");
  }
  spec.ignoreRules.forEach((r, i) => {
    if (r.kind === "") report(`spec.ignore_rules[${i}].kind`, "is required");
    if (r.paths.length === 0 || r.paths.some((p) => !p.startsWith("/")))
      report(`spec.ignore_rules[${i}].paths`, "must be JSON pointers that begin with a slash");
  });
}

/** True when all numbers of a value, which may be nested no deeper than the limit, are numbers of JSON. */
function hasJsonNumbers(value: JsonValue): boolean {
  if (value === null || typeof value !== "object") return typeof value !== "number" || Number.isFinite(value);
  return Object.values(value).every((v) => hasJsonNumbers(v as JsonValue));
}

/** Levels of objects and arrays, as shared/yaml.ts counts them; stops counting beyond the limit. */
function depth(value: JsonValue, above = 0): number {
  if (value === null || typeof value !== "object" || above > limits.jsonDepth) return above;
  let deepest = above + 1;
  for (const v of Object.values(value)) deepest = Math.max(deepest, depth(v as JsonValue, above + 1));
  return deepest;
}

/**
 * Throws when `name` with these dependencies would close a circle. `others` gives the dependencies of
 * the applications that exist.
 */
export function refuseCycle(
  name: string,
  dependsOn: readonly string[],
  others: ReadonlyMap<string, readonly string[]>,
): void {
  const path: string[] = [];
  const seen = new Set<string>();
  const walk = (at: string): boolean => {
    if (at === name) return true;
    if (seen.has(at)) return false;
    seen.add(at);
    path.push(at);
    if ((others.get(at) ?? []).some(walk)) return true;
    path.pop();
    return false;
  };
  if (!dependsOn.some(walk)) return;
  const description = `closes a circle: ${[name, ...path, name].join(" -> ")}`;
  throw new MoorageError(Code.INVALID_ARGUMENT, `Invalid "application.spec.depends_on": ${description}`, {
    reason: "DEPENDENCY_CYCLE",
    fields: [{ field: "application.spec.depends_on", description }],
  });
}
