import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { Code } from "@moorage/shared/errors";
import { describe, expect, test } from "vitest";
import { allows, authorizeCollection, isScope, isWithin } from "./authorize.ts";

const caller = (scopes: readonly string[], role: Role = Role.VIEWER) => ({
  actor: "apiKeys/a",
  role,
  scopes,
});
const within = (scopes: readonly string[], name: string, role?: Role) =>
  authorizeCollection(caller(scopes, role), { verb: "list", name });

describe("what a caller sees of a collection", () => {
  test.each([
    [[], "tenants", undefined],
    [["tenants/acme"], "tenants", ["tenants/acme"]],
    [["tenants/acme", "dataPlanes/eu"], "tenants", ["tenants/acme"]],
    [["tenants/acme", "dataPlanes/eu"], "dataPlanes", ["dataPlanes/eu"]],
    [["tenants/acme"], "applications", ["tenants/acme"]],
    [["tenants/acme", "dataPlanes/eu"], "applications", ["tenants/acme", "dataPlanes/eu"]],
    [["tenants/acme", "dataPlanes/eu"], "tenants/-/applications", ["tenants/acme"]],
    [["tenants/acme"], "tenants/acme/applications", undefined],
    [["tenants/acme/applications/web"], "tenants/acme/applications", ["tenants/acme/applications/web"]],
    [["tenants/acme/applications/web"], "applications", ["tenants/acme/applications/web"]],
  ] as const)("scopes %j of %s: %j", (scopes, name, expected) => {
    expect(within(scopes, name)).toEqual(expected);
  });

  test.each([
    [["tenants/acme"], "dataPlanes"],
    [["tenants/acme"], "tenants/acmeother/applications"],
    [["tenants/acme/applications/web"], "tenants"],
    [["tenants/acme"], "apiKeys"],
    [["tenants/acme"], "bundles"],
    [["tenants/acme"], "audit"],
    [["dataPlanes/eu"], "dataPlanes/eu/joinTokens"],
    [["dataPlanes/eu/tenants"], "dataPlanes"],
    [["dataPlanes/eu/tenants"], "tenants"],
    [["dataPlanes/eu/tenants"], "applications"],
    [["dataPlanes/eu/tenants"], "dataPlanes/-/applications"],
    [["dataPlanes/eu/tenants"], "dataPlanes/eu/applications"],
  ] as const)("scopes %j see nothing of %s", (scopes, name) => {
    expect(() => within(scopes, name)).toThrow(
      expect.objectContaining({
        code: Code.PERMISSION_DENIED,
        metadata: expect.objectContaining({ actor: "apiKeys/a" }),
      }),
    );
  });

  test.each(["hub", "hub/certificateAuthority", "hub/auditRecords", "hub/divergences"])(
    "the hub itself is an administrator's, whose scopes are all: %s",
    (name) => {
      const may = (role: Role, scopes: string[] = []) => allows(caller(scopes, role), { verb: "get", name });
      expect(may(Role.ADMIN)).toBe(true);
      expect([
        may(Role.OPERATOR),
        may(Role.VIEWER),
        may(Role.BILLING),
        may(Role.ADMIN, ["tenants/a"]),
      ]).toEqual([false, false, false, false]);
    },
  );

  test("a role that may not read it sees nothing, whatever its scopes", () => {
    expect(() => within(["tenants/acme"], "tenants", Role.BILLING)).toThrow("its role does not allow it");
  });

  test("a scope is a name, or the right to place tenants in a data plane", () => {
    const scopes = [
      "tenants/tenants",
      "dataPlanes/tenants",
      "dataPlanes/eu/tenants",
      "tenants/a/applications/b",
    ];
    expect(scopes.filter((s) => !isScope(s))).toEqual([]);
    const others = ["", "tenants", "tenants/a/tenants", "dataPlanes/-/tenants", "dataPlanes/eu/tenants/a"];
    expect([...others, "dataPlanes/eu/tenants/tenants", "bundles/small"].filter(isScope)).toEqual([]);
  });

  test("is held by whole segments", () => {
    expect(isWithin(undefined, "tenants/b")).toBe(true);
    expect(isWithin(["tenants/a"], "tenants/a")).toBe(true);
    expect(isWithin(["tenants/a"], "tenants/a/applications/x")).toBe(true);
    expect(isWithin(["tenants/a"], "tenants/ab")).toBe(false);
    expect(isWithin(["tenants/a/applications/x"], "tenants/a")).toBe(false);
  });
});
