import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { EnrolRequestSchema } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { RenewRequestSchema } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { StoredAuditRecordSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import type { CallContext } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { createCsr, generateKeyPem, issueClientCertificate } from "@moorage/shared/x509";
import { describe, expect, onTestFinished, test } from "vitest";
import { credentialsKey, prefixes, resourceKey, uidKey } from "../core/keys.ts";
import { key, prefix } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { allows } from "./authorize.ts";
import { createIdentity } from "./create-identity.ts";
import type { Authority } from "./identity.ts";
import { agentUid, agentUri } from "./spiffe.ts";

const UID = "0190aaaa-0000-4000-8000-000000000001";
const by = { actor: "apiKeys/test" };

async function world() {
  let offsetMs = 0;
  const clock: Clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
  const store = openMemoryStore({ clock, rng: systemRng });
  const name = "dataPlanes/eu-1";
  const record = toBinary(DataPlaneSchema, create(DataPlaneSchema, { name, uid: UID }));
  const k = key(resourceKey("DataPlane", name));
  await store.txn({
    then: [{ put: { key: k, value: record } }, { put: { key: key(uidKey(UID)), value: k } }],
    rows: [{ putDp: { uid: UID } }],
  });
  let kept: Authority | undefined;
  const keyProvider = { load: async () => kept, save: async (a: Authority) => void (kept = a) };
  const open = () =>
    createIdentity({
      store,
      clock,
      rng: systemRng,
      log: memoryLogger(),
      keyProvider,
      trustDomain: "moorage",
    });
  const identity = await open();
  return {
    identity,
    store,
    clock,
    open,
    ca: () => (kept as Authority).ca,
    advance: (ms: number) => void (offsetMs += ms),
    async audited() {
      const { kvs } = await store.range(prefix(prefixes.audit));
      return kvs.map((kv) => Buffer.from(kv.value).toString("latin1"));
    },
    /** Actor, resource and outcome of each record of an enrolment, as one text. */
    async enrolments() {
      const { kvs } = await store.range(prefix(prefixes.audit));
      const records = kvs.map((kv) => fromBinary(StoredAuditRecordSchema, kv.value));
      return records
        .filter((r) => r.method.endsWith("/Enrol"))
        .map((r) => `${r.actor} ${r.resource} ${r.outcome}`)
        .toSorted();
    },
  };
}

const call = (der?: Uint8Array, peer = "10.0.0.1:1"): CallContext => ({
  signal: new AbortController().signal,
  metadata: { get: () => undefined },
  peer,
  peerCertificateDer: der,
  deadlineMs: undefined,
  method: "",
  setTrailer: () => undefined,
  end: () => undefined,
  onClosed: () => undefined,
});

const newCsr = async () => createCsr((await generateKeyPem()).keyPem);
const derOf = (pem: Uint8Array | string) =>
  new Uint8Array(
    Buffer.from(
      Buffer.from(pem)
        .toString()
        .replace(/-----[^-]+-----|\s/g, ""),
      "base64",
    ),
  );

type World = Awaited<ReturnType<typeof world>>;

interface Enrolment {
  joinToken?: string;
  csrDer?: Uint8Array;
  dataPlaneUid?: string;
  peer?: string;
}

async function enrol(w: World, { peer, ...more }: Enrolment) {
  const request = create(EnrolRequestSchema, { csrDer: await newCsr(), ...more });
  const answer = await w.identity.enrolmentHandlers.enrol(request, call(undefined, peer));
  return derOf(answer.certificateChainPem as Uint8Array);
}

async function reasonOf(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt;
    return "OK";
  } catch (thrown) {
    return MoorageError.from(thrown).reason;
  }
}

const newToken = async (w: World) =>
  (await w.identity.joinTokens.create({ dataPlane: "dataPlanes/eu-1" }, by)).token;

