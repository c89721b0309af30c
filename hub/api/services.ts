/**
 * The services of data planes, tenants and applications: each method authorizes before it reveals
 * whether anything exists, and hands on to the one implementation of all kinds.
 */
import { create } from "@bufbuild/protobuf";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { Application } from "@moorage/proto/moorage/hub/v1/application_pb";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import {
  ApplicationService,
  CreateApplicationRequestSchema,
  DeleteApplicationRequestSchema,
  UpdateApplicationRequestSchema,
} from "@moorage/proto/moorage/hub/v1/application_service_pb";
import type { DataPlane } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import {
  CreateDataPlaneRequestSchema,
  DataPlaneService,
  DeleteDataPlaneRequestSchema,
  UpdateDataPlaneRequestSchema,
} from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import {
  CreateTenantRequestSchema,
  DeleteTenantRequestSchema,
  TenantService,
  UpdateTenantRequestSchema,
} from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { bind } from "@moorage/shared/grpc/types";
import type { BoundService, CallContext } from "@moorage/shared/grpc/types";
import { checkId, requireName, requireParent } from "../core/names.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import type { Store } from "../store/store.ts";
import type { Auth } from "./auth.ts";
import { listPage } from "./lists.ts";
import type { Reader } from "./reader.ts";
import type { Call, Resources } from "./resources.ts";
import { watch } from "./watch.ts";
import type { WatchEvent, WatchQuery } from "./watch.ts";

/** What the services share. */
export interface Api {
  store: Store;
  reader: Reader;
  resources: Resources;
  auth: Auth;
  clock: Clock;
}

