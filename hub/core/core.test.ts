import { create } from "@bufbuild/protobuf";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { IsolationLevel, TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import fc from "fast-check";
import { expect, test } from "vitest";
import { upsertUpdate } from "./desired.ts";
import { compileFilter } from "./filter.ts";
import { created, updated } from "./lifecycle.ts";
import { isId, parseName } from "./names.ts";
import { pageToken, readPageToken } from "./pages.ts";
import type { Resource } from "./resources.ts";
import { refuseCycle, validate } from "./validate.ts";

const tenant = (spec: object, labels: Record<string, string> = {}) =>
  create(TenantSchema, { name: "tenants/acme", labels, spec: { dataPlane: "dataPlanes/eu", ...spec } });

/** Fields that a call complains about. */
function complaints(fn: () => unknown): string[] {
  try {
    fn();
  } catch (thrown) {
    if (thrown instanceof MoorageError && thrown.code === Code.INVALID_ARGUMENT)
      return thrown.fields.map((f) => f.field);
    throw thrown;
  }
  return [];
}

const network = (peer: object) => ({ isolation: { network: { allowTo: [peer] } } });

test.each([
  ["a plain tenant", {}, []],
  ["no data plane", { dataPlane: "" }, ["tenant.spec.data_plane"]],
  [
    "an unsupported isolation level",
    { isolation: { level: IsolationLevel.CLUSTER } },
    ["tenant.spec.isolation.level"],
  ],
  ["a quantity without digits", { quota: { cpu: "much" } }, ['tenant.spec.quota["cpu"]']],
  ["a peer that names nobody", network({}), ["tenant.spec.isolation.network.allow_to[0]"]],
  [
    "a range with bits below its prefix",
    network({ peer: { case: "cidr", value: "10.0.0.1/8" } }),
    ["tenant.spec.isolation.network.allow_to[0].cidr"],
  ],
  [
    "the metadata address",
    network({ peer: { case: "cidr", value: "169.254.169.254/32" } }),
    ["tenant.spec.isolation.network.allow_to[0].cidr"],
  ],
  [
    "two broken rules",
    { dataPlane: "x", sizeClass: "Not An Id" },
    ["tenant.spec.data_plane", "tenant.spec.size_class"],
  ],
])("%s is judged by field", (_, spec, fields) => {
  expect(complaints(() => validate(tenant(spec)))).toEqual(fields);
});

test("labels follow the rules of Kubernetes", () => {
  expect(complaints(() => validate(tenant({}, { "example.com/tier": "gold" })))).toEqual([]);
  expect(complaints(() => validate(tenant({}, { "-bad": "x" })))).toEqual(['tenant.labels["-bad"]']);
  expect(complaints(() => validate(tenant({}, { tier: "not good" })))).toEqual(['tenant.labels["tier"]']);
});

test("a tenant does not change its data plane", () => {
  expect(complaints(() => validate(tenant({ dataPlane: "dataPlanes/us" }), tenant({})))).toEqual([
    "tenant.spec.data_plane",
  ]);
});

test("an application does not depend on one of another tenant", () => {
  const of = (other: string) =>
    create(ApplicationSchema, {
      name: "tenants/a/applications/web",
      spec: { bundle: "bundles/web", version: "1.0.0", dependsOn: [other] },
    });
  expect(complaints(() => validate(of("tenants/a/applications/db")))).toEqual([]);
  expect(complaints(() => validate(of("tenants/b/applications/db")))).toEqual([
    "application.spec.depends_on[0]",
  ]);
});

test("a circle of dependencies is refused, and named", () => {
  const others = new Map([
    ["b", ["c"]],
    ["c", ["a"]],
  ]);
  expect(() => refuseCycle("a", ["b"], others)).toThrow("a -> b -> c -> a");
  expect(() => refuseCycle("d", ["b"], others)).not.toThrow();
});

test("every well-formed name parses to its parts", () => {
  const id = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/).filter(isId);
  fc.assert(
    fc.property(id, id, (a, b) => {
      expect(parseName(`tenants/${a}`)).toEqual({ kind: "Tenant", id: a, parent: undefined });
      expect(parseName(`dataPlanes/${a}/applications/${b}`)).toEqual({
        kind: "Application",
        id: b,
        parent: `dataPlanes/${a}`,
      });
    }),
  );
});

test.each([
  "",
  "tenants",
  "tenants/",
  "tenants/A",
  "tenants/a/",
  "tenants/a/b",
  "tenants/-a",
  "tenants/a-",
  `tenants/${"a".repeat(41)}`,
  "tenants/a/applications/",
])("%j is no name", (name) => {
  expect(parseName(name)).toBeUndefined();
});

