/** Pages of large entries: they end by bytes, so that every answer may be sent, and nothing is left out. */
import type { DescMessage } from "@bufbuild/protobuf";
import { toBinary } from "@bufbuild/protobuf";
import { ListApplicationsResponseSchema } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { ListBundleVersionsResponseSchema } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { ListApiKeysResponseSchema } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ListTenantsResponseSchema } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { limits } from "@moorage/shared/limits";
import { afterAll, beforeAll, expect, test } from "vitest";
import { PageRoom } from "../core/pages.ts";
import type { TestApi } from "./testing.ts";
import { acmeApi, take, upload } from "./testing.ts";

const APPLICATIONS = 120;
const KEYS = 700;
const TENANTS = 500;
const pageSize = limits.pageSizeMax;
const annotations = { a: "x".repeat(limits.annotationsBytes - 1) };
const labels = Object.fromEntries(
  Array.from({ length: limits.labelsPerResource }, (_, i) => [
    `${String(i).padStart(63, "k")}`,
    "v".repeat(63),
  ]),
);

let api: TestApi;
beforeAll(async () => {
  api = await acmeApi();
  const { applications } = api.admin;
  const parameters = { a: "x".repeat(limits.parametersBytes - '{"a":""}'.length) };
  const spec = { bundle: "bundles/small", version: "1.0.0", parameters };
  for (let i = 0; i < APPLICATIONS; i++)
    await applications.createApplication({
      parent: "tenants/acme",
      applicationId: `app-${String(i).padStart(3, "0")}`,
      application: { annotations, labels, spec },
    });
});
afterAll(() => api.stop());

/** All pages of a list; each is checked against what a port may send. */
async function all<P extends { nextPageToken: string }>(
  schema: DescMessage,
  list: (pageToken: string) => Promise<P>,
): Promise<P[]> {
  const out: P[] = [];
  for (let token: string | undefined = ""; token !== undefined;) {
    const page: P = await list(token);
    out.push(page);
    expect(toBinary(schema, page as never).length).toBeLessThanOrEqual(limits.apiMessageBytes);
    token = page.nextPageToken === "" ? undefined : page.nextPageToken;
  }
  return out;
}

const expected = Array.from(
  { length: APPLICATIONS },
  (_, i) => `tenants/acme/applications/app-${String(i).padStart(3, "0")}`,
);

test.each([
  ["FULL", View.FULL, ""],
  ["FULL with a filter", View.FULL, 'name != "x"'],
  ["BASIC", View.BASIC, ""],
])("a list of large applications, view %s, is whole over its pages", async (_name, view, filter) => {
  const pages = await all(ListApplicationsResponseSchema, (pageToken) =>
    api.admin.applications.listApplications({ pageSize, pageToken, view, filter }),
  );
  expect(pages.flatMap((p) => p.applications.map((a) => a.name))).toEqual(expected);
  if (view === View.FULL) expect(pages.length).toBeGreaterThan(1);
  expect(new Set(pages.map((p) => p.cursor?.revision)).size).toBe(1);
});

test("a list of many labelled tenants, view BASIC, is whole over its pages", async () => {
  const spec = { dataPlane: "dataPlanes/eu" };
  for (let i = 0; i < TENANTS; i++)
    await api.admin.tenants.createTenant({ tenantId: `many-${i}`, tenant: { labels, spec } });
  for (const _ of ["made", "kept"]) {
    const pages = await all(ListTenantsResponseSchema, (pageToken) =>
      api.admin.tenants.listTenants({ pageSize, pageToken }),
    );
    expect(pages.length).toBeGreaterThan(1);
    const names = pages.flatMap((p) => p.tenants.map((t) => t.name));
    expect(new Set(names).size).toBe(names.length);
    expect(names.filter((n) => n.startsWith("tenants/many-"))).toHaveLength(TENANTS);
  }
});

test("a watch of large applications begins with all of them", async () => {
  const stream = api.admin.applications.watchApplications({ view: View.FULL })[Symbol.asyncIterator]();
  const events = await take(stream, APPLICATIONS + 1);
  expect(events.at(-1)?.event.case).toBe("synced");
  await stream.return?.();
});

test("a list of bundle versions with large schemas is whole over its pages", async () => {
  const versions = Array.from({ length: 80 }, (_, i) => `2.0.${i}`);
  const more = `parameters:\n  schema: {type: object, description: "${"x".repeat(48_000)}"}\n`;
  for (const version of versions) {
    const text = bundleYaml(more).replace("1.0.0", version);
    const { bytes, digest } = packBundle(filesOf({ "bundle.yaml": text, "manifests/a.yaml": "a: 1\n" }));
    await api.admin.bundles.createBundleVersion(upload(bytes, digest));
  }
  const pages = await all(ListBundleVersionsResponseSchema, (pageToken) =>
    api.admin.bundles.listBundleVersions({ parent: "bundles/small", pageSize, pageToken }),
  );
  expect(pages.length).toBeGreaterThan(1);
  const names = pages.flatMap((p) => p.bundleVersions.map((v) => v.name.split("/").at(-1)));
  expect(names.filter((n) => n !== "1.0.0").toSorted()).toEqual(versions.toSorted());
});

test("a list of API keys with many scopes is whole over its pages", async () => {
  const segment = (text: string) => text.padStart(40, "t");
  const scopes = Array.from(
    { length: 64 },
    (_, i) => `tenants/${segment("")}/applications/${segment(`${i}`)}`,
  );
  for (let i = 0; i < KEYS; i++)
    await api.identity.apiKeys.create(
      { id: `many-${i}`, displayName: "", role: Role.VIEWER, scopes },
      { actor: "apiKeys/test" },
    );
  const pages = await all(ListApiKeysResponseSchema, (pageToken) =>
    api.admin.apiKeys.listApiKeys({ pageSize, pageToken }),
  );
  const names = pages.flatMap((p) => p.apiKeys.map((k) => k.name));
  expect(new Set(names).size).toBe(names.length);
  expect(names.filter((n) => n.startsWith("apiKeys/many-"))).toHaveLength(KEYS);
  expect(pages.length).toBeGreaterThan(1);
});

test("a page takes its size and its bytes, and one entry at least", () => {
  expect(new PageRoom(2).fits([1, 1, 1])).toBe(2);
  expect(new PageRoom(9).fits([limits.pageBytes, 1])).toBe(1);
  expect(new PageRoom(9).fits([limits.pageBytes - 1, 1, 1])).toBe(2);
  expect(new PageRoom(9).fits([2 * limits.pageBytes, 1])).toBe(1);
  expect(new PageRoom(9).fits([])).toBe(0);
});
