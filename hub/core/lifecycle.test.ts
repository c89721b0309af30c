import { create } from "@bufbuild/protobuf";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { Code } from "@moorage/shared/errors";
import fc from "fast-check";
import { expect, test } from "vitest";
import { checkEtag, created, deleted, updated } from "./lifecycle.ts";
import type { Resource } from "./resources.ts";

const name = "tenants/a/applications/web";
const made = (input: object = {}) =>
  created("Application", create(ApplicationSchema, input), { name, uid: "u", nowMs: 1_000 });
const change = (old: Resource, input: object, paths: string[] = []) =>
  updated(old, create(ApplicationSchema, input), { paths, nowMs: 2_000 });

test("what a caller sends of uid, times, status and generation is not taken", () => {
  const record = made({
    uid: "mine",
    generation: 9n,
    etag: "e",
    revision: 3n,
    status: { observedGeneration: 5n },
  });
  expect(record).toMatchObject({ name, uid: "u", generation: 1n, revision: 0n });
  expect(record.status).toBeUndefined();
  const after = change(record, { uid: "mine", generation: 9n, labels: { a: "b" } }, ["labels"]);
  expect(after).toMatchObject({ uid: "u", generation: 1n });
});

test("the input is neither kept nor changed", () => {
  const input = create(ApplicationSchema, { labels: { a: "b" }, spec: { parameters: { n: 1 } } });
  const record = created("Application", input, { name, uid: "u", nowMs: 0 });
  input.labels["a"] = "c";
  expect(record.labels).toEqual({ a: "b" });
});

const spec = { bundle: "bundles/b", version: "1.0.0", parameters: { a: { b: 1 }, c: 2 } };

test.each([
  ["a field", ["spec.version"], { spec: { version: "2.0.0" } }, { ...spec, version: "2.0.0" }],
  ["a field to nothing", ["spec.version"], { spec: {} }, { ...spec, version: "" }],
  [
    "a whole document",
    ["spec.parameters"],
    { spec: { parameters: { d: 3 } } },
    { ...spec, parameters: { d: 3 } },
  ],
  [
    "one parameter of a document",
    ["spec.parameters.c"],
    { spec: { parameters: { c: 5, d: 3 } } },
    { ...spec, parameters: { a: { b: 1 }, c: 5 } },
  ],
  ["one parameter to nothing", ["spec.parameters.c"], { spec: {} }, { ...spec, parameters: { a: { b: 1 } } }],
  ["all", ["*"], { spec: { bundle: "bundles/x" } }, { bundle: "bundles/x", version: "" }],
  ["all without a mask", [], { spec: { bundle: "bundles/x" } }, { bundle: "bundles/x", version: "" }],
])("a mask sets %s and leaves the rest", (_, paths, input, expected) => {
  const after = change(made({ spec }), input, paths);
  expect(after.spec).toMatchObject(expected);
  expect(after.generation).toBe(2n);
});

test("a mask sets one label, whose key holds dots, and leaves the others", () => {
  const before = made({ labels: { "example.com/tier": "tin", other: "x" } });
  const after = change(before, { labels: { "example.com/tier": "gold" } }, ["labels.example.com/tier"]);
  expect(after.labels).toEqual({ "example.com/tier": "gold", other: "x" });
  expect(change(after, {}, ["labels.other"]).labels).toEqual({ "example.com/tier": "gold" });
});

test.each(["__proto__", "constructor"])("a mask that names the key %s touches no prototype", (k) => {
  const labels = Object.fromEntries([[k, "x"]]);
  change(made(), { labels }, [`labels.${k}`]);
  expect(({} as Record<string, unknown>)["x"]).toBeUndefined();
  expect(Object.prototype).not.toHaveProperty("x");
});

test("generation moves with the spec alone, the etag with spec, labels and annotations, and neither with nothing", () => {
  const small = fc.dictionary(fc.constantFrom("a", "b"), fc.constantFrom("x", "y"));
  const content = fc.record({ labels: small, annotations: small, planId: fc.constantFrom("", "p", "q") });
  const input = (c: { labels: object; annotations: object; planId: string }) =>
    create(TenantSchema, {
      labels: c.labels as never,
      annotations: c.annotations as never,
      spec: { planId: c.planId },
    });
  fc.assert(
    fc.property(content, content, (a, b) => {
      const before = created("Tenant", input(a), { name: "tenants/a", uid: "u", nowMs: 1_000 });
      const after = updated(before, input(b), { paths: [], nowMs: 2_000 });
      const sorted = (m: object) => JSON.stringify(Object.entries(m).sort());
      const sameSpec = a.planId === b.planId;
      const same =
        sameSpec && sorted(a.labels) === sorted(b.labels) && sorted(a.annotations) === sorted(b.annotations);
      expect(after.generation).toBe(sameSpec ? 1n : 2n);
      expect(after.etag === before.etag).toBe(same);
      expect(after === before).toBe(same);
    }),
  );
});

test("a stale etag is refused, an absent one is not", () => {
  const record = made();
  expect(() => checkEtag(record, "")).not.toThrow();
  expect(() => checkEtag(record, record.etag)).not.toThrow();
  expect(() => checkEtag(record, "f".repeat(16))).toThrow(
    expect.objectContaining({ code: Code.ABORTED, reason: "ETAG_MISMATCH" }) as Error,
  );
});

test("a deletion is marked once, with the time of the first, and keeps the etag", () => {
  const first = deleted(made(), 5_000);
  expect(first.etag).toBe(made().etag);
  expect(deleted(first, 9_000)).toBe(first);
});
