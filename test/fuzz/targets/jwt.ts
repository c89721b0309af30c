import { generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { actorOf, parseGrants } from "@moorage/hub/identity/grants";
import type { ApiPrincipal } from "@moorage/hub/identity/identity";
import { parseJwks } from "@moorage/hub/identity/jwks";
import { createJwtVerifier } from "@moorage/hub/identity/oidc";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryLogger } from "@moorage/shared/log";
import { Draw, drawObject } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";
import { stillClock } from "../world.ts";

const clock = stillClock();
const nowS = clock.now() / 1_000;
const claims = { iss: "https://issuer.example", aud: "moorage", sub: "ci", exp: nowS + 600 };
const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const jwk = { ...publicKey.export({ format: "jwk" }), kid: "one", alg: "ES256", use: "sig" };

// The keys are read once, from a file that is gone after that: no case reads another one.
const dir = mkdtempSync(join(tmpdir(), "moorage-fuzz-"));
const file = join(dir, "keys.json");
writeFileSync(file, JSON.stringify({ keys: [jwk] }));
process.once("exit", () => rmSync(dir, { recursive: true, force: true }));
const verify = createJwtVerifier(
  {
    issuer: claims.iss,
    audience: claims.aud,
    jwks: { file },
    grants: parseGrants("groups=platform:admin;groups=support:viewer@tenants/acme;sub=ci:operator"),
    actorClaim: "sub",
    scopesClaim: "scopes",
  },
  { clock, log: memoryLogger() },
);

const part = (text: string) => Buffer.from(text).toString("base64url");

function signed(header: string, payload: string): string {
  const input = `${part(header)}.${part(payload)}`;
  const signature = sign("sha256", Buffer.from(input), { key: privateKey, dsaEncoding: "ieee-p1363" });
  return `${input}.${signature.toString("base64url")}`;
}

/** The principal of a token; undefined for a refusal with a code of its own. */
async function principalOf(token: string): Promise<ApiPrincipal | undefined> {
  try {
    return await verify(token);
  } catch (thrown) {
    const codes: number[] = [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED];
    if (thrown instanceof MoorageError && codes.includes(thrown.code) && thrown.reason !== "")
      return undefined;
    throw thrown;
  }
}

function checkPrincipal(p: ApiPrincipal, payload: Record<string, unknown>): void {
  hold(
    payload["iss"] === claims.iss && [payload["aud"]].flat().includes(claims.aud),
    "a token for somebody else was taken",
  );
  hold(typeof payload["exp"] === "number" && payload["exp"] > nowS - 61, "a token that has ended was taken");
  const groups = [payload["groups"]].flat();
  const subjects = [payload["sub"]].flat();
  if (p.role === Role.ADMIN) hold(groups.includes("platform"), "a role was given that no claim grants");
  else if (p.role === Role.VIEWER) {
    hold(groups.includes("support"), "a role was given that no claim grants");
    hold(
      p.scopes.length > 0 && p.scopes.every((s) => s === "tenants/acme" || s.startsWith("tenants/acme/")),
      `the scopes grew to ${p.scopes.join(", ")}`,
    );
  } else hold(p.role === Role.OPERATOR && subjects.includes("ci"), "a role was given that no claim grants");
  // A limit by claim is there whatever the rule says; none at all would mean everywhere.
  hold(p.scopes.length > 0, "a token without scopes reaches everything");
}

const good = signed('{"alg":"ES256","kid":"one"}', JSON.stringify({ ...claims, scopes: ["tenants/acme"] }));
const header = '{"alg":"ES256","kid":"one","typ":"JWT"}';

async function raw(draw: Draw): Promise<void> {
  const p = await principalOf(Buffer.from(draw.rest()).toString("latin1"));
  // Only the seed's token is signed; what is taken must say what it says.
  if (p !== undefined) hold(p.actor === "oidc/ci" && p.role === Role.OPERATOR, "an unsigned token was taken");
}

async function texts(draw: Draw): Promise<void> {
  const [head = "", payload = ""] = Buffer.from(draw.rest()).toString("utf8").split("\0");
  const p = await principalOf(signed(head, payload));
  if (p !== undefined) checkPrincipal(p, JSON.parse(payload) as Record<string, unknown>);
}

async function values(draw: Draw): Promise<void> {
  const payload: Record<string, unknown> = { ...claims };
  const words = [
    "platform",
    "support",
    "ci",
    "tenants/acme",
    "tenants/acme/applications/web",
    "tenants/acme-2",
    "tenants",
    "",
  ];
  for (let n = draw.int(5); n > 0; n--) {
    const key = draw.pick(["sub", "groups", "scopes", "iss", "aud", "exp", "nbf", "iat", "__proto__"]);
    const list = Array.from({ length: draw.int(4) }, () =>
      draw.pick<unknown>([...words, 1, null, draw.text(), "\ud800"]),
    );
    const value = draw.pick<unknown>([
      list,
      list[0] ?? draw.text(),
      Number(draw.int64()),
      nowS - 61,
      drawObject(draw, 2),
    ]);
    Object.defineProperty(payload, key, { value, enumerable: true, configurable: true, writable: true });
  }
  const p = await principalOf(signed(header, JSON.stringify(payload)));
  if (p !== undefined) checkPrincipal(p, payload);
}

function configured(draw: Draw): void {
  const kind = draw.int(3);
  const text = Buffer.from(draw.rest()).toString("utf8");
  try {
    if (kind === 0)
      for (const key of parseJwks(text))
        hold(key.d === undefined && key.kty !== "oct", "a secret key was taken");
    else if (kind === 1)
      for (const g of parseGrants(text))
        hold(g.name !== "" && g.value !== "" && g.role !== Role.UNSPECIFIED, "a rule without effect");
    else hold(/^x\/[\x21-\x7e]+$/.test(actorOf("x", text)) || text === "", "an actor that a log cannot hold");
  } catch (thrown) {
    // Read at start and by the refresher, which report any error as it is.
    if (!(thrown instanceof Error) || kind === 2 || thrown.name === "Broken") throw thrown;
  }
}

/** The first byte chooses what is made up. */
const target: Target = {
  seeds: () => [
    Buffer.from(`\0${good}`),
    Buffer.from(`\0${good.replace(/^[^.]+/, part('{"alg":"none"}'))}`),
    Buffer.from(
      `\u0001${header}\0${JSON.stringify({ ...claims, groups: ["support"], scopes: "tenants/acme" })}`,
    ),
    Buffer.from(
      `\u0001${header}\0${JSON.stringify({ ...claims, sub: ["ci"], scopes: ["tenants/x"], nbf: nowS })}`,
    ),
    ...[0, 1, 2, 3].map((n) => Buffer.from([2, 2, n, 2, 1, 0, 1, 2, 2, 3, 0, 3, 4, n, 0])),
    Buffer.from(`\u0003\0${JSON.stringify({ keys: [jwk, { kty: "oct", k: "AA" }, null] })}`),
    Buffer.from("\u0003\u0001groups=platform:admin;sub=ci:operator@tenants/acme+dataPlanes/eu"),
    Buffer.from(`\u0003\u0002alice@example.com ${"é".repeat(40)}`),
  ],
  async run(data) {
    const draw = new Draw(data);
    const kind = draw.int(4);
    if (kind === 0) await raw(draw);
    else if (kind === 1) await texts(draw);
    else if (kind === 2) await values(draw);
    else configured(draw);
  },
};

export default target;
