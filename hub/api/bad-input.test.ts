/** What must be refused early, by field and rule, and leave everything else working. */
import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { CreateBundleVersionRequestSchema } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { create } from "@bufbuild/protobuf";
import { writeTar } from "@moorage/shared/bundle/tar";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { Code } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { TestApi } from "./testing.ts";
import { publish, testApi, upload } from "./testing.ts";

let api: TestApi;
beforeEach(async () => {
  api = await testApi();
  await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  await api.admin.tenants.createTenant({
    tenantId: "acme",
    tenant: { spec: { dataPlane: "dataPlanes/eu" } },
  });
});
afterEach(async () => {
  // Whatever came before: the API works on.
  await publish(api);
  const application = { spec: { bundle: "bundles/small", version: "1.0.0" } };
  await api.admin.applications.createApplication({
    parent: "tenants/acme",
    applicationId: "after",
    application,
  });
  await api.stop();
});

const bad = { code: Code.INVALID_ARGUMENT };

/** Publishes an archive of exactly these bytes, or files. */
function send(tar: Uint8Array) {
  const bytes = gzipSync(tar);
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  return api.admin.bundles.createBundleVersion(upload(bytes, digest));
}
const archive = (files: Record<string, string>) =>
  writeTar(filesOf({ "bundle.yaml": bundleYaml(), ...files }));

/** The archive with its second entry turned into an entry of another type. */
function retyped(tar: Uint8Array, type: string): Uint8Array {
  const out = Buffer.from(tar);
  const header = out.subarray(1024, 1536);
  header.write(type, 156, "latin1");
  header.fill(" ", 148, 156);
  const sum = header.reduce((a, b) => a + b, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return out;
}

test.each([
  ["..", "../manifests/a.yaml"],
  [".. in the middle", "manifests/../../a.yaml"],
  ["an absolute path", "/manifests/a.yaml"],
])("an archive with %s is refused", async (_, path) => {
  await expect(send(archive({ [path]: "a: 1\n" }))).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
});

test.each([
  ["a symbolic link", "2"],
  ["a hard link", "1"],
  ["a device", "3"],
])("an archive with %s is refused", async (_, type) => {
  await expect(send(retyped(archive({ "manifests/a.yaml": "a: 1\n" }), type))).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    reason: "MALFORMED",
    message: expect.stringContaining("no regular file") as string,
  });
});

test("a YAML bomb in bundle.yaml is refused before it is expanded", async () => {
  const lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"];
  for (let i = 1; i < 30; i++)
    lines.push(
      `a${i}: &a${i} [${Array(9)
        .fill(`*a${i - 1}`)
        .join(", ")}]`,
    );
  const bomb = archive({ "bundle.yaml": `${bundleYaml()}${lines.join("\n")}\n` });
  await expect(send(bomb)).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT, reason: "TOO_MANY_ALIASES" });
});

test("a bundle.yaml above its limit is refused before it is parsed", async () => {
  const long = archive({ "bundle.yaml": `${bundleYaml()}# ${"x".repeat(limits.bundleFileBytes)}\n` });
  await expect(send(long)).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT, reason: "TOO_LARGE" });
});

test("a gzip bomb is refused before it is unpacked", async () => {
  await expect(send(Buffer.alloc(80 * 1024 * 1024))).rejects.toMatchObject({ code: Code.INVALID_ARGUMENT });
});

test("a bundle of 10 MiB is refused by its announced size, and by its true one", async () => {
  const size = 10 * 1024 * 1024;
  const digest = `sha256:${"0".repeat(64)}`;
  const fields = [{ field: "metadata.size_bytes" }];
  const announced = api.admin.bundles.createBundleVersion(upload(Buffer.alloc(size), digest));
  await expect(announced).rejects.toMatchObject({ reason: "TOO_LARGE", fields });
  async function* understated() {
    yield create(CreateBundleVersionRequestSchema, {
      part: { case: "metadata" as const, value: { digest, sizeBytes: 1_000n } },
    });
    for (let i = 0; i < size; i += 65_536)
      yield create(CreateBundleVersionRequestSchema, {
        part: { case: "content" as const, value: new Uint8Array(65_536) },
      });
  }
  await expect(api.admin.bundles.createBundleVersion(understated())).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    fields: [{ field: "content" }],
  });
});

