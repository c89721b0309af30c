import type { Clock } from "@moorage/shared/clock";
import type { Rng } from "@moorage/shared/rng";
import {
  serviceAccountUser,
  type AppliedAs,
  type KubeClient,
  type KubeSession,
  type ListOptions,
  type ListPage,
  type WatchOptions,
  type WriteOptions,
} from "./client.ts";
import { createDiscovery, groupVersionPath } from "./discovery-cache.ts";
import type { Discovery } from "./discovery.ts";
import { isExpired, KubeError } from "./errors.ts";
import { allowed } from "./memory-access.ts";
import { mergeJson, patchJson } from "./json-patch.ts";
import { kindKey, MemoryStore, type Change } from "./memory-store.ts";
import { apiVersionOf, describeRef, refOf, type KindRef, type KubeObject, type ObjectRef } from "./object.ts";
import { parseSelector } from "./selector.ts";

/**
 * A cluster in memory behind the KubeClient interface, for the deterministic simulation: same inputs,
 * same clock and same seed give the same run. It is an engine of its own that passes the client's
 * conformance suite, not a mock. Deliberately absent: schemas (so no strict validation and no
 * defaults), admission, quotas, controllers other than those of Namespaces and CRDs, and the garbage
 * collector.
 */
export interface MemoryCluster {
  /** A client with its own discovery cache, as a process has; `process` stands in its calls. */
  client(process?: string): KubeClient;
  /** Every call that was let through or refused, in order. */
  readonly calls: readonly MemoryCall[];
  /** Empties {@link calls}. */
  forgetCalls(): void;
  /** The agent's rights without a call: for arranging and for asserting. */
  readonly store: MemoryStore;
  /** Ends all watches now, as a server restart does. */
  dropWatches(): void;
  /** Forgets history: watches that resume from before get 410. */
  compact(): void;
  /** Consulted at each call; see {@link MemoryFaults}. */
  faults: MemoryFaults;
}

/** A call as the audit log shows it. */
export interface MemoryCall {
  verb: "get" | "list" | "watch" | "create" | "update" | "apply" | "patch" | "delete";
  ref: KindRef & { namespace?: string; name?: string };
  subresource?: "status";
  dryRun: boolean;
  identity: AppliedAs;
  /** Of the client; empty when it was given none. */
  process: string;
}

/** Faults to inject. Both may throw (a KubeError) or wait. */
export interface MemoryFaults {
  /** Before the call takes effect. */
  before?(call: MemoryCall): void | Promise<void>;
  /** After it took effect, before the caller hears: a lost answer. */
  after?(call: MemoryCall): void | Promise<void>;
}

/** A new, empty cluster (with namespaces `default` and `kube-system`). */
export function createMemoryCluster(deps: { clock: Clock; rng: Rng }): MemoryCluster {
  const store = new MemoryStore(deps);
  const calls: MemoryCall[] = [];
  const watchers = new Set<Watcher>();
  store.onChange = (change) => {
    for (const watcher of watchers) watcher.take(change);
  };
  const cluster: MemoryCluster = {
    store,
    calls,
    faults: {},
    client: (process = "") => memoryClient(cluster, { clock: deps.clock, watchers, calls, process }),
    forgetCalls: () => void calls.splice(0),
    dropWatches: () => {
      for (const watcher of [...watchers]) watcher.end();
    },
    compact: () => store.compact(),
  };
  return cluster;
}

interface Shared {
  clock: Clock;
  watchers: Set<Watcher>;
  calls: MemoryCall[];
  process: string;
}

function memoryClient(cluster: MemoryCluster, shared: Shared): KubeClient {
  const { store } = cluster;
  const discovery = createDiscovery({
    resources: (apiVersion) => Promise.resolve(resourceList(store, apiVersion)),
    groups: () => Promise.resolve(groupList(store)),
    monotonicMs: () => shared.clock.monotonicMs(),
  });
  const closer = new AbortController();
  const context = { cluster, shared, discovery, closed: closer.signal };
  return {
    discovery,
    asAgent: () => memorySession(context, { kind: "Agent" as const }),
    asServiceAccount(account) {
      serviceAccountUser(account);
      return memorySession(context, { kind: "ServiceAccount" as const, ...account });
    },
    rawGet: (path) =>
      path === "/version"
        ? Promise.resolve(JSON.stringify({ major: "1", minor: "37", gitVersion: "v1.37.0-memory" }))
        : Promise.reject(
            new KubeError(`Cannot read "${path}": not found`, { status: 404, reason: "NotFound" }),
          ),
    close() {
      closer.abort(new KubeError("Cannot call: the client is closed", { status: 0, reason: "Closed" }));
      return Promise.resolve();
    },
  };
}