/** A call's facts for a write; `/package.Service/Method` loses its first slash. */
export function call(
  ctx: CallContext,
  principal: ApiPrincipal,
  request: { schema: DescMessage; message: Message & { requestId?: string; validateOnly?: boolean } },
): Call {
  return {
    principal,
    method: ctx.method.replace(/^\//, ""),
    request,
    requestId: request.message.requestId ?? "",
    validateOnly: request.message.validateOnly ?? false,
  };
}

type Change = Extract<WatchEvent, { kind: "change" }>;
type Marks = { event: { case: "synced" | "bookmark"; value: Cursor } };

/** A watch as messages; counted against the caller's limit while it is open. */
export async function* events<M>(
  api: Api,
  at: { q: WatchQuery; principal: ApiPrincipal; ctx: CallContext },
  message: (change: Change) => M,
): AsyncGenerator<M | Marks, void, void> {
  const long = api.auth.long(at.principal, at.ctx);
  try {
    for await (const event of watch(api, at.q, long.signal)) {
      if (event.kind === "change") yield message(event);
      else yield { event: { case: event.kind, value: event.cursor } };
    }
    if (long.signal.aborted && !at.ctx.signal.aborted) throw long.signal.reason;
  } finally {
    long.end();
  }
}

/** DataPlaneService over the shared implementation. */
export function dataPlaneService(api: Api): BoundService {
  return bind(DataPlaneService, {
    async createDataPlane(request, ctx) {
      checkId("data_plane_id", request.dataPlaneId);
      const name = `dataPlanes/${request.dataPlaneId}`;
      const principal = api.auth.require(ctx, "create", name);
      const input = request.dataPlane ?? create(DataPlaneSchema);
      return (await api.resources.create(
        call(ctx, principal, { schema: CreateDataPlaneRequestSchema, message: request }),
        "DataPlane",
        { name, input },
      )) as DataPlane;
    },
    async getDataPlane(request, ctx) {
      requireName("DataPlane", "name", request.name);
      api.auth.require(ctx, "get", request.name);
      return (await api.resources.get(request.name, request.minRevision)) as DataPlane;
    },
    async listDataPlanes(request, ctx) {
      api.auth.require(ctx, "list", "dataPlanes");
      const page = await listPage(api, {
        kind: "DataPlane",
        parent: "",
        pageSize: request.pageSize,
        pageToken: request.pageToken,
        filter: request.filter,
        view: request.view,
        minRevision: request.minRevision,
      });
      return {
        dataPlanes: page.resources as DataPlane[],
        nextPageToken: page.nextPageToken,
        cursor: page.cursor,
      };
    },
    async updateDataPlane(request, ctx) {
      const input = request.dataPlane ?? create(DataPlaneSchema);
      requireName("DataPlane", "data_plane.name", input.name);
      const principal = api.auth.require(ctx, "update", input.name);
      const at = { input, mask: request.updateMask, allowMissing: request.allowMissing };
      return (await api.resources.update(
        call(ctx, principal, { schema: UpdateDataPlaneRequestSchema, message: request }),
        "DataPlane",
        at,
      )) as DataPlane;
    },
    async deleteDataPlane(request, ctx) {
      requireName("DataPlane", "name", request.name);
      const principal = api.auth.require(ctx, "delete", request.name);
      const what = {
        name: request.name,
        etag: request.etag,
        allowMissing: request.allowMissing,
        orphan: request.orphan,
        force: request.force,
        authorization: request.removalAuthorization,
        empty: create(DataPlaneSchema),
      };
      return (await api.resources.delete(
        call(ctx, principal, { schema: DeleteDataPlaneRequestSchema, message: request }),
        "DataPlane",
        what,
      )) as DataPlane;
    },
    watchDataPlanes: (request, ctx) => {
      const principal = api.auth.require(ctx, "watch", "dataPlanes");
      const q = {
        kind: "DataPlane" as const,
        parent: "",
        filter: request.filter,
        view: request.view,
        cursor: request.cursor,
      };
      return events(api, { q, principal, ctx }, (change) => ({
        event: {
          case: "change" as const,
          value: {
            type: change.type,
            dataPlane: change.resource as DataPlane,
            ...(change.cursor === undefined ? {} : { cursor: change.cursor }),
          },
        },
      }));
    },
  });
}

/** TenantService over the shared implementation. */
export function tenantService(api: Api): BoundService {
  return bind(TenantService, {
    async createTenant(request, ctx) {
      checkId("tenant_id", request.tenantId);
      const name = `tenants/${request.tenantId}`;
      const principal = api.auth.require(ctx, "create", name);
      const input = request.tenant ?? create(TenantSchema);
      return (await api.resources.create(
        call(ctx, principal, { schema: CreateTenantRequestSchema, message: request }),
        "Tenant",
        { name, input },
      )) as Tenant;
    },
    async getTenant(request, ctx) {
      requireName("Tenant", "name", request.name);
      api.auth.require(ctx, "get", request.name);
      return (await api.resources.get(request.name, request.minRevision)) as Tenant;
    },
    async listTenants(request, ctx) {
      api.auth.require(ctx, "list", "tenants");
      const page = await listPage(api, {
        kind: "Tenant",
        parent: "",
        pageSize: request.pageSize,
        pageToken: request.pageToken,
        filter: request.filter,
        view: request.view,
        minRevision: request.minRevision,
      });
      return { tenants: page.resources as Tenant[], nextPageToken: page.nextPageToken, cursor: page.cursor };
    },
    async updateTenant(request, ctx) {
      const input = request.tenant ?? create(TenantSchema);
      requireName("Tenant", "tenant.name", input.name);
      const principal = api.auth.require(ctx, "update", input.name);
      const at = { input, mask: request.updateMask, allowMissing: request.allowMissing };
      return (await api.resources.update(
        call(ctx, principal, { schema: UpdateTenantRequestSchema, message: request }),
        "Tenant",
        at,
      )) as Tenant;
    },
    async deleteTenant(request, ctx) {
      requireName("Tenant", "name", request.name);
      const principal = api.auth.require(ctx, "delete", request.name);
      const what = {
        name: request.name,
        etag: request.etag,
        allowMissing: request.allowMissing,
        orphan: request.orphan,
        force: request.force,
        authorization: request.removalAuthorization,
        empty: create(TenantSchema),
      };
      return (await api.resources.delete(
        call(ctx, principal, { schema: DeleteTenantRequestSchema, message: request }),
        "Tenant",
        what,
      )) as Tenant;
    },
    watchTenants: (request, ctx) => {
      const principal = api.auth.require(ctx, "watch", "tenants");
      const q = {
        kind: "Tenant" as const,
        parent: "",
        filter: request.filter,
        view: request.view,
        cursor: request.cursor,
      };
      return events(api, { q, principal, ctx }, (change) => ({
        event: {
          case: "change" as const,
          value: {
            type: change.type,
            tenant: change.resource as Tenant,
            ...(change.cursor === undefined ? {} : { cursor: change.cursor }),
          },
        },
      }));
    },
  });
}

/** ApplicationService over the shared implementation. */
export function applicationService(api: Api): BoundService {
  return bind(ApplicationService, {
    async createApplication(request, ctx) {
      requireParent("parent", request.parent);
      checkId("application_id", request.applicationId);
      const name = `${request.parent}/applications/${request.applicationId}`;
      const principal = api.auth.require(ctx, "create", name);
      const input = request.application ?? create(ApplicationSchema);
      return (await api.resources.create(
        call(ctx, principal, { schema: CreateApplicationRequestSchema, message: request }),
        "Application",
        { name, input },
      )) as Application;
    },
    async getApplication(request, ctx) {
      requireName("Application", "name", request.name);
      api.auth.require(ctx, "get", request.name);
      return (await api.resources.get(request.name, request.minRevision)) as Application;
    },
    async listApplications(request, ctx) {
      api.auth.require(
        ctx,
        "list",
        `${request.parent === "" || request.parent === "-" ? "applications" : `${request.parent}/applications`}`,
      );
      const page = await listPage(api, {
        kind: "Application",
        parent: request.parent,
        pageSize: request.pageSize,
        pageToken: request.pageToken,
        filter: request.filter,
        view: request.view,
        minRevision: request.minRevision,
      });
      return {
        applications: page.resources as Application[],
        nextPageToken: page.nextPageToken,
        cursor: page.cursor,
      };
    },
    async updateApplication(request, ctx) {
      const input = request.application ?? create(ApplicationSchema);
      requireName("Application", "application.name", input.name);
      const principal = api.auth.require(ctx, "update", input.name);
      const at = { input, mask: request.updateMask, allowMissing: request.allowMissing };
      return (await api.resources.update(
        call(ctx, principal, { schema: UpdateApplicationRequestSchema, message: request }),
        "Application",
        at,
      )) as Application;
    },
    async deleteApplication(request, ctx) {
      requireName("Application", "name", request.name);
      const principal = api.auth.require(ctx, "delete", request.name);
      const what = {
        name: request.name,
        etag: request.etag,
        allowMissing: request.allowMissing,
        orphan: request.orphan,
        force: request.force,
        authorization: request.removalAuthorization,
        empty: create(ApplicationSchema),
      };
      return (await api.resources.delete(
        call(ctx, principal, { schema: DeleteApplicationRequestSchema, message: request }),
        "Application",
        what,
      )) as Application;
    },
    watchApplications: (request, ctx) => {
      const principal = api.auth.require(
        ctx,
        "watch",
        `${request.parent === "" || request.parent === "-" ? "applications" : `${request.parent}/applications`}`,
      );
      const q = {
        kind: "Application" as const,
        parent: request.parent,
        filter: request.filter,
        view: request.view,
        cursor: request.cursor,
      };
      return events(api, { q, principal, ctx }, (change) => ({
        event: {
          case: "change" as const,
          value: {
            type: change.type,
            application: change.resource as Application,
            ...(change.cursor === undefined ? {} : { cursor: change.cursor }),
          },
        },
      }));
    },
  });
}
