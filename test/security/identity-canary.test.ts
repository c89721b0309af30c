/** Secrets are pushed through everything that a caller can reach; none may come out anywhere but at its caller. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { JsonObject } from "@bufbuild/protobuf";
import { upload } from "@moorage/hub/api/testing";
import { createAuditSealer } from "@moorage/hub/identity/audit-sealer";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { filesOf } from "@moorage/shared/bundle/testing";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits, apiLimits } from "@moorage/shared/grpc/options";
import { createLogger, memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { createCsr, generateKeyPem } from "@moorage/shared/x509";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import { writeFile } from "node:fs/promises";
import { expect, onTestFinished, test } from "vitest";
import { folder, hubOn, openStream } from "./identity-support.ts";

const clock = systemClock;
const canary = (what: string): string => `canary${what}${Buffer.from(systemRng.bytes(12)).toString("hex")}`;

/** The ways in which a text may stand in bytes. */
function forms(secret: string): string[] {
  const bytes = Buffer.from(secret);
  return [
    secret,
    bytes.toString("base64").replace(/=+$/, ""),
    bytes.toString("hex"),
    encodeURIComponent(secret),
  ];
}

/** All bytes below a folder, by file. */
async function filesBelow(dir: string): Promise<Map<string, string>> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const found = new Map<string, string>();
  for (const e of entries)
    if (e.isFile()) found.set(e.name, (await readFile(join(e.parentPath, e.name))).toString("latin1"));
  return found;
}

