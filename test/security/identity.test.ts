import "reflect-metadata";
import { X509Certificate, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { create } from "@bufbuild/protobuf";
import { authenticateAgent } from "@moorage/hub/identity/agents";
import { loadAuthority } from "@moorage/hub/identity/ca";
import type { AuthorityContext } from "@moorage/hub/identity/context";
import { issueAgent } from "@moorage/hub/identity/context";
import type { Authority } from "@moorage/hub/identity/identity";
import { agentUri } from "@moorage/hub/identity/spiffe";
import { EnrolmentService, EnrolRequestSchema } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits } from "@moorage/shared/grpc/options";
import { limits } from "@moorage/shared/limits";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng, systemRng } from "@moorage/shared/rng";
import type { CertifiedKey } from "@moorage/shared/x509";
import { createCa, createCsr, generateKeyPem, parseCertificate } from "@moorage/shared/x509";
import { describe, expect, test } from "vitest";
import {
  agentsOf,
  by,
  dataPlanes,
  folder,
  hubOn,
  inTurns,
  memoryStore,
  openStream,
  reasonOf,
  shiftedClock,
} from "./identity-support.ts";

const LONG = process.env["LONG"] === "1";
/** Certificates forged for S2, and of these how many over real connections. */
const FORGERIES = LONG ? 100_000 : 10_000;
const SAMPLE = 200;
const SEED = Number(process.env["SEED"] ?? 20_270_301);
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const HOUR = 3_600_000;

async function smallHub() {
  const clock = shiftedClock();
  const store = memoryStore(clock);
  const dir = await folder();
  const hub = await hubOn({ dir, store, clock });
  const [plane, other] = (await dataPlanes(store, 2)) as [
    { name: string; uid: string },
    { name: string; uid: string },
  ];
  const token = async (dataPlane = plane.name, lifetimeMs?: number) =>
    (
      await hub.identity.joinTokens.create(
        { dataPlane, ...(lifetimeMs === undefined ? {} : { lifetimeMs }) },
        by,
      )
    ).token;
  const trust = { caPem: hub.identity.trustBundlePem };
  const join = async (more: { joinToken?: string; keyPem: string; dataPlaneUid?: string }) => {
    const link = connect({
      target: hub.addresses.enrolment,
      tls: trust,
      limits: agentLimits,
      clock,
      ownConnection: {},
    });
    try {
      const { keyPem, ...request } = more;
      const csrDer = await createCsr(keyPem);
      const answer = await link
        .client(EnrolmentService)
        .enrol(create(EnrolRequestSchema, { ...request, csrDer }));
      return Buffer.from(answer.certificateChainPem).toString();
    } finally {
      link.close();
    }
  };
  return { clock, store, dir, hub, plane, other, token, trust, join };
}

const newKey = async () => (await generateKeyPem()).keyPem;

