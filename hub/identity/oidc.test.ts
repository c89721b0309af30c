import { createServer as createHttp } from "node:http";
import { createServer as createHttps } from "node:https";
import { createHmac } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { createCa, issueServerCertificate } from "@moorage/shared/x509";
import type { JWK, JWTPayload } from "jose";
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from "jose";
import { describe, expect, onTestFinished, test } from "vitest";
import { actorOf, parseGrants } from "./grants.ts";
import { createJwks, parseJwks } from "./jwks.ts";
import { createJwtVerifier } from "./oidc.ts";
import type { OidcOptions } from "./oidc.ts";

const ISSUER = "https://issuer.example";
const AUDIENCE = "moorage";

function shifted() {
  let offsetMs = 0;
  const clock: Clock = {
    ...systemClock,
    now: () => systemClock.now() + offsetMs,
    monotonicMs: () => systemClock.monotonicMs() + offsetMs,
  };
  return { clock, advance: (ms: number) => void (offsetMs += ms) };
}

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** A server on loopback; answers its URL and counts what it was asked. */
async function serve(answer: Answer, tls?: { cert: string; key: string }) {
  let asked = 0;
  const listener: Answer = (request, response) => {
    asked += 1;
    answer(request, response);
  };
  const server = tls === undefined ? createHttp(listener) : createHttps(tls, listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const { port } = server.address() as AddressInfo;
  const scheme = tls === undefined ? "http" : "https";
  return { url: new URL(`${scheme}://127.0.0.1:${port}/keys`), asked: () => asked };
}

async function issuer(alg: "RS256" | "ES256" | "EdDSA" = "ES256", kid = "one") {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  const jwk: JWK = { ...(await exportJWK(publicKey)), kid, alg, use: "sig" };
  return {
    jwk,
    publicKey,
    sign: (
      claims: JWTPayload,
      o: {
        clock: Clock;
        expiresInS?: number;
        header?: Record<string, unknown>;
        iss?: string;
        aud?: string;
        nbfInS?: number;
      },
    ) => {
      const nowS = Math.floor(o.clock.now() / 1_000);
      const jwt = new SignJWT(claims)
        .setProtectedHeader({ alg, kid, ...o.header })
        .setIssuer(o.iss ?? ISSUER)
        .setAudience(o.aud ?? AUDIENCE)
        .setExpirationTime(nowS + (o.expiresInS ?? 600));
      return (o.nbfInS === undefined ? jwt : jwt.setNotBefore(nowS + o.nbfInS)).sign(privateKey);
    },
  };
}

async function rig(more: Partial<OidcOptions> = {}, by = issuer()) {
  const { clock, advance } = shifted();
  const first = await by;
  const keys = { current: [first.jwk] };
  const http = await serve((_request, response) => response.end(JSON.stringify({ keys: keys.current })));
  const options: OidcOptions = {
    issuer: ISSUER,
    audience: AUDIENCE,
    jwks: { url: http.url },
    grants: parseGrants("groups=platform:admin;groups=support:viewer@tenants/acme;sub=ci:operator"),
    actorClaim: "sub",
    ...more,
  };
  const verify = createJwtVerifier(options, { clock, log: memoryLogger() });
  return { clock, advance, issuer: first, keys, http, verify };
}

async function reasonOf(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt;
    return "OK";
  } catch (thrown) {
    return MoorageError.from(thrown).reason;
  }
}

