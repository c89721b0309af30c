import type { JsonPatchOperation } from "./client.ts";
import { KubeError } from "./errors.ts";
import { canonicalJson, cloneJson, defineKey } from "./json.ts";
import { asMap, describeRef, refOf, type KubeObject } from "./object.ts";

/** RFC 6902 on a copy that the caller owns. Throws 422 when a test or path fails. */
export function patchJson(object: KubeObject, operations: readonly JsonPatchOperation[]): KubeObject {
  const root: Record<string, unknown> = { "": object };
  // Named now: an operation may take away what the name is made of.
  const what = describeRef(refOf(object));
  const failed = (op: JsonPatchOperation) =>
    new KubeError(`Cannot patch ${what}: operation ${op.op} at "${op.path}" failed`, {
      status: 422,
      reason: "Invalid",
    });
  const locate = (
    op: JsonPatchOperation,
    path: string,
  ): { parent: Record<string, unknown> | unknown[]; key: string } => {
    const names = path.split("/").map((n) => n.replaceAll("~1", "/").replaceAll("~0", "~"));
    let at: unknown = root;
    for (const name of names.slice(0, -1)) {
      at = Array.isArray(at) ? at[Number(name)] : own(asMap(at), name);
      if (typeof at !== "object" || at === null) throw failed(op);
    }
    return { parent: at as Record<string, unknown>, key: names.at(-1) as string };
  };
  const read = (op: JsonPatchOperation, path: string): unknown => {
    const { parent, key } = locate(op, path);
    return Array.isArray(parent) ? parent[Number(key)] : own(parent, key);
  };
  const write = (op: JsonPatchOperation, path: string, value: unknown) => {
    const { parent, key } = locate(op, path);
    if (!Array.isArray(parent)) defineKey(parent, key, value);
    else if (op.op === "replace") parent[Number(key)] = value;
    else parent.splice(key === "-" ? parent.length : Number(key), 0, value);
  };
  const remove = (op: JsonPatchOperation, path: string) => {
    const { parent, key } = locate(op, path);
    if (read(op, path) === undefined) throw failed(op);
    if (Array.isArray(parent)) parent.splice(Number(key), 1);
    else delete parent[key];
  };
  for (const op of operations) {
    if (op.op === "test") {
      if (canonicalJson(read(op, op.path) ?? null) !== canonicalJson(op.value ?? null)) throw failed(op);
    } else if (op.op === "remove") remove(op, op.path);
    else if (op.op === "move" || op.op === "copy") {
      const value = cloneJson(read(op, op.from ?? ""));
      if (op.op === "move") remove(op, op.from ?? "");
      write(op, op.path, value);
    } else {
      if (op.op === "replace" && read(op, op.path) === undefined) throw failed(op);
      write(op, op.path, cloneJson(op.value));
    }
  }
  return root[""] as KubeObject;
}

/** RFC 7386. */
export function mergeJson(target: unknown, patch: unknown): unknown {
  const map = asMap(patch);
  if (map === undefined) return cloneJson(patch);
  const out: Record<string, unknown> = { ...asMap(target) };
  for (const [key, value] of Object.entries(map)) {
    if (value === undefined) continue;
    if (value === null) delete out[key];
    else defineKey(out, key, mergeJson(own(out, key), value));
  }
  return out;
}

/** A member of the map itself: a key such as `__proto__` must not lead out of it. */
function own(map: Record<string, unknown> | undefined, key: string): unknown {
  return map !== undefined && Object.hasOwn(map, key) ? map[key] : undefined;
}
