/** What holds for every method of every service: how it refuses, and that it tells nobody what exists. */
import { create } from "@bufbuild/protobuf";
import type { DescField, DescMessage, DescMethod, DescService } from "@bufbuild/protobuf";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { decodeStatus, encodeStatus } from "@moorage/shared/grpc/status-details";
import { seededRng } from "@moorage/shared/rng";
import type { Rng } from "@moorage/shared/rng";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { TestApi } from "./testing.ts";
import { publish, testApi } from "./testing.ts";

const services = {
  dataPlanes: DataPlaneService,
  tenants: TenantService,
  applications: ApplicationService,
  bundles: BundleService,
  wait: WaitService,
  apiKeys: ApiKeyService,
  joinTokens: JoinTokenService,
  hub: HubService,
} satisfies Record<string, DescService>;
type Of = keyof typeof services;
type Clients = Record<Of, unknown>;

const methods = (Object.keys(services) as Of[]).flatMap((of) =>
  services[of].methods.map((method: DescMethod) => ({ of, method, name: `${of}.${method.localName}` })),
);

let api: TestApi;
beforeAll(async () => {
  api = await testApi();
  const { dataPlanes, tenants, applications, joinTokens } = api.admin;
  await publish(api);
  await dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await tenants.createTenant({ tenantId: "acme", tenant: { spec: { dataPlane: "dataPlanes/eu" } } });
  await applications.createApplication({
    parent: "tenants/acme",
    applicationId: "web",
    application: { spec: { bundle: "bundles/small", version: "1.0.0" } },
  });
  await joinTokens.createJoinToken({ parent: "dataPlanes/eu" });
  // The first list makes the key of page tokens, which is a write: answers that show a revision would differ.
  await tenants.listTenants({});
});
afterAll(() => api.stop());

/** Calls a method until its first answer; a stream is given up after that. */
async function callFirst(
  client: Clients,
  of: Of,
  call: { method: DescMethod; request: object },
): Promise<unknown> {
  const { method, request } = call;
  const end = new AbortController();
  const fn = (client[of] as Record<string, (r: unknown, o: object) => unknown>)[method.localName];
  if (fn === undefined) throw new Error(`no client method "${method.localName}"`);
  try {
    if (method.methodKind === "client_streaming")
      return await fn(
        (async function* () {
          yield request;
        })(),
        { signal: end.signal },
      );
    const answer = fn(request, { signal: end.signal });
    if (method.methodKind === "unary") return await answer;
    return (await (answer as AsyncIterable<unknown>)[Symbol.asyncIterator]().next()).value;
  } finally {
    end.abort();
  }
}

const outcome = (p: Promise<unknown>): Promise<unknown> =>
  p.then(
    (value) => ({ value }),
    (thrown: unknown) => thrown,
  );

// Requests that are mostly wrong.

const words = [
  "",
  "a",
  "tenants/acme",
  "dataPlanes/eu",
  "tenants/acme/applications/web",
  "-",
  "tenants/-",
  "../x",
  "\u0000",
  "É".repeat(200),
  "bundles/small/versions/1.0.0",
  "apiKeys/k0",
  "spec.nothing",
  "x".repeat(5_000),
  "name = ",
  "hub",
];

function anyMessage(desc: DescMessage, rng: Rng, depth = 0): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const f of desc.fields) {
    if (rng.float() < 0.4 || depth > 4) continue;
    const value = anyField(f, rng, depth);
    if (f.oneof === undefined) out[f.localName] = value;
    else out[f.oneof.localName] = { case: f.localName, value };
  }
  return out;
}

function anyField(f: DescField, rng: Rng, depth: number): unknown {
  const pick = <T>(all: readonly T[]): T => all[Math.floor(rng.float() * all.length)] as T;
  const scalar = (type: number): unknown => {
    // The numbers of descriptor.proto: 9 is string, 8 bool, 12 bytes, the wide integers are bigints.
    if (type === 9) return pick(words);
    if (type === 8) return rng.float() < 0.5;
    if (type === 12) return rng.bytes(Math.floor(rng.float() * 20));
    if ([3, 4, 6, 16, 18].includes(type))
      return pick(type === 4 || type === 6 ? [0n, 1n, 2n ** 62n] : [0n, -1n, 1n, 2n ** 62n]);
    if ([1, 2].includes(type)) return pick([0, -1, 1e300]);
    return type === 13 || type === 7 ? pick([0, 1, 4_294_967_295]) : pick([0, -1, 1, 1_001, 2_147_483_647]);
  };
  const single = (): unknown => {
    if (f.message?.typeName === "google.protobuf.Struct")
      return pick([{}, { a: { b: [1, null] } }, { __proto__x: 1 }]);
    if (f.message !== undefined) return create(f.message, anyMessage(f.message, rng, depth + 1));
    if (f.enum !== undefined) return pick([0, 1, 2, 99]);
    return f.scalar === undefined ? undefined : scalar(f.scalar);
  };
  if (f.fieldKind === "list") return Array.from({ length: Math.floor(rng.float() * 3) }, single);
  if (f.fieldKind !== "map") return single();
  return Object.fromEntries(
    Array.from({ length: Math.floor(rng.float() * 3) }, () => [
      f.mapKey === 9 ? pick(words) : 1,
      f.mapKind === "scalar" ? scalar(f.scalar) : f.mapKind === "enum" ? 0 : create(f.message, {}),
    ]),
  );
}