describe("a JSON Web Token", () => {
  test.each(["RS256", "ES256", "EdDSA"] as const)(
    "signed with %s is a caller with what its claims grant",
    async (alg) => {
      const r = await rig({}, issuer(alg));
      const token = await r.issuer.sign({ sub: "alice@example.com", groups: ["x", "support"] }, r);
      const principal = await r.verify(token);
      expect(principal).toMatchObject({
        actor: "oidc/alice%40example.com",
        role: Role.VIEWER,
        scopes: ["tenants/acme"],
      });
      expect(principal.expireMs).toBeGreaterThan(r.clock.now());
      expect(await r.verify(await r.issuer.sign({ sub: "ci" }, r))).toMatchObject({
        role: Role.OPERATOR,
        scopes: [],
      });
    },
  );

  test("of another issuer or audience, expired, not yet valid or without an end is refused; 60 s of skew are borne", async () => {
    const r = await rig();
    const claims = { sub: "ci" };
    const sign = (o: object) => r.issuer.sign(claims, { clock: r.clock, ...o });
    expect(await reasonOf(r.verify(await sign({ iss: "https://other.example" })))).toBe("TOKEN_CLAIM");
    expect(await reasonOf(r.verify(await sign({ aud: "other" })))).toBe("TOKEN_CLAIM");
    expect(await reasonOf(r.verify(await sign({ expiresInS: -50 })))).toBe("OK");
    expect(await reasonOf(r.verify(await sign({ expiresInS: -70 })))).toBe("TOKEN_EXPIRED");
    expect(await reasonOf(r.verify(await sign({ nbfInS: 50 })))).toBe("OK");
    expect(await reasonOf(r.verify(await sign({ nbfInS: 70 })))).toBe("TOKEN_CLAIM");
    const token = await sign({ expiresInS: 600 });
    r.advance(700_000);
    expect(await reasonOf(r.verify(token))).toBe("TOKEN_EXPIRED");
    const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
    r.keys.current = [{ ...(await exportJWK(publicKey)), kid: "two" }];
    r.advance(31_000);
    const endless = await new SignJWT(claims)
      .setProtectedHeader({ alg: "ES256", kid: "two" })
      .setIssuer(ISSUER)
      .setAudience(AUDIENCE)
      .sign(privateKey);
    expect(await reasonOf(r.verify(endless))).toBe("TOKEN_CLAIM");
  });

  test("without a signature, signed with the public key as a secret, with another's key, or changed, is refused", async () => {
    const r = await rig();
    const claims = { sub: "ci", iss: ISSUER, aud: AUDIENCE, exp: Math.floor(r.clock.now() / 1_000) + 600 };
    const unsigned = new UnsecuredJWT(claims).encode();
    expect(await reasonOf(r.verify(unsigned))).toBe("TOKEN_ALGORITHM");
    const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
    for (const secret of [JSON.stringify(r.issuer.jwk), await exportSPKI(r.issuer.publicKey)]) {
      const signed = `${part({ alg: "HS256", kid: "one" })}.${part(claims)}`;
      const mac = createHmac("sha256", secret).update(signed).digest("base64url");
      expect(await reasonOf(r.verify(`${signed}.${mac}`))).toBe("TOKEN_ALGORITHM");
      const lied = `${part({ alg: "ES256", kid: "one" })}.${part(claims)}`;
      expect(await reasonOf(r.verify(`${lied}.${mac}`))).not.toBe("OK");
    }
    const stranger = await issuer("ES256", "one");
    expect(await reasonOf(r.verify(await stranger.sign({ sub: "ci" }, r)))).toBe("TOKEN_SIGNATURE");
    const good = await r.issuer.sign({ sub: "nobody" }, r);
    const [head, , mac] = good.split(".");
    expect(await reasonOf(r.verify(`${head}.${part(claims)}.${mac}`))).toBe("TOKEN_SIGNATURE");
    const crit = await r.issuer.sign({ sub: "ci" }, { ...r, header: { typ: "secevent+jwt" } });
    expect(await reasonOf(r.verify(crit))).toBe("TOKEN_MALFORMED");
    expect(await reasonOf(r.verify(`a.b.${"c".repeat(20_000)}`))).toBe("TOKEN_TOO_LARGE");
    for (const bad of ["a.b.c", "..", `${head}..${mac}`])
      expect(await reasonOf(r.verify(bad))).not.toBe("OK");
  });

  test("whose claims no rule fits, or whose limit leaves nothing, is known and denied", async () => {
    const r = await rig({ scopesClaim: "moorage_scopes" });
    const of = async (claims: JWTPayload) => r.verify(await r.issuer.sign(claims, r));
    await expect(of({ sub: "bob", groups: "other" })).rejects.toMatchObject({
      code: Code.PERMISSION_DENIED,
      reason: "NO_GRANT",
      metadata: { actor: "oidc/bob" },
    });
    expect(await reasonOf(of({ sub: "ci" }))).toBe("NO_GRANT");
    expect(await of({ sub: "ci", moorage_scopes: ["tenants/a"] })).toMatchObject({ scopes: ["tenants/a"] });
    const asked = ["tenants/acme/applications/web", "tenants/acmeother", "tenants/b"];
    expect(await of({ sub: "eve", groups: ["support"], moorage_scopes: asked })).toMatchObject({
      scopes: ["tenants/acme/applications/web"],
    });
    expect(await reasonOf(of({ sub: "eve", groups: ["support"], moorage_scopes: ["tenants/b"] }))).toBe(
      "NO_GRANT",
    );
    expect(await reasonOf(of({ groups: ["platform"] }))).toBe("TOKEN_CLAIM_MISSING");
    expect(await reasonOf(of({ sub: "x", constructor: "platform" }))).toBe("NO_GRANT");
  });
});

