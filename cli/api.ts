/** The hub's API as the commands use it: typed clients, and the standard methods by kind. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CreateApiKeyRequestSchema } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApiKeyService } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { ApplicationChange } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import type { DataPlaneChange } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { CreateJoinTokenRequestSchema } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import type { TenantChange } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { apiLimits } from "@moorage/shared/grpc/options";
import type { WatchMessage } from "@moorage/shared/grpc/resumable-watch";
import { resumableWatch } from "@moorage/shared/grpc/resumable-watch";
import { defaultRetryPolicy, retryingLink } from "@moorage/shared/grpc/retry";
import type { Link } from "@moorage/shared/grpc/types";
import { systemRng } from "@moorage/shared/rng";
import type { Context } from "./contexts.ts";
import { parseAddress } from "./contexts.ts";
import type { Resource } from "./format.ts";
import type { ResourceKind } from "./kinds.ts";
import { makeSecret } from "./secrets.ts";

/** How long a unary call may take. */
const CALL_MS = 30_000;
/** Tries of one call. */
const TRIES = 6;
/** Resources a page. */
const PAGE = 500;

/** What `delete` says beside the name. */
export interface DeleteOptions {
  orphan: boolean;
  force: boolean;
  removalAuthorization: Uint8Array;
}

/** One change of a watch; a bookmark of none. */
export type WatchEvent = { type: "upserted" | "removed"; resource: Resource } | { type: "synced" };

/** A link to one hub with its clients; {@link Api.close} when done. */
export type Api = ReturnType<typeof openApi>;

/** Connects lazily to a context's hub. */
export function openApi(context: Context, clock: Clock) {
  const connected = connect({
    target: parseAddress(context.server),
    tls: {
      ...(context.caPem === undefined ? {} : { caPem: context.caPem }),
      ...(context.serverName === undefined ? {} : { serverName: context.serverName }),
    },
    limits: apiLimits,
    clock,
    headers: () => ({ authorization: `Bearer ${context.key}` }),
  });
  return apiOver(connected, clock);
}

