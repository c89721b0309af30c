/** The services around the three kinds: bundles, waits, API keys, join tokens. */
import { create } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { ApiKeyService, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import {
  BundleService,
  DeleteBundleVersionRequestSchema,
  UpdateBundleVersionRequestSchema,
} from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import { invalidField } from "@moorage/shared/errors";
import { bind } from "@moorage/shared/grpc/types";
import type { BoundService } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { checkId, requireBundle, requireName } from "../core/names.ts";
import { pageSize, pageToken, readPageToken } from "../core/pages.ts";
import type { Identity } from "../identity/identity.ts";
import { listBundles, watchBundles } from "./bundle-views.ts";
import type { Bundles } from "./bundles.ts";
import type { Api } from "./services.ts";
import { call } from "./services.ts";
import { waitFor } from "./wait.ts";

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

/** ApiKeyService. */
export function apiKeyService(api: Api, identity: Identity): BoundService {
  return bind(ApiKeyService, {
    async createApiKey(request, ctx) {
      const principal = api.auth.require(ctx, "create", `apiKeys/${request.apiKeyId}`);
      checkId("api_key_id", request.apiKeyId);
      const wanted = request.apiKey;
      if (wanted === undefined || wanted.role === Role.UNSPECIFIED)
        throw invalidField("api_key.role", "is required: ADMIN, OPERATOR, VIEWER or BILLING");
      const { apiKey, secret } = await identity.apiKeys.create(
        {
          id: request.apiKeyId,
          displayName: wanted.displayName,
          role: wanted.role,
          scopes: wanted.scopes,
          ...(wanted.expireTime === undefined ? {} : { expireMs: timestampMs(wanted.expireTime) }),
        },
        principal,
      );
      return { apiKey, secret };
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
      return identity.apiKeys.delete(request.name, api.auth.require(ctx, "delete", request.name));
    },
  });
}

/** JoinTokenService. */
export function joinTokenService(api: Api, identity: Identity, advertised: AdvertisedNow): BoundService {
  return bind(JoinTokenService, {
    async createJoinToken(request, ctx) {
      requireName("DataPlane", "parent", request.parent);
      const principal = api.auth.require(ctx, "create", `${request.parent}/joinTokens`);
      const lifetimeMs =
        request.lifetime === undefined ? undefined : Number(request.lifetime.seconds) * 1_000;
      const made = await identity.joinTokens.create(
        { dataPlane: request.parent, ...(lifetimeMs === undefined ? {} : { lifetimeMs }) },
        principal,
      );
      return {
        joinToken: made.joinToken,
        token: made.token,
        dataPlaneUid: made.dataPlaneUid,
        ...advertised(),
        trustBundlePem: Buffer.from(identity.trustBundlePem),
        trustDomain: identity.trustDomain,
      };
    },
    async listJoinTokens(request, ctx) {
      requireName("DataPlane", "parent", request.parent);
      api.auth.require(ctx, "list", `${request.parent}/joinTokens`);
      return { joinTokens: await identity.joinTokens.list(request.parent) };
    },
    async deleteJoinToken(request, ctx) {
      return identity.joinTokens.delete(request.name, api.auth.require(ctx, "delete", request.name));
    },
    async revokeAgentCredentials(request, ctx) {
      requireName("DataPlane", "name", request.name);
      const principal = api.auth.require(ctx, "delete", `${request.name}/credentials`);
      return {
        revokedKeys: await identity.joinTokens.revoke(
          { dataPlane: request.name, reason: request.reason },
          principal,
        ),
      };
    },
  });
}
