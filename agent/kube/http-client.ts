import type { Clock } from "@moorage/shared/clock";
import {
  serviceAccountUser,
  type AppliedAs,
  type DeleteOptions,
  type KubeClient,
  type KubeSession,
  type ListOptions,
  type ListPage,
  type WatchOptions,
  type WriteAnswer,
  type WriteOptions,
} from "./client.ts";
import type { Credentials } from "./credentials.ts";
import { createDiscovery, groupVersionPath } from "./discovery-cache.ts";
import type { Discovery } from "./discovery.ts";
import { isKubeError, KubeError, parseAnswer, unparsable } from "./errors.ts";
import { encodeJson } from "./json.ts";
import { asMap, describeRef, refOf, type KindRef, type KubeObject, type ObjectRef } from "./object.ts";
import { createTransport, type HttpAnswer, type HttpRequest, type Transport } from "./transport.ts";

/** Field manager of writes that name none. */
export const DEFAULT_FIELD_MANAGER = "moorage-agent";

const METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_ONLY_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/** A KubeClient for the cluster that `credentials` lead to. Connects on first use. */
export function createHttpClient(deps: { credentials: Credentials; clock: Clock }): KubeClient {
  const transport = createTransport(deps);
  const json = async (path: string): Promise<unknown> => {
    const what = `Cannot read "${path}"`;
    return parseAnswer(what, (await transport.send({ what, method: "GET", path })).text);
  };
  const discovery = createDiscovery({
    resources: (apiVersion) => json(groupVersionPath(apiVersion)),
    groups: () => json("/apis"),
    monotonicMs: () => deps.clock.monotonicMs(),
  });
  return {
    discovery,
    asAgent: () => session(transport, discovery, { kind: "Agent" }, {}),
    asServiceAccount(account) {
      const headers = { "impersonate-user": serviceAccountUser(account) };
      return session(transport, discovery, { kind: "ServiceAccount", ...account }, headers);
    },
    rawGet: async (path) =>
      (await transport.send({ what: `Cannot read "${path}"`, method: "GET", path })).text,
    close: () => transport.close(),
  };
}

type Query = Record<string, string | number | boolean | undefined>;
type Send = (request: HttpRequest, kind: KindRef) => Promise<HttpAnswer>;