interface SessionContext {
  cluster: MemoryCluster;
  shared: Shared;
  discovery: Discovery;
  closed: AbortSignal;
}

function memorySession<I extends AppliedAs>(context: SessionContext, identity: I): KubeSession<I> {
  const { cluster, shared, discovery, closed } = context;
  const { store } = cluster;

  /** One call: discovery as a real client does, faults, authorisation, then the effect. */
  const call = async <R>(
    what: Omit<MemoryCall, "identity" | "dryRun" | "process"> & {
      dryRun?: boolean | undefined;
      signal?: AbortSignal | undefined;
    },
    effect: () => R,
  ): Promise<R> => {
    const { signal, ...rest } = what;
    const entry: MemoryCall = { ...rest, dryRun: what.dryRun === true, identity, process: shared.process };
    await discovery.resolve(what.ref);
    signal?.throwIfAborted();
    closed.throwIfAborted();
    shared.calls.push(entry);
    await cluster.faults.before?.(entry);
    authorise(entry);
    let result: R;
    try {
      result = effect();
    } catch (thrown) {
      if (thrown instanceof KubeError && thrown.reason === "KindNotInstalled")
        discovery.invalidate(what.ref.apiVersion);
      throw thrown;
    }
    await cluster.faults.after?.(entry);
    return result;
  };
  const authorise = (entry: MemoryCall) => {
    const kind = store.kindOf(entry.ref);
    const verb = entry.verb === "apply" ? "patch" : entry.verb;
    const namespace = kind.namespaced ? (entry.ref.namespace ?? "") : "";
    if (allowed(store, identity, { verb, group: kind.group, plural: kind.plural, namespace })) return;
    throw new KubeError(
      `Cannot ${entry.verb} ${entry.ref.kind} "${entry.ref.name ?? ""}": User cannot ${verb} resource "${kind.plural}" in the namespace "${namespace}"`,
      {
        status: 403,
        reason: "Forbidden",
        about: kind.plural,
      },
    );
  };
  const fields = (options: WriteOptions | undefined) => ({
    manager: options?.fieldManager ?? "moorage-agent",
    dryRun: options?.dryRun,
  });
  const patch = (
    ref: ObjectRef,
    options: (WriteOptions & { subresource?: "status" }) | undefined,
    change: (o: KubeObject) => KubeObject,
  ) =>
    call({ verb: "patch", ref, ...sub(options), dryRun: options?.dryRun, signal: options?.signal }, () =>
      answer(store.patch(ref, { ...fields(options), subresource: options?.subresource }, change)),
    );

  return {
    identity,
    get: (ref, options) =>
      call({ verb: "get", ref, signal: options?.signal }, () => view(store.get(ref), options?.metadataOnly)),
    list: (kind, options = {}) =>
      call({ verb: "list", ref: scoped(kind, options.namespace), signal: options.signal }, () =>
        page(store, kind, options),
      ),
    create: (object, options) =>
      call({ verb: "create", ref: refOf(object), dryRun: options?.dryRun, signal: options?.signal }, () =>
        answer(store.create(object, fields(options)), true),
      ),
    update: (object, options) =>
      call(
        {
          verb: "update",
          ref: refOf(object),
          ...sub(options),
          dryRun: options?.dryRun,
          signal: options?.signal,
        },
        () => answer(store.update(object, { ...fields(options), subresource: options?.subresource })),
      ),
    apply: (object, options) =>
      call({ verb: "apply", ref: refOf(object), dryRun: options.dryRun, signal: options.signal }, () => {
        const done = store.apply(object, { ...fields(options), force: options.force === true });
        return answer(done.object, done.created);
      }),
    patchStatus(object, options) {
      const ref = refOf(object);
      const { name, namespace, resourceVersion } = object.metadata;
      if (options.mode === "merge") {
        return patch(
          ref,
          { ...options, subresource: "status" },
          (live) =>
            mergeJson(live, { metadata: { resourceVersion }, status: object["status"] }) as KubeObject,
        );
      }
      const metadata = {
        name,
        ...(namespace === undefined ? {} : { namespace }),
        ...(resourceVersion === undefined ? {} : { resourceVersion }),
      };
      return call(
        { verb: "apply", ref, subresource: "status", dryRun: options.dryRun, signal: options.signal },
        () =>
          answer(
            store.apply(
              { apiVersion: object.apiVersion, kind: object.kind, metadata, status: object["status"] },
              { ...fields(options), subresource: "status", force: true },
            ).object,
          ),
      );
    },
    jsonPatch: (ref, operations, options) => patch(ref, options, (live) => patchJson(live, operations)),
    mergePatch: (ref, value, options) => patch(ref, options, (live) => mergeJson(live, value) as KubeObject),
    delete: (ref, options = {}) =>
      call({ verb: "delete", ref, dryRun: options.dryRun, signal: options.signal }, () => {
        const object = store.delete(ref, options);
        return object === undefined ? {} : { object };
      }),
    watch: (kind, options) =>
      watchLines(context, {
        kind,
        options,
        begin: (effect) =>
          call({ verb: "watch", ref: scoped(kind, options.namespace), signal: options.signal }, effect),
      }),
  };
}

