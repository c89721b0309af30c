import { createHash } from "node:crypto";
import { canonicalJson } from "../kube/json.ts";

/** SHA-256 of a JSON value's canonical text, as hex. Key order does not matter, list order does. */
export function hashJson(value: unknown): string {
  return createHash("sha256").update(canonicalJson(value)).digest("hex");
}
