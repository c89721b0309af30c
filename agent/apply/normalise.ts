import { cloneJson, rawNumber } from "../kube/json.ts";
import { asMap, dig, groupOf, versionOf, type KubeObject } from "../kube/object.ts";
import { hashJson } from "./hash.ts";
import { PART_OF_LABEL } from "./labels.ts";
import { describeId, idKey, type ObjectId } from "./types.ts";

/**
 * Rendered manifests brought into the one form that is hashed and sent. Pure: scopes come in as
 * answers of discovery.
 */

/** A manifest in its final form. */
export interface NormalObject {
  id: ObjectId;
  version: string;
  object: KubeObject;
  /** Hash of `object`. */
  hash: string;
}

/** What normalising needs to know. */
export interface NormaliseContext {
  /** `undefined`: the kind is not known, here or in a CRD of the set. */
  scopeOf(apiVersion: string, kind: string): "Namespaced" | "Cluster" | undefined;
  /** Labels of every member. */
  labels: Readonly<Record<string, string>>;
  defaultNamespace?: string;
  /** Namespaces that may be written; undefined: no limit (data-plane scope). */
  namespaces?: readonly string[];
}

/** Why a set is refused as a whole; the messages name each object. */
export interface NormaliseErrors {
  errors: readonly string[];
}

/** The set in input order, or the reasons against it. */
export function normalise(
  manifests: readonly KubeObject[],
  context: NormaliseContext,
): NormalObject[] | NormaliseErrors {
  const errors: string[] = [];
  const out: NormalObject[] = [];
  const seen = new Set<string>();
  for (const manifest of manifests) {
    const refused = refuse(manifest);
    if (refused !== undefined) {
      errors.push(refused);
      continue;
    }
    const scope = context.scopeOf(manifest.apiVersion, manifest.kind);
    const namespace =
      scope === "Cluster" ? "" : (manifest.metadata.namespace ?? context.defaultNamespace ?? "");
    const id: ObjectId = {
      group: groupOf(manifest.apiVersion),
      kind: manifest.kind,
      namespace,
      name: manifest.metadata.name,
    };
    const wrong = misplaced(id, scope, context);
    if (wrong !== undefined) errors.push(wrong);
    if (seen.has(idKey(id))) errors.push(`Cannot apply ${describeId(id)}: the set holds it twice`);
    seen.add(idKey(id));
    const object = normaliseObject(manifest, { namespace, labels: context.labels });
    out.push({ id, version: versionOf(manifest.apiVersion), object, hash: hashJson(object) });
  }
  return errors.length > 0 ? { errors } : out;
}

function refuse(manifest: KubeObject): string | undefined {
  const what = `Cannot apply ${String(manifest.kind)} "${String(dig(manifest, "metadata", "name") ?? "")}"`;
  if (
    typeof manifest.apiVersion !== "string" ||
    manifest.apiVersion === "" ||
    typeof manifest.kind !== "string" ||
    manifest.kind === ""
  ) {
    return `${what}: apiVersion and kind are required`;
  }
  const name = dig(manifest, "metadata", "name");
  if (typeof name !== "string" || name === "") return `${what}: metadata.name is required`;
  if (dig(manifest, "metadata", "labels", PART_OF_LABEL) !== undefined)
    return `${what}: the label ${PART_OF_LABEL} is reserved`;
  return undefined;
}

/** An early message only: what holds is the API server's answer to the impersonated write. */
function misplaced(
  id: ObjectId,
  scope: "Namespaced" | "Cluster" | undefined,
  context: NormaliseContext,
): string | undefined {
  if (context.namespaces === undefined) return undefined;
  if (scope === "Cluster")
    return `Cannot apply ${describeId(id)}: a tenant's application may not hold cluster-scoped objects`;
  if (scope === "Namespaced" && !context.namespaces.includes(id.namespace)) {
    return `Cannot apply ${describeId(id)}: namespace "${id.namespace}" is not the tenant's`;
  }
  return undefined;
}

const SERVER_FIELDS = [
  "uid",
  "resourceVersion",
  "generation",
  "managedFields",
  "creationTimestamp",
  "selfLink",
  "deletionTimestamp",
  "deletionGracePeriodSeconds",
  "generateName",
];