/** Methods whose success would take others their ground. */
const destructive = new Set([
  "deleteDataPlane",
  "deleteTenant",
  "deleteApplication",
  "deleteApiKey",
  "deleteBundleVersion",
  "revokeAgentCredentials",
  "rotateCertificateAuthority",
  "waitFor",
]);

test.each(methods.filter((m) => !destructive.has(m.method.localName)))(
  "$name refuses what is wrong with a code, one reason and no word about its inside",
  async ({ of, method }) => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), async (seed) => {
        const request = create(method.input, anyMessage(method.input, seededRng(seed)));
        const result = await outcome(callFirst(api.admin as never, of, { method, request }));
        if (!(result instanceof MoorageError)) return;
        expect([Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS]).not.toContain(result.code);
        expect(result.reason).toMatch(/^[A-Z][A-Z0-9_]+$/);
        expect(result.message).not.toMatch(/\n\s+at |\.ts:\d|TypeError|undefined/);
        expect(result.message.length).toBeLessThan(2_000);
        const encoded = encodeStatus(result);
        expect(Buffer.from(encoded).toString("latin1").split("google.rpc.ErrorInfo")).toHaveLength(2);
        expect(decodeStatus(result.code, result.message, encoded)).toMatchObject({ reason: result.reason });
        if (result.code === Code.INVALID_ARGUMENT && result.reason === "INVALID_FIELD")
          expect(result.fields.length).toBeGreaterThan(0);
        if (result.code === Code.RESOURCE_EXHAUSTED || result.code === Code.UNAVAILABLE)
          expect(result.retryAfterMs).toBeGreaterThan(0);
      }),
      { numRuns: 60 },
    );
  },
);

// Names that exist and names that do not, of one length each.

const pairs: readonly (readonly [string, string])[] = [
  ["dataPlanes/eu", "dataPlanes/xx"],
  ["tenants/acme", "tenants/none"],
  ["tenants/acme/applications/web", "tenants/acme/applications/abc"],
  ["bundles/small/versions/1.0.0", "bundles/small/versions/9.0.0"],
  ["bundles/small", "bundles/wrong"],
  ["apiKeys/k0", "apiKeys/kx"],
  ["dataPlanes/eu/joinTokens/abc", "dataPlanes/xx/joinTokens/abc"],
];

/** The request with this name wherever a name can stand, and a stale etag. */
function naming(desc: DescMessage, name: string, depth = 0): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const id = name.split("/").at(-1) ?? "";
  for (const f of desc.fields) {
    if (f.name === "name" || (f.name === "parent" && depth === 0)) out[f.localName] = name;
    else if (f.name === "etag") out[f.localName] = "0".repeat(16);
    else if (f.name.endsWith("_id") && f.scalar === 9 && f.name !== "request_id") out[f.localName] = id;
    else if (f.fieldKind === "message" && depth === 0 && f.message.typeName.startsWith("moorage.hub.v1."))
      out[f.localName] = create(f.message, naming(f.message, name, 1));
  }
  if (
    desc.fields.some((f) => f.name === "parent") &&
    depth === 0 &&
    /Create/.test(desc.name) &&
    name.includes("/applications/")
  )
    out["parent"] = name.split("/").slice(0, 2).join("/");
  return out;
}

test.each(methods)(
  "$name answers a caller of another scope alike, whether or not the thing exists",
  async (m) => {
    const { of, method } = m;
    const other = await api.as(Role.OPERATOR, ["tenants/other"]);
    const seen = async (name: string) => {
      const request = create(method.input, naming(method.input, name));
      const result = await outcome(callFirst(other as never, of, { method, request }));
      if (!(result instanceof MoorageError))
        return JSON.stringify(result, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v));
      const { code, message, reason, fields } = result;
      const id = name.split("/").at(-1) ?? "";
      const text = JSON.stringify({ code, message, reason, fields, metadata: result.metadata });
      return text.replaceAll(name, "NAME").replaceAll(id, "ID");
    };
    for (const [existing, missing] of pairs) expect(await seen(existing)).toBe(await seen(missing));
  },
);
