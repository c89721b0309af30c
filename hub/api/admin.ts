/** The services around the three kinds: bundles, waits, API keys, join tokens. */
import { create } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { ApiKey, CreateApiKeyResponse } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import {
  ApiKeySchema,
  ApiKeyService,
  CreateApiKeyRequestSchema,
  CreateApiKeyResponseSchema,
  DeleteApiKeyRequestSchema,
  Role,
} from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import {
  BundleService,
  DeleteBundleVersionRequestSchema,
  UpdateBundleVersionRequestSchema,
} from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import type {
  CreateJoinTokenResponse,
  JoinToken,
  RevokeAgentCredentialsResponse,
} from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import {
  CreateJoinTokenRequestSchema,
  CreateJoinTokenResponseSchema,
  DeleteJoinTokenRequestSchema,
  JoinTokenSchema,
  JoinTokenService,
  RevokeAgentCredentialsRequestSchema,
  RevokeAgentCredentialsResponseSchema,
} from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { Code, invalidField, MoorageError } from "@moorage/shared/errors";
import { bind } from "@moorage/shared/grpc/types";
import type { BoundService } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { checkId, requireBundle, requireName } from "../core/names.ts";
import { pageSize, pageToken, readPageToken } from "../core/pages.ts";
import type { Act } from "../identity/act.ts";
import type { Identity } from "../identity/identity.ts";
import { listBundles, watchBundles } from "./bundle-views.ts";
import type { Bundles } from "./bundles.ts";
import type { Api } from "./services.ts";
import { call } from "./services.ts";
import { waitFor } from "./wait.ts";
import type { Change, Writer } from "./writer.ts";

/** Where agents find this hub, as an install file tells them. */
export interface Advertised {
  agentAddress: string;
  enrolmentAddress: string;
}

/** Listeners' addresses are known only once they listen. */
export type AdvertisedNow = () => Advertised;