describe("S1 join tokens", () => {
  test("S1 of 100 concurrent enrolments over real connections with one token and 100 keys exactly one succeeds; the rest hear that it was used, as many as one host may try", async () => {
    const { hub, store, plane, token, join } = await smallHub();
    const joinToken = await token();
    const keys = await Promise.all(Array.from({ length: 100 }, newKey));
    const outcomes = await Promise.all(keys.map((keyPem) => reasonOf(join({ joinToken, keyPem }))));
    expect(outcomes.filter((o) => o === "OK")).toHaveLength(1);
    const used = outcomes.filter((o) => o === "TOKEN_ALREADY_USED").length;
    expect(used).toBeGreaterThanOrEqual(20);
    expect(outcomes.filter((o) => o === "RATE_LIMITED")).toHaveLength(99 - used);
    const winner = keys[outcomes.indexOf("OK")] as string;
    expect(await reasonOf(join({ joinToken, keyPem: winner }))).toBe("OK");
    const stored = await store.range({ start: new Uint8Array([1]), end: new Uint8Array([0xff]) });
    const everything = Buffer.concat(stored.kvs.flatMap((kv) => [kv.key, kv.value])).toString("latin1");
    expect(everything).not.toContain(joinToken);
    expect(everything).toContain("TOKEN_ALREADY_USED");
    expect(everything).toContain("REPEATED");
    expect(await hub.identity.joinTokens.list(plane.name)).toHaveLength(1);
  });

  test("S1 a token is for one data plane, ends after 15 minutes, and lives for 7 days at most", async () => {
    const { clock, hub, plane, other, token, join } = await smallHub();
    const keyPem = await newKey();
    // The uid that a request names counts for nothing: the token says which data plane it is.
    const pem = await join({ joinToken: await token(), keyPem, dataPlaneUid: other.uid });
    expect(new X509Certificate(pem).subjectAltName).toBe(`URI:${agentUri("test.moorage", plane.uid)}`);
    const late = await token();
    clock.offsetMs += limits.joinTokenMs;
    expect(await reasonOf(join({ joinToken: late, keyPem }))).toBe("TOKEN_EXPIRED");
    expect(limits.joinTokenMs).toBe(15 * 60_000);
    expect(limits.joinTokenMaxMs).toBe(7 * 24 * HOUR);
    expect(await reasonOf(token(plane.name, limits.joinTokenMaxMs + 1))).toBe("INVALID_FIELD");
    expect(await reasonOf(token(plane.name, limits.joinTokenMaxMs))).toBe("OK");
    expect(await reasonOf(hub.identity.joinTokens.create({ dataPlane: "dataPlanes/none" }, by))).toBe(
      "DATA_PLANE_NOT_FOUND",
    );
  });
});

/** What a forger may put together. */
interface Forgery {
  what: string;
  names: { type: "url" | "dns" | "email" | "ip"; value: string }[];
  commonName: string;
  signer: "hub" | "other" | "self";
  times: "now" | "past" | "future";
  key: "own" | "registered elsewhere" | "fresh";
  isCa: boolean;
}

