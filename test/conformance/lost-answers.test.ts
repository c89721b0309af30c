/** The commands' client when the answer to what it asked is lost on the way: what it asked for is done once. */
import type { DescService } from "@bufbuild/protobuf";
import { apiOver } from "@moorage/cli/api";
import { testApi } from "@moorage/hub/api/testing";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import type { Client, Link } from "@moorage/shared/grpc/types";
import { expect, onTestFinished, test } from "vitest";

/** A link that loses the first answer of each method named in `lossy`. */
function losing(link: Link, lossy: Set<string>): Link {
  return {
    client<S extends DescService>(service: S): Client<S> {
      const client = { ...(link.client(service) as Record<string, (r: object, o?: object) => unknown>) };
      for (const { localName, methodKind } of service.methods) {
        const call = client[localName];
        if (methodKind !== "unary" || call === undefined) continue;
        client[localName] = async (request, options) => {
          const answer = await call(request, options);
          if (!lossy.delete(localName)) return answer;
          throw new MoorageError(Code.UNAVAILABLE, "The connection was closed");
        };
      }
      return client as Client<S>;
    },
    close: () => link.close(),
  };
}

async function start() {
  const hub = await testApi();
  onTestFinished(() => hub.stop());
  const { secret } = await hub.identity.apiKeys.create(
    { id: "operator", displayName: "", role: Role.ADMIN, scopes: [] },
    { actor: "test" },
  );
  const lossy = new Set<string>();
  const headers = () => ({ authorization: `Bearer ${secret}` });
  const link = memoryConnect(hub.services, { retryInfo: true, before: (ctx) => hub.before(ctx), headers });
  const api = apiOver(losing(link, lossy), systemClock);
  await api.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  return { hub, api, lossy };
}

const parent = "dataPlanes/eu";

test("a key whose secret was lost on the way is made anew, and the lost one is gone", async () => {
  const { hub, api, lossy } = await start();
  lossy.add("createApiKey").add("deleteApiKey");
  const made = await api.createApiKey({ apiKeyId: "ci", apiKey: { role: Role.VIEWER } });
  expect(lossy.size).toBe(0);
  await hub.connect(`Bearer ${made.secret}`).tenants.listTenants({});
  expect(await api.apiKeys.getApiKey({ name: "apiKeys/ci" })).toEqual(made.apiKey);
});

test("a key of a name that is taken is refused, and the other one is left", async () => {
  const { api } = await start();
  const request = { apiKeyId: "ci", apiKey: { role: Role.VIEWER } };
  const { apiKey } = await api.createApiKey(request);
  await expect(api.createApiKey(request)).rejects.toMatchObject({ reason: "API_KEY_EXISTS" });
  expect(await api.apiKeys.getApiKey({ name: "apiKeys/ci" })).toEqual(apiKey);
});

test("a join token that was lost on the way is made anew, and no other is left", async () => {
  const { api, lossy } = await start();
  lossy.add("createJoinToken");
  const made = await api.createJoinToken({ parent });
  expect(lossy.size).toBe(0);
  expect((await api.joinTokens.listJoinTokens({ parent })).joinTokens).toEqual([made.joinToken]);
});

test("a revocation, a deletion and a rotation are tried again when their answers were lost", async () => {
  const { api, lossy } = await start();
  await api.createApiKey({ apiKeyId: "ci", apiKey: { role: Role.VIEWER } });
  lossy.add("revokeAgentCredentials").add("deleteApiKey").add("rotateCertificateAuthority");
  await api.joinTokens.revokeAgentCredentials({ name: parent, reason: "lost" }, api.unary);
  expect(await api.apiKeys.deleteApiKey({ name: "apiKeys/ci" }, api.unary)).toMatchObject({
    name: "apiKeys/ci",
  });
  const { certificates } = await api.hub.rotateCertificateAuthority({}, api.unary);
  expect(certificates).toHaveLength(2);
  expect(lossy.size).toBe(0);
});
