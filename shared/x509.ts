import "reflect-metadata";
import type { KeyObject } from "node:crypto";
import { hash, webcrypto, X509Certificate } from "node:crypto";
import * as x509 from "@peculiar/x509";
import type { Clock } from "./clock.ts";
import type { DerElement } from "./der.ts";
import { elements, inside, tags, timeMs } from "./der.ts";
import { Code, MoorageError } from "./errors.ts";
import { limits } from "./limits.ts";
import type { Rng } from "./rng.ts";

/**
 * Certificates of the hub's own authority and of agents: P-256 keys, SHA-256, PEM at the edges.
 * Time and serial numbers come from the caller; keys come from WebCrypto.
 */

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** Object identifiers of extensions, in DER: 2.5.29.17 and 2.5.29.19; RFC 5280 sections 4.2.1.6 and 4.2.1.9. */
const SUBJECT_ALTERNATIVE_NAME = "551d11";
const BASIC_CONSTRAINTS = "551d13";
/** Kinds of alternative names, as tagged in them; RFC 5280 section 4.2.1.6. */
const DNS_NAME = 0x82;
const URI_NAME = 0x86;
/** Extensions among the last fields of a certificate; RFC 5280 section 4.1. */
const EXTENSIONS = 0xa3;
/** The version, the first field unless it is 1. */
const VERSION = 0xa0;

x509.cryptoProvider.set(webcrypto as never);

/** A certificate and its key in PEM (key: PKCS #8). */
export interface CertifiedKey {
  certPem: string;
  keyPem: string;
}

/** Where time and serial numbers come from. */
export interface IssueContext {
  clock: Clock;
  rng: Rng;
}

/** What the rest of the system reads of a certificate. */
export interface CertificateInfo {
  /** Subject as an RFC 4514 string, made when it is asked for; INVALID_ARGUMENT then when it is none. */
  readonly subject: string;
  /** URI subject alternative names, each whole. */
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** Alternative names of any other type (addresses, mail, directory, other), and alternative-name extensions beyond the first. */
  readonly otherNames: number;
  /** SHA-256 of the whole certificate in lower-case hex. */
  readonly fingerprint: string;
  /** Milliseconds since the Unix epoch. */
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  /** SHA-256 of the SubjectPublicKeyInfo in lower-case hex. */
  readonly keyThumbprint: string;
  readonly isCa: boolean;
}

/** A new key pair in PEM (PKCS #8 and SPKI). */
export async function generateKeyPem(): Promise<{ keyPem: string; publicKeyPem: string }> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  return {
    keyPem: x509.PemConverter.encode(
      await webcrypto.subtle.exportKey("pkcs8", keys.privateKey),
      "PRIVATE KEY",
    ),
    publicKeyPem: x509.PemConverter.encode(
      await webcrypto.subtle.exportKey("spki", keys.publicKey),
      "PUBLIC KEY",
    ),
  };
}

async function importKeys(keyPem: string) {
  const der = x509.PemConverter.decodeFirst(keyPem);
  const privateKey = await webcrypto.subtle.importKey("pkcs8", der, ALGORITHM, true, ["sign"]);
  const { kty, crv, x, y } = await webcrypto.subtle.exportKey("jwk", privateKey);
  const publicJwk = { kty, crv, x, y } as webcrypto.JsonWebKey;
  const publicKey = await webcrypto.subtle.importKey("jwk", publicJwk, ALGORITHM, true, ["verify"]);
  return { privateKey, publicKey };
}

function serialNumber(rng: Rng): string {
  const bytes = rng.bytes(16);
  // Positive and without a leading zero byte, as RFC 5280 section 4.1.2.2 wants.
  bytes[0] = ((bytes[0] as number) & 0x3f) | 0x40;
  return Buffer.from(bytes).toString("hex");
}

function validity(ctx: IssueContext, ttlMs: number) {
  const nowMs = ctx.clock.now();
  return { notBefore: new Date(nowMs - limits.certificateBackdateMs), notAfter: new Date(nowMs + ttlMs) };
}

/** A self-signed certificate authority that may sign leaves only. */
export async function createCa(
  options: { name: string; ttlMs: number },
  ctx: IssueContext,
): Promise<CertifiedKey> {
  const { keyPem } = await generateKeyPem();
  const keys = await importKeys(keyPem);
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(ctx.rng),
    name: [{ CN: [options.name] }],
    ...validity(ctx, options.ttlMs),
    signingAlgorithm: ALGORITHM,
    keys: keys as never,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey as never),
    ],
  });
  return { certPem: cert.toString("pem"), keyPem };
}