test.each([
  ["no metadata", []],
  ["content before metadata", [{ part: { case: "content" as const, value: new Uint8Array(1) } }]],
])("an upload with %s is refused by field", async (_, parts) => {
  async function* requests() {
    yield* parts.map((p) => create(CreateBundleVersionRequestSchema, p));
  }
  await expect(api.admin.bundles.createBundleVersion(requests())).rejects.toMatchObject({
    fields: [{ field: "metadata" }],
  });
});

test("a name of an unknown kind is refused by field, wherever a name is taken", async () => {
  const { tenants, applications, wait, apiKeys } = api.admin;
  await expect(tenants.getTenant({ name: "rockets/acme" })).rejects.toMatchObject({
    ...bad,
    fields: [{ field: "name" }],
  });
  await expect(tenants.getTenant({ name: "dataPlanes/eu" })).rejects.toMatchObject({
    ...bad,
    fields: [{ field: "name" }],
  });
  await expect(wait.waitFor({ name: "rockets/acme" })).rejects.toMatchObject({
    ...bad,
    fields: [{ field: "name" }],
  });
  await expect(
    applications.createApplication({ parent: "rockets/acme", applicationId: "web", application: {} }),
  ).rejects.toMatchObject({ ...bad, fields: [{ field: "parent" }] });
  await expect(
    apiKeys.createApiKey({ apiKeyId: "k", apiKey: { role: Role.VIEWER, scopes: ["rockets/acme"] } }),
  ).rejects.toMatchObject({ ...bad, fields: [{ field: "api_key.scopes[0]" }] });
});

test.each(["", "A", "a_b", "-a", "a-", "a".repeat(41), "..", "a/b"])(
  "the id %j is refused by field",
  async (id) => {
    await expect(api.admin.tenants.createTenant({ tenantId: id, tenant: {} })).rejects.toMatchObject({
      code: Code.INVALID_ARGUMENT,
      fields: [{ field: "tenant_id" }],
    });
  },
);

test("a tenant or an application in an unknown data plane or tenant is refused by field", async () => {
  const { tenants, applications } = api.admin;
  const missing = { code: Code.NOT_FOUND, reason: "REFERENCE_NOT_FOUND" };
  await expect(
    tenants.createTenant({ tenantId: "b", tenant: { spec: { dataPlane: "dataPlanes/nowhere" } } }),
  ).rejects.toMatchObject({ ...missing, fields: [{ field: "tenant.spec.data_plane" }] });
  const application = { spec: { bundle: "bundles/small", version: "1.0.0" } };
  for (const parent of ["tenants/nobody", "dataPlanes/nowhere"])
    await expect(
      applications.createApplication({ parent, applicationId: "web", application }),
    ).rejects.toMatchObject({ ...missing, fields: [{ field: "parent" }] });
});

test("a parameter of the wrong type, a missing and an unknown one are refused by their path", async () => {
  const schema =
    "parameters:\n  schema:\n    type: object\n    required: [host]\n    additionalProperties: false\n    properties:\n      host: { type: string }\n      size: { type: object, properties: { replicas: { type: integer } } }\n";
  const text = `${bundleYaml(schema).replace("version: 1.0.0", "version: 2.0.0")}`;
  await send(archive({ "bundle.yaml": text, "manifests/a.yaml": "a: 1\n" }));
  const fieldsOf = async (parameters: object) => {
    const spec = { bundle: "bundles/small", version: "2.0.0", parameters: parameters as never };
    const call = api.admin.applications.createApplication({
      parent: "tenants/acme",
      applicationId: "web",
      application: { spec },
    });
    const error = (await call.then(
      () => undefined,
      (thrown: unknown) => thrown,
    )) as { code: Code; fields: { field: string }[] } | undefined;
    expect(error?.code).toBe(Code.INVALID_ARGUMENT);
    return error?.fields.map((f) => f.field);
  };
  const parameters = "application.spec.parameters";
  expect(await fieldsOf({ host: "h", size: { replicas: "many" } })).toEqual([`${parameters}.size.replicas`]);
  expect(await fieldsOf({})).toEqual([expect.stringContaining(parameters) as string]);
  expect(await fieldsOf({ host: "h", hots: "x" })).toEqual([expect.stringContaining(parameters) as string]);
});