test("S15 tokens, keys, passwords in parameters and in URLs leave no trace in errors, logs, metrics, audit and store", async () => {
  const dir = await folder();
  const data = join(dir, "hub");
  const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
  await writeFile(
    join(dir, "jwks.json"),
    JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: "k" }] }),
  );
  const lines: string[] = [];
  const hub = await hubOn({
    dir: data,
    clock,
    log: createLogger({ level: "debug", format: "json", out: { write: (line) => void lines.push(line) } }),
    more: [
      ...[
        "--oidc-issuer",
        "https://issuer.example",
        "--oidc-audience",
        "m",
        "--oidc-jwks",
        join(dir, "jwks.json"),
      ],
      ...["--oidc-grants", "sub=ops:admin"],
    ],
  });
  const caPem = hub.identity.trustBundlePem;
  const admin = (await readFile(join(data, "admin.key"), "utf8")).trim();
  const as = (authorization: string) => {
    const headers = () => ({ authorization });
    const link = connect({
      target: hub.addresses.api,
      tls: { caPem },
      limits: apiLimits,
      clock,
      ownConnection: {},
      headers,
    });
    onTestFinished(() => link.close());
    return {
      dataPlanes: link.client(DataPlaneService),
      applications: link.client(ApplicationService),
      bundles: link.client(BundleService),
      apiKeys: link.client(ApiKeyService),
      joinTokens: link.client(JoinTokenService),
      hub: link.client(HubService),
    };
  };
  const secrets: string[] = [admin];
  const errors: string[] = [];
  const refused = async (attempt: Promise<unknown>): Promise<void> => {
    const thrown = await attempt.then(
      () => undefined,
      (t: unknown) => MoorageError.from(t),
    );
    expect(thrown).toBeDefined();
    const { message, reason, metadata, fields, preconditions, quota } = thrown as MoorageError;
    errors.push(JSON.stringify({ message, reason, metadata, fields, preconditions, quota }));
  };
  const api = as(`Bearer ${admin}`);
  await api.dataPlanes.createDataPlane({ dataPlaneId: "eu" });

  // Keys and tokens, good and bad, where they belong and where they do not.
  const made = await api.apiKeys.createApiKey({ apiKeyId: "ci", apiKey: { role: Role.ADMIN } });
  secrets.push(made.secret);
  await as(`Bearer ${made.secret}`).dataPlanes.getDataPlane({ name: "dataPlanes/eu" });
  const wrongKey = `mk_${canary("K").padEnd(43, "x").slice(0, 43)}`;
  const nowS = Math.floor(clock.now() / 1_000);
  const sign = (sub: string) =>
    new SignJWT({ sub, note: canary("C") })
      .setProtectedHeader({ alg: "ES256", kid: "k" })
      .setIssuer("https://issuer.example")
      .setAudience("m")
      .setExpirationTime(nowS + 600)
      .sign(privateKey);
  const good = await sign("ops");
  await as(`Bearer ${good}`).dataPlanes.getDataPlane({ name: "dataPlanes/eu" });
  const denied = await sign("nobody");
  const basic = canary("B");
  secrets.push(wrongKey, basic, good, denied, `${good.slice(0, -4)}AAAA`);
  for (const bad of [
    `Bearer ${wrongKey}`,
    `Bearer ${denied}`,
    `Bearer ${good.slice(0, -4)}AAAA`,
    `Basic ${basic}`,
    basic,
  ])
    await refused(as(bad).dataPlanes.getDataPlane({ name: "dataPlanes/eu" }));

  // Passwords where a person may put them by mistake.
  const manifest =
    "apiVersion: moorage.dev/v1alpha1\nkind: Bundle\nname: small\nversion: 1.0.0\nformat: Plain\n" +
    "parameters:\n  schema:\n    type: object\n    additionalProperties: false\n    properties:\n      port: { type: integer }\n      mode: { enum: [a, b] }\n      host: { type: string, maxLength: 5, pattern: '^[a-z]+$' }\n";
  const { bytes, digest } = packBundle(filesOf({ "bundle.yaml": manifest, "manifests/a.yaml": "a: 1\n" }));
  await api.bundles.createBundleVersion(upload(bytes, digest));
  for (const name of ["port", "mode", "host", "other"]) {
    const value = canary("P");
    secrets.push(value);
    const parameters: JsonObject = { [name]: value };
    const application = { spec: { bundle: "bundles/small", version: "1.0.0", parameters } };
    await refused(
      api.applications.createApplication({
        parent: "dataPlanes/eu",
        applicationId: "web",
        application,
        requestId: canary("R"),
      }),
    );
  }
  const password = canary("U");
  const url = `https://user:${password}@registry.example/x`;
  const outside: string[] = [password];
  for (const attempt of [
    api.dataPlanes.getDataPlane({ name: url }),
    api.dataPlanes.listDataPlanes({ filter: url }),
    api.dataPlanes.listDataPlanes({ pageToken: url }),
    api.applications.listApplications({ parent: url }),
    api.dataPlanes.createDataPlane({ dataPlaneId: url }),
  ])
    await attempt.catch(() => undefined);

  // An agent's way in: its token, its key.
  const joinToken = (await api.joinTokens.createJoinToken({ parent: "dataPlanes/eu" })).token;
  const wrongToken = `mj_${canary("J")}`;
  const keyPem = (await generateKeyPem()).keyPem;
  secrets.push(joinToken, wrongToken, keyPem.split("\n")[1] as string);
  const enrolment = connect({ target: hub.addresses.enrolment, tls: { caPem }, limits: agentLimits, clock });
  onTestFinished(() => enrolment.close());
  const { enrol } = enrolment.client(EnrolmentService);
  const csrDer = await createCsr(keyPem);
  await refused(enrol({ joinToken: wrongToken, csrDer }));
  await refused(enrol({ joinToken, csrDer: new Uint8Array(Buffer.from(joinToken)) }));
  const joined = await enrol({ joinToken, csrDer });
  await refused(enrol({ joinToken, csrDer: await createCsr((await generateKeyPem()).keyPem) }));
  const tls = { caPem, certPem: Buffer.from(joined.certificateChainPem).toString(), keyPem };
  const agent = connect({ target: hub.addresses.agent, tls, limits: agentLimits, clock });
  onTestFinished(() => agent.close());
  await agent.client(IdentityService).renew({ csrDer });
  const stream = openStream({ hub: () => hub }, { tls, dataPlaneUid: joined.dataPlaneUid });
  await stream.opened;
  stream.close();
  await api.joinTokens.revokeAgentCredentials({ name: "dataPlanes/eu", reason: "lost" });
  await refused(agent.client(IdentityService).renew({ csrDer }));

  await createAuditSealer({
    store: hub.store,
    clock,
    rng: systemRng,
    log: memoryLogger(),
    retentionMs: 0,
  }).sealNow();
  const page = await api.hub.listAuditRecords({ pageSize: 1_000 });
  const audit = Buffer.concat(page.records.map((r) => Buffer.from(r.encoded))).toString("latin1");
  const metrics = await hub.metrics.metricsText();
  await hub.stop();
  const files = await filesBelow(data);
  expect(files.size).toBeGreaterThan(3);
  // The first key is left in its file for the person who starts the hub; the authority's key is the hub's own.
  files.delete("admin.key");
  const places: [string, string][] = [
    ["errors", errors.join("\n")],
    ["log", lines.join("")],
    ["metrics", metrics],
    ["audit", audit],
    ...files,
  ];
  expect(lines.length).toBeGreaterThan(5);
  const hits = places.flatMap(([place, text]) => {
    const sought = place === "errors" ? secrets : [...secrets, ...outside];
    return sought
      .filter((s) => forms(s).some((f) => text.includes(f)))
      .map((s) => `${s.slice(0, 9)} in ${place}`);
  });
  expect(hits).toEqual([]);
  // The search itself finds what is there.
  expect(audit).toContain("dataPlanes/eu");
  expect([...files.values()].some((t) => t.includes("dataPlanes/eu"))).toBe(true);
});