function sub(options: { subresource?: "status" } | undefined): { subresource?: "status" } {
  return options?.subresource === undefined ? {} : { subresource: options.subresource };
}

function scoped(kind: KindRef, namespace: string | undefined): MemoryCall["ref"] {
  return { apiVersion: kind.apiVersion, kind: kind.kind, ...(namespace === undefined ? {} : { namespace }) };
}

function answer(object: KubeObject, created = false) {
  return { object, created, warnings: [] };
}

function view(object: KubeObject, metadataOnly: boolean | undefined): KubeObject {
  return metadataOnly === true
    ? { apiVersion: object.apiVersion, kind: object.kind, metadata: object.metadata }
    : object;
}

type Filter = (object: KubeObject) => boolean;

function filterOf(options: { namespace?: string; labelSelector?: string; fieldSelector?: string }): Filter {
  const labels = parseSelector(options.labelSelector);
  const fields = parseSelector(options.fieldSelector);
  return (object) =>
    (options.namespace === undefined ||
      options.namespace === "" ||
      object.metadata.namespace === options.namespace) &&
    labels(object.metadata.labels) &&
    fields({ "metadata.name": object.metadata.name, "metadata.namespace": object.metadata.namespace ?? "" });
}

function page(store: MemoryStore, kind: KindRef, options: ListOptions): ListPage {
  let version = store.version;
  let from = 0;
  const all = store.list(kind, filterOf(options));
  if (options.continue !== undefined) {
    const [at, last] = JSON.parse(options.continue) as [string, string];
    store.changesSince(at, kind);
    version = at;
    from = all.findIndex((o) => pageKey(o) > last);
    if (from < 0) from = all.length;
  }
  const limit = options.limit ?? all.length;
  const items = all.slice(from, from + limit).map((o) => view(o, options.metadataOnly));
  const left = all.length - from - items.length;
  const next =
    left > 0
      ? { continue: JSON.stringify([version, pageKey(items.at(-1) as KubeObject)]), remainingItemCount: left }
      : {};
  return { items, resourceVersion: version, ...next };
}

function pageKey(object: KubeObject): string {
  return `${object.metadata.namespace ?? ""}/${object.metadata.name}`;
}

/** One open watch: frames wait here until they are read. */
interface Watcher {
  take(change: Change): void;
  end(): void;
}

async function* watchLines(
  context: SessionContext,
  watch: { kind: KindRef; options: WatchOptions; begin(effect: () => string[]): Promise<string[]> },
): AsyncIterable<string> {
  const { kind, options } = watch;
  const { shared, cluster } = context;
  const { store } = cluster;
  const filter = filterOf(options);
  const key = kindKey(kind);
  const lines: string[] = [];
  let ended = false;
  let wake = () => {};
  const watcher: Watcher = {
    take(change) {
      const frame =
        change.kindKey === key
          ? frameOf(change, kind, { filter, metadataOnly: options.metadataOnly })
          : undefined;
      if (frame === undefined) return;
      lines.push(frame);
      wake();
    },
    end() {
      ended = true;
      wake();
    },
  };
  // Opening and reading the first state are one step, so that no change falls between them.
  lines.push(
    ...(await watch.begin(() => {
      const first = initialFrames(store, kind, { options, filter });
      shared.watchers.add(watcher);
      return first;
    })),
  );
  const timer =
    options.timeoutSeconds === undefined
      ? undefined
      : shared.clock.setTimer(options.timeoutSeconds * 1000, () => watcher.end());
  const onAbort = () => wake();
  options.signal.addEventListener("abort", onAbort, { once: true });
  context.closed.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      options.signal.throwIfAborted();
      context.closed.throwIfAborted();
      const line = lines.shift();
      if (line !== undefined) yield line;
      else if (ended) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    shared.watchers.delete(watcher);
    timer?.cancel();
    options.signal.removeEventListener("abort", onAbort);
    context.closed.removeEventListener("abort", onAbort);
  }
}

