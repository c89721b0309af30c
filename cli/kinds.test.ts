import { expect, test } from "vitest";
import { filterOf, parseGoal } from "./commands-resources.ts";
import { fullName, parseKind, parseKindName } from "./kinds.ts";

test("kinds are taken in every usual spelling", () => {
  expect(["dp", "DataPlanes", "data-plane", "tn", "app", "applications"].map(parseKind)).toEqual([
    "DataPlane",
    "DataPlane",
    "DataPlane",
    "Tenant",
    "Application",
    "Application",
  ]);
  expect(() => parseKind("tenat")).toThrow('Unknown kind "tenat"');
});

test("names are taken whole or within a scope", () => {
  expect(fullName("Application", "web", { tenant: "acme" })).toBe("tenants/acme/applications/web");
  expect(fullName("Application", "web", { dataPlane: "eu" })).toBe("dataPlanes/eu/applications/web");
  expect(() => fullName("Application", "web")).toThrow("needs its tenant");
  expect(() => fullName("Tenant", "tenants/a/applications/b")).toThrow("is no name of a Tenant");
  expect(() => fullName("Application", "web", { tenant: "a", dataPlane: "b" })).toThrow("exclude each other");
});

test("KIND/NAME is taken with short and full names", () => {
  const web = { kind: "Application", name: "tenants/acme/applications/web" };
  expect(parseKindName("application/tenants/acme/applications/web")).toEqual(web);
  expect(parseKindName("tenants/acme/applications/web")).toEqual(web);
  expect(parseKindName("app/web", { tenant: "acme" })).toEqual(web);
  expect(parseKindName("dp/eu")).toEqual({ kind: "DataPlane", name: "dataPlanes/eu" });
  expect(() => parseKindName("web")).toThrow("KIND/NAME");
});

test("labels become a filter", () => {
  expect(filterOf({ filter: 'spec.region = "eu"', selector: "tier=gold,stage!=test" })).toBe(
    'spec.region = "eu" AND labels.tier = "gold" AND labels.stage != "test"',
  );
  expect(() => filterOf({ selector: "tier" })).toThrow("KEY=VALUE");
});

test("--for takes a condition, its status, or delete", () => {
  expect(parseGoal("condition=Connected=False")).toEqual({
    condition: "Connected",
    status: "False",
    deleted: false,
  });
  expect(parseGoal("delete").deleted).toBe(true);
  expect(() => parseGoal("ready")).toThrow("condition=Ready");
});