/** The verbs under one identity, whose headers go on every call. */
function session<I extends AppliedAs>(
  transport: Transport,
  discovery: Discovery,
  identity: I,
  as: Record<string, string>,
): KubeSession<I> {
  const send: Send = async (request, kind) => {
    try {
      return await transport.send({ ...request, headers: { ...request.headers, ...as } });
    } catch (thrown) {
      // "No such path": what discovery remembers of this group-version is out of date.
      if (isKubeError(thrown, 404, "KindNotInstalled")) discovery.invalidate(kind.apiVersion);
      throw thrown;
    }
  };
  const path = (ref: ObjectRef, query: Query, subresource?: string) =>
    objectPath(discovery, ref, query, subresource);
  const patch = async (
    ref: ObjectRef,
    body: {
      type: string;
      value: unknown;
      query: Query;
      subresource?: string | undefined;
      signal?: AbortSignal | undefined;
      verb: string;
    },
  ): Promise<WriteAnswer> =>
    written(
      await send(
        {
          what: `Cannot ${body.verb} ${describeRef(ref)}`,
          method: "PATCH",
          path: await path(ref, body.query, body.subresource),
          headers: { "content-type": body.type },
          body: encodeJson(body.value),
          ...withSignal(body.signal),
        },
        ref,
      ),
    );

  return {
    identity,
    async get(ref, options = {}) {
      const answer = await send(
        {
          what: `Cannot get ${describeRef(ref)}`,
          method: "GET",
          path: await path(ref, {}),
          ...(options.metadataOnly === true ? { headers: { accept: METADATA_ONLY } } : {}),
          ...withSignal(options.signal),
        },
        ref,
      );
      return stamp(objectOf(answer.text), ref);
    },
    async list(kind, options = {}) {
      const answer = await send(
        {
          what: `Cannot list ${kind.apiVersion} ${kind.kind}`,
          method: "GET",
          path: await collectionPath(discovery, kind, options.namespace, listQuery(options)),
          ...(options.metadataOnly === true ? { headers: { accept: METADATA_ONLY_LIST } } : {}),
          ...withSignal(options.signal),
        },
        kind,
      );
      return pageOf(answer.text, kind);
    },
    async create(object, options = {}) {
      const kind = { apiVersion: object.apiVersion, kind: object.kind };
      return written(
        await send(
          {
            what: `Cannot create ${describeRef(refOf(object))}`,
            method: "POST",
            path: await collectionPath(discovery, kind, object.metadata.namespace, {
              ...writeQuery(options),
              fieldValidation: "Strict",
            }),
            headers: { "content-type": "application/json" },
            body: encodeJson(object),
            ...withSignal(options.signal),
          },
          kind,
        ),
      );
    },
    async update(object, options = {}) {
      const ref = refOf(object);
      return written(
        await send(
          {
            what: `Cannot update ${describeRef(ref)}`,
            method: "PUT",
            path: await path(ref, { ...writeQuery(options), fieldValidation: "Strict" }, options.subresource),
            headers: { "content-type": "application/json" },
            body: encodeJson(object),
            ...withSignal(options.signal),
          },
          ref,
        ),
      );
    },
    apply: (object, options) =>
      patch(refOf(object), {
        verb: "apply",
        type: "application/apply-patch+yaml",
        value: object,
        query: { ...writeQuery(options), force: options.force === true, fieldValidation: "Strict" },
        signal: options.signal,
      }),
    patchStatus(object, options) {
      const { name, namespace, resourceVersion } = object.metadata;
      const value = {
        apiVersion: object.apiVersion,
        kind: object.kind,
        metadata: { name, namespace, resourceVersion },
        status: object["status"],
      };
      const apply = options.mode !== "merge";
      return patch(refOf(object), {
        verb: "write the status of",
        type: apply ? "application/apply-patch+yaml" : "application/merge-patch+json",
        value: apply ? value : { metadata: { resourceVersion }, status: value.status },
        query: { ...writeQuery(options), ...(apply ? { force: true } : {}) },
        subresource: "status",
        signal: options.signal,
      });
    },
    jsonPatch: (ref, operations, options = {}) =>
      patch(ref, {
        verb: "patch",
        type: "application/json-patch+json",
        value: operations,
        query: writeQuery(options),
        subresource: options.subresource,
        signal: options.signal,
      }),
    mergePatch: (ref, value, options = {}) =>
      patch(ref, {
        verb: "patch",
        type: "application/merge-patch+json",
        value,
        query: writeQuery(options),
        subresource: options.subresource,
        signal: options.signal,
      }),
    async delete(ref, options = {}) {
      const answer = await send(
        {
          what: `Cannot delete ${describeRef(ref)}`,
          method: "DELETE",
          path: await path(ref, {}),
          headers: { "content-type": "application/json" },
          body: encodeJson(deleteBody(options)),
          ...withSignal(options.signal),
        },
        ref,
      );
      const status =
        asMap(parseAnswer(`Cannot delete ${describeRef(ref)}`, answer.text))?.["kind"] === "Status";
      const object = status ? undefined : objectOf(answer.text);
      return object?.metadata.deletionTimestamp === undefined ? {} : { object: stamp(object, ref) };
    },
    watch: (kind, options) => watchLines(transport, discovery, { kind, options, as }),
  };
}

async function* watchLines(
  transport: Transport,
  discovery: Discovery,
  call: { kind: KindRef; options: WatchOptions; as: Record<string, string> },
): AsyncIterable<string> {
  const { kind, options } = call;
  yield* transport.lines({
    what: `Cannot watch ${kind.apiVersion} ${kind.kind}`,
    method: "GET",
    path: await collectionPath(discovery, kind, options.namespace, watchQuery(options)),
    headers: { ...(options.metadataOnly === true ? { accept: METADATA_ONLY } : {}), ...call.as },
    signal: options.signal,
  });
}

async function collectionPath(
  discovery: Discovery,
  kind: KindRef,
  namespace: string | undefined,
  query: Query,
): Promise<string> {
  const type = await discovery.resolve(kind);
  const scope =
    type.namespaced && namespace !== undefined && namespace !== ""
      ? `/namespaces/${encodeURIComponent(namespace)}`
      : "";
  return `${groupVersionPath(kind.apiVersion)}${scope}/${type.plural}${queryText(query)}`;
}