describe("joining", () => {
  test("of 100 concurrent tries of one token with 100 keys exactly one succeeds", async () => {
    const w = await world();
    const joinToken = await newToken(w);
    const outcomes = await Promise.all(Array.from({ length: 100 }, () => reasonOf(enrol(w, { joinToken }))));
    expect(outcomes.filter((o) => o === "OK")).toHaveLength(1);
    const used = outcomes.filter((o) => o === "TOKEN_ALREADY_USED").length;
    expect(used).toBeGreaterThanOrEqual(20);
    expect(outcomes.filter((o) => o === "RATE_LIMITED")).toHaveLength(99 - used);
    expect((await w.audited()).filter((r) => r.includes("TOKEN_ALREADY_USED"))).toHaveLength(used);
  });

  test("a used token costs a record for as many tries as one host has, wherever in its network it asks from; its own key is answered still", async () => {
    const w = await world();
    const joinToken = await newToken(w);
    const csrDer = await newCsr();
    await enrol(w, { joinToken, csrDer, peer: "2001:db8:1::1:40" });
    const outcomes: string[] = [];
    for (let i = 0; i < 30; i++)
      outcomes.push(await reasonOf(enrol(w, { joinToken, peer: `2001:db8:1::${i + 2}:40` })));
    expect(outcomes.filter((o) => o === "TOKEN_ALREADY_USED").length).toBeLessThan(25);
    expect(outcomes.at(-1)).toBe("RATE_LIMITED");
    expect(await reasonOf(enrol(w, { joinToken, peer: "2001:db8:2::1:40" }))).toBe("TOKEN_ALREADY_USED");
    expect(await reasonOf(enrol(w, { joinToken, csrDer, peer: "2001:db8:1::1:40" }))).toBe("OK");
    const records = await w.enrolments();
    expect(records.filter((r) => r.endsWith("TOKEN_ALREADY_USED")).length).toBeLessThan(26);
  });

  test("a token and its key are answered a few times at once, from however many hosts", async () => {
    const w = await world();
    const request = { joinToken: await newToken(w), csrDer: await newCsr() };
    const outcomes: string[] = [];
    for (let i = 0; i < 12; i++)
      outcomes.push(await reasonOf(enrol(w, { ...request, peer: `10.0.${i}.1:1` })));
    expect(outcomes.slice(0, 6)).toEqual(Array.from({ length: 6 }, () => "OK"));
    expect(outcomes.at(-1)).toBe("RATE_LIMITED");
    expect((await w.enrolments()).filter((r) => r.endsWith("REPEATED")).length).toBeLessThan(8);
  });

  test("a refusal names where it was asked from, not the data plane that was asked for", async () => {
    const w = await world();
    const joinToken = await newToken(w);
    const csrDer = await newCsr();
    await enrol(w, { joinToken, csrDer });
    const peer = "192.0.2.7:9";
    await reasonOf(enrol(w, { joinToken, peer }));
    await reasonOf(enrol(w, { dataPlaneUid: UID, peer }));
    await w.identity.joinTokens.revoke({ dataPlane: "dataPlanes/eu-1", reason: "lost" }, by);
    // A key that was never registered is told the same of a revoked data plane as of any other.
    expect(await reasonOf(enrol(w, { dataPlaneUid: UID, peer }))).toBe("KEY_NOT_REGISTERED");
    expect(await reasonOf(enrol(w, { dataPlaneUid: UID, csrDer, peer }))).toBe("CREDENTIALS_REVOKED");
    expect(await w.enrolments()).toEqual([
      "dataPlanes/eu-1 dataPlanes/eu-1 OK",
      "peers/192.0.2.7 dataPlanes/eu-1 CREDENTIALS_REVOKED",
      "peers/192.0.2.7 dataPlanes/eu-1 KEY_NOT_REGISTERED",
      "peers/192.0.2.7 dataPlanes/eu-1 KEY_NOT_REGISTERED",
      "peers/192.0.2.7 dataPlanes/eu-1 TOKEN_ALREADY_USED",
    ]);
  });

  test("the same token with the same key answers again, and is audited", async () => {
    const w = await world();
    const joinToken = await newToken(w);
    const csrDer = await newCsr();
    await enrol(w, { joinToken, csrDer });
    const again = await enrol(w, { joinToken, csrDer });
    expect((await w.identity.authenticateAgent(again)).dataPlaneUid).toBe(UID);
    expect((await w.audited()).some((r) => r.includes("REPEATED"))).toBe(true);
  });

  test("an expired token and an unknown one are refused, each by its reason", async () => {
    const w = await world();
    const joinToken = await newToken(w);
    w.advance(limits.joinTokenMs);
    expect(await reasonOf(enrol(w, { joinToken }))).toBe("TOKEN_EXPIRED");
    expect(await reasonOf(enrol(w, { joinToken: "mj_wrong" }))).toBe("TOKEN_UNKNOWN");
  });

  test("a lifetime above seven days is refused", async () => {
    const w = await world();
    const request = { dataPlane: "dataPlanes/eu-1", lifetimeMs: limits.joinTokenMaxMs + 1 };
    expect(await reasonOf(w.identity.joinTokens.create(request, by))).toBe("INVALID_FIELD");
  });

  test("the registered key rejoins without a token after its certificate ran out; another key does not", async () => {
    const w = await world();
    const csrDer = await newCsr();
    const der = await enrol(w, { joinToken: await newToken(w), csrDer });
    w.advance(limits.certificateMs + 1_000);
    expect(await reasonOf(w.identity.authenticateAgent(der))).toBe("CERTIFICATE_EXPIRED");
    const back = await enrol(w, { csrDer, dataPlaneUid: UID });
    expect((await w.identity.authenticateAgent(back)).dataPlane).toBe("dataPlanes/eu-1");
    expect(await reasonOf(enrol(w, { dataPlaneUid: UID }))).toBe("KEY_NOT_REGISTERED");
  });
});