/** One forgery of `uid`; `attacker` is a data plane whose agent has a registered key of its own. */
function forge(rng: ReturnType<typeof seededRng>, uid: string, attacker: string): Forgery {
  const pick = <T>(of: readonly T[]): T => of[Math.floor(rng.float() * of.length)] as T;
  const good = agentUri("test.moorage", uid);
  const url = (value: string) => ({ type: "url" as const, value });
  const look = { a: "\u0430", e: "\u0435", o: "\u043e", "0": "O", "1": "l", "-": "\u2010" } as const;
  const mangled: Record<string, () => string> = {
    prefix: () => good.slice(0, 1 + Math.floor(rng.float() * (good.length - 1))),
    "prefix of the uid": () => agentUri("test.moorage", uid.slice(0, Math.floor(rng.float() * 36))),
    suffix: () => good + pick(["-b", ":b", "/b", ".", " ", "x", "?a=b", "#a", "%00", ";", "\\"]),
    "short names": () =>
      agentUri("test.moorage", pick(["a", "a-b", "a:b", "*", "", ".", "..", `${uid}:${uid}`])),
    case: () =>
      good
        .split("")
        .map((c) => (rng.float() < 0.3 ? c.toUpperCase() : c))
        .join(""),
    lookalike: () => {
      const at = good.split("").flatMap((c, i) => (c in look ? [i] : []));
      const i = pick(at);
      return good.slice(0, i) + look[good[i] as keyof typeof look] + good.slice(i + 1);
    },
    nul: () => {
      const i = Math.floor(rng.float() * (good.length + 1));
      return `${good.slice(0, i)}\0${good.slice(i)}`;
    },
    wildcard: () => good.replace(pick(["test.moorage", uid, uid.slice(0, 8), "dataplane"]), "*"),
    percent: () => {
      const i = Math.floor(rng.float() * good.length);
      return `${good.slice(0, i)}%${good.charCodeAt(i).toString(16)}${good.slice(i + 1)}`;
    },
    "trust domain": () =>
      good.replace(
        "test.moorage",
        pick(["test.moorage.evil", "evil", "moorage", "test", "Test.moorage", ""]),
      ),
    path: () =>
      good.replace(
        "/dataplane/",
        pick(["/dataplane//", "/Dataplane/", "/", "/agent/", "/dataplane/../dataplane/", "/x/dataplane/"]),
      ),
    scheme: () =>
      good.replace("spiffe://", pick(["https://", "spiffe:/", "spiffe:", "SPIFFE://", "", "spiffe://x@"])),
    edit: () => {
      const i = Math.floor(rng.float() * good.length);
      return good.slice(0, i) + String.fromCharCode(33 + Math.floor(rng.float() * 94)) + good.slice(i + 1);
    },
    empty: () => "",
  };
  const shapes: Record<string, () => Forgery["names"]> = {
    "common name only": () => [],
    "two URIs": () =>
      rng.float() < 0.5 ? [url(good), url(good)] : [url(agentUri("test.moorage", attacker)), url(good)],
    "URI and DNS name": () => [url(good), { type: "dns", value: pick(["localhost", "evil", good]) }],
    "URI and mail": () => [{ type: "email", value: "a@b.example" }, url(good)],
    "URI and address": () => [url(good), { type: "ip", value: "127.0.0.1" }],
    "DNS name": () => [{ type: "dns", value: pick([good, uid, `${uid}.test.moorage`]) }],
    mail: () => [{ type: "email", value: pick([`${uid}@test.moorage`, good]) }],
    ...Object.fromEntries(Object.entries(mangled).map(([what, make]) => [what, () => [url(make())]])),
  };
  const base: Forgery = {
    what: "",
    names: [url(good)],
    commonName: pick(["moorage-agent", uid, "*", "admin"]),
    signer: "hub",
    times: "now",
    key: "own",
    isCa: false,
  };
  // The right name with something else wrong, a sixth of the time.
  const wrong: [string, Partial<Forgery>][] = [
    ["unregistered key", { key: "fresh" }],
    ["key of another agent", { key: "registered elsewhere" }],
    ["expired", { times: "past" }],
    ["not yet valid", { times: "future" }],
    ["another authority", { signer: "other" }],
    ["self-signed", { signer: "self" }],
    ["an authority itself", { isCa: true }],
  ];
  if (rng.float() < 1 / 6) {
    const [what, more] = pick(wrong);
    return { ...base, ...more, what };
  }
  const what = pick(Object.keys(shapes));
  const key = pick<Forgery["key"]>(["own", "own", "registered elsewhere", "fresh"]);
  return { ...base, what, names: (shapes[what] as () => Forgery["names"])(), key };
}

/** Readers of a name with the mistakes of the field; the forgeries must get past each, or they prove nothing. */
const weak: Record<
  string,
  (of: { uris: readonly string[]; subject: string }, good: string, uid: string) => boolean
> = {
  prefix: ({ uris }, good) => uris.some((u) => u !== good && u.startsWith(good)),
  "first of several": ({ uris }, good) => uris.length > 1 && uris.includes(good),
  "case folded": ({ uris }, good) => uris[0] !== good && uris[0]?.toLowerCase() === good,
  decoded: ({ uris }, good) =>
    uris[0] !== good &&
    uris[0]?.replaceAll(/%([0-9a-f]{2})/g, (_, x: string) => String.fromCharCode(Number.parseInt(x, 16))) ===
      good,
  "cut at NUL": ({ uris }, good) => uris[0] !== good && uris[0]?.split("\0")[0] === good,
  "common name": ({ uris, subject }, _good, uid) => uris.length === 0 && subject === `CN=${uid}`,
};

interface Keys {
  pair: webcrypto.CryptoKeyPair;
  keyPem: string;
}

async function keysOf(keyPem: string): Promise<Keys> {
  const privateKey = await webcrypto.subtle.importKey(
    "pkcs8",
    x509.PemConverter.decodeFirst(keyPem),
    ALGORITHM,
    true,
    ["sign"],
  );
  const { kty, crv, x, y } = await webcrypto.subtle.exportKey("jwk", privateKey);
  const publicKey = await webcrypto.subtle.importKey(
    "jwk",
    { kty, crv, x, y } as webcrypto.JsonWebKey,
    ALGORITHM,
    true,
    ["verify"],
  );
  return { pair: { privateKey, publicKey }, keyPem };
}

