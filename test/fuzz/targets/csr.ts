import { agentUid, agentUri } from "@moorage/hub/identity/spiffe";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import type { CertifiedKey } from "@moorage/shared/x509";
import {
  createCa,
  createCsr,
  generateKeyPem,
  issueClientCertificate,
  issueServerCertificate,
  parseCertificate,
  splitBundle,
  verifyAgainstBundle,
} from "@moorage/shared/x509";
import { Draw } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";

const clock: Clock = {
  now: () => 1_900_000_000_000,
  monotonicMs: () => 0,
  setTimer: () => ({ cancel: () => undefined }),
};
const uid = "0190aaaa-0000-4000-8000-000000000001";
const uri = agentUri("moorage.local", uid);

let made: Promise<CertifiedKey> | undefined;
const authority = () => (made ??= createCa({ name: "fuzz", ttlMs: 3_600_000 }, { clock, rng: seededRng(1) }));

/** Bytes of an input that is a few bytes repeated: as many as a message of an agent has. */
const SWOLLEN = 256 * 1024;

/** Whether a refusal is one that callers can tell: INVALID_ARGUMENT. */
function refused(thrown: unknown): undefined {
  if (thrown instanceof MoorageError && thrown.code === Code.INVALID_ARGUMENT) return undefined;
  throw thrown;
}

/** A request: whatever it says, the certificate carries the hub's name and nothing else of it but a P-256 key. */
async function request(der: Uint8Array): Promise<void> {
  const ca = await authority();
  const ctx = { clock, rng: seededRng(2) };
  const pem = await issueClientCertificate({ ca, csrDer: der, uri, ttlMs: 1_000 }, ctx).catch(refused);
  if (pem === undefined) return;
  const info = parseCertificate(pem);
  hold(
    info.uris.length === 1 && info.uris[0] === uri && info.dnsNames.length === 0,
    `it names ${JSON.stringify(info)}`,
  );
  hold(!info.isCa && agentUid(info, "moorage.local") === uid, "it is no agent's certificate");
  hold(verifyAgainstBundle(pem, { bundlePem: ca.certPem, clock }), "it does not verify");
}

/** A client certificate: refused, or read; a name is an agent's only byte by byte; only the CA's own verify. */
async function certificate(der: Uint8Array | string): Promise<void> {
  let info: ReturnType<typeof parseCertificate> | undefined;
  try {
    info = parseCertificate(der);
    hold(typeof info.subject === "string", "no subject");
  } catch (thrown) {
    refused(thrown);
  }
  if (info === undefined) return;
  const named = agentUid(info, "moorage.local");
  if (named !== undefined)
    hold(info.uris[0] === agentUri("moorage.local", named), `"${info.uris[0]}" names ${named}`);
}

/** As a listener calls it, on what parses: true or false, or the one coded refusal. */
async function verification(der: Uint8Array): Promise<void> {
  const ca = await authority();
  try {
    parseCertificate(der);
  } catch (thrown) {
    refused(thrown);
    return;
  }
  const verdict = verifyAgainstBundle(der, { bundlePem: ca.certPem, clock });
  hold(typeof verdict === "boolean", "no verdict");
}

/** PEM text: certificates of a bundle, or a refusal. */
async function bundle(text: string): Promise<void> {
  try {
    for (const pem of splitBundle(text)) await certificate(pem);
  } catch (thrown) {
    // The bundle is the operator's own file: any error that names no secret will do.
    hold(thrown instanceof Error, "no error");
  }
}

const derOf = (pem: string) => Buffer.from(pem.replace(/-----[A-Z ]+-----/g, ""), "base64");

/** The first byte chooses who reads. */
const target: Target = {
  async seeds() {
    const ca = await authority();
    const { keyPem } = await generateKeyPem();
    const csr = await createCsr(keyPem);
    const leaf = await issueClientCertificate(
      { ca, csrDer: csr, uri, ttlMs: 1_000 },
      { clock, rng: seededRng(3) },
    );
    const server = await issueServerCertificate(
      { ca, dnsNames: ["hub.example", "*.example"], ipAddresses: ["10.0.0.1"], ttlMs: 1_000 },
      { clock, rng: seededRng(4) },
    );
    const of = (kind: number, data: Uint8Array) => Buffer.concat([Buffer.from([kind, 0]), data]);
    return [
      of(0, csr),
      ...[leaf, server.certPem, ca.certPem].flatMap((pem) => [1, 2].map((kind) => of(kind, derOf(pem)))),
      of(3, Buffer.from(leaf)),
      of(4, Buffer.from(`${ca.certPem}\n${leaf}`)),
      ...[0, 1, 2].map((kind) => Buffer.from([kind, 1, 1, 0x30, 0x80, 12])),
      ...[3, 4].map((kind) => Buffer.from([kind, 1, 15, ...Buffer.from("-----BEGIN A----"), 10])),
    ];
  },
  async run(data) {
    const draw = new Draw(data);
    const kind = draw.int(5);
    const rest = draw.chance(8) ? draw.swollen(SWOLLEN) : draw.rest();
    if (kind === 0) await request(rest);
    else if (kind === 1) await certificate(rest);
    else if (kind === 2) await verification(rest);
    else if (kind === 3) await certificate(Buffer.from(rest).toString("latin1"));
    else await bundle(Buffer.from(rest).toString("latin1"));
  },
};

export default target;
