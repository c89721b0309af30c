/** Objects of the in-memory cluster compared and combined: pure. */
import { canonicalJson, cloneJson, equalJson } from "./json.ts";
import type { KubeObject } from "./object.ts";

/** All but metadata and status. */
export function specOf(object: KubeObject): Record<string, unknown> {
  const { metadata: _metadata, status: _status, apiVersion: _apiVersion, kind: _kind, ...rest } = object;
  return rest;
}

/** Equal but for what changes at each write: times of managed fields, and their order. */
export function equalObjects(a: KubeObject, b: KubeObject): boolean {
  const others = (o: KubeObject) => ({ ...o.metadata, managedFields: undefined });
  const owners = (o: KubeObject) =>
    (o.metadata.managedFields ?? []).map(({ time: _time, ...entry }) => canonicalJson(entry)).sort();
  return (
    equalJson(specOf(a), specOf(b)) &&
    equalJson(a["status"], b["status"]) &&
    equalJson(others(a), others(b)) &&
    equalJson(owners(a), owners(b))
  );
}

/** `live` with the status of `next`. */
export function statusOnto(live: KubeObject, next: KubeObject): KubeObject {
  const out = cloneJson(live);
  out.apiVersion = next.apiVersion;
  if (next["status"] === undefined) delete out["status"];
  else out["status"] = next["status"];
  return out;
}
