/** Certificates of a test cluster: one CA, a server certificate, and client certificates that name users. */
import "reflect-metadata";
import { createPrivateKey, generateKeyPairSync, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { systemClock } from "@moorage/shared/clock";

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
/** `make cluster-up` leaves a cluster to play with: a month is longer than anybody does. */
const lifetimeMs = 30 * 24 * 3_600_000;
const backdateMs = 600_000;

/** A certificate with its key, PEM. */
export interface PemPair {
  cert: string;
  key: string;
}

/** A CA that issues server and user certificates. */
export interface Authority {
  caPem: string;
  server(names: { dns: string[]; ips: string[] }): Promise<PemPair>;
  /** A Kubernetes identity: the common name is the user, the organizations its groups. */
  user(name: string, groups?: readonly string[]): Promise<PemPair>;
}

async function generate(): Promise<webcrypto.CryptoKeyPair> {
  return (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
}

async function keyPem(keys: webcrypto.CryptoKeyPair): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey));
  return createPrivateKey({ key: der, format: "der", type: "pkcs8" })
    .export({ format: "pem", type: "pkcs8" })
    .toString();
}

const dates = () => ({
  notBefore: new Date(systemClock.now() - backdateMs),
  notAfter: new Date(systemClock.now() + lifetimeMs),
});

let serial = 1;
const nextSerial = () => (serial++).toString(16).padStart(16, "0");

/** A fresh authority. */
export async function createAuthority(): Promise<Authority> {
  x509.cryptoProvider.set(webcrypto as never);
  const keys = await generate();
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: nextSerial(),
    name: "CN=moorage test cluster",
    keys: keys as never,
    signingAlgorithm: algorithm,
    ...dates(),
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.digitalSignature, true),
    ],
  });
  const issue = async (subject: string, extensions: x509.Extension[]): Promise<PemPair> => {
    const own = await generate();
    const cert = await x509.X509CertificateGenerator.create({
      serialNumber: nextSerial(),
      subject,
      issuer: ca.subject,
      publicKey: own.publicKey as never,
      signingKey: keys.privateKey as never,
      signingAlgorithm: algorithm,
      ...dates(),
      extensions: [
        new x509.BasicConstraintsExtension(false),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature),
        ...extensions,
      ],
    });
    return { cert: cert.toString("pem"), key: await keyPem(own) };
  };
  return {
    caPem: ca.toString("pem"),
    server: ({ dns, ips }) =>
      issue("CN=kube-apiserver", [
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension([
          ...dns.map((value) => ({ type: "dns" as const, value })),
          ...ips.map((value) => ({ type: "ip" as const, value })),
        ]),
      ]),
    user: (name, groups = []) =>
      issue([`CN=${name}`, ...groups.map((g) => `O=${g}`)].join(", "), [
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
      ]),
  };
}

/** A key pair that signs ServiceAccount tokens. */
export function serviceAccountKey(): { private: string; public: string } {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    private: privateKey.export({ format: "pem", type: "pkcs8" }).toString(),
    public: publicKey.export({ format: "pem", type: "spki" }).toString(),
  };
}
