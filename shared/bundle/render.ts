/**
 * Rendering: pure and deterministic. A binding stands in a scalar value of a manifest:
 *
 *   replicas: ${{ parameters.replicas }}     the whole value: keeps its type, may be an object
 *   host: "${{ builtin.tenant }}.example"    part of a string: strings, numbers and booleans only
 *   text: "$${{ not a binding }}"            escape: gives ${{ not a binding }}
 *
 * Names are `parameters.<path>` and `builtin.<name>`, keys joined by dots, numbers for list items.
 * An unknown name is an error. Keys are never bound, a bound value is never read again for
 * bindings, and nothing else is edited.
 */
import { limits } from "../limits.ts";
import { checkJson, parseYamlAll } from "../yaml.ts";
import type { Json, JsonObject } from "../yaml.ts";
import type { BuiltIns, Bundle, RenderedObject } from "./bundle.ts";
import { manifestPaths, textOf } from "./manifest.ts";
import { refuseBundle } from "./refuse.ts";
import { checkParameters } from "./schema.ts";

const open = "${{";
const close = "}}";

/** Where a value stands, and what may be bound there. `budget` is shared: bytes still to be bound. */
interface Scope {
  file: string;
  path: string;
  names: JsonObject;
  budget: { bytes: number };
}

function fail(scope: Scope, why: string): Error {
  return refuseBundle(
    "MALFORMED",
    `Render "${scope.file}" at "${scope.path === "" ? "/" : scope.path}": ${why}`,
  );
}

function lookUp(name: string, scope: Scope): Json {
  let value: Json | undefined = scope.names;
  for (const key of name.split(".")) {
    const reachable: boolean =
      value !== null &&
      typeof value === "object" &&
      Object.hasOwn(value, key) &&
      (!Array.isArray(value) || /^\d+$/.test(key));
    value = reachable ? (value as JsonObject)[key] : undefined;
    if (value === undefined)
      throw fail(scope, `"${name.slice(0, 100)}" is unknown; names are parameters.* and builtin.*`);
  }
  scope.budget.bytes -= JSON.stringify(value).length;
  if (scope.budget.bytes < 0) {
    throw refuseBundle(
      "TOO_LARGE",
      `Render "${scope.file}": bound values are above ${limits.bundleUnpackedBytes} bytes`,
    );
  }
  return structuredClone(value) as Json;
}

/** One string's value, left to right, each bound part taken as it is. */
function bindString(text: string, scope: Scope): Json {
  let out = "";
  let at = 0;
  for (;;) {
    const start = text.indexOf(open, at);
    if (start < 0) return out + text.slice(at);
    if (start > at && text[start - 1] === "$") {
      out += text.slice(at, start - 1) + open;
      at = start + open.length;
      continue;
    }
    const end = text.indexOf(close, start);
    if (end < 0) throw fail(scope, `a binding is not closed; write "$${open}" for the text itself`);
    const value = lookUp(text.slice(start + open.length, end).trim(), scope);
    if (start === 0 && end + close.length === text.length) return value;
    if (value === null || typeof value === "object")
      throw fail(scope, "only a string, number or boolean fits inside a string");
    out += text.slice(at, start) + String(value);
    at = end + close.length;
  }
}

function bind(value: Json, scope: Scope): Json {
  if (typeof value === "string") return bindString(value, scope);
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value))
    return value.map((item, i) => bind(item, { ...scope, path: `${scope.path}/${i}` }));
  const bound = Object.entries(value).map(([key, item]) => [
    key,
    bind(item, { ...scope, path: `${scope.path}/${key}` }),
  ]);
  return Object.fromEntries(bound) as JsonObject;
}

function asObject(value: Json, scope: Scope): RenderedObject {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw fail(scope, "a document is no object");
  const { apiVersion, kind, metadata } = value as { apiVersion?: Json; kind?: Json; metadata?: Json };
  if (typeof apiVersion !== "string" || typeof kind !== "string")
    throw fail(scope, "apiVersion and kind are required");
  if (kind.endsWith("List") && Array.isArray(value["items"]))
    throw fail(scope, "a list is refused: write one document for each object");
  const name =
    metadata !== null && typeof metadata === "object" && !Array.isArray(metadata)
      ? metadata?.["name"]
      : undefined;
  if (typeof name !== "string" || name === "") throw fail(scope, "metadata.name is required");
  const size = Buffer.byteLength(JSON.stringify(value));
  if (size > limits.manifestBytes) {
    throw refuseBundle(
      "TOO_LARGE",
      `Render "${scope.file}": ${kind} "${name}" has ${size} bytes, limit ${limits.manifestBytes}`,
    );
  }
  return value as RenderedObject;
}

/** What makes two objects one: group, kind, namespace and name; the version does not. */
function identity(object: RenderedObject): string {
  const group = object.apiVersion.includes("/") ? object.apiVersion.split("/")[0] : "";
  return JSON.stringify([group, object.kind, object.metadata["namespace"] ?? "", object.metadata.name]);
}

/**
 * The bundle's objects for one application, by file name and then document order; hooks' manifests
 * are left out, see {@link renderFile}.
 * @param parameters the application's values; defaults are filled in and the schema is checked.
 * @throws MoorageError INVALID_ARGUMENT naming file and path.
 */
export function renderBundle(bundle: Bundle, parameters: JsonObject, builtIns: BuiltIns): RenderedObject[] {
  const hooks = new Set(bundle.manifest.hooks.map((hook) => hook.manifest));
  const names: JsonObject = {
    parameters: checkParameters(bundle.manifest.parameters, parameters),
    builtin: builtIns,
  };
  const budget = { bytes: limits.bundleUnpackedBytes };
  const objects: RenderedObject[] = [];
  const seen = new Set<string>();
  for (const file of manifestPaths(bundle.files)) {
    if (hooks.has(file)) continue;
    for (const object of renderDocuments(bundle, file, { names, budget })) {
      const id = identity(object);
      if (seen.has(id))
        throw refuseBundle(
          "MALFORMED",
          `Render "${file}": ${object.kind} "${object.metadata.name}" stands twice`,
        );
      seen.add(id);
      objects.push(object);
      if (objects.length > limits.bundleObjects) {
        throw refuseBundle(
          "TOO_LARGE",
          `Render bundle "${bundle.manifest.name}": more than ${limits.bundleObjects} objects`,
        );
      }
    }
  }
  return objects;
}

/** The objects of one file, e.g. a hook's manifest; else as {@link renderBundle}. */
export function renderFile(
  bundle: Bundle,
  file: string,
  values: { parameters: JsonObject; builtIns: BuiltIns },
): RenderedObject[] {
  const names = {
    parameters: checkParameters(bundle.manifest.parameters, values.parameters),
    builtin: values.builtIns,
  };
  return renderDocuments(bundle, file, { names, budget: { bytes: limits.bundleUnpackedBytes } });
}

function renderDocuments(
  bundle: Bundle,
  file: string,
  shared: Pick<Scope, "names" | "budget">,
): RenderedObject[] {
  return parseYamlAll(textOf(bundle.files, file), { name: file }).map((document) => {
    const scope: Scope = { file, path: "", ...shared };
    const bound = bind(document, scope);
    checkJson(bound, file);
    return asObject(bound, scope);
  });
}