/** Ends a data plane as the API does, and makes another one of its id. */
async function replace(w: World, uid: string): Promise<void> {
  const name = "dataPlanes/eu-1";
  const k = key(resourceKey("DataPlane", name));
  await w.store.txn({ then: [{ delete: { key: k } }, { delete: { key: key(uidKey(UID)) } }] });
  const value = toBinary(DataPlaneSchema, create(DataPlaneSchema, { name, uid }));
  await w.store.txn({ then: [{ put: { key: k, value } }, { put: { key: key(uidKey(uid)), value: k } }] });
}

/** Runs `fn` before the next transaction, as another caller may. */
function before(w: World, fn: () => Promise<void>): void {
  const { txn } = w.store;
  w.store.txn = async (t) => {
    w.store.txn = txn;
    await fn();
    return txn(t);
  };
}

describe("a data plane that is gone", () => {
  const later = "0190aaaa-0000-4000-8000-000000000002";
  const tokens = (w: World) => w.identity.joinTokens;

  test("has no tokens that one of its id would show, and none is made for it", async () => {
    const w = await world();
    const request = { dataPlane: "dataPlanes/eu-1" };
    const former = await newToken(w);
    before(w, () => replace(w, later));
    const made = await tokens(w).create(request, by);
    expect(made.dataPlaneUid).toBe(later);
    expect(await tokens(w).list(request.dataPlane)).toEqual([made.joinToken]);
    expect(await reasonOf(enrol(w, { joinToken: former }))).toBe("DATA_PLANE_UNKNOWN");
  });

  test("keeps no credentials of a join or a revocation that came with its end", async () => {
    const w = await world();
    const joinToken = await newToken(w);
    before(w, () => replace(w, later));
    expect(await reasonOf(enrol(w, { joinToken }))).toBe("DATA_PLANE_UNKNOWN");
    const v = await world();
    before(v, () => replace(v, later));
    expect(await tokens(v).revoke({ dataPlane: "dataPlanes/eu-1", reason: "lost" }, by)).toBe(0);
    for (const { store } of [w, v])
      expect((await store.range({ start: key(credentialsKey(UID)) })).kvs).toEqual([]);
  });

  test("leaves its tokens to the sweep, which forgets each a day after its end, in bounded steps", async () => {
    const w = await world();
    const day = 24 * 3_600_000;
    const stored = async () => {
      const families = [prefixes.joinTokens, prefixes.joinTokenHashes];
      const found = await Promise.all(families.map((family) => w.store.range(prefix(family))));
      return found.map((r) => r.kvs.length);
    };
    for (let i = 0; i < 120; i++) await newToken(w);
    await tokens(w).create({ dataPlane: "dataPlanes/eu-1", lifetimeMs: 2 * limits.joinTokenMs }, by);
    await replace(w, later);
    w.advance(limits.joinTokenMs + day - 60_000);
    expect(await tokens(w).sweep()).toBe(0);
    w.advance(120_000);
    expect(await tokens(w).sweep()).toBe(120);
    expect(await stored()).toEqual([1, 1]);
    w.advance(limits.joinTokenMs);
    expect(await tokens(w).sweep()).toBe(1);
    expect(await stored()).toEqual([0, 0]);
  });
});

