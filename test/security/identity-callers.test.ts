/** Callers of the API that hold no key: JSON Web Tokens, and client certificates on their own port. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { hubOptions } from "@moorage/hub/config";
import { identityOptions } from "@moorage/hub/identity/options";
import { parseConfig } from "@moorage/shared/config";
import { MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { apiLimits } from "@moorage/shared/grpc/options";
import { systemRng } from "@moorage/shared/rng";
import { createCa, createCsr, generateKeyPem, issueClientCertificate } from "@moorage/shared/x509";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { expect, onTestFinished, test } from "vitest";
import { folder, hubOn, reasonOf, shiftedClock } from "./identity-support.ts";

const HOUR = 3_600_000;
const clock = shiftedClock();

test("a JWT of the configured issuer opens the API with what it grants, and no more", async () => {
  const dir = await folder();
  const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
  const jwks = join(dir, "jwks.json");
  await writeFile(jwks, JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: "k" }] }));
  const hub = await hubOn({
    dir: join(dir, "hub"),
    clock,
    more: [
      ...["--oidc-issuer", "https://issuer.example", "--oidc-audience", "moorage", "--oidc-jwks", jwks],
      ...["--oidc-grants", "groups=ops:admin;groups=acme:operator@tenants/acme+dataPlanes/eu/tenants"],
    ],
  });
  const sign = (claims: object, expires = "10m") =>
    new SignJWT({ ...claims })
      .setProtectedHeader({ alg: "ES256", kid: "k" })
      .setIssuer("https://issuer.example")
      .setAudience("moorage")
      .setExpirationTime(expires)
      .sign(privateKey);
  const as = (token: string) => {
    const link = connect({
      target: hub.addresses.api,
      tls: { caPem: hub.identity.trustBundlePem },
      limits: apiLimits,
      clock,
      ownConnection: {},
      headers: () => ({ authorization: `Bearer ${token}` }),
    });
    onTestFinished(() => link.close());
    return {
      dataPlanes: link.client(DataPlaneService),
      tenants: link.client(TenantService),
      hub: link.client(HubService),
    };
  };
  const ops = as(await sign({ sub: "alice", groups: ["ops"] }));
  for (const dataPlaneId of ["eu", "other-customers"]) await ops.dataPlanes.createDataPlane({ dataPlaneId });
  const acme = as(await sign({ sub: "bob", groups: ["acme"] }));
  const spec = { dataPlane: "dataPlanes/eu" };
  for (const dataPlane of ["dataPlanes/other-customers", "dataPlanes/none"])
    expect(
      await reasonOf(acme.tenants.createTenant({ tenantId: "acme", tenant: { spec: { dataPlane } } })),
    ).toBe("PERMISSION_DENIED");
  await acme.tenants.createTenant({ tenantId: "acme", tenant: { spec } });
  expect(await reasonOf(acme.tenants.createTenant({ tenantId: "other", tenant: { spec } }))).toBe(
    "PERMISSION_DENIED",
  );
  expect(await reasonOf(acme.dataPlanes.getDataPlane({ name: "dataPlanes/eu" }))).toBe("PERMISSION_DENIED");
  expect(await reasonOf(as(await sign({ sub: "eve" })).tenants.listTenants({}))).toBe("NO_GRANT");
  expect(
    await reasonOf(as(await sign({ sub: "alice", groups: ["ops"] }, "-5m")).tenants.listTenants({})),
  ).toBe("TOKEN_EXPIRED");
  let { records } = await ops.hub.listAuditRecords({});
  while (!records.some((r) => r.outcome === "NO_GRANT")) ({ records } = await ops.hub.listAuditRecords({}));
  const seen = records.map((r) => `${r.actor} ${r.method.split(".").at(-1)} ${r.outcome}`);
  expect(seen).toContain("oidc/alice DataPlaneService/CreateDataPlane OK");
  expect(seen).toContain("oidc/bob TenantService/CreateTenant OK");
  expect(seen).toContain("oidc/bob TenantService/CreateTenant PERMISSION_DENIED");
  expect(seen).toContain("oidc/eve TenantService/ListTenants NO_GRANT");
});

test("a client certificate opens the API on its own port alone, and the port opens to nothing else", async () => {
  const dir = await folder();
  const on = { clock, rng: systemRng };
  const ca = await createCa({ name: "vendor", ttlMs: HOUR }, on);
  const stranger = await createCa({ name: "vendor", ttlMs: HOUR }, on);
  await writeFile(join(dir, "client-ca.pem"), ca.certPem);
  const hub = await hubOn({
    dir: join(dir, "hub"),
    clock,
    more: [
      ...["--api-client-cert-address", "127.0.0.1:0", "--client-ca-file", join(dir, "client-ca.pem")],
      ...["--client-cert-grants", "uri=spiffe://vendor/backend:admin"],
    ],
  });
  const target = hub.addresses.apiClientCert as { host: string; port: number };
  const { keyPem } = await generateKeyPem();
  const csrDer = await createCsr(keyPem);
  const certificate = async (uri: string, by = ca) =>
    issueClientCertificate({ ca: by, csrDer, uri, ttlMs: HOUR }, on);
  const create = async (
    at: { host: string; port: number },
    o: { certPem?: string; authorization?: string },
  ) => {
    const tls = {
      caPem: hub.identity.trustBundlePem,
      ...(o.certPem === undefined ? {} : { certPem: o.certPem, keyPem }),
    };
    const headers = (): Record<string, string> =>
      o.authorization === undefined ? {} : { authorization: o.authorization };
    const link = connect({ target: at, tls, limits: apiLimits, clock, ownConnection: {}, headers });
    try {
      const id = `d${Buffer.from(systemRng.bytes(4)).toString("hex")}`;
      return await reasonOf(
        link.client(DataPlaneService).createDataPlane({ dataPlaneId: id }, { timeoutMs: 10_000 }),
      );
    } finally {
      link.close();
    }
  };
  const authorization = `Bearer ${(await readFile(join(dir, "hub/admin.key"), "utf8")).trim()}`;
  const backend = await certificate("spiffe://vendor/backend");
  expect(await create(target, { certPem: backend })).toBe("OK");
  // A key on top of the certificate lends nothing.
  const other = await certificate("spiffe://vendor/other");
  expect(await create(target, { certPem: other })).toBe("NO_GRANT");
  expect(await create(target, { certPem: other, authorization })).toBe("NO_GRANT");
  expect(await create(hub.addresses.api, { certPem: backend })).toBe("API_KEY_MISSING");
  for (const o of [{ authorization }, { certPem: await certificate("spiffe://vendor/backend", stranger) }])
    expect(["OK", "DEADLINE_EXCEEDED"]).not.toContain(await create(target, o));
});

test("a watch ends with the credential that opened it", async () => {
  const dir = await folder();
  const hub = await hubOn({ dir, clock });
  const request = {
    id: "short",
    displayName: "",
    role: Role.VIEWER,
    scopes: [],
    expireMs: clock.now() + 500,
  };
  const { secret } = await hub.identity.apiKeys.create(request, { actor: "test" });
  const link = connect({
    target: hub.addresses.api,
    tls: { caPem: hub.identity.trustBundlePem },
    limits: apiLimits,
    clock,
    headers: () => ({ authorization: `Bearer ${secret}` }),
  });
  onTestFinished(() => link.close());
  const seen: string[] = [];
  const watching = (async () => {
    for await (const { event } of link.client(TenantService).watchTenants({})) seen.push(String(event.case));
  })();
  expect(await reasonOf(watching)).toBe("CREDENTIAL_EXPIRED");
  expect(seen).toEqual(["synced"]);
});

test("an incomplete or unsafe configuration of callers is refused by its option, without its secrets", async () => {
  const refused = async (...argv: string[]) => {
    try {
      const config = parseConfig(hubOptions, { argv, env: {}, readFile: () => ({}) });
      await identityOptions(config);
      return "OK";
    } catch (thrown) {
      return thrown instanceof MoorageError ? thrown.message : (thrown as Error).message;
    }
  };
  const oidc = [
    "--oidc-issuer",
    "https://i",
    "--oidc-audience",
    "m",
    "--oidc-grants",
    "sub=a:viewer",
    "--oidc-jwks",
  ];
  expect(await refused("--oidc-issuer", "https://i")).toContain("--oidc-audience");
  expect(await refused(...oidc, "https://user:canary@issuer.example/keys")).toMatch(
    /--oidc-jwks: (?!.*canary)/,
  );
  expect(await refused(...oidc, "http://issuer.example/keys")).toContain("without TLS");
  expect(await refused(...oidc, "https://issuer.example/keys")).toBe("OK");
  expect(await refused("--oidc-grants", "sub=a:root")).toContain("--oidc-grants");
  expect(await refused("--api-client-cert-address", "127.0.0.1:0")).toContain("--client-ca-file");
  expect(
    await refused(
      "--api-client-cert-address",
      "127.0.0.1:0",
      "--client-ca-file",
      "/none",
      "--client-cert-grants",
      "uri=a:viewer",
    ),
  ).toContain('"/none" cannot be read');
});
