/**
 * The services of data planes, tenants and applications: each method authorizes before it reveals
 * whether anything exists, and hands on to the one implementation of all kinds.
 */
import type { DescMessage, Message } from "@bufbuild/protobuf";
import type { FieldMask } from "@bufbuild/protobuf/wkt";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { Application } from "@moorage/proto/moorage/hub/v1/application_pb";
import {
  ApplicationService,
  CreateApplicationRequestSchema,
  DeleteApplicationRequestSchema,
  ListApplicationsResponseSchema,
  UpdateApplicationRequestSchema,
} from "@moorage/proto/moorage/hub/v1/application_service_pb";
import type { DataPlane } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import {
  CreateDataPlaneRequestSchema,
  DataPlaneService,
  DeleteDataPlaneRequestSchema,
  ListDataPlanesResponseSchema,
  UpdateDataPlaneRequestSchema,
} from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import {
  CreateTenantRequestSchema,
  DeleteTenantRequestSchema,
  ListTenantsResponseSchema,
  TenantService,
  UpdateTenantRequestSchema,
} from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import type { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { bind } from "@moorage/shared/grpc/types";
import type { BoundService, CallContext } from "@moorage/shared/grpc/types";
import type { Kind } from "../core/keys.ts";
import { checkId, requireName, requireParent } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { empty, fieldNames } from "../core/resources.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import type { Auth } from "./auth.ts";
import type { BasicItems } from "./basic-items.ts";
import type { ListQuery } from "./lists.ts";
import { isBasic, listBasicPage, listPage } from "./lists.ts";
import type { Call, Resources } from "./resources.ts";
import { watch } from "./watch.ts";
import type { WatchDeps, WatchEvent, WatchQuery } from "./watch.ts";

/** What the services share. */
export interface Api extends WatchDeps {
  items: BasicItems;
  resources: Resources;
  auth: Auth;
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

/** A watch as messages; counted against the caller's limit while its stream is open. */
export async function* events<M>(
  api: Api,
  at: { q: WatchQuery; principal: ApiPrincipal; ctx: CallContext },
  message: (change: Change) => M,
): AsyncGenerator<M | Marks, void, void> {
  api.auth.watch(at.ctx, at.principal);
  for await (const event of watch(api, at.q, at.ctx.signal)) {
    if (event.kind === "change") yield message(event);
    else yield { event: { case: event.kind, value: event.cursor } };
  }
}

/** What sets one kind's service apart from the others'. */
interface Of {
  kind: Kind;
  create: DescMessage;
  update: DescMessage;
  delete: DescMessage;
  list: DescMessage;
  /** The field of a List response that holds the resources, and that of a Watch's change. */
  fields: { many: string; one: string };
}

type Written = Message & { requestId: string; validateOnly: boolean };
type Listed = Omit<ListQuery, "kind" | "parent">;

/** The methods that all kinds have, over the shared implementation. `R` is the kind's message. */
function methods<R extends Resource>(api: Api, of: Of) {
  const { kind } = of;
  const field = fieldNames[kind];
  return {
    async create(request: Written, ctx: CallContext, at: { name: string; input: R | undefined }) {
      const principal = api.auth.require(ctx, "create", at.name);
      const what = { name: at.name, input: at.input ?? empty(kind) };
      const made = await api.resources.create(
        call(ctx, principal, { schema: of.create, message: request }),
        kind,
        what,
      );
      return made as R;
    },
    async get(request: { name: string; minRevision: bigint }, ctx: CallContext) {
      requireName(kind, "name", request.name);
      api.auth.require(ctx, "get", request.name);
      return (await api.resources.get(request.name, request.minRevision)) as R;
    },
    /** The response; encoded already where that spares work. `collection` is what is authorized. */
    async list<A>(request: Listed, ctx: CallContext, at: { collection: string; parent: string }) {
      const { within } = api.auth.requireCollection(ctx, "list", at.collection);
      const { pageSize, pageToken, filter, view, minRevision } = request;
      const q = { kind, parent: at.parent, pageSize, pageToken, filter, view, minRevision, within };
      if (isBasic(q)) return (await listBasicPage(api, q, { schema: of.list, signal: ctx.signal })) as A;
      const { resources, ...rest } = await listPage(api, q, ctx.signal);
      return { [of.fields.many]: resources, ...rest } as A;
    },
    async update(
      request: Written & { updateMask?: FieldMask | undefined; allowMissing: boolean },
      ctx: CallContext,
      given: R | undefined,
    ) {
      const input = given ?? empty(kind);
      requireName(kind, `${field}.name`, input.name);
      const principal = api.auth.require(ctx, "update", input.name);
      const at = { input, mask: request.updateMask, allowMissing: request.allowMissing };
      const facts = call(ctx, principal, { schema: of.update, message: request });
      return (await api.resources.update(facts, kind, at)) as R;
    },
    async delete(
      request: Written & {
        name: string;
        etag: string;
        allowMissing: boolean;
        orphan: boolean;
        force: boolean;
        removalAuthorization: Uint8Array;
      },
      ctx: CallContext,
    ) {
      const { name, etag, allowMissing, orphan, force, removalAuthorization: authorization } = request;
      requireName(kind, "name", name);
      const principal = api.auth.require(ctx, "delete", name);
      const what = { name, etag, allowMissing, orphan, force, authorization, empty: empty(kind) };
      const facts = call(ctx, principal, { schema: of.delete, message: request });
      return (await api.resources.delete(facts, kind, what)) as R;
    },
    watch<A>(
      request: { filter: string; view: View; cursor?: Cursor | undefined },
      ctx: CallContext,
      at: { collection: string; parent: string },
    ) {
      const { principal, within } = api.auth.requireCollection(ctx, "watch", at.collection);
      const { filter, view, cursor } = request;
      const q: WatchQuery = { kind, parent: at.parent, filter, view, cursor, within };
      return events(api, { q, principal, ctx }, (change) => {
        const { type, resource } = change;
        const position = change.cursor === undefined ? {} : { cursor: change.cursor };
        return {
          event: { case: "change" as const, value: { type, [of.fields.one]: resource, ...position } },
        };
      }) as AsyncIterable<A>;
    },
  };
}

/** DataPlaneService over the shared implementation. */
export function dataPlaneService(api: Api): BoundService {
  const of = methods<DataPlane>(api, {
    kind: "DataPlane",
    create: CreateDataPlaneRequestSchema,
    update: UpdateDataPlaneRequestSchema,
    delete: DeleteDataPlaneRequestSchema,
    list: ListDataPlanesResponseSchema,
    fields: { many: "dataPlanes", one: "dataPlane" },
  });
  const all = { collection: "dataPlanes", parent: "" };
  return bind(DataPlaneService, {
    createDataPlane(request, ctx) {
      checkId("data_plane_id", request.dataPlaneId);
      return of.create(request, ctx, {
        name: `dataPlanes/${request.dataPlaneId}`,
        input: request.dataPlane,
      });
    },
    getDataPlane: (request, ctx) => of.get(request, ctx),
    listDataPlanes: (request, ctx) => of.list(request, ctx, all),
    updateDataPlane: (request, ctx) => of.update(request, ctx, request.dataPlane),
    deleteDataPlane: (request, ctx) => of.delete(request, ctx),
    watchDataPlanes: (request, ctx) => of.watch(request, ctx, all),
  });
}

/** TenantService over the shared implementation. */
export function tenantService(api: Api): BoundService {
  const of = methods<Tenant>(api, {
    kind: "Tenant",
    create: CreateTenantRequestSchema,
    update: UpdateTenantRequestSchema,
    delete: DeleteTenantRequestSchema,
    list: ListTenantsResponseSchema,
    fields: { many: "tenants", one: "tenant" },
  });
  const all = { collection: "tenants", parent: "" };
  return bind(TenantService, {
    createTenant(request, ctx) {
      checkId("tenant_id", request.tenantId);
      return of.create(request, ctx, { name: `tenants/${request.tenantId}`, input: request.tenant });
    },
    getTenant: (request, ctx) => of.get(request, ctx),
    listTenants: (request, ctx) => of.list(request, ctx, all),
    updateTenant: (request, ctx) => of.update(request, ctx, request.tenant),
    deleteTenant: (request, ctx) => of.delete(request, ctx),
    watchTenants: (request, ctx) => of.watch(request, ctx, all),
  });
}

/** ApplicationService over the shared implementation. */
export function applicationService(api: Api): BoundService {
  const of = methods<Application>(api, {
    kind: "Application",
    create: CreateApplicationRequestSchema,
    update: UpdateApplicationRequestSchema,
    delete: DeleteApplicationRequestSchema,
    list: ListApplicationsResponseSchema,
    fields: { many: "applications", one: "application" },
  });
  const below = (parent: string) => ({
    collection: parent === "" || parent === "-" ? "applications" : `${parent}/applications`,
    parent,
  });
  return bind(ApplicationService, {
    createApplication(request, ctx) {
      requireParent("parent", request.parent);
      checkId("application_id", request.applicationId);
      const name = `${request.parent}/applications/${request.applicationId}`;
      return of.create(request, ctx, { name, input: request.application });
    },
    getApplication: (request, ctx) => of.get(request, ctx),
    listApplications: (request, ctx) => of.list(request, ctx, below(request.parent)),
    updateApplication: (request, ctx) => of.update(request, ctx, request.application),
    deleteApplication: (request, ctx) => of.delete(request, ctx),
    watchApplications: (request, ctx) => of.watch(request, ctx, below(request.parent)),
  });
}