/** One manifest: stripped, rewritten, labelled. The input is not changed. */
export function normaliseObject(
  manifest: KubeObject,
  context: { namespace: string; labels: Readonly<Record<string, string>> },
): KubeObject {
  const object = dropEmpty(exactNumbers(cloneJson(manifest))) as KubeObject;
  delete object["status"];
  const metadata = object.metadata;
  for (const field of SERVER_FIELDS) delete metadata[field];
  if (context.namespace === "") delete metadata.namespace;
  else metadata.namespace = context.namespace;
  metadata.labels = { ...metadata.labels, ...context.labels };
  rewrite(object);
  return object;
}

/** Bigints (from a YAML reader) become exact raw numbers. */
function exactNumbers(value: unknown): unknown {
  if (typeof value === "bigint") return rawNumber(value.toString());
  if (Array.isArray(value)) return value.map(exactNumbers);
  const map = asMap(value);
  if (map !== undefined) for (const key of Object.keys(map)) map[key] = exactNumbers(map[key]);
  return value;
}

/**
 * Nulls everywhere (the server drops them, and each apply of one bumps resourceVersion: kubernetes
 * 108234), and the empty lists that it leaves out (`subjects: []`: kubernetes 131175).
 */
function dropEmpty(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(dropEmpty);
  const map = asMap(value);
  if (map === undefined) return value;
  for (const [key, item] of Object.entries(map)) {
    if (item === null || (OMITTED_WHEN_EMPTY.has(key) && Array.isArray(item) && item.length === 0))
      delete map[key];
    else map[key] = dropEmpty(item);
  }
  return value;
}

/** Lists that the built-in types mark `omitempty`; in rules and network policies an empty list means something. */
const OMITTED_WHEN_EMPTY = new Set([
  "subjects",
  "env",
  "envFrom",
  "volumes",
  "volumeMounts",
  "imagePullSecrets",
  "tolerations",
  "finalizers",
  "ownerReferences",
  "initContainers",
]);

function rewrite(object: KubeObject): void {
  const group = groupOf(object.apiVersion);
  if (group === "" && object.kind === "Secret") secretData(object);
  if (group === "" && object.kind === "Service") defaultProtocol(dig(object, "spec", "ports"));
  for (const spec of podSpecs(object)) {
    for (const key of ["containers", "initContainers", "ephemeralContainers"]) {
      for (const container of arrayOf(spec[key])) defaultProtocol(asMap(container)?.["ports"]);
    }
  }
  if (group === "apiextensions.k8s.io" && object.kind === "CustomResourceDefinition") {
    const client = asMap(dig(object, "spec", "conversion", "webhook", "clientConfig"));
    // A placeholder that is no certificate is refused; the injector fills it in later.
    if (typeof client?.["caBundle"] === "string" && !client["caBundle"].startsWith("LS0t"))
      delete client["caBundle"];
  }
}

/** `stringData` is write-only: applied as it is, its keys are never released (kubernetes 108008). */
function secretData(object: KubeObject): void {
  const text = asMap(object["stringData"]);
  if (text === undefined) return;
  const data: Record<string, unknown> = { ...asMap(object["data"]) };
  for (const [key, value] of Object.entries(text))
    data[key] = Buffer.from(String(value), "utf8").toString("base64");
  object["data"] = data;
  delete object["stringData"];
}

/** The key of a port list includes the protocol, so it must be there (structured-merge-diff 130). */
function defaultProtocol(ports: unknown): void {
  for (const port of arrayOf(ports)) {
    const map = asMap(port);
    if (map !== undefined && map["protocol"] === undefined) map["protocol"] = "TCP";
  }
}

function podSpecs(object: KubeObject): Record<string, unknown>[] {
  const group = groupOf(object.apiVersion);
  const at =
    group === "" && object.kind === "Pod"
      ? dig(object, "spec")
      : group === "batch" && object.kind === "CronJob"
        ? dig(object, "spec", "jobTemplate", "spec", "template", "spec")
        : group === "apps" || group === "batch" || (group === "" && object.kind === "ReplicationController")
          ? dig(object, "spec", "template", "spec")
          : undefined;
  const spec = asMap(at);
  return spec === undefined ? [] : [spec];
}

function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