test("a resource whose body is above the inline limit is refused by that limit", async () => {
  const annotations = { a: "x".repeat(limits.annotationsBytes - 1) };
  await api.admin.tenants.createTenant({
    tenantId: "large",
    tenant: { spec: { dataPlane: "dataPlanes/eu" }, annotations },
  });
  const allowTo = Array.from({ length: 4_000 }, (_, i) => ({
    peer: { case: "namespace" as const, value: `namespace-with-a-name-${i}` },
  }));
  await expect(
    api.admin.tenants.createTenant({
      tenantId: "larger",
      tenant: { spec: { dataPlane: "dataPlanes/eu", isolation: { network: { allowTo } } } },
    }),
  ).rejects.toMatchObject({
    code: Code.INVALID_ARGUMENT,
    reason: "BODY_TOO_LARGE",
    message: expect.stringContaining("inlineBodyBytes") as string,
  });
});

const refusedMaps = [
  ["labels that are none", { labels: { "not a label!": "x" } }, 'labels["not a label!"]'],
  ["a label of 900 KB", { labels: { a: "x".repeat(900_000) } }, 'labels["a"]'],
  ["annotations above their limit", { annotations: { a: "x".repeat(20_000) } }, "annotations"],
] as const;

test.each(refusedMaps)(
  "a bundle version with %s is refused, at once and in an update",
  async (_, maps, field) => {
    const { bundles } = api.admin;
    async function* sent() {
      const value = { digest: `sha256:${"0".repeat(64)}`, sizeBytes: 1n, ...maps };
      yield create(CreateBundleVersionRequestSchema, { part: { case: "metadata", value } });
    }
    await expect(bundles.createBundleVersion(sent())).rejects.toMatchObject({
      ...bad,
      fields: [{ field: `metadata.${field}` }],
    });
    const { name } = await send(archive({ "manifests/a.yaml": "a: 1\n" }));
    const update = (bundleVersion: object, path: string) =>
      bundles.updateBundleVersion({
        bundleVersion: { name, ...bundleVersion },
        updateMask: { paths: [path] },
      });
    await expect(update(maps, Object.keys(maps)[0] as string)).rejects.toMatchObject({
      ...bad,
      fields: [{ field: `bundle_version.${field}` }],
    });
    expect(await update({ ...maps, yanked: true }, "yanked")).toMatchObject({ yanked: true, labels: {} });
    await bundles.deleteBundleVersion({ name });
  },
);

test("a refusal names a part of very many mistakes, for it travels in a header", async () => {
  const labels = Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`bad label ${i}`, "v"]));
  const refused = api.admin.tenants.updateTenant({
    tenant: { name: "tenants/acme", labels },
    updateMask: { paths: ["labels"] },
  });
  await expect(refused).rejects.toThrow("(and 5000 more)");
  const fields = await refused.catch((e: { fields: unknown[] }) => e.fields);
  expect(fields).toHaveLength(32);
});

test("an API key's name for people has a length", async () => {
  const create = (length: number) =>
    api.admin.apiKeys.createApiKey({
      apiKeyId: "named",
      apiKey: { role: Role.VIEWER, displayName: "n".repeat(length) },
    });
  await expect(create(129)).rejects.toMatchObject({ ...bad, fields: [{ field: "api_key.display_name" }] });
  expect((await create(128)).apiKey?.displayName).toHaveLength(128);
});

test("a key ends within the years that can be shown", async () => {
  const create = (apiKeyId: string, seconds: bigint) =>
    api.admin.apiKeys.createApiKey({ apiKeyId, apiKey: { role: Role.VIEWER, expireTime: { seconds } } });
  await create("last", 253_402_300_799n);
  for (const seconds of [253_402_300_800n, 2n ** 62n, 1n])
    await expect(create("beyond", seconds)).rejects.toMatchObject({
      ...bad,
      fields: [{ field: "api_key.expire_time" }],
    });
});