function initialFrames(
  store: MemoryStore,
  kind: KindRef,
  watch: { options: WatchOptions; filter: Filter },
): string[] {
  const { options, filter } = watch;
  const shape = { filter, metadataOnly: options.metadataOnly };
  store.kindOf(kind);
  if (
    options.resourceVersion !== undefined &&
    options.resourceVersion !== "" &&
    options.sendInitialEvents !== true
  ) {
    try {
      return store
        .changesSince(options.resourceVersion, kind)
        .map((c) => frameOf(c, kind, shape))
        .filter((f) => f !== undefined);
    } catch (thrown) {
      // A real server opens the stream and says so in its first frame.
      if (!isExpired(thrown)) throw thrown;
      const message = (thrown as KubeError).message;
      return [
        JSON.stringify({
          type: "ERROR",
          object: {
            kind: "Status",
            apiVersion: "v1",
            status: "Failure",
            message,
            reason: "Expired",
            code: 410,
          },
        }),
      ];
    }
  }
  if (options.sendInitialEvents !== true) return [];
  const frames = store
    .list(kind, filter)
    .map((object) => JSON.stringify({ type: "ADDED", object: view(object, options.metadataOnly) }));
  const end = {
    apiVersion: kind.apiVersion,
    kind: kind.kind,
    metadata: { resourceVersion: store.version, annotations: { "k8s.io/initial-events-end": "true" } },
  };
  return [...frames, JSON.stringify({ type: "BOOKMARK", object: end })];
}

/** A change as one selector sees it: leaving the selection is a deletion, entering it an addition. */
function frameOf(
  change: Change,
  kind: KindRef,
  shape: { filter: Filter; metadataOnly: boolean | undefined },
): string | undefined {
  const was = change.before !== undefined && shape.filter(change.before);
  const is = change.after !== undefined && shape.filter(change.after);
  if (!was && !is) return undefined;
  const type = is ? (was ? "MODIFIED" : "ADDED") : "DELETED";
  const object = (is || change.after !== undefined ? change.after : change.before) as KubeObject;
  return JSON.stringify({
    type,
    object: view({ ...object, apiVersion: kind.apiVersion }, shape.metadataOnly),
  });
}

function resourceList(store: MemoryStore, apiVersion: string): unknown {
  const resources: unknown[] = [];
  for (const kind of store.kinds()) {
    if (!kind.versions.some((v) => apiVersionOf(kind.group, v) === apiVersion)) continue;
    resources.push({
      name: kind.plural,
      kind: kind.kind,
      namespaced: kind.namespaced,
      verbs: ["create", "delete", "get", "list", "patch", "update", "watch"],
    });
    if (kind.hasStatus)
      resources.push({
        name: `${kind.plural}/status`,
        kind: kind.kind,
        namespaced: kind.namespaced,
        verbs: ["get", "patch", "update"],
      });
  }
  if (resources.length === 0)
    throw new KubeError(`Cannot read "${groupVersionPath(apiVersion)}": not found`, {
      status: 404,
      reason: "NotFound",
    });
  return { kind: "APIResourceList", groupVersion: apiVersion, resources };
}

function groupList(store: MemoryStore): unknown {
  const groups = new Map<string, Set<string>>();
  for (const kind of store.kinds()) {
    if (kind.group === "") continue;
    const versions = groups.get(kind.group) ?? new Set<string>();
    for (const version of kind.versions) versions.add(version);
    groups.set(kind.group, versions);
  }
  return {
    kind: "APIGroupList",
    groups: [...groups].map(([name, versions]) => ({
      name,
      versions: [...versions].map((version) => ({ version })),
      preferredVersion: { version: [...versions][0] },
    })),
  };
}

/** An object's address for messages. */
export function describeCall(call: MemoryCall): string {
  return `${call.verb} ${describeRef({ ...call.ref, name: call.ref.name ?? "*" })}`;
}
