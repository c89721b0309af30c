import { spawn } from "node:child_process";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { addExport } from "@moorage/cli/commands-hub";
import { run } from "@moorage/cli/program";
import { createAuditSealer } from "@moorage/hub/identity/audit-sealer";
import { recordKey, scanRecords } from "@moorage/hub/identity/audit-trail";
import { files } from "@moorage/hub/store/sqlite/schema";
import type { SqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { upload } from "@moorage/hub/api/testing";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import type { AuditRecord } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { ChainVerifier } from "@moorage/shared/audit-chain";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { systemClock } from "@moorage/shared/clock";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits, apiLimits } from "@moorage/shared/grpc/options";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { createCsr, generateKeyPem } from "@moorage/shared/x509";
import { expect, onTestFinished, test } from "vitest";
import { folder, hubOn, reasonOf } from "./identity-support.ts";

const clock = systemClock;

/** A hub on a file, clients of it, and the command. */
async function rig() {
  const dir = await folder();
  const data = join(dir, "hub");
  const hub = await hubOn({ dir: data, clock });
  const admin = (await readFile(join(data, "admin.key"), "utf8")).trim();
  const caPem = hub.identity.trustBundlePem;
  const api = (secret: string) => {
    const link = connect({
      target: hub.addresses.api,
      tls: { caPem },
      limits: apiLimits,
      clock,
      ownConnection: {},
      headers: () => ({ authorization: `Bearer ${secret}` }),
    });
    onTestFinished(() => link.close());
    return {
      dataPlanes: link.client(DataPlaneService),
      tenants: link.client(TenantService),
      bundles: link.client(BundleService),
      apiKeys: link.client(ApiKeyService),
      joinTokens: link.client(JoinTokenService),
      hub: link.client(HubService),
    };
  };
  const moorage = async (...args: string[]) => {
    const result = { code: -1, out: "", err: "" };
    result.code = await run(args, {
      out: (t) => void (result.out += t),
      err: (t) => void (result.err += t),
      stdin: () => Promise.resolve(""),
      env: { MOORAGE_HOME: join(dir, "home") },
      clock,
      signal: new AbortController().signal,
      runNode: (script, more) =>
        new Promise((resolve) => {
          const child = spawn(process.execPath, [script, ...more]);
          child.stdout.on("data", (t: Buffer) => void (result.out += t.toString()));
          child.stderr.on("data", (t: Buffer) => void (result.err += t.toString()));
          child.on("close", (code) => resolve(code ?? -1));
        }),
    });
    return result;
  };
  const server = `127.0.0.1:${hub.addresses.api.port}`;
  const login = ["login", "--server", server, "--ca", join(data, "ca.pem"), "--key-file"];
  expect(await moorage(...login, join(data, "admin.key"))).toMatchObject({ code: 0 });
  const seal = () =>
    createAuditSealer({
      store: hub.store,
      clock,
      rng: systemRng,
      log: memoryLogger(),
      retentionMs: 0,
    }).sealNow();
  return { dir, data, hub, admin, caPem, api, moorage, seal };
}

type Rig = Awaited<ReturnType<typeof rig>>;