/**
 * The certificate by which whoever trusts `former` comes to trust the key of `next` ("new with old" of
 * RFC 4210 section 4.4), to be sent after a leaf of `next`. Both must have the same subject: only then is
 * it self-issued and outside the path length of 0 that `former` allows.
 */
export async function crossSign(
  options: { former: CertifiedKey; nextCertPem: string },
  ctx: IssueContext,
): Promise<string> {
  const former = new x509.X509Certificate(options.former.certPem);
  const next = new x509.X509Certificate(options.nextCertPem);
  if (former.subject !== next.subject)
    throw new Error("Cannot cross-sign an authority: the two certificates have different subjects");
  const { privateKey } = await importKeys(options.former.keyPem);
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(ctx.rng),
    subject: next.subjectName,
    issuer: former.subjectName,
    notBefore: next.notBefore,
    notAfter: next.notAfter < former.notAfter ? next.notAfter : former.notAfter,
    signingAlgorithm: ALGORITHM,
    publicKey: next.publicKey,
    signingKey: privateKey as never,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(next.publicKey as never),
      await x509.AuthorityKeyIdentifierExtension.create(former.publicKey as never),
    ],
  });
  return cert.toString("pem");
}

interface Leaf {
  ca: CertifiedKey;
  commonName: string;
  publicKey: x509.PublicKeyType;
  ttlMs: number;
  usage: x509.ExtendedKeyUsage;
  names: { type: "dns" | "ip" | "url"; value: string }[];
}

async function issue(leaf: Leaf, ctx: IssueContext): Promise<string> {
  const ca = new x509.X509Certificate(leaf.ca.certPem);
  const { privateKey } = await importKeys(leaf.ca.keyPem);
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(ctx.rng),
    subject: [{ CN: [leaf.commonName] }],
    issuer: ca.subjectName,
    ...validity(ctx, leaf.ttlMs),
    signingAlgorithm: ALGORITHM,
    publicKey: leaf.publicKey,
    signingKey: privateKey as never,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([leaf.usage], false),
      new x509.SubjectAlternativeNameExtension(leaf.names),
      await x509.AuthorityKeyIdentifierExtension.create(ca.publicKey as never),
    ],
  });
  return cert.toString("pem");
}

/** A server certificate with a fresh key for `dnsNames` and `ipAddresses`. */
export async function issueServerCertificate(
  options: { ca: CertifiedKey; dnsNames: string[]; ipAddresses?: string[]; ttlMs: number },
  ctx: IssueContext,
): Promise<CertifiedKey> {
  const { keyPem } = await generateKeyPem();
  const names = [
    ...options.dnsNames.map((value) => ({ type: "dns" as const, value })),
    ...(options.ipAddresses ?? []).map((value) => ({ type: "ip" as const, value })),
  ];
  const { publicKey } = await importKeys(keyPem);
  const commonName = names[0]?.value ?? "server";
  const usage = x509.ExtendedKeyUsage.serverAuth;
  const leaf: Leaf = { ...options, commonName, publicKey: publicKey as never, usage, names };
  return { certPem: await issue(leaf, ctx), keyPem };
}

/** A certificate signing request for `keyPem`, in DER; its names are empty since none would be used. */
export async function createCsr(keyPem: string): Promise<Uint8Array> {
  const keys = await importKeys(keyPem);
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({
    keys: keys as never,
    signingAlgorithm: ALGORITHM,
  });
  return new Uint8Array(csr.rawData);
}

/**
 * A client certificate whose one URI name is `uri`. Only the public key of the request is used, and
 * only when the request proves possession of it; INVALID_ARGUMENT otherwise.
 */
export async function issueClientCertificate(
  options: { ca: CertifiedKey; csrDer: Uint8Array; uri: string; ttlMs: number },
  ctx: IssueContext,
): Promise<string> {
  const publicKey = await verifiedKey(options.csrDer);
  const usage = x509.ExtendedKeyUsage.clientAuth;
  const names = [{ type: "url" as const, value: options.uri }];
  // The name is in the URI alone; a common name holds 64 characters at most.
  return issue({ ...options, commonName: "moorage-agent", publicKey, usage, names }, ctx);
}

/** The thumbprint, as in {@link CertificateInfo}, of the key that a request proves; errors as of issuing. */
export async function csrThumbprint(csrDer: Uint8Array): Promise<string> {
  return hash("sha256", new Uint8Array((await verifiedKey(csrDer)).rawData));
}