/** Makes a forgery; undefined when a name cannot be encoded at all. */
async function make(
  f: Forgery,
  on: {
    keys: Record<Forgery["key"], Keys>;
    signers: Record<"hub" | "other", { cert: string; keys: Keys }>;
    nowMs: number;
    serial: number;
  },
): Promise<x509.X509Certificate | undefined> {
  const keys = on.keys[f.key];
  const [from, to] = { now: [-1, 1], past: [-3, -2], future: [2, 3] }[f.times] as [number, number];
  const signer = f.signer === "self" ? undefined : on.signers[f.signer];
  try {
    return await x509.X509CertificateGenerator.create({
      serialNumber: (0x40000000 + on.serial).toString(16),
      subject: [{ CN: [f.commonName] }],
      issuer:
        signer === undefined ? [{ CN: [f.commonName] }] : new x509.X509Certificate(signer.cert).subjectName,
      notBefore: new Date(on.nowMs + from * HOUR),
      notAfter: new Date(on.nowMs + to * HOUR),
      signingAlgorithm: ALGORITHM,
      publicKey: keys.pair.publicKey as never,
      signingKey: (signer?.keys ?? keys).pair.privateKey as never,
      extensions: [
        new x509.BasicConstraintsExtension(f.isCa, undefined, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth], false),
        ...(f.names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(f.names)]),
      ],
    });
  } catch {
    return undefined;
  }
}

test(`S2 of ${FORGERIES} forged identities none is accepted, in requests and in use, ${SAMPLE} of them over real mTLS`, async () => {
  const { clock, store, dir, hub, plane, other, token, trust, join } = await smallHub();
  const ownKey = await newKey();
  const elsewhereKey = await newKey();
  const genuine = await join({ joinToken: await token(), keyPem: ownKey });
  await join({ joinToken: await token(other.name), keyPem: elsewhereKey });
  const { fileKeyProvider } = await import("@moorage/hub/identity/ca");
  const on = { clock, rng: systemRng, trustDomain: "test.moorage" };
  const authority: Authority = await loadAuthority(fileKeyProvider(dir), on);
  const ctx: AuthorityContext = { store, ...on, log: memoryLogger(), authority };
  const strangers: CertifiedKey = await createCa({ name: "Moorage CA test.moorage", ttlMs: 10 * HOUR }, on);
  const keys = {
    own: await keysOf(ownKey),
    "registered elsewhere": await keysOf(elsewhereKey),
    fresh: await keysOf(await newKey()),
  };
  const signers = {
    hub: { cert: authority.ca.certPem, keys: await keysOf(authority.ca.keyPem) },
    other: { cert: strangers.certPem, keys: await keysOf(strangers.keyPem) },
  };
  const rng = seededRng(SEED);
  const good = `URI:${agentUri("test.moorage", plane.uid)}`;
  const theirs = `URI:${agentUri("test.moorage", other.uid)}`;
  const counts = new Map<string, number>();
  const fooled = new Map<string, number>(Object.keys(weak).map((w) => [w, 0]));
  const accepted: string[] = [];
  const sample: { pem: string; key: Keys; what: string }[] = [];
  let tried = 0;
  const one = async (serial: number): Promise<void> => {
    const f = forge(rng, plane.uid, other.uid);
    const cert = await make(f, { keys, signers, nowMs: clock.now(), serial });
    if (cert === undefined) return;
    // Chance may make a genuine one; the judge is Node's own reading, not ours.
    const name = new X509Certificate(cert.toString("pem")).subjectAltName;
    const plain = f.signer === "hub" && f.times === "now" && !f.isCa;
    if (
      plain &&
      ((name === good && f.key === "own") || (name === theirs && f.key === "registered elsewhere"))
    )
      return;
    tried += 1;
    counts.set(f.what, (counts.get(f.what) ?? 0) + 1);
    if (sample.length < SAMPLE && serial % 11 === 0)
      sample.push({ pem: cert.toString("pem"), key: keys[f.key], what: f.what });
    const read = parseCertificate(new Uint8Array(cert.rawData));
    for (const [what, reads] of Object.entries(weak))
      if (plain && f.key === "own" && reads(read, good.slice("URI:".length), plane.uid))
        fooled.set(what, (fooled.get(what) ?? 0) + 1);
    const outcome = await reasonOf(authenticateAgent(ctx, new Uint8Array(cert.rawData)));
    if (outcome === "OK") accepted.push(`${f.what}: ${name}`);
  };
  let serial = 0;
  while (tried < FORGERIES) await Promise.all(Array.from({ length: 50 }, () => one(serial++)));
  console.info(
    `S2: seed ${SEED}, ${tried} forgeries, ${accepted.length} accepted`,
    Object.fromEntries(counts),
  );
  expect(accepted).toEqual([]);
  expect([...fooled].filter(([, count]) => count === 0)).toEqual([]);
  expect(Math.min(...counts.values())).toBeGreaterThan(50);

  const call = async (certPem: string, keyPem: string): Promise<string> => {
    const tls = { ...trust, certPem, keyPem };
    const link = connect({ target: hub.addresses.agent, tls, limits: agentLimits, clock, ownConnection: {} });
    try {
      const csrDer = await createCsr(keyPem);
      return await reasonOf(link.client(IdentityService).renew({ csrDer }, { timeoutMs: 10_000 }));
    } finally {
      link.close();
    }
  };
  const outcomes = await inTurns(sample, (s) => call(s.pem, s.key.keyPem));
  expect(outcomes).toHaveLength(SAMPLE);
  expect(outcomes.filter((o) => o === "OK" || o === "DEADLINE_EXCEEDED")).toEqual([]);
  // The way itself is open: the genuine certificate of the same key passes.
  expect(await call(genuine, ownKey)).toBe("OK");
}, 900_000);