test("a page token that was changed, or belongs to another query, is refused", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 50 }), fc.string(), fc.string(), (revision, after, query) => {
      const token = pageToken({ revision, after }, query);
      expect(readPageToken(token, query)).toEqual({ revision, after });
      expect(complaints(() => readPageToken(token, `${query}x`))).toEqual(["page_token"]);
      const [r, , check] = JSON.parse(Buffer.from(token, "base64url").toString()) as unknown[];
      const forged = Buffer.from(JSON.stringify([r, `${after}x`, check])).toString("base64url");
      expect(complaints(() => readPageToken(forged, query))).toEqual(["page_token"]);
    }),
    { numRuns: 50 },
  );
});

test.each([
  ["", true],
  ['spec.customer_id = "c1"', true],
  ["spec.customer_id = c2", false],
  ["spec.customer_id != c2 AND labels.example.com/tier = gold", true],
  ["spec.plan_id = basic", false],
])("the filter %j decides", (text, expected) => {
  expect(compileFilter(text)(tenant({ customerId: "c1" }, { "example.com/tier": "gold" }))).toBe(expected);
});

const year10000 = 253_402_300_800n;

test.each<[what: string, Resource, path: string]>([
  [
    "a time that is too late",
    create(DataPlaneSchema, { spec: { pause: { until: { seconds: year10000 } } } }),
    "spec.pause.until",
  ],
  [
    "a time that is too early",
    create(DataPlaneSchema, { createTime: { seconds: -(2n ** 63n) } }),
    "create_time",
  ],
  ["a time with bad nanos", create(DataPlaneSchema, { createTime: { nanos: -1 } }), "create_time"],
  [
    "a duration that is too long",
    tenant({ retention: { grace: { seconds: 2n ** 62n } } }),
    "spec.retention.grace",
  ],
  [
    "a duration of two signs",
    tenant({ retention: { grace: { seconds: 1n, nanos: -1 } } }),
    "spec.retention.grace",
  ],
  [
    "a duration with too many nanos",
    tenant({ retention: { grace: { nanos: 2 ** 30 } } }),
    "spec.retention.grace",
  ],
  ["no number", create(ApplicationSchema, { spec: { parameters: { a: Number.NaN } } }), "spec.parameters.a"],
])("to a filter %s is absent, and the rest as ever", (_, stored, path) => {
  stored.name = "here";
  stored.labels = { tier: "gold" };
  expect(compileFilter(`${path} = "" AND name = here AND labels.tier = gold`)(stored)).toBe(true);
  expect(compileFilter("name = there")(stored)).toBe(false);
});

test.each(["a", "a =", "a = b OR c = d", "a = b AND", '"a" = b', "a > b", '"'])(
  "the filter %j is refused by field",
  (text) => {
    expect(complaints(() => compileFilter(text))).toEqual(["filter"]);
  },
);

test("generation counts changes of the spec alone; no change gives back the record itself", () => {
  const first = created("DataPlane", create(DataPlaneSchema, { spec: { region: "eu" } }), {
    name: "dataPlanes/eu",
    uid: "u",
    nowMs: 1_000,
  });
  const at = (paths: string[]) => ({ paths, nowMs: 2_000 });
  expect(updated(first, first, at([]))).toBe(first);
  const labelled = updated(first, create(DataPlaneSchema, { labels: { a: "b" } }), at(["labels"]));
  expect(labelled).toMatchObject({ generation: 1n, labels: { a: "b" }, spec: { region: "eu" } });
  expect(labelled.etag).not.toBe(first.etag);
  expect(
    updated(first, create(DataPlaneSchema, { spec: { region: "us" } }), at(["spec.region"])),
  ).toMatchObject({ generation: 2n });
});

test.each(["uid", "spec.nothing", "status", "spec.region.x"])("the mask path %s is refused", (path) => {
  const first = created("DataPlane", create(DataPlaneSchema), { name: "dataPlanes/eu", uid: "u", nowMs: 0 });
  expect(complaints(() => updated(first, first, { paths: [path], nowMs: 0 }))).toEqual(["update_mask"]);
});

test("the same record gives the same bytes, in whatever order its labels came", () => {
  const ab = tenant({}, { a: "1", b: "2" });
  const ba = tenant({}, { b: "2", a: "1" });
  expect(Buffer.from(upsertUpdate(ab)).equals(upsertUpdate(ba))).toBe(true);
});

test("the same record gives the same bytes, in whatever order its quota came", () => {
  const ab = tenant({ quota: { cpu: "1", memory: "2Gi" } });
  const ba = tenant({ quota: { memory: "2Gi", cpu: "1" } });
  expect(Buffer.from(upsertUpdate(ab)).equals(upsertUpdate(ba))).toBe(true);
});
