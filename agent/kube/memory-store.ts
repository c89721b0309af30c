import type { Clock } from "@moorage/shared/clock";
import { uuid, type Rng } from "@moorage/shared/rng";
import { KubeError, type StatusCause } from "./errors.ts";
import { cloneJson, equalJson } from "./json.ts";
import { equalObjects, specOf, statusOnto } from "./memory-compare.ts";
import { applyFields, updateFields, type Manager } from "./memory-fields.ts";
import { builtinKinds, type MemoryKind } from "./memory-kinds.ts";
import {
  apiVersionOf,
  asMap,
  describeRef,
  dig,
  groupOf,
  refOf,
  versionOf,
  type KindRef,
  type KubeObject,
  type ObjectRef,
} from "./object.ts";

/**
 * The synchronous core of the in-memory cluster: storage, versions, finalizers, namespace and CRD
 * life cycles, and the log of changes that watches read. Authorisation and transport are above it.
 */

/** A change in the log. `before` is absent on creation, `after` on removal. */
export interface Change {
  resourceVersion: number;
  kindKey: string;
  before: KubeObject | undefined;
  after: KubeObject | undefined;
}

/** Options of a write in the store. */
export interface StoreWrite {
  manager: string;
  subresource?: "status" | undefined;
  dryRun?: boolean | undefined;
}

/** How long the log of changes reaches back, in changes. */
const LOG_MAX = 10_000;

export class MemoryStore {
  #clock: Clock;
  #rng: Rng;
  #kinds = new Map<string, MemoryKind>();
  #objects = new Map<string, Map<string, KubeObject>>();
  #version = 100;
  #log: Change[] = [];
  #compacted = 0;
  /** Called after each change, synchronously. */
  onChange: ((change: Change) => void) | undefined;

  constructor(deps: { clock: Clock; rng: Rng }) {
    this.#clock = deps.clock;
    this.#rng = deps.rng;
    for (const kind of builtinKinds()) this.#kinds.set(`${kind.group}/${kind.kind}`, kind);
    for (const name of ["default", "kube-system"]) {
      this.create({ apiVersion: "v1", kind: "Namespace", metadata: { name } }, { manager: "kube-apiserver" });
    }
  }