test("S2 of a request only the proven key is used: no name in 1,000 forged requests reaches a certificate", async () => {
  const { clock, store, plane, other } = await smallHub();
  const on = { clock, rng: systemRng, trustDomain: "test.moorage" };
  let kept: Authority | undefined;
  const provider = { load: async () => kept, save: async (a: Authority) => void (kept = a) };
  const authority = await loadAuthority(provider, on);
  const ctx: AuthorityContext = { store, ...on, log: memoryLogger(), authority };
  const rng = seededRng(SEED + 1);
  const keys = await keysOf(await newKey());
  let tried = 0;
  while (tried < 1_000) {
    const f = forge(rng, other.uid, plane.uid);
    let csr: x509.Pkcs10CertificateRequest;
    try {
      csr = await x509.Pkcs10CertificateRequestGenerator.create({
        name: [{ CN: [f.commonName] }],
        keys: keys.pair as never,
        signingAlgorithm: ALGORITHM,
        extensions: f.names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(f.names)],
      });
    } catch {
      continue;
    }
    tried += 1;
    const { chainPem } = await issueAgent(ctx, plane.uid, new Uint8Array(csr.rawData));
    const issued = new X509Certificate(chainPem);
    expect(issued.subjectAltName).toBe(`URI:${agentUri("test.moorage", plane.uid)}`);
    expect(issued.subject).toBe("CN=moorage-agent");
  }
  // A request whose signature is not its key's proves nothing.
  const stolen = await createCsr(keys.keyPem);
  stolen[stolen.length - 1] = (stolen[stolen.length - 1] as number) ^ 1;
  expect(await reasonOf(issueAgent(ctx, plane.uid, stolen))).toBe("INVALID_CSR");
  expect(await reasonOf(issueAgent(ctx, plane.uid, new Uint8Array(0)))).toBe("INVALID_CSR");
});