async function list(r: Rig): Promise<AuditRecord[]> {
  const out: AuditRecord[] = [];
  let pageToken = "";
  do {
    const page = await r.api(r.admin).hub.listAuditRecords({ pageSize: 7, pageToken });
    out.push(...page.records);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return out;
}

/** Everything that must leave a record; answers the secrets that none may hold, and the revision of one write. */
async function live(r: Rig): Promise<{ secrets: string[]; created: bigint }> {
  const { dataPlanes, tenants, bundles, apiKeys, joinTokens, hub } = r.api(r.admin);
  await dataPlanes.createDataPlane({ dataPlaneId: "eu", requestId: "first-request" });
  await dataPlanes.updateDataPlane({ dataPlane: { name: "dataPlanes/eu", labels: { a: "b" } } });
  const spec = { dataPlane: "dataPlanes/eu" };
  const acme = await tenants.createTenant({ tenantId: "acme", tenant: create(TenantSchema, { spec }) });
  await tenants.deleteTenant({ name: acme.name });
  const files_ = filesOf({ "bundle.yaml": bundleYaml(), "manifests/a.yaml": "a: 1\n" });
  const { bytes, digest } = packBundle(files_);
  await bundles.createBundleVersion(upload(bytes, digest));
  const key = await apiKeys.createApiKey({ apiKeyId: "viewer", apiKey: { role: Role.VIEWER } });
  const viewer = r.api(key.secret);
  expect(await reasonOf(viewer.tenants.createTenant({ tenantId: "evil" }))).toBe("PERMISSION_DENIED");
  expect(await reasonOf(viewer.apiKeys.listApiKeys({}))).toBe("PERMISSION_DENIED");
  const wrong = `mk_${"w".repeat(43)}`;
  expect(await reasonOf(r.api(wrong).tenants.listTenants({}))).toBe("API_KEY_UNKNOWN");
  await apiKeys.deleteApiKey({ name: "apiKeys/viewer" });

  const unused = await joinTokens.createJoinToken({ parent: "dataPlanes/eu" });
  await joinTokens.deleteJoinToken({ name: unused.joinToken?.name as string });
  const { token } = await joinTokens.createJoinToken({ parent: "dataPlanes/eu" });
  const keyPem = (await generateKeyPem()).keyPem;
  const csrDer = await createCsr(keyPem);
  const thief = await createCsr((await generateKeyPem()).keyPem);
  const enrolment = connect({
    target: r.hub.addresses.enrolment,
    tls: { caPem: r.caPem },
    limits: agentLimits,
    clock,
  });
  onTestFinished(() => enrolment.close());
  const { enrol } = enrolment.client(EnrolmentService);
  const joined = await enrol({ joinToken: token, csrDer });
  await enrol({ joinToken: token, csrDer });
  expect(await reasonOf(enrol({ joinToken: token, csrDer: thief }))).toBe("TOKEN_ALREADY_USED");
  expect(await reasonOf(enrol({ joinToken: "mj_wrong", csrDer }))).toBe("TOKEN_UNKNOWN");
  const { dataPlaneUid } = joined;
  await enrol({ dataPlaneUid, csrDer });
  expect(await reasonOf(enrol({ dataPlaneUid, csrDer: thief }))).toBe("KEY_NOT_REGISTERED");
  const certPem = Buffer.from(joined.certificateChainPem).toString();
  const agent = connect({
    target: r.hub.addresses.agent,
    tls: { caPem: r.caPem, certPem, keyPem },
    limits: agentLimits,
    clock,
  });
  onTestFinished(() => agent.close());
  await agent.client(IdentityService).renew({ csrDer });
  await hub.rotateCertificateAuthority({});
  await joinTokens.revokeAgentCredentials({ name: "dataPlanes/eu", reason: "lost" });
  expect(await reasonOf(enrol({ dataPlaneUid, csrDer }))).toBe("CREDENTIALS_REVOKED");
  expect(await reasonOf(agent.client(IdentityService).renew({ csrDer }))).toBe("CREDENTIALS_REVOKED");
  return { secrets: [r.admin, key.secret, wrong, unused.token, token, "mj_wrong"], created: acme.revision };
}

/** Method and outcome of each act of {@link live}, with what it was done to and by whom. */
const expected: [method: string, outcome: string, resource: string, actor: string][] = [
  ["ApiKeyService/CreateApiKey", "OK", "apiKeys/bootstrap", "hub"],
  ["DataPlaneService/CreateDataPlane", "OK", "dataPlanes/eu", "apiKeys/bootstrap"],
  ["DataPlaneService/UpdateDataPlane", "OK", "dataPlanes/eu", "apiKeys/bootstrap"],
  ["TenantService/CreateTenant", "OK", "tenants/acme", "apiKeys/bootstrap"],
  ["TenantService/DeleteTenant", "OK", "tenants/acme", "apiKeys/bootstrap"],
  ["BundleService/CreateBundleVersion", "OK", "bundles/small/versions/1.0.0", "apiKeys/bootstrap"],
  ["ApiKeyService/CreateApiKey", "OK", "apiKeys/viewer", "apiKeys/bootstrap"],
  ["TenantService/CreateTenant", "PERMISSION_DENIED", "tenants/evil", "apiKeys/viewer"],
  ["ApiKeyService/ListApiKeys", "PERMISSION_DENIED", "apiKeys", "apiKeys/viewer"],
  ["TenantService/ListTenants", "API_KEY_UNKNOWN", "", "peers/127.0.0.1"],
  ["ApiKeyService/DeleteApiKey", "OK", "apiKeys/viewer", "apiKeys/bootstrap"],
  ["JoinTokenService/CreateJoinToken", "OK", "dataPlanes/eu/joinTokens/", "apiKeys/bootstrap"],
  ["JoinTokenService/DeleteJoinToken", "OK", "dataPlanes/eu/joinTokens/", "apiKeys/bootstrap"],
  ["EnrolmentService/Enrol", "OK", "dataPlanes/eu", "dataPlanes/eu"],
  ["EnrolmentService/Enrol", "REPEATED", "dataPlanes/eu", "dataPlanes/eu"],
  ["EnrolmentService/Enrol", "TOKEN_ALREADY_USED", "dataPlanes/eu", "peers/127.0.0.1"],
  ["EnrolmentService/Enrol", "TOKEN_UNKNOWN", "", "peers/127.0.0.1"],
  ["EnrolmentService/Enrol", "REJOINED", "dataPlanes/eu", "dataPlanes/eu"],
  ["EnrolmentService/Enrol", "KEY_NOT_REGISTERED", "dataPlanes/eu", "peers/127.0.0.1"],
  ["IdentityService/Renew", "OK", "dataPlanes/eu", "dataPlanes/eu"],
  ["HubService/RotateCertificateAuthority", "STARTED", "hub/certificateAuthority", "apiKeys/bootstrap"],
  ["HubService/RotateCertificateAuthority", "OK", "hub/certificateAuthority", "apiKeys/bootstrap"],
  ["JoinTokenService/RevokeAgentCredentials", "OK", "dataPlanes/eu", "apiKeys/bootstrap"],
  ["EnrolmentService/Enrol", "CREDENTIALS_REVOKED", "dataPlanes/eu", "peers/127.0.0.1"],
  ["IdentityService/Renew", "CREDENTIALS_REVOKED", "", "dataplane/"],
];

test("S14 every write, join, issue, revocation and refusal has one record with who, what, when and revision, and none holds a secret", async () => {
  const r = await rig();
  const { secrets, created } = await live(r);
  // A refusal is recorded behind its answer. Two join tokens were made.
  let records = await list(r);
  while (records.length < expected.length + 1) records = await list(r);
  for (const [method, outcome, resource, actor] of expected) {
    const fitting = records.filter(
      (a) =>
        a.method.endsWith(`.${method}`) &&
        a.outcome === outcome &&
        (resource.endsWith("/") ? a.resource.startsWith(resource) : a.resource === resource) &&
        (actor.endsWith("/") ? a.actor.startsWith(actor) : a.actor === actor),
    );
    const all = `${method} ${outcome} ${resource}`;
    expect([all, fitting.length]).toEqual([
      all,
      resource.endsWith("joinTokens/") && method.endsWith("CreateJoinToken") ? 2 : 1,
    ]);
    expect(fitting.every((a) => a.revision > 0n && a.time !== undefined)).toBe(true);
  }
  // And nothing was recorded that did not happen.
  expect(records).toHaveLength(expected.length + 1);
  expect(records.find((a) => a.method.endsWith("CreateDataPlane"))?.requestId).toBe("first-request");
  const text = Buffer.concat(records.map((a) => Buffer.from(a.encoded))).toString("latin1");
  for (const secret of secrets) expect(text).not.toContain(secret);
  const write = records.find((a) => a.resource === "tenants/acme" && a.method.endsWith("CreateTenant"));
  expect(write?.revision).toBe(created);
});

test("S14 whatever is flipped, deleted or inserted in a sealed trail, the command names it; online, in an export and in a backup", async () => {
  const r = await rig();
  await live(r);
  await r.seal();
  await r.api(r.admin).dataPlanes.createDataPlane({ dataPlaneId: "late" });
  const online = await r.moorage("verify", "audit");
  expect(online).toMatchObject({ code: 0, err: "" });
  expect(online.out).toMatch(/unsealed: [1-9]\d* records\n {2}revision \d+/);
  const head = /head: (\d+:[0-9a-f]{64})/.exec(online.out)?.[1] as string;
  expect(await r.moorage("verify", "audit", "--head", head)).toMatchObject({ code: 0 });
  const other = `${head.slice(0, -1)}${head.endsWith("0") ? "1" : "0"}`;
  expect(await r.moorage("verify", "audit", "--head", other)).toMatchObject({ code: 1 });
  expect(await r.moorage("verify", "audit", "--head", "x")).toMatchObject({ code: 2 });

  const file = join(r.dir, "audit.jsonl");
  expect(await r.moorage("audit", "export", "--out", file)).toMatchObject({ code: 0 });
  expect((await r.moorage("verify", "audit", "--file", file)).out.trim()).toMatch(/intact$/);
  const lines = (await readFile(file, "utf8")).trim().split("\n");
  const seals = lines.flatMap((l) =>
    l.startsWith('{"seal"') ? [JSON.parse(l) as { seal: { lastRevision: string } }] : [],
  );
  const sealedTo = Number(seals.at(-1)?.seal.lastRevision);
  const findings = async (changed: readonly string[]) => {
    const verifier = new ChainVerifier();
    await addExport(verifier, changed, file);
    return verifier.finish().findings.map((f) => f.message);
  };
  const records = lines.flatMap((l, i) => {
    const { record } = JSON.parse(l) as { record?: { revision: string } };
    return record !== undefined && Number(record.revision) <= sealedTo ? [i] : [];
  });
  expect(records.length).toBeGreaterThan(20);
  for (const i of records) {
    const { record } = JSON.parse(lines[i] as string) as { record: Record<string, string> };
    const bytes = Buffer.from(record["encoded"] as string, "base64");
    bytes[i % bytes.length] = (bytes[i % bytes.length] as number) ^ 1;
    const flipped = JSON.stringify({ record: { ...record, encoded: bytes.toString("base64") } });
    const inserted = JSON.stringify({ record: { ...record, name: `${record["name"]}0` } });
    const named = `revision ${record["revision"]}`;
    for (const changed of [
      lines.with(i, flipped),
      lines.toSpliced(i, 1),
      lines.toSpliced(i + 1, 0, inserted),
    ])
      expect((await findings(changed)).some((m) => m.includes(named))).toBe(true);
  }
  await writeFile(file, lines.toSpliced(records[3] as number, 1).join("\n"));
  const cut = await r.moorage("verify", "audit", "--file", file);
  expect(cut).toMatchObject({ code: 1, out: expect.stringContaining("removed: the record of revision") });

  const backup = join(r.dir, "backup.db");
  await (r.hub.store as SqliteStore).backup(backup);
  const offline = await r.moorage("verify", "audit", "--file", backup, "--head", head);
  expect(offline).toMatchObject({ code: 0, err: "" });
  expect(offline.out.trim()).toMatch(/\nintact$/);
  // An insider with the store's own code: rows are whole, the trail is not.
  const insider = join(r.dir, "insider");
  await mkdir(insider);
  await copyFile(backup, join(insider, files.db));
  const store = await openSqliteStore({ dir: insider, clock, rng: systemRng });
  const [first, second] = await scanRecords(store, { keep: () => true });
  const value = Buffer.from("forged");
  await store.txn({ then: [{ put: { key: recordKey(first?.name as string), value } }] });
  await store.txn({ then: [{ delete: { key: recordKey(second?.name as string) } }] });
  await store.close();
  const forged = await r.moorage("verify", "audit", "--file", join(insider, files.db));
  expect(forged.code).toBe(1);
  expect(forged.out).toContain(`edited: record "${first?.name}" of revision ${first?.revision}`);
  expect(forged.out).toContain(`removed: the record of revision ${second?.revision}`);
});

test("S5 the command shows and rotates the certificate authority, and still runs the hub", async () => {
  const r = await rig();
  const show = await r.moorage("hub", "ca", "show");
  expect(show).toMatchObject({ code: 0, out: expect.stringContaining("no rotation under way") });
  const rotated = await r.moorage("hub", "ca", "rotate");
  expect(rotated).toMatchObject({ code: 0, out: expect.stringContaining("rotation under way: 0 agents") });
  expect(rotated.out.match(/^[0-9a-f]{64}/gm)).toHaveLength(2);
  const again = await r.moorage("hub", "ca", "rotate");
  expect(again).toMatchObject({ code: 1, err: expect.stringContaining("ROTATION_UNDER_WAY") });
  expect((await r.moorage("hub", "ca", "rotate", "--force")).out.match(/^[0-9a-f]{64}/gm)).toHaveLength(3);
  // The file that clients trust follows; the one that they were given before still works, as this very command shows.
  expect((await readFile(join(r.data, "ca.pem"), "utf8")).match(/BEGIN CERTIFICATE/g)).toHaveLength(3);
  await r.hub.identity.certificateAuthorities.retireWhenDue();
  expect((await r.moorage("hub", "ca", "show")).out).toContain("no rotation under way");
  expect(await r.moorage("audit", "list")).toMatchObject({
    code: 0,
    out: expect.stringContaining("FORMER_RETIRED"),
  });
  const help = await r.moorage("hub", "--help");
  expect(help).toMatchObject({ code: 0, out: expect.stringContaining("--api-address") });
});