/** BundleService. */
export function bundleService(api: Api, bundles: Bundles): BoundService {
  return bind(BundleService, {
    async createBundleVersion(requests, ctx) {
      // Before a byte is read: may this caller publish at all? The name is checked again once it is known.
      const principal = api.auth.require(ctx, "create", "bundles");
      api.auth.transfer(ctx, principal, limits.bundleTransferMs);
      return bundles.create(requests, {
        principal,
        method: ctx.method.replace(/^\//, ""),
        signal: ctx.signal,
        authorize: (name) => void api.auth.require(ctx, "create", name),
      });
    },
    async getBundleVersion(request, ctx) {
      api.auth.require(ctx, "get", request.name);
      return bundles.get(request.name, request.minRevision);
    },
    async listBundleVersions(request, ctx) {
      const all = request.parent === "" || request.parent === "-";
      const below = all ? "bundles/" : `bundles/${requireBundle("parent", request.parent)}/versions/`;
      api.auth.require(ctx, "list", all ? "bundles" : request.parent);
      return listBundles(api, { ...request, below });
    },
    async updateBundleVersion(request, ctx) {
      const input = request.bundleVersion ?? create(BundleVersionSchema);
      const principal = api.auth.require(ctx, "update", input.name);
      return bundles.update(
        call(ctx, principal, { schema: UpdateBundleVersionRequestSchema, message: request }),
        input,
        request.updateMask,
      );
    },
    async deleteBundleVersion(request, ctx) {
      const principal = api.auth.require(ctx, "delete", request.name);
      return bundles.delete(
        call(ctx, principal, { schema: DeleteBundleVersionRequestSchema, message: request }),
        request,
      );
    },
    async *downloadBundleVersion(request, ctx) {
      const principal = api.auth.require(ctx, "get", request.name);
      api.auth.transfer(ctx, principal, limits.bundleTransferMs);
      for await (const content of bundles.download(request.name)) yield { content };
    },
    async *watchBundleVersions(request, ctx) {
      const all = request.parent === "" || request.parent === "-";
      const below = all ? "bundles/" : `bundles/${requireBundle("parent", request.parent)}/versions/`;
      const principal = api.auth.require(ctx, "watch", all ? "bundles" : request.parent);
      api.auth.watch(ctx, principal);
      for await (const event of watchBundles(api, { below, cursor: request.cursor }, ctx.signal)) {
        const { kind, cursor } = event;
        if (kind !== "change") yield { event: { case: kind, value: event.cursor } };
        else {
          const { type, bundleVersion } = event;
          const value = { type, bundleVersion, ...(cursor === undefined ? {} : { cursor }) };
          yield { event: { case: kind, value } };
        }
      }
    },
  });
}

/** WaitService. */
export function waitService(api: Api): BoundService {
  return bind(WaitService, {
    async waitFor(request, ctx) {
      const principal = api.auth.require(ctx, "get", request.name);
      api.auth.watch(ctx, principal);
      return waitFor(api, request, ctx.signal);
    },
  });
}

/** What the services of keys and tokens need beside what all share. */
export interface TrustDeps {
  api: Api;
  writer: Writer;
  identity: Identity;
}

/** An act of identity as a write of the API. */
const changeOf = <A, M>(act: Act<A>, answer: (of: A) => M): { change: Change<M>; more: boolean } => ({
  change: { ...act, rows: [], answer: () => answer(act.answer) },
  more: act.more === true,
});

/**
 * For the answer to a repeated request that made a secret. Neither the secret nor anything that it follows from
 * is kept: see docs/decisions/0009.
 */
function shownOnce(requestId: string, name: string): never {
  throw new MoorageError(
    Code.ALREADY_EXISTS,
    `Cannot repeat request "${requestId}": it made "${name}", whose secret was shown once; delete that, and ask anew with another id`,
    { reason: "SECRET_SHOWN_ONCE", metadata: { resource: name } },
  );
}

/** ApiKeyService. */
export function apiKeyService({ api, writer, identity }: TrustDeps): BoundService {
  return bind(ApiKeyService, {
    async createApiKey(request, ctx) {
      const principal = api.auth.require(ctx, "create", `apiKeys/${request.apiKeyId}`);
      checkId("api_key_id", request.apiKeyId);
      const wanted = request.apiKey;
      if (wanted === undefined || wanted.role === Role.UNSPECIFIED)
        throw invalidField("api_key.role", "is required: ADMIN, OPERATOR, VIEWER or BILLING");
      const creating = identity.apiKeys.creating({
        id: request.apiKeyId,
        displayName: wanted.displayName,
        role: wanted.role,
        scopes: wanted.scopes,
        ...(wanted.expireTime === undefined ? {} : { expireMs: timestampMs(wanted.expireTime) }),
      });
      return writer.write<CreateApiKeyResponse>({
        ...call(ctx, principal, { schema: CreateApiKeyRequestSchema, message: request }),
        answer: CreateApiKeyResponseSchema,
        async plan() {
          const { change, more } = changeOf(await creating(), (made) =>
            create(CreateApiKeyResponseSchema, made),
          );
          return { change: { ...change, kept: create(CreateApiKeyResponseSchema) }, more };
        },
        repeat: async () => shownOnce(request.requestId, `apiKeys/${request.apiKeyId}`),
      });
    },
    async getApiKey(request, ctx) {
      api.auth.require(ctx, "get", request.name);
      return identity.apiKeys.get(request.name);
    },
    async listApiKeys(request, ctx) {
      api.auth.require(ctx, "list", "apiKeys");
      const size = pageSize(request.pageSize);
      const signing = await api.reader.pageKey();
      const position =
        request.pageToken === "" ? undefined : readPageToken(request.pageToken, "apiKeys", signing);
      const { apiKeys, more } = await identity.apiKeys.list({
        ...(position === undefined ? {} : { afterName: position.after }),
        limit: size,
      });
      const { rev } = await api.store.status();
      return {
        apiKeys,
        nextPageToken: more
          ? pageToken({ revision: rev, after: apiKeys.at(-1)?.name ?? "" }, "apiKeys", signing)
          : "",
      };
    },
    async deleteApiKey(request, ctx) {
      const principal = api.auth.require(ctx, "delete", request.name);
      const deleting = identity.apiKeys.deleting(request.name);
      return writer.write<ApiKey>({
        ...call(ctx, principal, { schema: DeleteApiKeyRequestSchema, message: request }),
        answer: ApiKeySchema,
        plan: async () => changeOf(await deleting(), (deleted) => deleted),
      });
    },
  });
}

/** JoinTokenService. */
export function joinTokenService(
  { api, writer, identity }: TrustDeps,
  advertised: AdvertisedNow,
): BoundService {
  return bind(JoinTokenService, {
    async createJoinToken(request, ctx) {
      requireName("DataPlane", "parent", request.parent);
      const principal = api.auth.require(ctx, "create", `${request.parent}/joinTokens`);
      const lifetimeMs =
        request.lifetime === undefined ? undefined : Number(request.lifetime.seconds) * 1_000;
      const creating = identity.joinTokens.creating({
        dataPlane: request.parent,
        ...(lifetimeMs === undefined ? {} : { lifetimeMs }),
      });
      const trust = {
        trustBundlePem: Buffer.from(identity.trustBundlePem),
        trustDomain: identity.trustDomain,
      };
      return writer.write<CreateJoinTokenResponse>({
        ...call(ctx, principal, { schema: CreateJoinTokenRequestSchema, message: request }),
        answer: CreateJoinTokenResponseSchema,
        async plan() {
          const act = await creating();
          const { change, more } = changeOf(act, (made) =>
            create(CreateJoinTokenResponseSchema, { ...made, ...advertised(), ...trust }),
          );
          const { joinToken } = act.answer;
          return { change: { ...change, kept: create(CreateJoinTokenResponseSchema, { joinToken }) }, more };
        },
        repeat: async ({ joinToken }) => shownOnce(request.requestId, joinToken?.name ?? ""),
      });
    },
    async listJoinTokens(request, ctx) {
      requireName("DataPlane", "parent", request.parent);
      api.auth.require(ctx, "list", `${request.parent}/joinTokens`);
      return { joinTokens: await identity.joinTokens.list(request.parent) };
    },
    async deleteJoinToken(request, ctx) {
      const principal = api.auth.require(ctx, "delete", request.name);
      const deleting = identity.joinTokens.deleting(request.name);
      return writer.write<JoinToken>({
        ...call(ctx, principal, { schema: DeleteJoinTokenRequestSchema, message: request }),
        answer: JoinTokenSchema,
        plan: async () => changeOf(await deleting(), (deleted) => deleted),
      });
    },
    async revokeAgentCredentials(request, ctx) {
      requireName("DataPlane", "name", request.name);
      const principal = api.auth.require(ctx, "delete", `${request.name}/credentials`);
      const revoking = identity.joinTokens.revoking({ dataPlane: request.name, reason: request.reason });
      return writer.write<RevokeAgentCredentialsResponse>({
        ...call(ctx, principal, { schema: RevokeAgentCredentialsRequestSchema, message: request }),
        answer: RevokeAgentCredentialsResponseSchema,
        plan: async () =>
          changeOf(await revoking(), (revokedKeys) =>
            create(RevokeAgentCredentialsResponseSchema, { revokedKeys }),
          ),
      });
    },
  });
}