async function objectPath(
  discovery: Discovery,
  ref: ObjectRef,
  query: Query,
  subresource: string | undefined,
): Promise<string> {
  const type = await discovery.resolve(ref);
  if (ref.name === "")
    throw new KubeError(`Cannot address ${ref.kind}: the name is empty`, {
      status: 400,
      reason: "BadRequest",
    });
  if (type.namespaced && (ref.namespace === undefined || ref.namespace === "")) {
    throw new KubeError(
      `Cannot address ${describeRef(ref)}: the kind is namespaced, and no namespace is given`,
      { status: 400, reason: "BadRequest" },
    );
  }
  const scope = type.namespaced ? `/namespaces/${encodeURIComponent(ref.namespace as string)}` : "";
  const below = subresource === undefined ? "" : `/${subresource}`;
  return `${groupVersionPath(ref.apiVersion)}${scope}/${type.plural}/${encodeURIComponent(ref.name)}${below}${queryText(query)}`;
}

function queryText(query: Query): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (value !== undefined) search.set(key, String(value));
  const text = search.toString();
  return text === "" ? "" : `?${text}`;
}

function writeQuery(options: WriteOptions): Query {
  return {
    fieldManager: options.fieldManager ?? DEFAULT_FIELD_MANAGER,
    dryRun: options.dryRun === true ? "All" : undefined,
  };
}

function listQuery(options: ListOptions): Query {
  const { labelSelector, fieldSelector, limit, resourceVersion, resourceVersionMatch } = options;
  return {
    labelSelector,
    fieldSelector,
    limit,
    continue: options.continue,
    resourceVersion,
    resourceVersionMatch,
  };
}

function watchQuery(options: WatchOptions): Query {
  const { labelSelector, fieldSelector, resourceVersion, timeoutSeconds } = options;
  const initial =
    options.sendInitialEvents === true
      ? { sendInitialEvents: true, resourceVersionMatch: "NotOlderThan" }
      : {};
  return {
    watch: true,
    allowWatchBookmarks: true,
    labelSelector,
    fieldSelector,
    resourceVersion,
    timeoutSeconds,
    ...initial,
  };
}

function deleteBody(options: DeleteOptions): Record<string, unknown> {
  const { uid, resourceVersion, gracePeriodSeconds } = options;
  return {
    apiVersion: "v1",
    kind: "DeleteOptions",
    propagationPolicy: options.propagationPolicy ?? "Background",
    gracePeriodSeconds,
    ...(uid === undefined && resourceVersion === undefined
      ? {}
      : { preconditions: { uid, resourceVersion } }),
    ...(options.dryRun === true ? { dryRun: ["All"] } : {}),
  };
}

function withSignal(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

function written(answer: HttpAnswer): WriteAnswer {
  return { object: objectOf(answer.text), created: answer.status === 201, warnings: answer.warnings };
}

function objectOf(text: string): KubeObject {
  const value = parseAnswer("Cannot read the answer", text);
  if (!isObject(value)) throw unparsable("Cannot read the answer", "it is no Kubernetes object");
  return value;
}

function isObject(value: unknown): value is KubeObject {
  return asMap(asMap(value)?.["metadata"]) !== undefined;
}

function stamp(object: KubeObject, kind: KindRef): KubeObject {
  object.apiVersion = kind.apiVersion;
  object.kind = kind.kind;
  return object;
}

const isListKind = (kind: unknown): boolean => typeof kind === "string" && kind.endsWith("List");

/** A page; what is no list is no empty one: all that is not on it would be taken for deleted. */
function pageOf(text: string, kind: KindRef): ListPage {
  const what = `Cannot list ${kind.apiVersion} ${kind.kind}`;
  const map = asMap(parseAnswer(what, text));
  const metadata = asMap(map?.["metadata"]) ?? {};
  // Go writes an empty list as null.
  const raw = map?.["items"] === null && isListKind(map["kind"]) ? [] : map?.["items"];
  if (!Array.isArray(raw)) throw unparsable(what, "the answer has no items");
  const items = raw.map((item: unknown) => {
    if (!isObject(item)) throw unparsable(what, "an item is no Kubernetes object");
    return stamp(item, kind);
  });
  const next = metadata["continue"];
  const left = metadata["remainingItemCount"];
  return {
    items,
    resourceVersion: String(metadata["resourceVersion"] ?? ""),
    ...(typeof next === "string" && next !== "" ? { continue: next } : {}),
    ...(typeof left === "number" ? { remainingItemCount: left } : {}),
  };
}