async function verifiedKey(csrDer: Uint8Array): Promise<x509.PublicKey> {
  const refuse = (why: string, cause?: unknown) =>
    new MoorageError(Code.INVALID_ARGUMENT, `Cannot accept the certificate request: ${why}`, {
      reason: "INVALID_CSR",
      cause,
    });
  if (csrDer.length > limits.csrBytes)
    throw refuse(`it has ${csrDer.length} bytes, the limit csrBytes is ${limits.csrBytes}`);
  let csr: x509.Pkcs10CertificateRequest;
  let algorithm: { name: string; namedCurve?: string };
  let proven = false;
  try {
    csr = new x509.Pkcs10CertificateRequest(sequence(csrDer));
    algorithm = csr.publicKey.algorithm as typeof algorithm;
    // Before the proof: a signature of a huge RSA key costs whoever checks it.
    if (algorithm.name === "ECDSA" && algorithm.namedCurve === "P-256") proven = await csr.verify();
  } catch (thrown) {
    throw refuse("it does not parse", thrown);
  }
  if (algorithm.name !== "ECDSA" || algorithm.namedCurve !== "P-256") throw refuse("its key is not on P-256");
  if (!proven) throw refuse("its signature does not match its key");
  return csr.publicKey;
}

/** What a certificate says of itself, whoever asks and whenever: nothing here is a judgement of the moment. */
interface ReadCertificate {
  info: CertificateInfo;
  native: X509Certificate;
  /** Whether the key of an authority signed it; a signature is checked once. */
  signedBy: WeakMap<TrustedKey, boolean>;
}

/** A certificate of a bundle that may sign. */
interface TrustedKey {
  info: CertificateInfo;
  subject: string;
  publicKey: KeyObject;
}

/**
 * Certificates by their fingerprint, and the authorities of a bundle by its text, least recently used first: a
 * client shows its one with each call. 5 KiB each.
 */
const certificates = new Map<string, ReadCertificate>();
const bundles = new Map<string, readonly TrustedKey[]>();
const KEPT_CERTIFICATES = 1_024;
/** A hub has its own bundle, of its callers at most, and both anew at each rotation. */
const KEPT_BUNDLES = 8;

/** What is kept under a key, or is made now and kept; an error is not kept. */
function recall<T>(kept: Map<string, T>, key: string, on: { most: number; make: () => T }): T {
  const known = kept.get(key);
  const found = known ?? on.make();
  if (known !== undefined) kept.delete(key);
  else if (kept.size >= on.most) kept.delete(kept.keys().next().value as string);
  kept.set(key, found);
  return found;
}

/** Reads a certificate in PEM or DER; throws INVALID_ARGUMENT on anything else. */
export function parseCertificate(certificate: string | Uint8Array): CertificateInfo {
  return wellFormed(() => load(certificate).info);
}

function wellFormed<T>(read: () => T): T {
  try {
    return read();
  } catch (thrown) {
    throw new MoorageError(Code.INVALID_ARGUMENT, "Cannot read the certificate: it is malformed", {
      cause: thrown,
    });
  }
}

function load(certificate: string | Uint8Array): ReadCertificate {
  const der = typeof certificate === "string" ? certificatesOf(certificate)[0] : certificate;
  if (der === undefined) throw new Error("There is no certificate in the text");
  const fingerprint = hash("sha256", der);
  return recall(certificates, fingerprint, {
    most: KEPT_CERTIFICATES,
    make: () => readCertificate(sequence(der), fingerprint),
  });
}

/** OpenSSL says whether it is a certificate and checks signatures; what it says is read to the byte, by us. */
function readCertificate(der: Uint8Array, fingerprint: string): ReadCertificate {
  const native = new X509Certificate(der);
  // It would have found one in a text, too.
  if (!native.raw.equals(der)) throw new Error("It is not a certificate in DER alone");
  const [signed] = inside(der, tags.sequence);
  const all = elements((signed as DerElement).content);
  const [, , , validity, subject, key, ...last] = all[0]?.tag === VERSION ? all.slice(1) : all;
  const [from, to] = elements((validity as DerElement).content);
  const extensions = last
    .filter((e) => e.tag === EXTENSIONS)
    .flatMap((e) => inside(e.content, tags.sequence));
  let text: string | undefined;
  const info: CertificateInfo = {
    get subject() {
      return (text ??= wellFormed(() =>
        new x509.Name(new Uint8Array((subject as DerElement).whole)).toString(),
      ));
    },
    ...alternativeNames(valuesOf(extensions, SUBJECT_ALTERNATIVE_NAME)),
    fingerprint,
    notBeforeMs: timeMs(from as DerElement),
    notAfterMs: timeMs(to as DerElement),
    keyThumbprint: hash("sha256", (key as DerElement).whole),
    isCa: valuesOf(extensions, BASIC_CONSTRAINTS).some(saysCa),
  };
  return { info, native, signedBy: new WeakMap() };
}

