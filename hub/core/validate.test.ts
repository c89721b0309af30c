import { create } from "@bufbuild/protobuf";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { DataPolicy, IsolationLevel, TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { expect, test } from "vitest";
import type { Resource } from "./resources.ts";
import { validate } from "./validate.ts";

type Maps = { labels?: Record<string, string>; annotations?: Record<string, string> };
const dataPlane = (spec: object, maps: Maps = {}) =>
  create(DataPlaneSchema, { name: "dataPlanes/eu", spec, ...maps });
const tenant = (spec: object, maps: Maps = {}) =>
  create(TenantSchema, { name: "tenants/acme", spec: { dataPlane: "dataPlanes/eu", ...spec }, ...maps });
const application = (spec: object) =>
  create(ApplicationSchema, {
    name: "tenants/acme/applications/web",
    spec: { bundle: "bundles/web", version: "1.0.0", ...spec },
  });

/** Fields that a resource is refused for. */
function refused(resource: Resource): string[] {
  try {
    validate(resource);
  } catch (thrown) {
    if (!(thrown instanceof MoorageError)) throw thrown;
    expect(thrown).toMatchObject({ code: Code.INVALID_ARGUMENT, reason: "INVALID_FIELD" });
    return thrown.fields.map((f) => f.field);
  }
  return [];
}

const many = (n: number) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`l${i}`, "x"]));
const nested = (depth: number): object => (depth === 1 ? { a: 1 } : { a: nested(depth - 1) });
const text = (n: number) => "a".repeat(n);
const to = (peer: object) => ({ isolation: { network: { allowTo: [peer] } } });
const port = (n: number, protocol = "TCP") =>
  to({ peer: { case: "tenant", value: "tenants/b" }, ports: [{ protocol, port: n }] });
const others = (n: number) => Array.from({ length: n }, (_, i) => `tenants/acme/applications/a${i}`);
/** A parameter document of exactly `n` bytes of JSON. */
const document = (n: number) => ({ a: text(n - Buffer.byteLength('{"a":""}')) });

