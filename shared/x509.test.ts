import { describe, expect, test } from "vitest";
import { systemClock } from "./clock.ts";
import { systemRng } from "./rng.ts";
import {
  createCa,
  createCsr,
  generateKeyPem,
  issueClientCertificate,
  issueServerCertificate,
  parseCertificate,
  splitBundle,
  verifyAgainstBundle,
} from "./x509.ts";

const ctx = { clock: systemClock, rng: systemRng };
const dayMs = 24 * 3_600_000;

describe("certificates", () => {
  test("a client certificate has exactly the one URI given, whole", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const { keyPem } = await generateKeyPem();
    const uri = "spiffe://moorage/data-planes/a-1";
    const pem = await issueClientCertificate({ ca, csrDer: await createCsr(keyPem), uri, ttlMs: dayMs }, ctx);
    const info = parseCertificate(pem);
    expect(info.uris).toEqual([uri]);
    expect(info.dnsNames).toEqual([]);
    expect(info.isCa).toBe(false);
    expect(info.keyThumbprint).toMatch(/^[0-9a-f]{64}$/);
    expect(await verifyAgainstBundle(pem, { bundlePem: ca.certPem, clock: systemClock })).toBe(true);
  });

  test("a certificate of another authority with the same name does not verify", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const other = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const { certPem } = await issueServerCertificate({ ca: other, dnsNames: ["hub"], ttlMs: dayMs }, ctx);
    expect(await verifyAgainstBundle(certPem, { bundlePem: ca.certPem, clock: systemClock })).toBe(false);
    const both = ca.certPem + "\n" + other.certPem;
    expect(await verifyAgainstBundle(certPem, { bundlePem: both, clock: systemClock })).toBe(true);
  });

  test("an expired certificate does not verify", async () => {
    const ca = await createCa({ name: "test", ttlMs: 10 * dayMs }, ctx);
    const { certPem } = await issueServerCertificate({ ca, dnsNames: ["hub"], ttlMs: dayMs }, ctx);
    const later = { ...systemClock, now: () => systemClock.now() + 2 * dayMs };
    expect(await verifyAgainstBundle(certPem, { bundlePem: ca.certPem, clock: later })).toBe(false);
  });

  test("a request whose signature was changed is refused", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const csrDer = await createCsr((await generateKeyPem()).keyPem);
    csrDer[csrDer.length - 1] = (csrDer[csrDer.length - 1] as number) ^ 1;
    await expect(issueClientCertificate({ ca, csrDer, uri: "a:b", ttlMs: dayMs }, ctx)).rejects.toThrow(
      /^Cannot accept the certificate request: /,
    );
  });

  test("a text that only begins certificates is refused at once", () => {
    const before = process.cpuUsage();
    const label = "-----BEGIN CERTIFICATE-----\n".repeat(20_000);
    expect(() => parseCertificate(label)).toThrow(/malformed/);
    expect(() => splitBundle(label)).toThrow(/no end/);
    expect(splitBundle("-----BEGIN A----".repeat(20_000))).toEqual([]);
    expect(() => parseCertificate(Buffer.from(label))).toThrow(/malformed/);
    expect(process.cpuUsage(before).user / 1e6).toBeLessThan(1);
  });

  test("a request that is text, not DER, is refused at once", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const csrDer = Buffer.from("-----BEGIN A----".repeat(16_000));
    const before = process.cpuUsage();
    await expect(issueClientCertificate({ ca, csrDer, uri: "a:b", ttlMs: dayMs }, ctx)).rejects.toMatchObject(
      { reason: "INVALID_CSR" },
    );
    expect(process.cpuUsage(before).user / 1e6).toBeLessThan(1);
  });
});
