import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import { Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { StoredStatus } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { BasicKind } from "./basic-bytes.ts";
import { BasicEncoder } from "./basic-bytes.ts";
import type { Resource } from "./resources.ts";
import { decode, encode } from "./resources.ts";
import { viewInto } from "./views.ts";

const schemas = { Tenant: TenantSchema, Application: ApplicationSchema };
const word = fc.string({ maxLength: 200 });
const generation = fc.bigInt({ min: 0n, max: 3n });
const time = fc.option(fc.record({ seconds: fc.bigInt({ min: 0n, max: 2_000_000_000n }) }), {
  nil: undefined,
});
const map = fc.dictionary(fc.constantFrom("a", "b", "c"), word, { maxKeys: 3 });

const own = {
  uid: fc.uuid(),
  generation,
  etag: fc.constantFrom("", "e"),
  createTime: time,
  deleteTime: time,
  labels: map,
  annotations: map,
};
const tenant = fc
  .record({
    ...own,
    name: fc.constant("tenants/t"),
    spec: fc.option(
      fc.record({ dataPlane: fc.constantFrom("", "dataPlanes/eu"), customerId: word, quota: map }),
      { nil: undefined },
    ),
  })
  .map((t) => create(TenantSchema, t) as Resource);
const application = fc
  .record({
    ...own,
    name: fc.constantFrom("tenants/t/applications/a", "dataPlanes/eu/applications/a"),
    spec: fc.option(
      fc.record({
        bundle: word,
        version: word,
        parameters: fc.option(
          map.map((m) => ({ ...m, n: 1 })),
          { nil: undefined },
        ),
        dependsOn: fc.array(word, { maxLength: 3 }),
        suspended: fc.boolean(),
      }),
      { nil: undefined },
    ),
  })
  .map((a) => create(ApplicationSchema, a) as Resource);

const condition = fc.record({
  type: fc.constantFrom(
    "Ready",
    "Ready",
    "Reconciling",
    "Stalled",
    "IsolationEnforced",
    "Applied",
    "Healthy",
  ),
  status: fc.constantFrom("True", "False", "Unknown"),
  reason: fc.constant("Because"),
  message: word,
  observedGeneration: fc.oneof(
    { weight: 9, arbitrary: fc.bigInt({ min: 1n, max: 4n }) },
    { weight: 1, arbitrary: fc.constantFrom(-1n, 2n ** 60n) },
  ),
  lastTransitionTime: time,
});
const status = fc
  .record({
    receivedTime: time,
    agentGeneration: generation,
    status: fc.option(
      fc.record({
        name: word,
        observedGeneration: fc.oneof(
          { weight: 9, arbitrary: generation },
          { weight: 1, arbitrary: fc.constantFrom(-1n, 2n ** 40n, 2n ** 60n) },
        ),
        verdict: fc.option(
          fc.record({
            state: fc.constantFrom(
              Verdict_State.UNSPECIFIED,
              Verdict_State.ACCEPTED,
              Verdict_State.ACCEPTED,
              Verdict_State.REJECTED,
            ),
            revision: generation,
          }),
          { nil: undefined },
        ),
        conditions: fc.array(condition, { maxLength: 6, size: "max" }),
        appliedVersion: word,
        appliedGeneration: generation,
        appliedDigest: fc.constantFrom("", "sha256:1"),
        namespaces: fc.array(word, { maxLength: 3 }),
      }),
      { nil: undefined },
    ),
  })
  .map((s) => create(StoredStatusSchema, s));

/** The view by way of the bytes, where they suffice, and by way of the objects. */
function both(encoder: BasicEncoder, kind: BasicKind, of: { record: Resource; status: StoredStatus }) {
  const bytes = encode(of.record);
  encoder.read(bytes);
  const copied = encoder.view(toBinary(StoredStatusSchema, of.status), 300);
  const record = decode(kind, bytes);
  const link = undefined;
  const stored = { record, recordRevision: 2, status: of.status, link, revision: 300 };
  const made = toBinary(schemas[kind] as DescMessage, viewInto(record, stored, View.BASIC));
  const read = (b: Uint8Array) => fromBinary(schemas[kind] as DescMessage, b);
  return { copied: copied === undefined ? undefined : read(copied), made: read(made) };
}

test.each<[BasicKind, fc.Arbitrary<Resource>]>([
  ["Tenant", tenant],
  ["Application", application],
])("what is copied of %s is its view, and where it cannot be it is left to views.ts", (kind, record) => {
  const encoder = new BasicEncoder(kind);
  let copies = 0;
  fc.assert(
    fc.property(fc.record({ record, status }), (of) => {
      const { copied, made } = both(encoder, kind, of);
      if (copied === undefined) return;
      copies++;
      expect(copied).toEqual(made);
    }),
    { numRuns: 1_000 },
  );
  // Else the property would say nothing.
  expect(copies).toBeGreaterThan(150);
});

test("what an entry rests on is read of its record", () => {
  const tenants = new BasicEncoder("Tenant");
  tenants.read(
    encode(create(TenantSchema, { name: "tenants/t", uid: "u", spec: { dataPlane: "dataPlanes/eu" } })),
  );
  expect(tenants).toMatchObject({ uid: "u", placedBy: "dataPlanes/eu" });
  tenants.read(encode(create(TenantSchema, { name: "tenants/t", uid: "v" })));
  expect(tenants).toMatchObject({ uid: "v", placedBy: "" });
  const applications = new BasicEncoder("Application");
  applications.read(encode(create(ApplicationSchema, { name: "tenants/t/applications/a", uid: "w" })));
  expect(applications).toMatchObject({ uid: "w", placedBy: "tenants/t" });
});

test("bytes that are no message are refused, not read past their end", () => {
  const encoder = new BasicEncoder("Tenant");
  const bytes = encode(create(TenantSchema, { name: "tenants/t", uid: "u" }));
  expect(() => encoder.read(bytes.subarray(0, bytes.length - 1))).toThrow(RangeError);
  expect(() => encoder.read(new Uint8Array([0x0b]))).toThrow("its wire type is 3");
});
