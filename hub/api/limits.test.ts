/** Each limit that the API enforces, at the limit and one above. */
import { create, toBinary } from "@bufbuild/protobuf";
import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { TenantBodySchema } from "@moorage/proto/moorage/agent/v1/body_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { CreateBundleVersionRequestSchema } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { seededRng } from "@moorage/shared/rng";
import { afterAll, beforeAll, expect, test } from "vitest";
import { upsertUpdate } from "../core/desired.ts";
import { validate } from "../core/validate.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { manualClock } from "../sync/testing.ts";
import { Room } from "./room.ts";
import type { TestApi } from "./testing.ts";
import { acmeApi, take } from "./testing.ts";

let api: TestApi;
beforeAll(async () => {
  api = await acmeApi();
  const { applications } = api.admin;
  await applications.createApplication({
    parent: "tenants/acme",
    applicationId: "web",
    application: { spec },
  });
});
afterAll(() => api.stop());

const spec = { bundle: "bundles/small", version: "1.0.0" };
const webName = "tenants/acme/applications/web";

const update = (application: object, path: string) =>
  api.admin.applications.updateApplication({
    application: { name: webName, ...application },
    updateMask: { paths: [path] },
  });
const parameters = (value: JsonValue) => update({ spec: { parameters: value as never } }, "spec.parameters");
const nested = (levels: number): JsonValue => (levels === 1 ? {} : { a: nested(levels - 1) });

/** A tenant whose body for the agent has exactly this many bytes. */
function bodyOf(bytes: number) {
  const tenant = (length: number) =>
    create(TenantSchema, { name: "tenants/acme", uid: "u", spec: { planId: "p".repeat(length) } });
  const sizeOf = (length: number) => {
    const { labels, spec: body } = tenant(length);
    return toBinary(TenantBodySchema, create(TenantBodySchema, { labels, ...(body ? { spec: body } : {}) }))
      .length;
  };
  return tenant(bytes - (sizeOf(bytes) - bytes));
}

/** An upload that says it has this many bytes, and sends none. */
const announced = (bytes: number) =>
  api.admin.bundles.createBundleVersion(
    (async function* () {
      yield create(CreateBundleVersionRequestSchema, {
        part: {
          case: "metadata",
          value: { digest: `sha256:${"0".repeat(64)}`, sizeBytes: BigInt(bytes) },
        },
      });
    })(),
  );

const room = (() => {
  const store = openMemoryStore({ clock: manualClock(), rng: seededRng(1) });
  let made: Promise<unknown> | undefined;
  return async (count: number) => {
    made ??= store.txn({ then: [], rows: [{ putDp: { uid: "dp" } }] });
    await made;
    const all = new Room(store);
    for (let i = 0; i < count; i++) {
      await all.check({ name: "dataPlanes/eu", uid: "dp" });
      all.took("dp");
    }
  };
})();

/** Calls with a size; `sized: false` where the refusal counts in another way than the table. */
const enforced: { limit: keyof typeof limits; call: (size: number) => unknown; sized?: false }[] = [
  { limit: "pageSizeMax", call: (n) => api.admin.tenants.listTenants({ pageSize: n }) },
  {
    limit: "filterBytes",
    call: (n) => api.admin.tenants.listTenants({ filter: `name = ${"a".repeat(n - "name = ".length)}` }),
  },
  {
    limit: "requestIdBytes",
    call: (n) => api.admin.dataPlanes.createDataPlane({ dataPlaneId: `r${n}`, requestId: "r".repeat(n) }),
  },
  {
    limit: "labelsPerResource",
    call: (n) =>
      update({ labels: Object.fromEntries(Array.from({ length: n }, (_, i) => [`l${i}`, "v"])) }, "labels"),
  },
  {
    limit: "annotationsBytes",
    call: (n) => update({ annotations: { a: "x".repeat(n - 1) } }, "annotations"),
  },
  {
    limit: "parametersBytes",
    call: (n) => parameters({ a: "x".repeat(n - JSON.stringify({ a: "" }).length) }),
  },
  {
    // Below the transport, whose limit messageDepth comes first: a document takes two messages a level.
    limit: "jsonDepth",
    call: (n) =>
      validate(
        create(ApplicationSchema, {
          name: webName,
          spec: { ...spec, parameters: nested(n) as JsonObject },
        }),
      ),
  },
  {
    limit: "dependsOn",
    call: (n) =>
      update(
        {
          spec: {
            ...spec,
            dependsOn: Array.from({ length: n }, (_, i) => `tenants/acme/applications/d${i}`),
          },
        },
        "spec.depends_on",
      ),
  },
  { limit: "inlineBodyBytes", call: (n) => upsertUpdate(bodyOf(n)) },
  {
    limit: "bundlePackedBytes",
    call: (n) =>
      // At the limit the upload is refused for what it lacks, not for its size.
      announced(n).catch((thrown: unknown) => {
        if (!(thrown instanceof MoorageError) || thrown.fields[0]?.field !== "content") throw thrown;
      }),
  },
  {
    limit: "joinTokenMaxMs",
    call: (n) =>
      api.admin.joinTokens.createJoinToken({
        parent: "dataPlanes/eu",
        // Lifetimes are whole seconds here: one more is one above.
        lifetime: { seconds: BigInt(Math.ceil(n / 1_000)) },
      }),
    sized: false,
  },
  { limit: "resourcesPerDataPlane", call: room, sized: false },
];

test.each(enforced)("$limit is taken, and one more is refused with limit, value and size", async (of) => {
  const value = limits[of.limit];
  await of.call(value);
  const refused = await (async () => of.call(value + 1))().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(refused).toBeInstanceOf(MoorageError);
  const error = refused as MoorageError;
  expect([Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED]).toContain(error.code);
  const [told] = [...error.fields, ...error.quota];
  expect(told?.description).toMatch(new RegExp(`the limit ${of.limit} (is|of) ${value}\\b`));
  if (of.sized !== false) expect(told?.description).toMatch(new RegExp(`\\b${value + 1}\\b`));
  if (error.code === Code.RESOURCE_EXHAUSTED) expect(error.retryAfterMs).toBeGreaterThan(0);
});

test("watchesPerApiKey is taken, and one more is refused with limit, value and size", async () => {
  const viewer = await api.as(3);
  const ends: AbortController[] = [];
  const open = () => {
    const end = new AbortController();
    ends.push(end);
    return take(viewer.tenants.watchTenants({}, { signal: end.signal })[Symbol.asyncIterator](), 1);
  };
  await Promise.all(Array.from({ length: limits.watchesPerApiKey }, open));
  await expect(open()).rejects.toMatchObject({
    code: Code.RESOURCE_EXHAUSTED,
    quota: [
      {
        description: expect.stringMatching(
          `${limits.watchesPerApiKey} .*the limit watchesPerApiKey is ${limits.watchesPerApiKey}`,
        ) as string,
      },
    ],
    retryAfterMs: 1_000,
  });
  for (const end of ends) end.abort();
});