describe("renewal", () => {
  test("a renewed key is a candidate beside the former one until a connection with it succeeded", async () => {
    const w = await world();
    const der = await enrol(w, { joinToken: await newToken(w) });
    const request = create(RenewRequestSchema, { csrDer: await newCsr() });
    const answer = await w.identity.identityHandlers.renew(request, call(der));
    const renewed = await w.identity.authenticateAgent(derOf(answer.certificateChainPem as Uint8Array));
    expect(await reasonOf(w.identity.authenticateAgent(der))).toBe("OK");
    await w.identity.confirmAgentKey(renewed);
    expect((await w.audited()).some((r) => r.includes("KEY_CONFIRMED"))).toBe(true);
  });
});

describe("revocation", () => {
  test("refuses the certificate, a rejoin and unused tokens, tells live streams, and survives a restart", async () => {
    const w = await world();
    const csrDer = await newCsr();
    const der = await enrol(w, { joinToken: await newToken(w), csrDer });
    const unused = await newToken(w);
    const stop = new AbortController();
    const running = w.identity.run(stop.signal);
    const ended = new Promise<string>((resolve) => {
      w.identity.onCredentials((uid, valid) => {
        if (valid.size === 0) resolve(uid);
      });
    });
    expect(await w.identity.joinTokens.revoke({ dataPlane: "dataPlanes/eu-1", reason: "lost" }, by)).toBe(1);
    expect(await ended).toBe(UID);
    stop.abort();
    await running;
    const restarted = { ...w, identity: await w.open() };
    expect(await reasonOf(restarted.identity.authenticateAgent(der))).toBe("CREDENTIALS_REVOKED");
    expect(await reasonOf(enrol(restarted, { csrDer, dataPlaneUid: UID }))).toBe("CREDENTIALS_REVOKED");
    expect(await reasonOf(enrol(restarted, { joinToken: unused }))).toBe("TOKEN_UNKNOWN");
    expect(await reasonOf(enrol(restarted, { joinToken: await newToken(w) }))).toBe("OK");
  });
});

describe("names of agents", () => {
  const good = agentUri("moorage", UID);
  const forged = fc.oneof(
    fc.constantFrom(
      "",
      "*",
      `${good}/`,
      `${good}x`,
      good.slice(0, -1),
      good.toUpperCase(),
      `${good}\0`,
      `${good}?a`,
      `${good}#a`,
    ),
    fc.constantFrom(
      good.replace("moorage", "moorage.evil"),
      good.replace("moorage", "Moorage"),
      good.replace("-", "%2D"),
    ),
    fc.constantFrom(
      good.replace("//", "///"),
      good.replace("dataplane", "dataplane/x"),
      good.replace("a", "а"),
    ),
    fc
      .tuple(fc.nat(good.length - 1), fc.string({ maxLength: 3 }))
      .map(([i, s]) => good.slice(0, i) + s + good.slice(i + 1)),
    fc.string(),
  );

  test("no forged name is read as a data plane's", () => {
    fc.assert(
      fc.property(forged, (uri) => {
        fc.pre(uri !== good);
        const read = agentUid({ uris: [uri], dnsNames: [], otherNames: 0 }, "moorage");
        // Another canonical uid is another identity, never this one.
        expect(read === undefined || (read !== UID && uri === agentUri("moorage", read))).toBe(true);
        expect(agentUid({ uris: [good, uri], dnsNames: [], otherNames: 0 }, "moorage")).toBeUndefined();
        expect(agentUid({ uris: [uri, good], dnsNames: [], otherNames: 0 }, "moorage")).toBeUndefined();
        expect(agentUid({ uris: [good], dnsNames: [uri], otherNames: 0 }, "moorage")).toBeUndefined();
      }),
      { numRuns: 2_500 },
    );
  });

  test("forged names in certificates of the hub's own authority are refused, 200 of 200", async () => {
    const w = await world();
    await enrol(w, { joinToken: await newToken(w) });
    const csrDer = await newCsr();
    const names = fc
      .sample(forged, { numRuns: 400, seed: 7 })
      .filter((u) => /^[\x21-\x7e]+$/.test(u) && u !== good);
    const ctx = { clock: w.clock, rng: systemRng };
    const outcomes = await Promise.all(
      [...names, ...names]
        .slice(0, 199)
        .concat(good)
        .map(async (uri) => {
          const pem = await issueClientCertificate({ ca: w.ca(), csrDer, uri, ttlMs: 60_000 }, ctx);
          return reasonOf(w.identity.authenticateAgent(derOf(pem)));
        }),
    );
    expect(outcomes).toHaveLength(200);
    // The last has the right name, and a key that nobody registered.
    expect(outcomes.at(-1)).toBe("KEY_NOT_REGISTERED");
    expect(outcomes.filter((o) => o === "OK")).toEqual([]);
  });
});

