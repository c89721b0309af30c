/** What a repeated request about keys, tokens and trust answers, and leaves as it is. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { RegisteredKeySchema, StoredCredentialsSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code } from "@moorage/shared/errors";
import { expect, test } from "vitest";
import { credentialsKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import { apiOfTest } from "./testing.ts";

async function start() {
  const api = await apiOfTest();
  const dataPlane = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const k = key(credentialsKey(dataPlane.uid));
  return {
    api,
    dataPlane,
    ...api.admin,
    /** As if an agent had enrolled: one registered key. */
    async enrolled() {
      const keys = [create(RegisteredKeySchema, { thumbprint: new Uint8Array(32).fill(7) })];
      const value = toBinary(StoredCredentialsSchema, create(StoredCredentialsSchema, { keys }));
      await api.store.txn({ then: [{ put: { key: k, value } }] });
    },
    async revoked(): Promise<boolean> {
      const [kv] = (await api.store.range({ start: k })).kvs;
      return kv !== undefined && fromBinary(StoredCredentialsSchema, kv.value).revokedTime !== undefined;
    },
    /** All keys and values of the store as text. */
    async everything(): Promise<string> {
      const { kvs } = await api.store.range({ start: new Uint8Array([0]), end: new Uint8Array([255]) });
      return kvs.map((kv) => Buffer.concat([kv.key, kv.value]).toString("latin1")).join("\n");
    },
  };
}

const requestId = "r-1";
const shownOnce = (resource: string) => ({
  code: Code.ALREADY_EXISTS,
  reason: "SECRET_SHOWN_ONCE",
  metadata: { resource },
});

test("a repeated request for an API key makes no other, names what to do, and its secret is nowhere", async () => {
  const { api, apiKeys, everything } = await start();
  const request = { apiKeyId: "ci", apiKey: { role: Role.VIEWER }, requestId };
  const { secret } = await apiKeys.createApiKey(request);
  await expect(apiKeys.createApiKey(request)).rejects.toMatchObject(shownOnce("apiKeys/ci"));
  const other = { ...request, apiKey: { role: Role.ADMIN } };
  await expect(apiKeys.createApiKey(other)).rejects.toMatchObject({ reason: "REQUEST_ID_REUSED" });
  await expect(apiKeys.createApiKey({ ...request, requestId: "r-2" })).rejects.toMatchObject({
    reason: "API_KEY_EXISTS",
  });
  await api.connect(`Bearer ${secret}`).tenants.listTenants({});
  expect(await everything()).not.toContain(secret);
});

test("of requests for one API key at the same time one has its secret", async () => {
  const { apiKeys } = await start();
  const request = { apiKeyId: "ci", apiKey: { role: Role.VIEWER }, requestId };
  const done = await Promise.allSettled(Array.from({ length: 5 }, () => apiKeys.createApiKey(request)));
  expect(done.filter((d) => d.status === "fulfilled")).toHaveLength(1);
  for (const d of done) if (d.status === "rejected") expect(d.reason).toMatchObject(shownOnce("apiKeys/ci"));
});

test("a repeated request for a join token makes no other, and its secret is nowhere", async () => {
  const { dataPlane, joinTokens, everything } = await start();
  const request = { parent: dataPlane.name, requestId };
  const { token, joinToken } = await joinTokens.createJoinToken(request);
  await expect(joinTokens.createJoinToken(request)).rejects.toMatchObject(shownOnce(joinToken?.name ?? ""));
  const left = await joinTokens.listJoinTokens({ parent: dataPlane.name });
  expect(left.joinTokens).toEqual([joinToken]);
  expect(await everything()).not.toContain(token);
  const gone = { name: joinToken?.name ?? "", requestId: "r-2" };
  expect(await joinTokens.deleteJoinToken(gone)).toEqual(await joinTokens.deleteJoinToken(gone));
});

test("a repeated deletion of an API key leaves the one that came under its name since", async () => {
  const { apiKeys } = await start();
  const make = () => apiKeys.createApiKey({ apiKeyId: "ci", apiKey: { role: Role.VIEWER } });
  await make();
  const first = await apiKeys.deleteApiKey({ name: "apiKeys/ci", requestId });
  const { apiKey } = await make();
  expect(await apiKeys.deleteApiKey({ name: "apiKeys/ci", requestId })).toEqual(first);
  expect(await apiKeys.getApiKey({ name: "apiKeys/ci" })).toEqual(apiKey);
});

test("a repeated revocation ends no key that was registered since", async () => {
  const { dataPlane, joinTokens, enrolled, revoked } = await start();
  await enrolled();
  const request = { name: dataPlane.name, reason: "lost", requestId };
  expect(await joinTokens.revokeAgentCredentials(request)).toMatchObject({ revokedKeys: 1 });
  expect(await revoked()).toBe(true);
  await enrolled();
  expect(await joinTokens.revokeAgentCredentials(request)).toMatchObject({ revokedKeys: 1 });
  expect(await revoked()).toBe(false);
});

test("a revocation ends more tokens than one transaction takes, and counts keys once", async () => {
  const { dataPlane, joinTokens, enrolled } = await start();
  for (let i = 0; i < 120; i++) await joinTokens.createJoinToken({ parent: dataPlane.name });
  await enrolled();
  const request = { name: dataPlane.name, reason: "lost", requestId };
  expect(await joinTokens.revokeAgentCredentials(request)).toMatchObject({ revokedKeys: 1 });
  expect((await joinTokens.listJoinTokens({ parent: dataPlane.name })).joinTokens).toEqual([]);
});

test("a repeated rotation of the authority starts no other", async () => {
  const { hub } = await start();
  const request = { force: true, requestId };
  const [first, ...others] = await Promise.all([1, 2, 3].map(() => hub.rotateCertificateAuthority(request)));
  expect(first).toMatchObject({ rotating: true });
  expect(first?.certificates).toHaveLength(2);
  for (const answer of [...others, await hub.rotateCertificateAuthority(request)])
    expect(answer).toEqual(first);
  expect(await hub.getCertificateAuthority({})).toMatchObject({ certificates: first?.certificates });
  await expect(hub.rotateCertificateAuthority({ requestId: "r-2" })).rejects.toMatchObject({
    reason: "ROTATION_UNDER_WAY",
  });
});