/** As {@link openApi}, over a link that does not retry. */
export function apiOver(connected: Link, clock: Clock) {
  const rng = systemRng;
  // Enough for a hub that restarts; a wrong address is still told within seconds.
  const link = retryingLink(connected, { clock, rng, policy: { ...defaultRetryPolicy, attempts: TRIES } });
  const clients = {
    dataPlanes: link.client(DataPlaneService),
    tenants: link.client(TenantService),
    applications: link.client(ApplicationService),
    bundles: link.client(BundleService),
    joinTokens: link.client(JoinTokenService),
    apiKeys: link.client(ApiKeyService),
    wait: link.client(WaitService),
    hub: link.client(HubService),
  };
  const unary = { timeoutMs: CALL_MS };

  async function get(kind: ResourceKind, name: string): Promise<Resource> {
    if (kind === "DataPlane") return clients.dataPlanes.getDataPlane({ name }, unary);
    if (kind === "Tenant") return clients.tenants.getTenant({ name }, unary);
    return clients.applications.getApplication({ name }, unary);
  }

  async function page(
    kind: ResourceKind,
    q: { parent: string; filter: string; pageToken: string },
  ): Promise<{ resources: Resource[]; next: string }> {
    const base = { filter: q.filter, pageToken: q.pageToken, pageSize: PAGE, view: View.FULL };
    if (kind === "DataPlane") {
      const answer = await clients.dataPlanes.listDataPlanes(base, unary);
      return { resources: answer.dataPlanes, next: answer.nextPageToken };
    }
    if (kind === "Tenant") {
      const answer = await clients.tenants.listTenants(base, unary);
      return { resources: answer.tenants, next: answer.nextPageToken };
    }
    const answer = await clients.applications.listApplications({ ...base, parent: q.parent }, unary);
    return { resources: answer.applications, next: answer.nextPageToken };
  }

  return {
    ...clients,
    unary,
    close: () => link.close(),
    get,

    /** A resource, or undefined where there is none. */
    async find(kind: ResourceKind, name: string): Promise<Resource | undefined> {
      try {
        return await get(kind, name);
      } catch (thrown) {
        if (thrown instanceof MoorageError && thrown.code === Code.NOT_FOUND) return undefined;
        throw thrown;
      }
    },

    /** All resources of a kind, page by page. */
    async list(kind: ResourceKind, q: { parent: string; filter: string }): Promise<Resource[]> {
      const all: Resource[] = [];
      let pageToken = "";
      do {
        const { resources, next } = await page(kind, { ...q, pageToken });
        all.push(...resources);
        pageToken = next;
      } while (pageToken !== "");
      return all;
    },

    /** Creates or replaces a resource by name. */
    async apply(resource: Resource, validateOnly: boolean): Promise<Resource> {
      const options = { allowMissing: true, validateOnly };
      if (resource.$typeName === "moorage.hub.v1.DataPlane")
        return clients.dataPlanes.updateDataPlane({ ...options, dataPlane: resource }, unary);
      if (resource.$typeName === "moorage.hub.v1.Tenant")
        return clients.tenants.updateTenant({ ...options, tenant: resource }, unary);
      return clients.applications.updateApplication({ ...options, application: resource }, unary);
    },

    /** Makes a key, and another one should the answer with its secret be lost. */
    createApiKey: (request: MessageInitShape<typeof CreateApiKeyRequestSchema>) =>
      makeSecret(
        () => clients.apiKeys.createApiKey(request, unary),
        (name) => clients.apiKeys.deleteApiKey({ name }, unary),
      ),

    /** Makes a join token, and another one should the answer with it be lost. */
    createJoinToken: (request: MessageInitShape<typeof CreateJoinTokenRequestSchema>) =>
      makeSecret(
        () => clients.joinTokens.createJoinToken(request, unary),
        (name) => clients.joinTokens.deleteJoinToken({ name }, unary),
      ),

    /** Marks a resource for deletion. */
    async delete(kind: ResourceKind, name: string, how: DeleteOptions): Promise<void> {
      const request = { name, ...how };
      if (kind === "DataPlane") await clients.dataPlanes.deleteDataPlane(request, unary);
      else if (kind === "Tenant") await clients.tenants.deleteTenant(request, unary);
      else await clients.applications.deleteApplication(request, unary);
    },

    /** The state of now as upserts, `synced`, then every change; goes on when the hub restarts. */
    async *watch(
      kind: ResourceKind,
      q: { parent: string; filter: string },
      signal: AbortSignal,
    ): AsyncGenerator<WatchEvent> {
      const open = (cursor: Cursor | undefined, s: AbortSignal): AsyncIterable<WatchMessage<Change>> => {
        const request = { filter: q.filter, view: View.FULL, ...(cursor === undefined ? {} : { cursor }) };
        if (kind === "DataPlane") return clients.dataPlanes.watchDataPlanes(request, { signal: s });
        if (kind === "Tenant") return clients.tenants.watchTenants(request, { signal: s });
        return clients.applications.watchApplications({ ...request, parent: q.parent }, { signal: s });
      };
      const events = resumableWatch<Change, Resource>({ open, resource: changed, signal, clock, rng });
      for await (const event of events) {
        if (event.kind === "synced") yield { type: "synced" };
        else yield { type: event.kind, resource: event.resource };
      }
    },
  };
}

type Change = DataPlaneChange | TenantChange | ApplicationChange;

function changed(change: Change): Resource | undefined {
  switch (change.$typeName) {
    case "moorage.hub.v1.DataPlaneChange":
      return change.dataPlane;
    case "moorage.hub.v1.TenantChange":
      return change.tenant;
    case "moorage.hub.v1.ApplicationChange":
      return change.application;
  }
}
