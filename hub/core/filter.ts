/**
 * Filters of List and Watch, a small part of AIP-160: comparisons joined by AND.
 *
 *   filter     = comparison { "AND" comparison }
 *   comparison = path ( "=" | "!=" ) value
 *   path       = field { "." field }          snake_case, as in the protos; labels.KEY for maps
 *   value      = word | "quoted text" | true | false | number
 *
 * A path that leads nowhere equals the empty text. Pure.
 */
import type { JsonValue } from "@bufbuild/protobuf";
import { invalidField } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import type { Resource } from "./resources.ts";
import { asJson } from "./resources.ts";

interface Comparison {
  path: string[];
  equal: boolean;
  value: string;
}

/** A compiled filter. */
export type Filter = (resource: Resource) => boolean;

const token = /\s*(?:(!=|=)|"((?:[^"\\]|\\.)*)"|([^\s="!]+))/y;

/** Compiles `text`; INVALID_ARGUMENT for `filter` with the place where it went wrong. Empty matches all. */
export function compileFilter(text: string): Filter {
  if (text.trim() === "") return () => true;
  if (Buffer.byteLength(text) > limits.filterBytes)
    throw invalidField(
      "filter",
      `has ${Buffer.byteLength(text)} bytes, the limit filterBytes is ${limits.filterBytes}`,
    );
  const comparisons = parse(text);
  return (resource) => {
    const json = asJson(resource);
    return comparisons.every((c) => (textAt(json, c.path) === c.value) === c.equal);
  };
}

function parse(text: string): Comparison[] {
  const tokens: { text: string; quoted: boolean; at: number }[] = [];
  token.lastIndex = 0;
  const end = text.trimEnd().length;
  while (token.lastIndex < end) {
    const at = token.lastIndex;
    const m = token.exec(text);
    if (m === null) throw invalidField("filter", `cannot read at character ${at + 1}`);
    tokens.push({
      text: m[1] ?? m[3] ?? (m[2] as string).replace(/\\(.)/g, "$1"),
      quoted: m[2] !== undefined,
      at,
    });
  }
  const out: Comparison[] = [];
  for (let i = 0; i < tokens.length;) {
    const [path, op, value, and] = tokens.slice(i, i + 4);
    if (
      path === undefined ||
      op === undefined ||
      value === undefined ||
      path.quoted ||
      !["=", "!="].includes(op.text)
    ) {
      throw invalidField(
        "filter",
        `expects a comparison like spec.customer_id = "c1" at character ${(path?.at ?? text.length) + 1}`,
      );
    }
    // The class holds the dot itself: a repeated group would try every way to split a run of them.
    if (!/^[a-z_]+(\.[A-Za-z0-9_./-]+)?$/.test(path.text))
      throw invalidField("filter", `"${path.text.slice(0, 64)}" is no field path`);
    out.push({ path: toPath(path.text), equal: op.text === "=", value: value.text });
    i += 3;
    if (and === undefined) break;
    if (and.quoted || and.text !== "AND" || tokens[i + 1] === undefined)
      throw invalidField("filter", `expects AND and another comparison at character ${and.at + 1}`);
    i += 1;
  }
  return out;
}

/** `labels.KEY` keeps the key whole, since label keys hold dots. */
function toPath(text: string): string[] {
  const map = /^(labels|annotations|spec\.quota|spec\.capacity)\.(.+)$/.exec(text);
  if (map !== null) return [...(map[1] as string).split("."), map[2] as string];
  return text.split(".").map((p) => p.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase()));
}

function textAt(json: JsonValue, path: readonly string[]): string {
  let at: JsonValue | undefined = json;
  for (const key of path) {
    if (at === null || typeof at !== "object" || Array.isArray(at) || !Object.hasOwn(at, key)) return "";
    at = at[key];
  }
  return at === undefined || at === null || typeof at === "object" ? "" : String(at);
}