test.each<[rule: string, atLimit: Resource, beyond: Resource, field: string]>([
  ["labels", tenant({}, { labels: many(64) }), tenant({}, { labels: many(65) }), "tenant.labels"],
  [
    "a label's name",
    tenant({}, { labels: { [text(63)]: "x" } }),
    tenant({}, { labels: { [text(64)]: "x" } }),
    `tenant.labels["${text(64)}"]`,
  ],
  [
    "a label's value",
    tenant({}, { labels: { a: text(63) } }),
    tenant({}, { labels: { a: text(64) } }),
    'tenant.labels["a"]',
  ],
  [
    "annotations",
    tenant({}, { annotations: { a: text(limits.annotationsBytes - 1) } }),
    tenant({}, { annotations: { a: text(limits.annotationsBytes) } }),
    "tenant.annotations",
  ],
  [
    "a customer id",
    tenant({ customerId: text(128) }),
    tenant({ customerId: text(129) }),
    "tenant.spec.customer_id",
  ],
  ["a plan id", tenant({ planId: text(128) }), tenant({ planId: text(129) }), "tenant.spec.plan_id"],
  ["a region", dataPlane({ region: text(128) }), dataPlane({ region: text(129) }), "data_plane.spec.region"],
  [
    "a size class",
    tenant({ sizeClass: text(40) }),
    tenant({ sizeClass: text(41) }),
    "tenant.spec.size_class",
  ],
  [
    "capacity",
    dataPlane({ capacity: { s: 0 } }),
    dataPlane({ capacity: { s: -1 } }),
    'data_plane.spec.capacity["s"]',
  ],
  [
    "a capacity's size class",
    dataPlane({ capacity: { [text(40)]: 1 } }),
    dataPlane({ capacity: { [text(41)]: 1 } }),
    `data_plane.spec.capacity["${text(41)}"]`,
  ],
  [
    "removals a sync",
    dataPlane({ maxRemovalsPerSync: 0 }),
    dataPlane({ maxRemovalsPerSync: -1 }),
    "data_plane.spec.max_removals_per_sync",
  ],
  [
    "an isolation level",
    tenant({ isolation: { level: IsolationLevel.NAMESPACE } }),
    tenant({ isolation: { level: IsolationLevel.NODES } }),
    "tenant.spec.isolation.level",
  ],
  [
    "retention",
    tenant({ retention: { onDelete: DataPolicy.DESTROY } }),
    tenant({ retention: { onDelete: DataPolicy.RETAIN } }),
    "tenant.spec.retention.on_delete",
  ],
  [
    "the last second of a pause",
    dataPlane({ pause: { until: { seconds: 253_402_300_799n, nanos: 999_999_999 } } }),
    dataPlane({ pause: { until: { seconds: 253_402_300_800n } } }),
    "data_plane.spec.pause.until",
  ],
  [
    "the first second of a pause",
    dataPlane({ pause: { until: { seconds: -62_135_596_800n } } }),
    dataPlane({ pause: { until: { seconds: -62_135_596_801n } } }),
    "data_plane.spec.pause.until",
  ],
  [
    "the least nanos of a pause",
    dataPlane({ pause: { until: { nanos: 0 } } }),
    dataPlane({ pause: { until: { nanos: -1 } } }),
    "data_plane.spec.pause.until",
  ],
  [
    "the most nanos of a pause",
    dataPlane({ pause: { until: { nanos: 999_999_999 } } }),
    dataPlane({ pause: { until: { nanos: 1_000_000_000 } } }),
    "data_plane.spec.pause.until",
  ],
  [
    "the grace of a retention",
    tenant({ retention: { grace: {} } }),
    tenant({ retention: { grace: { nanos: 1_000_000_000 } } }),
    "tenant.spec.retention.grace",
  ],
  [
    "a number of parameters",
    application({ parameters: { a: [{ b: Number.MAX_VALUE }] } }),
    application({ parameters: { a: [{ b: Number.NaN }] } }),
    "application.spec.parameters",
  ],
  [
    "a quantity",
    tenant({ quota: { cpu: "1500m" } }),
    tenant({ quota: { cpu: "1500mm" } }),
    'tenant.spec.quota["cpu"]',
  ],
  [
    "the lowest port",
    tenant(port(1)),
    tenant(port(0)),
    "tenant.spec.isolation.network.allow_to[0].ports[0].port",
  ],
  [
    "the highest port",
    tenant(port(65_535)),
    tenant(port(65_536)),
    "tenant.spec.isolation.network.allow_to[0].ports[0].port",
  ],
  [
    "a protocol",
    tenant(port(53, "UDP")),
    tenant(port(53, "ICMP")),
    "tenant.spec.isolation.network.allow_to[0].ports[0].protocol",
  ],
  [
    "a peer's namespace",
    tenant(to({ peer: { case: "namespace", value: text(63) } })),
    tenant(to({ peer: { case: "namespace", value: text(64) } })),
    "tenant.spec.isolation.network.allow_to[0].namespace",
  ],
  [
    "parameters",
    application({ parameters: document(limits.parametersBytes) }),
    application({ parameters: document(limits.parametersBytes + 1) }),
    "application.spec.parameters",
  ],
  [
    "the depth of parameters",
    application({ parameters: nested(limits.jsonDepth) }),
    application({ parameters: nested(limits.jsonDepth + 1) }),
    "application.spec.parameters",
  ],
  [
    "dependencies",
    application({ dependsOn: others(limits.dependsOn) }),
    application({ dependsOn: others(limits.dependsOn + 1) }),
    "application.spec.depends_on",
  ],
  [
    "a dependency's name",
    application({ dependsOn: others(1) }),
    application({ dependsOn: [...others(1), ...others(1)] }),
    "application.spec.depends_on",
  ],
  [
    "a dependency",
    application({ dependsOn: ["tenants/acme/applications/db"] }),
    application({ dependsOn: ["tenants/acme/applications/web"] }),
    "application.spec.depends_on[0]",
  ],
  [
    "a bundle",
    application({ bundle: "bundles/b" }),
    application({ bundle: "bundles/b/c" }),
    "application.spec.bundle",
  ],
  ["a version", application({ version: "1.0.0" }), application({ version: "" }), "application.spec.version"],
  [
    "a secret reference",
    application({ secretReferences: { db: { name: "s", key: "k" } } }),
    application({ secretReferences: { db: { name: "s", key: "" } } }),
    'application.spec.secret_references["db"]',
  ],
  [
    "an ignore rule",
    application({ ignoreRules: [{ kind: "Deployment", paths: ["/spec/replicas"] }] }),
    application({ ignoreRules: [{ kind: "Deployment", paths: ["spec.replicas"] }] }),
    "application.spec.ignore_rules[0].paths",
  ],
])("%s is accepted at its limit and refused beyond it, by field", (_, atLimit, beyond, field) => {
  expect(refused(atLimit)).toEqual([]);
  expect(refused(beyond)).toEqual([field]);
});