  get version(): string {
    return String(this.#version);
  }

  kinds(): IterableIterator<MemoryKind> {
    return this.#kinds.values();
  }

  /** Throws 404 like a path that is not served. */
  kindOf(ref: KindRef): MemoryKind {
    const kind = this.#kinds.get(`${groupOf(ref.apiVersion)}/${ref.kind}`);
    if (kind === undefined || !kind.versions.includes(versionOf(ref.apiVersion))) {
      throw new KubeError(
        `Cannot find kind "${ref.kind}": the cluster does not serve it in "${ref.apiVersion}"`,
        { status: 404, reason: "KindNotInstalled" },
      );
    }
    return kind;
  }

  get(ref: ObjectRef): KubeObject {
    const found = this.#find(ref);
    if (found === undefined) throw notFound(ref);
    return stamp(cloneJson(found), ref);
  }

  /** The object itself, not a copy and not to be changed, as it is stored; undefined when there is none. */
  peek(ref: ObjectRef): KubeObject | undefined {
    return this.#find(ref);
  }

  /** The objects of a kind themselves, not copies and not to be changed, in no order. */
  peekAll(kind: KindRef): IterableIterator<KubeObject> {
    this.kindOf(kind);
    return (this.#objects.get(kindKey(kind)) ?? new Map<string, KubeObject>()).values();
  }

  /** All objects of a kind that `wanted` takes, in key order. */
  list(kind: KindRef, wanted: (object: KubeObject) => boolean = () => true): KubeObject[] {
    this.kindOf(kind);
    const out: KubeObject[] = [];
    for (const [, object] of [...(this.#objects.get(kindKey(kind)) ?? [])].sort(byKey))
      if (wanted(object)) out.push(stamp(cloneJson(object), kind));
    return out;
  }

  /** Changes after `version`, oldest first. Throws 410 when the log no longer reaches back to it. */
  changesSince(version: string, kind: KindRef): Change[] {
    const from = Number(version);
    if (from < this.#compacted) {
      throw new KubeError(
        `Cannot watch ${kind.kind}: too old resource version: ${version} (${this.#compacted})`,
        { status: 410, reason: "Expired" },
      );
    }
    const key = kindKey(kind);
    return this.#log.filter((change) => change.kindKey === key && change.resourceVersion > from);
  }

  /** Forgets the log, as etcd's compaction does: watches from older versions get 410. */
  compact(): void {
    this.#log = [];
    this.#compacted = this.#version;
  }

  create(input: KubeObject, write: StoreWrite): KubeObject {
    const kind = this.kindOf(input);
    const object = cloneJson(input);
    if (object.metadata.name === undefined || object.metadata.name === "") {
      const prefix = object.metadata.generateName ?? "";
      if (prefix === "")
        throw invalid(refOf(object), [
          {
            reason: "FieldValueRequired",
            message: "Required value: name or generateName is required",
            field: "metadata.name",
          },
        ]);
      object.metadata.name = prefix + Buffer.from(this.#rng.bytes(4)).toString("hex").slice(0, 5);
    }
    const ref = refOf(object);
    this.#checkNamespace(kind, ref);
    if (this.#find(ref) !== undefined) {
      throw new KubeError(`Cannot create ${describeRef(ref)}: it already exists`, {
        status: 409,
        reason: "AlreadyExists",
        about: kind.plural,
      });
    }
    this.#initialise(object, kind);
    object.metadata.managedFields = updateFields(undefined, object, this.#manager(input.apiVersion, write));
    return write.dryRun === true ? object : this.#store(kind, undefined, object);
  }

  update(input: KubeObject, write: StoreWrite): KubeObject {
    const kind = this.kindOf(input);
    const ref = refOf(input);
    const live = this.#find(ref);
    if (live === undefined) throw notFound(ref);
    return this.#replace(kind, live, cloneJson(input), write);
  }

  /** JSON patch or merge patch; `change` gets its own copy and returns the new object. */
  patch(ref: ObjectRef, write: StoreWrite, change: (object: KubeObject) => KubeObject): KubeObject {
    const kind = this.kindOf(ref);
    const live = this.#find(ref);
    if (live === undefined) throw notFound(ref);
    return this.#replace(kind, live, change(stamp(cloneJson(live), ref)), write);
  }

  apply(input: KubeObject, write: StoreWrite & { force: boolean }): { object: KubeObject; created: boolean } {
    const kind = this.kindOf(input);
    const ref = refOf(input);
    const live = this.#find(ref);
    if (live === undefined) {
      this.#checkNamespace(kind, ref);
      if (write.subresource !== undefined || input.metadata.uid !== undefined) throw notFound(ref);
    } else this.#checkVersions(ref, live, input);
    const applied = cloneJson(input);
    if (kind.hasStatus && write.subresource === undefined) delete applied["status"];
    if (write.subresource === "status")
      for (const key of Object.keys(applied))
        if (!["apiVersion", "kind", "metadata", "status"].includes(key)) delete applied[key];
    const merged = applyFields(live, applied, {
      manager: this.#manager(input.apiVersion, write),
      force: write.force,
    });
    if ("conflicts" in merged) {
      const causes = merged.conflicts.map((c): StatusCause => ({
        reason: "FieldManagerConflict",
        message: `conflict with ${JSON.stringify(c.manager)} using ${c.apiVersion}`,
        field: c.field,
      }));
      throw new KubeError(
        `Cannot apply ${describeRef(ref)}: Apply failed with ${causes.length} conflict(s)`,
        { status: 409, reason: "Conflict", causes },
      );
    }
    const object = merged.object;
    if (live === undefined) {
      this.#initialise(object, kind);
      return { object: write.dryRun === true ? object : this.#store(kind, undefined, object), created: true };
    }
    return { object: this.#commit(kind, live, object, write), created: false };
  }

  /** The object while something keeps it alive; undefined when it is gone. */
  delete(
    ref: ObjectRef,
    options: { uid?: string | undefined; resourceVersion?: string | undefined; dryRun?: boolean | undefined },
  ): KubeObject | undefined {
    const kind = this.kindOf(ref);
    const live = this.#find(ref);
    if (live === undefined) throw notFound(ref);
    if (options.uid !== undefined && options.uid !== live.metadata.uid)
      throw stale(
        ref,
        `Precondition failed: UID in precondition: ${options.uid}, UID in object meta: ${live.metadata.uid ?? ""}`,
      );
    if (options.resourceVersion !== undefined && options.resourceVersion !== live.metadata.resourceVersion)
      throw stale(ref, "Precondition failed: resourceVersion");
    if (options.dryRun === true) return undefined;
    return this.#delete(kind, live, ref);
  }

  #delete(kind: MemoryKind, live: KubeObject, ref: ObjectRef): KubeObject | undefined {
    const isNamespace = kind.kind === "Namespace" && kind.group === "";
    const isCrd = kind.kind === "CustomResourceDefinition";
    const contents = isNamespace ? this.#inNamespace(live.metadata.name) : isCrd ? this.#instances(live) : [];
    const held = (live.metadata.finalizers ?? []).length > 0 || contents.length > 0;
    if (!held) {
      this.#remove(kind, live);
      return undefined;
    }
    let marked = live;
    if (live.metadata.deletionTimestamp === undefined) {
      const next = cloneJson(live);
      next.metadata.deletionTimestamp = this.#time();
      if (typeof next.metadata.generation === "number") next.metadata.generation++;
      if (isNamespace) next["status"] = { ...asMap(next["status"]), phase: "Terminating" };
      marked = this.#store(kind, live, next);
    }
    for (const object of contents) {
      const inner = refOf(object);
      if (this.#find(inner) !== undefined) this.#delete(this.kindOf(inner), object, inner);
    }
    const after = this.#find(ref);
    return after === undefined ? undefined : stamp(cloneJson(after ?? marked), ref);
  }

  #inNamespace(namespace: string): KubeObject[] {
    const out: KubeObject[] = [];
    for (const objects of this.#objects.values())
      for (const object of objects.values()) if (object.metadata.namespace === namespace) out.push(object);
    return out;
  }

  #instances(crd: KubeObject): KubeObject[] {
    const key = `${String(dig(crd, "spec", "group"))}/${String(dig(crd, "spec", "names", "kind"))}`;
    return [...(this.#objects.get(key)?.values() ?? [])];
  }

  #replace(kind: MemoryKind, live: KubeObject, next: KubeObject, write: StoreWrite): KubeObject {
    const ref = refOf(next);
    this.#checkVersions(ref, live, next);
    const merged = write.subresource === "status" ? statusOnto(live, next) : next;
    if (kind.hasStatus && write.subresource === undefined) {
      if (live["status"] === undefined) delete merged["status"];
      else merged["status"] = cloneJson(live["status"]);
    }
    for (const key of ["uid", "creationTimestamp", "deletionTimestamp", "generation"] as const) {
      if (live.metadata[key] === undefined) delete merged.metadata[key];
      else (merged.metadata as Record<string, unknown>)[key] = live.metadata[key];
    }
    merged.metadata.managedFields = updateFields(live, merged, this.#manager(next.apiVersion, write));
    return this.#commit(kind, live, merged, write);
  }

  /** Stores a changed object; a write that changes nothing bumps no version. */
  #commit(kind: MemoryKind, live: KubeObject, next: KubeObject, write: StoreWrite): KubeObject {
    next.metadata.resourceVersion = live.metadata.resourceVersion as string;
    if (equalObjects(next, live)) return stamp(cloneJson(live), next);
    if (typeof live.metadata.generation === "number" && !equalJson(specOf(next), specOf(live))) {
      next.metadata.generation = live.metadata.generation + 1;
    }
    if (write.dryRun === true) return next;
    if (
      next.metadata.deletionTimestamp !== undefined &&
      (next.metadata.finalizers ?? []).length === 0 &&
      (live.metadata.finalizers ?? []).length > 0
    ) {
      const answer = stamp(cloneJson(next), next);
      this.#remove(kind, live);
      return answer;
    }
    return this.#store(kind, live, next);
  }

  #checkVersions(ref: ObjectRef, live: KubeObject, next: KubeObject): void {
    if (next.metadata.uid !== undefined && next.metadata.uid !== live.metadata.uid)
      throw stale(ref, "Precondition failed: UID in precondition");
    const expected = next.metadata.resourceVersion;
    if (expected !== undefined && expected !== "" && expected !== live.metadata.resourceVersion) {
      throw stale(
        ref,
        "the object has been modified; please apply your changes to the latest version and try again",
      );
    }
  }

  #checkNamespace(kind: MemoryKind, ref: ObjectRef): void {
    if (!kind.namespaced) return;
    const name = ref.namespace ?? "";
    const namespace = this.#objects.get("/Namespace")?.get(`/${name}`);
    if (namespace === undefined)
      throw new KubeError(`Cannot write ${describeRef(ref)}: namespaces "${name}" not found`, {
        status: 404,
        reason: "NotFound",
        about: "namespaces",
      });
    if (namespace.metadata.deletionTimestamp !== undefined) {
      const causes = [
        {
          reason: "NamespaceTerminating",
          message: `namespace ${name} is being terminated`,
          field: "metadata.namespace",
        },
      ];
      throw new KubeError(`Cannot write ${describeRef(ref)}: namespace ${name} is being terminated`, {
        status: 403,
        reason: "Forbidden",
        causes,
      });
    }
  }

  #initialise(object: KubeObject, kind: MemoryKind): void {
    object.metadata.uid = uuid(this.#rng);
    object.metadata.creationTimestamp = this.#time();
    delete object.metadata.resourceVersion;
    delete object.metadata.deletionTimestamp;
    if (kind.hasStatus) {
      object.metadata.generation = 1;
      delete object["status"];
    }
    if (kind.kind === "Namespace") object["status"] = { phase: "Active" };
  }

  #store(kind: MemoryKind, before: KubeObject | undefined, object: KubeObject): KubeObject {
    const key = `${kind.group}/${kind.kind}`;
    object.apiVersion = apiVersionOf(kind.group, kind.versions[0] as string);
    object.kind = kind.kind;
    object.metadata.resourceVersion = String(++this.#version);
    let all = this.#objects.get(key);
    if (all === undefined) this.#objects.set(key, (all = new Map()));
    all.set(nameKey(object), object);
    if (key === CRD_KEY) this.#serve(object);
    this.#record({ resourceVersion: this.#version, kindKey: key, before, after: object });
    if (key === CRD_KEY && before === undefined) this.#establish(object);
    return cloneJson(object);
  }

  #remove(kind: MemoryKind, live: KubeObject): void {
    const key = `${kind.group}/${kind.kind}`;
    this.#objects.get(key)?.delete(nameKey(live));
    const gone = cloneJson(live);
    gone.metadata.resourceVersion = String(++this.#version);
    this.#record({ resourceVersion: this.#version, kindKey: key, before: gone, after: undefined });
    if (key === CRD_KEY)
      this.#kinds.delete(
        `${String(dig(live, "spec", "group"))}/${String(dig(live, "spec", "names", "kind"))}`,
      );
    else this.#finishCrd(key);
    const namespace = live.metadata.namespace;
    if (namespace !== undefined) this.#finishNamespace(namespace);
  }

  /** A namespace under deletion goes with the last object in it. */
  #finishNamespace(name: string): void {
    const namespace = this.#objects.get("/Namespace")?.get(`/${name}`);
    if (namespace?.metadata.deletionTimestamp === undefined || this.#inNamespace(name).length > 0) return;
    if ((namespace.metadata.finalizers ?? []).length === 0) this.#remove(this.kindOf(namespace), namespace);
  }

  #finishCrd(kindKey: string): void {
    for (const crd of this.#objects.get(CRD_KEY)?.values() ?? []) {
      if (crd.metadata.deletionTimestamp === undefined || this.#instances(crd).length > 0) continue;
      if (`${String(dig(crd, "spec", "group"))}/${String(dig(crd, "spec", "names", "kind"))}` === kindKey)
        this.#remove(this.kindOf(crd), crd);
    }
  }

  #serve(crd: KubeObject): void {
    const versions = dig(crd, "spec", "versions");
    const rows = (Array.isArray(versions) ? (versions as unknown[]) : []).filter(
      (v) => dig(v, "served") !== false,
    );
    const group = String(dig(crd, "spec", "group"));
    const kind = String(dig(crd, "spec", "names", "kind"));
    this.#kinds.set(`${group}/${kind}`, {
      group,
      versions: rows.map((v) => String(dig(v, "name"))),
      kind,
      plural: String(dig(crd, "spec", "names", "plural")),
      namespaced: dig(crd, "spec", "scope") !== "Cluster",
      hasStatus: rows.some((v) => dig(v, "subresources", "status") !== undefined),
    });
  }

  /** What the CRD controller does, as its own write after the creation. */
  #establish(crd: KubeObject): void {
    const next = cloneJson(crd);
    next["status"] = {
      conditions: [
        { type: "NamesAccepted", status: "True", reason: "NoConflicts", message: "" },
        { type: "Established", status: "True", reason: "InitialNamesAccepted", message: "" },
      ],
    };
    this.#store(this.kindOf(crd), crd, next);
  }

  #record(change: Change): void {
    this.#log.push(change);
    if (this.#log.length > LOG_MAX) this.#compacted = (this.#log.shift() as Change).resourceVersion;
    this.onChange?.(change);
  }

  #find(ref: ObjectRef): KubeObject | undefined {
    const kind = this.kindOf(ref);
    const namespace = kind.namespaced ? (ref.namespace ?? "") : "";
    return this.#objects.get(`${kind.group}/${kind.kind}`)?.get(`${namespace}/${ref.name}`);
  }

  #manager(apiVersion: string, write: StoreWrite): Manager {
    return { name: write.manager, apiVersion, subresource: write.subresource ?? "", time: this.#time() };
  }

  #time(): string {
    return new Date(this.#clock.now()).toISOString().replace(/\.\d{3}Z$/, "Z");
  }
}

const CRD_KEY = "apiextensions.k8s.io/CustomResourceDefinition";

/** `group/Kind`. */
export function kindKey(kind: KindRef): string {
  return `${groupOf(kind.apiVersion)}/${kind.kind}`;
}

function byKey([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1;
}

function nameKey(object: KubeObject): string {
  return `${object.metadata.namespace ?? ""}/${object.metadata.name}`;
}

function stamp(object: KubeObject, kind: KindRef): KubeObject {
  object.apiVersion = kind.apiVersion;
  object.kind = kind.kind;
  return object;
}

function notFound(ref: ObjectRef): KubeError {
  return new KubeError(`Cannot find ${describeRef(ref)}: not found`, { status: 404, reason: "NotFound" });
}

function stale(ref: ObjectRef, message: string): KubeError {
  return new KubeError(`Cannot write ${describeRef(ref)}: ${message}`, { status: 409, reason: "Conflict" });
}

function invalid(ref: ObjectRef, causes: StatusCause[]): KubeError {
  return new KubeError(`Cannot write ${describeRef(ref)}: ${causes.map((c) => c.message).join("; ")}`, {
    status: 422,
    reason: "Invalid",
    causes,
  });
}