/** The values of the extensions of a kind: an identifier, perhaps whether it is critical, and the value. */
function valuesOf(extensions: readonly DerElement[], oid: string): Uint8Array[] {
  const values: Uint8Array[] = [];
  for (const extension of extensions) {
    const [id, ...rest] = elements(extension.content);
    const value = rest.at(-1);
    if (
      extension.tag !== tags.sequence ||
      id?.tag !== tags.objectIdentifier ||
      value?.tag !== tags.octetString
    )
      throw new Error("An extension is malformed");
    if (Buffer.from(id.content).toString("hex") === oid) values.push(value.content);
  }
  return values;
}

function alternativeNames(
  values: readonly Uint8Array[],
): Pick<CertificateInfo, "uris" | "dnsNames" | "otherNames"> {
  const names = values[0] === undefined ? [] : inside(values[0], tags.sequence);
  const of = (tag: number) =>
    names.filter((n) => n.tag === tag).map((n) => Buffer.from(n.content).toString("latin1"));
  const [uris, dnsNames] = [of(URI_NAME), of(DNS_NAME)];
  const otherNames = names.length - uris.length - dnsNames.length + Math.max(0, values.length - 1);
  return { uris, dnsNames, otherNames };
}

/** Whether basic constraints say that the certificate may sign others. */
function saysCa(value: Uint8Array): boolean {
  const [first] = inside(value, tags.sequence);
  return first?.tag === tags.boolean && first.content.some((byte) => byte !== 0);
}

/** The certificates of a PEM bundle, each in PEM. */
export function splitBundle(bundlePem: string): string[] {
  return certificatesOf(bundlePem).map((der) => x509.PemConverter.encode(der, "CERTIFICATE"));
}

/**
 * A copy of DER that begins as a request or certificate must. Whatever begins otherwise, the library tries
 * to read as text in PEM, which takes it minutes for what a stranger may send.
 */
function sequence(der: Uint8Array): Uint8Array<ArrayBuffer> {
  if (der[0] !== 0x30) throw new Error("It does not begin with a SEQUENCE");
  return new Uint8Array(der);
}

const BEGIN = "-----BEGIN CERTIFICATE-----";
const END = "-----END CERTIFICATE-----";

/**
 * The certificates of a PEM text in DER, whatever else stands there (RFC 7468). The library's own reader
 * takes minutes for a few KiB that begin a label again and again, and a hub's answer is such a text.
 */
function certificatesOf(text: string): Uint8Array[] {
  const found: Uint8Array[] = [];
  for (let begin = text.indexOf(BEGIN); begin >= 0; begin = text.indexOf(BEGIN, begin)) {
    const end = text.indexOf(END, begin);
    if (end < 0) throw new Error("A certificate in the text has no end");
    found.push(Buffer.from(text.slice(begin + BEGIN.length, end), "base64"));
    begin = end;
  }
  return found;
}

/** True when a CA of the bundle signed the certificate and both are valid now. */
export function verifyAgainstBundle(
  certificate: string | Uint8Array,
  on: { bundlePem: string; clock: Clock },
): boolean {
  const { info, native, signedBy } = wellFormed(() => load(certificate));
  const nowMs = on.clock.now();
  const current = (c: CertificateInfo) => c.notBeforeMs <= nowMs && nowMs <= c.notAfterMs;
  if (!current(info)) return false;
  for (const ca of trustedKeys(on.bundlePem)) {
    if (!current(ca.info) || native.issuer !== ca.subject) continue;
    const signed = signedBy.get(ca) ?? isSigned(native, ca);
    signedBy.set(ca, signed);
    if (signed) return true;
  }
  return false;
}

function isSigned(certificate: X509Certificate, { publicKey }: TrustedKey): boolean {
  try {
    return certificate.verify(publicKey);
  } catch {
    // A signature that cannot be read is nobody's.
    return false;
  }
}

function trustedKeys(bundlePem: string): readonly TrustedKey[] {
  const make = () =>
    certificatesOf(bundlePem).flatMap((der): TrustedKey[] => {
      try {
        const { info, native } = readCertificate(sequence(der), hash("sha256", der));
        return info.isCa ? [{ info, subject: native.subject, publicKey: native.publicKey }] : [];
      } catch {
        // What cannot be read signs nothing, and must lock nobody out whom another one signed.
        return [];
      }
    });
  return recall(bundles, bundlePem, { most: KEPT_BUNDLES, make });
}
