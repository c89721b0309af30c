import "reflect-metadata";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { systemRng } from "@moorage/shared/rng";
import { createCa, createCsr, generateKeyPem, issueClientCertificate } from "@moorage/shared/x509";
import { expect, test } from "vitest";
import { clientCertificates } from "./client-certs.ts";
import { parseGrants } from "./grants.ts";

const HOUR = 3_600_000;
const on = { clock: systemClock, rng: systemRng };
const der = (pem: string) => new Uint8Array(x509.PemConverter.decodeFirst(pem));

async function reasonOf(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt;
    return "OK";
  } catch (thrown) {
    return MoorageError.from(thrown).reason;
  }
}

test("a client certificate is a caller by its one URI or its whole subject, of the configured authority alone", async () => {
  const ca = await createCa({ name: "vendor", ttlMs: HOUR }, on);
  const csrDer = await createCsr((await generateKeyPem()).keyPem);
  const issue = async (uri: string, authority = ca, clock = systemClock) =>
    der(await issueClientCertificate({ ca: authority, csrDer, uri, ttlMs: HOUR }, { clock, rng: systemRng }));
  const grants = parseGrants(
    "uri=spiffe://vendor/backend:operator@tenants/acme;uri=spiffe://vendor/ops:admin;subject=O=Vendor, CN=billing:billing",
  );
  const admit = clientCertificates({ caPem: ca.certPem, grants }, systemClock);
  expect(await admit(await issue("spiffe://vendor/backend"))).toMatchObject({
    actor: "certificates/spiffe%3A%2F%2Fvendor%2Fbackend",
    role: Role.OPERATOR,
    scopes: ["tenants/acme"],
  });
  await expect(admit(await issue("spiffe://vendor/backend2"))).rejects.toMatchObject({
    code: Code.PERMISSION_DENIED,
    reason: "NO_GRANT",
  });
  const other = await createCa({ name: "vendor", ttlMs: HOUR }, on);
  expect(await reasonOf(admit(await issue("spiffe://vendor/ops", other)))).toBe("CERTIFICATE_UNTRUSTED");
  const past = { ...systemClock, now: () => systemClock.now() - 3 * HOUR };
  expect(await reasonOf(admit(await issue("spiffe://vendor/ops", ca, past)))).toBe("CERTIFICATE_EXPIRED");
  expect(await reasonOf(admit(new Uint8Array([1, 2, 3])))).toBe("CERTIFICATE_MALFORMED");
  expect(await reasonOf(admit(der(ca.certPem)))).toBe("CERTIFICATE_UNTRUSTED");

  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const signingKey = await webcrypto.subtle.importKey(
    "pkcs8",
    x509.PemConverter.decodeFirst(ca.keyPem),
    algorithm,
    false,
    ["sign"],
  );
  const pair = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const odd = async (names: x509.JsonGeneralName[], subject: string) =>
    new Uint8Array(
      (
        await x509.X509CertificateGenerator.create({
          serialNumber: "01",
          subject,
          issuer: new x509.X509Certificate(ca.certPem).subjectName,
          notBefore: new Date(systemClock.now() - HOUR),
          notAfter: new Date(systemClock.now() + HOUR / 2),
          signingAlgorithm: algorithm,
          publicKey: pair.publicKey as never,
          signingKey: signingKey as never,
          extensions: names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(names)],
        })
      ).rawData,
    );
  const ops: x509.JsonGeneralName = { type: "url", value: "spiffe://vendor/ops" };
  for (const more of [
    [ops, ops],
    [ops, { type: "dns", value: "a" }],
    [{ type: "email", value: "a@b" }, ops],
  ] as x509.JsonGeneralName[][])
    expect(await reasonOf(admit(await odd(more, "CN=x")))).toBe("NO_GRANT");
  expect(await admit(await odd([], "O=Vendor, CN=billing"))).toMatchObject({ role: Role.BILLING });
  expect(await reasonOf(admit(await odd([], "CN=billing")))).toBe("NO_GRANT");
});
