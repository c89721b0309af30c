/**
 * JSON as the API server needs it: integers beyond 2^53 stay exact, and the characters that its YAML
 * reader would refuse or change are escaped.
 */

/** A number kept as its source text (`JSON.rawJSON`, ECMA-262 "JSON.parse source text access"). */
export interface RawNumber {
  readonly rawJSON: string;
}

// The library types of TypeScript 7.0 do not know these two yet; Node 24 has both.
const rawApi = JSON as unknown as {
  rawJSON(text: string): RawNumber;
  isRawJSON(value: unknown): value is RawNumber;
};

/** True for a number that is kept as text. */
export function isRawNumber(value: unknown): value is RawNumber {
  return rawApi.isRawJSON(value);
}

/** The same for an object at hand. Raw numbers have no prototype, which is seen faster than asked. */
const isRaw = (value: object): value is RawNumber =>
  Object.getPrototypeOf(value) === null && rawApi.isRawJSON(value);

/** An exact integer from its decimal text. Throws SyntaxError on anything that is no JSON literal. */
export function rawNumber(text: string): RawNumber {
  return rawApi.rawJSON(text);
}

type SourceReviver = (key: string, value: unknown, context: { source?: string }) => unknown;

const keepBigIntegers: SourceReviver = (_key, value, context) => {
  if (typeof value !== "number" || Number.isSafeInteger(value) || context.source === undefined) return value;
  return /^-?[0-9]+$/.test(context.source) ? rawApi.rawJSON(context.source) : value;
};

/**
 * Parses JSON text. Integers beyond 2^53 come back as {@link RawNumber}. The reviver costs about five
 * times a plain parse, so it runs only when the text holds a run of 16 digits. Throws SyntaxError.
 */
export function parseJson(text: string): unknown {
  return /[0-9]{16}/.test(text)
    ? JSON.parse(text, keepBigIntegers as (key: string, value: unknown) => unknown)
    : JSON.parse(text);
}

/**
 * Text of `value` for a request body. The server reads apply bodies as YAML, which refuses U+007F to
 * U+009F, U+FFFE and U+FFFF raw and stores U+0085 as a space, so these are escaped; they can occur
 * inside strings only. A bigint becomes its exact digits.
 */
export function encodeJson(value: unknown): string {
  let text: string;
  try {
    text = JSON.stringify(value);
  } catch (thrown) {
    if (!(thrown instanceof TypeError)) throw thrown;
    text = JSON.stringify(value, (_key, v: unknown) =>
      typeof v === "bigint" ? rawApi.rawJSON(v.toString()) : v,
    );
  }
  return text.replace(
    /[\u007f-\u009f\ufffe\uffff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** A deep copy of a JSON value that keeps raw numbers; undefined members are dropped. */
export function cloneJson<T>(value: T): T {
  if (typeof value !== "object" || value === null || isRaw(value)) return value;
  if (Array.isArray(value)) return value.map((item) => cloneJson(item as unknown)) as T;
  const out: Record<string, unknown> = {};
  const from = value as Record<string, unknown>;
  for (const key of Object.keys(from)) {
    const item = from[key];
    if (item !== undefined) defineKey(out, key, cloneJson(item));
  }
  return out as T;
}

/** Deep equality of JSON values; object key order does not matter, list order does. */
export function equalJson(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null || isRaw(a) || isRaw(b))
    return canonicalJson(a) === canonicalJson(b);
  if (Array.isArray(a) || Array.isArray(b)) {
    return (
      Array.isArray(a) &&
      Array.isArray(b) &&
      a.length === b.length &&
      a.every((item, i) => equalJson(item, b[i] as unknown))
    );
  }
  const [left, right] = [a as Record<string, unknown>, b as Record<string, unknown>];
  let members = 0;
  for (const key of Object.keys(left)) {
    if (left[key] === undefined) continue;
    members++;
    if (!Object.hasOwn(right, key) || right[key] === undefined || !equalJson(left[key], right[key]))
      return false;
  }
  for (const key of Object.keys(right)) if (right[key] !== undefined) members--;
  return members === 0;
}

/**
 * One text per JSON value: keys sorted by code unit, no spaces, numbers as ECMAScript prints them
 * (RFC 8785), exact integers by their digits. Members that are undefined are left out.
 */
export function canonicalJson(value: unknown): string {
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  if (isRaw(value)) return value.rawJSON;
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  const map = value as Record<string, unknown>;
  const parts: string[] = [];
  for (const key of Object.keys(map).sort()) {
    if (map[key] !== undefined) parts.push(`${JSON.stringify(key)}:${canonicalJson(map[key])}`);
  }
  return `{${parts.join(",")}}`;
}

/** Sets an own property even when the key is `__proto__`. */
export function defineKey(target: Record<string, unknown>, key: string, value: unknown): void {
  if (key === "__proto__") {
    Object.defineProperty(target, key, { value, enumerable: true, configurable: true, writable: true });
  } else {
    target[key] = value;
  }
}