describe("the issuer's keys", () => {
  test("are asked for once, and anew for an unknown key at most each 30 s, however many tokens name one", async () => {
    const r = await rig();
    await Promise.all(
      Array.from({ length: 20 }, async () => r.verify(await r.issuer.sign({ sub: "ci" }, r))),
    );
    expect(r.http.asked()).toBe(1);
    r.advance(31_000);
    const stranger = await issuer("ES256", "unknown");
    const attempts = Array.from({ length: 50 }, async (_, i) => {
      const token = await stranger.sign({ sub: "ci" }, { ...r, header: { kid: `made-up-${i}` } });
      return reasonOf(r.verify(token));
    });
    expect(new Set(await Promise.all(attempts))).toEqual(new Set(["TOKEN_KEY_UNKNOWN"]));
    expect(r.http.asked()).toBe(2);
    const next = await issuer("ES256", "two");
    r.keys.current = [next.jwk];
    const token = await next.sign({ sub: "ci" }, r);
    expect(await reasonOf(r.verify(token))).toBe("TOKEN_KEY_UNKNOWN");
    r.advance(31_000);
    expect(await reasonOf(r.verify(await next.sign({ sub: "ci" }, r)))).toBe("OK");
    expect(await reasonOf(r.verify(await r.issuer.sign({ sub: "ci" }, r)))).toBe("TOKEN_KEY_UNKNOWN");
  });

  test("that cannot be read anew are used for an hour, then nobody is let in", async () => {
    const { clock, advance } = shifted();
    const one = await issuer();
    let broken = false;
    const http = await serve((_request, response) => {
      response.statusCode = broken ? 500 : 200;
      response.end(JSON.stringify({ keys: [one.jwk] }));
    });
    const jwks = createJwks({ url: http.url }, { clock, log: memoryLogger() });
    expect(await jwks.keys()).toHaveLength(1);
    broken = true;
    advance(30 * 60_000);
    expect(await jwks.keys()).toHaveLength(1);
    advance(31 * 60_000);
    await expect(jwks.keys()).rejects.toMatchObject({ code: Code.UNAVAILABLE, reason: "JWKS_UNAVAILABLE" });
    broken = false;
    advance(31_000);
    expect(await jwks.keys()).toHaveLength(1);
  });

  test("come over TLS of the given authority alone, never through a redirect, never above their bounds", async () => {
    const { clock, advance } = shifted();
    const on = { clock, rng: systemRng };
    const one = await issuer();
    const ca = await createCa({ name: "issuer", ttlMs: 3_600_000 }, on);
    const { certPem: cert, keyPem: key } = await issueServerCertificate(
      { ca, dnsNames: ["localhost"], ipAddresses: ["127.0.0.1"], ttlMs: 3_600_000 },
      on,
    );
    const set = JSON.stringify({ keys: [one.jwk] });
    const https = await serve((_request, response) => response.end(set), { cert, key });
    const log = memoryLogger();
    const read = (source: Parameters<typeof createJwks>[0]) => {
      advance(60_000);
      return reasonOf(createJwks(source, { clock, log }).keys());
    };
    expect(await read({ url: https.url, caPem: ca.certPem })).toBe("OK");
    expect(await read({ url: https.url })).toBe("JWKS_UNAVAILABLE");
    const redirect = await serve((_request, response) => {
      response.writeHead(302, { location: https.url.href });
      response.end();
    });
    expect(await read({ url: redirect.url, caPem: ca.certPem })).toBe("JWKS_UNAVAILABLE");
    const large = await serve((_request, response) =>
      response.end(`{"keys":[],"x":"${"x".repeat(300_000)}"}`),
    );
    expect(await read({ url: large.url })).toBe("JWKS_UNAVAILABLE");
    const dir = await mkdtemp(join(tmpdir(), "moorage-jwks-"));
    onTestFinished(() => rm(dir, { recursive: true }));
    await writeFile(join(dir, "keys.json"), set);
    expect(await read({ file: join(dir, "keys.json") })).toBe("OK");
    expect(await read({ file: join(dir, "none.json") })).toBe("JWKS_UNAVAILABLE");
    expect(log.records.every((r) => r.message === "keys of the token issuer could not be read")).toBe(true);
  });

  test("that are symmetric, private or for encryption are left out", async () => {
    const { jwk } = await issuer();
    const secret = { kty: "oct", k: "c2VjcmV0", kid: "one" };
    const set = { keys: [secret, { ...jwk, d: "x" }, { ...jwk, use: "enc" }, null, 7, jwk] };
    expect(parseJwks(JSON.stringify(set))).toEqual([jwk]);
    for (const bad of ["", "[]", "null", '{"keys":7}', JSON.stringify({ keys: Array(65).fill(jwk) })])
      expect(() => parseJwks(bad)).toThrow();
  });
});

describe("grants", () => {
  test("are read strictly", () => {
    expect(parseGrants("groups=a:b:admin; sub=x=y:viewer@tenants/a+dataPlanes/b ;")).toEqual([
      { name: "groups", value: "a:b", role: Role.ADMIN, scopes: [] },
      { name: "sub", value: "x=y", role: Role.VIEWER, scopes: ["tenants/a", "dataPlanes/b"] },
    ]);
    for (const bad of [
      "a",
      "a=b",
      "a=b:root",
      "a=b:admin@",
      "a=b:admin@tenants",
      "=b:admin",
      "a=:admin",
      "a=b:viewer@tenants/*",
    ])
      expect(() => parseGrants(bad)).toThrow();
  });

  test("name their callers so that no two are alike", () => {
    const names = [
      "a",
      "a/b",
      "a%2Fb",
      "A",
      "a ",
      "é",
      "x".repeat(200),
      `${"x".repeat(199)}y`,
      `sha256=${"0".repeat(64)}`,
    ];
    const actors = names.map((n) => actorOf("oidc", n));
    expect(new Set(actors).size).toBe(names.length);
    expect(actors.every((a) => /^oidc\/[A-Za-z0-9%._~!'()*=-]+$/.test(a) && a.length <= 110)).toBe(true);
  });
});