test("S4 a revoked agent's stream ends within a second on every hub of the store, its calls and its rejoin are refused, and a restart forgets nothing", async () => {
  const clock = shiftedClock();
  const store = memoryStore(clock);
  const dir = await folder();
  const one = await hubOn({ dir, store, clock });
  // A second hub over the same store, with the same authority.
  const two = await hubOn({ dir, store, clock });
  const planes = await dataPlanes(store, 20);
  const rig = await agentsOf({ hub: () => two, clock, pinnedCa: two.identity.trustBundlePem });
  const agents = await inTurns(planes, async (p) => {
    const { token } = await one.identity.joinTokens.create({ dataPlane: p.name }, by);
    const agent = rig.agent(p.uid, token);
    const stream = await agent.stream();
    await stream.opened;
    return { agent, stream, credentials: await agent.identity.credentials() };
  });
  const times: number[] = [];
  for (const [i, { stream }] of agents.entries()) {
    const startMs = clock.monotonicMs();
    await one.identity.joinTokens.revoke({ dataPlane: planes[i]?.name as string, reason: "stolen" }, by);
    expect(await stream.ended).toBe("CREDENTIALS_REVOKED");
    times.push(clock.monotonicMs() - startMs);
    stream.close();
  }
  expect(Math.max(...times)).toBeLessThan(1_000);

  const three = await hubOn({ dir, store, clock });
  const { credentials } = agents[0] as (typeof agents)[number];
  for (const hub of [one, two, three]) {
    const again = openStream({ hub: () => hub }, credentials);
    expect(await reasonOf(again.opened)).toBe("CREDENTIALS_REVOKED");
    again.close();
    const link = connect({ target: hub.addresses.agent, tls: credentials.tls, limits: agentLimits, clock });
    const csrDer = await createCsr(credentials.tls.keyPem);
    expect(await reasonOf(link.client(IdentityService).renew({ csrDer }))).toBe("CREDENTIALS_REVOKED");
    const blob = link.client(BlobService).readBlob({ digest: new Uint8Array(32) });
    const read = (async () => {
      for await (const _ of blob) throw new Error("a revoked agent read a blob");
    })();
    const code = await read.then(
      () => undefined,
      (thrown: unknown) => MoorageError.from(thrown).code,
    );
    expect([Code.UNAUTHENTICATED, Code.PERMISSION_DENIED]).toContain(code);
    link.close();
    const joining = connect({
      target: hub.addresses.enrolment,
      tls: { caPem: hub.identity.trustBundlePem },
      limits: agentLimits,
      clock,
    });
    const request = { csrDer, dataPlaneUid: planes[0]?.uid as string };
    expect(await reasonOf(joining.client(EnrolmentService).enrol(request))).toBe("CREDENTIALS_REVOKED");
    joining.close();
  }
});

test("S5 a renewed certificate is a candidate until a connection with it succeeded; the one before works until then", async () => {
  const clock = shiftedClock(-18 * HOUR);
  const store = memoryStore(clock);
  const hub = await hubOn({ dir: await folder(), store, clock });
  const [plane] = await dataPlanes(store, 1);
  const rig = await agentsOf({ hub: () => hub, clock, pinnedCa: hub.identity.trustBundlePem });
  const { token } = await hub.identity.joinTokens.create({ dataPlane: plane?.name as string }, by);
  const agent = rig.agent("one", token);
  const first = await agent.identity.credentials();
  clock.offsetMs = 0;
  await agent.look();
  const candidate = await agent.identity.credentials();
  expect(candidate.tls.keyPem).not.toBe(first.tls.keyPem);
  for (const used of [first, candidate, first]) {
    const stream = rig.openStream(used);
    await stream.opened;
    stream.close();
  }
  await agent.identity.accepted(candidate);
  expect((await agent.identity.credentials()).tls.certPem).toBe(candidate.tls.certPem);
  // The key is nowhere but with the agent.
  const stored = await store.range({ start: new Uint8Array([1]), end: new Uint8Array([0xff]) });
  const everything = Buffer.concat(stored.kvs.map((kv) => kv.value)).toString("latin1");
  expect(everything).not.toContain("PRIVATE KEY");
});
