import "reflect-metadata";
import { createHash, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { describe, expect, test } from "vitest";
import { systemClock } from "./clock.ts";
import { seededRng, systemRng } from "./rng.ts";
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
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const derOf = (pem: string) => Buffer.from(x509.PemConverter.decodeFirst(pem));

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
    expect(verifyAgainstBundle(pem, { bundlePem: ca.certPem, clock: systemClock })).toBe(true);
  });

  test("a certificate of another authority with the same name does not verify", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const other = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const { certPem } = await issueServerCertificate({ ca: other, dnsNames: ["hub"], ttlMs: dayMs }, ctx);
    expect(verifyAgainstBundle(certPem, { bundlePem: ca.certPem, clock: systemClock })).toBe(false);
    const both = ca.certPem + "\n" + other.certPem;
    expect(verifyAgainstBundle(certPem, { bundlePem: both, clock: systemClock })).toBe(true);
  });

  test("an expired certificate does not verify", async () => {
    const ca = await createCa({ name: "test", ttlMs: 10 * dayMs }, ctx);
    const { certPem } = await issueServerCertificate({ ca, dnsNames: ["hub"], ttlMs: dayMs }, ctx);
    const later = { ...systemClock, now: () => systemClock.now() + 2 * dayMs };
    expect(verifyAgainstBundle(certPem, { bundlePem: ca.certPem, clock: later })).toBe(false);
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

  test("a text behind the first byte of DER is refused at once, a certificate in it too", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const before = process.cpuUsage();
    for (const text of [`0\n${ca.certPem}\n`, `0\n${"-----BEGIN CERTIFICATE-----\n".repeat(20_000)}`])
      expect(() => parseCertificate(Buffer.from(text))).toThrow(/malformed/);
    expect(process.cpuUsage(before).user / 1e6).toBeLessThan(1);
  });

  test("a certificate is read once, and judged each time", async () => {
    const ca = await createCa({ name: "test", ttlMs: 10 * dayMs }, ctx);
    const other = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const der = derOf((await issueServerCertificate({ ca, dnsNames: ["hub"], ttlMs: dayMs }, ctx)).certPem);
    expect(parseCertificate(new Uint8Array(der))).toBe(parseCertificate(der));
    const later = { ...systemClock, now: () => systemClock.now() + 2 * dayMs };
    const verdict = (bundlePem: string, clock = systemClock) =>
      verifyAgainstBundle(der, { bundlePem, clock });
    for (let i = 0; i < 2; i++) {
      expect(verdict(ca.certPem)).toBe(true);
      expect(verdict(ca.certPem, later)).toBe(false);
      expect(verdict(other.certPem)).toBe(false);
    }
    // A signature that was changed is another certificate.
    der[der.length - 1] = (der[der.length - 1] as number) ^ 1;
    expect(verdict(ca.certPem)).toBe(false);
  });

  test("what was read is forgotten when enough others came", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const of = (n: number) => {
      const der = derOf(ca.certPem);
      der.writeUInt16BE(n, der.length - 2);
      return der;
    };
    const [first, second] = [parseCertificate(of(0)), parseCertificate(of(1))];
    for (let i = 2; i < 1_024; i++) parseCertificate(of(i));
    expect(parseCertificate(of(0))).toBe(first);
    parseCertificate(of(1_024));
    expect(parseCertificate(of(0))).toBe(first);
    expect(parseCertificate(of(1))).not.toBe(second);
  });

  test("an authority of a bundle that cannot be read locks out nobody whom another one signed", async () => {
    const ca = await createCa({ name: "test", ttlMs: dayMs }, ctx);
    const { certPem } = await issueServerCertificate({ ca, dnsNames: ["hub"], ttlMs: dayMs }, ctx);
    const broken = x509.PemConverter.encode(derOf(ca.certPem).subarray(0, 100), "CERTIFICATE");
    expect(verifyAgainstBundle(certPem, { bundlePem: `${broken}\n${ca.certPem}`, clock: systemClock })).toBe(
      true,
    );
    expect(verifyAgainstBundle(certPem, { bundlePem: broken, clock: systemClock })).toBe(false);
  });

  test("what is read is what a whole ASN.1 library reads, of 200 certificates with names of every kind", async () => {
    const seed = 20_261_127;
    const rng = seededRng(seed);
    const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
    const pick = <T>(of: readonly T[]) => of[Math.floor(rng.float() * of.length)] as T;
    const texts = ["", "a", "spiffe://a/dataplane/b", "a\0b", "*", "\u00e9", "a".repeat(200)];
    const name = (): x509.JsonGeneralName => {
      const type = pick(["url", "dns", "email", "ip", "id", "dn"] as const);
      const value = { ip: "10.0.0.1", id: "1.2.3.4", dn: "CN=a" }[type as string] ?? pick(texts);
      return { type, value };
    };
    for (let i = 0; i < 200; i++) {
      const alternatives = () =>
        new x509.SubjectAlternativeNameExtension(
          Array.from({ length: Math.floor(rng.float() * 4) }, name),
          rng.float() < 0.5,
        );
      const startMs = Date.UTC(1951 + Math.floor(rng.float() * 140), 5, 3, 4, 5, 6);
      const cert = await x509.X509CertificateGenerator.createSelfSigned({
        serialNumber: "01",
        name: pick(["", "CN=a", "O=Vendor, CN=billing", "CN=a+OU=b, C=DE", 'CN="a,b"', "CN=\u00e9"]),
        notBefore: new Date(startMs),
        notAfter: new Date(startMs + 3_000),
        signingAlgorithm: ALGORITHM,
        keys: keys as never,
        extensions: [
          ...(rng.float() < 0.5 ? [new x509.BasicConstraintsExtension(rng.float() < 0.5)] : []),
          ...Array.from({ length: Math.floor(rng.float() * 3) }, alternatives),
        ],
      });
      const extensions = cert.extensions.filter((e) => e.type === "2.5.29.17");
      const names = cert.getExtension(x509.SubjectAlternativeNameExtension)?.names.items ?? [];
      const of = (type: string) => names.filter((n) => n.type === type).map((n) => n.value);
      const digest = (bytes: ArrayBuffer) => createHash("sha256").update(new Uint8Array(bytes)).digest("hex");
      expect(parseCertificate(new Uint8Array(cert.rawData)), `seed ${seed}, certificate ${i}`).toEqual({
        subject: cert.subject,
        uris: of("url"),
        dnsNames: of("dns"),
        otherNames: names.length - of("url").length - of("dns").length + Math.max(0, extensions.length - 1),
        fingerprint: digest(cert.rawData),
        notBeforeMs: cert.notBefore.getTime(),
        notAfterMs: cert.notAfter.getTime(),
        keyThumbprint: digest(cert.publicKey.rawData),
        isCa: cert.getExtension(x509.BasicConstraintsExtension)?.ca ?? false,
      });
    }
  });
});
