import { expect, test } from "vitest";
import { readDocuments } from "./documents.ts";

const tenant = "kind: Tenant\nname: tenants/acme\nspec:\n  dataPlane: dataPlanes/eu\n";

test("a stream is read in its order, and a short name is completed", () => {
  const all = readDocuments(`# first\n${tenant}---\nkind: DataPlane\nname: eu\n`, "a.yaml");
  expect(all.map((r) => r.name)).toEqual(["tenants/acme", "dataPlanes/eu"]);
});

test("an unknown field is refused with its line, also in a later document", () => {
  const bad = "---\n# a comment\nkind: Tenant\nname: tenants/b\nspec:\n  dataplane: dataPlanes/eu\n";
  expect(() => readDocuments(tenant + bad, "a.yaml")).toThrow(
    'Cannot apply "a.yaml": line 10: unknown field "dataplane" in TenantSpec',
  );
});

test("an enum value that does not exist is refused with its line", () => {
  expect(() => readDocuments(`${tenant}  isolation:\n    level: STRONG\n`, "a.yaml")).toThrow(
    /line 6: .*STRONG/,
  );
});

test.each([
  ["name: tenants/a\n", "kind is missing"],
  ["kind: Tennant\nname: tenants/a\n", 'line 1: unknown kind "Tennant"; did you mean "Tenant"?'],
  ["kind: Tenant\n", "name is missing"],
  ["- a\n", "must be a mapping"],
  ["", "holds no document"],
  ["kind: Application\nname: web\n", '"web" needs its tenant or data plane'],
])("%j is refused: %s", (text, why) => {
  expect(() => readDocuments(text, "a.yaml")).toThrow(why);
});