describe("API keys", () => {
  test("authenticate by their secret until deleted, while changes are followed", async () => {
    const w = await world();
    const { apiKeys } = w.identity;
    const stop = new AbortController();
    const running = w.identity.run(stop.signal);
    const { secret } = await apiKeys.create(
      { id: "ci", displayName: "", role: Role.VIEWER, scopes: ["tenants/a"] },
      by,
    );
    expect(await apiKeys.authenticate(`Bearer ${secret}`)).toEqual({
      actor: "apiKeys/ci",
      role: Role.VIEWER,
      scopes: ["tenants/a"],
      revision: (await w.store.status()).rev,
    });
    await apiKeys.authenticate(`Bearer ${secret}`);
    await apiKeys.delete("apiKeys/ci", by);
    expect(await reasonOf(apiKeys.authenticate(`Bearer ${secret}`))).toBe("API_KEY_UNKNOWN");
    expect(await reasonOf(apiKeys.authenticate(undefined))).toBe("API_KEY_MISSING");
    stop.abort();
    await running;
  });

  test("expire by the hub's clock, also from memory", async () => {
    const w = await world();
    const expireMs = w.clock.now() + 60_000;
    const request = { id: "ci", displayName: "", role: Role.VIEWER, scopes: [], expireMs };
    const { secret } = await w.identity.apiKeys.create(request, by);
    await w.identity.apiKeys.authenticate(`Bearer ${secret}`);
    w.advance(60_000);
    expect(await reasonOf(w.identity.apiKeys.authenticate(`Bearer ${secret}`))).toBe("API_KEY_EXPIRED");
  });

  test("the first administrator is made once", async () => {
    const w = await world();
    expect(await w.identity.apiKeys.bootstrap()).toMatch(/^mk_/);
    expect(await w.identity.apiKeys.bootstrap()).toBeUndefined();
  });

  test.each([
    [Role.ADMIN, [], "create", "apiKeys", true],
    [Role.OPERATOR, [], "create", "apiKeys", false],
    [Role.OPERATOR, [], "create", "dataPlanes/a/joinTokens", false],
    [Role.OPERATOR, [], "update", "tenants/a", true],
    [Role.VIEWER, [], "update", "tenants/a", false],
    [Role.VIEWER, [], "watch", "tenants", true],
    [Role.BILLING, [], "get", "tenants/a", false],
    [Role.OPERATOR, ["tenants/a"], "update", "tenants/a/applications/x", true],
    [Role.OPERATOR, ["tenants/a"], "update", "tenants/ab", false],
    [Role.OPERATOR, ["tenants/a"], "list", "tenants", false],
    [Role.UNSPECIFIED, [], "get", "tenants/a", false],
  ] as const)("role %s with scopes %j may %s %s: %s", (role, scopes, verb, name, expected) => {
    expect(allows({ role, scopes }, { verb, name })).toBe(expected);
  });
});

test("the authority's key is made once, readable by its owner alone", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "moorage-ca-"));
  onTestFinished(() => rm(dataDir, { recursive: true }));
  const w = await world();
  const open = () =>
    createIdentity({
      store: w.store,
      clock: w.clock,
      rng: systemRng,
      log: memoryLogger(),
      dataDir,
      trustDomain: "moorage",
    });
  const first = await open();
  expect((await stat(join(dataDir, "ca.key"))).mode & 0o777).toBe(0o600);
  expect((await open()).trustBundlePem).toBe(first.trustBundlePem);
});
