/**
 * Parameters: the bundle's JSON schema (draft 2020-12) and the values of one application. The same
 * check runs at the hub, in the agent and in the CLI. A schema refers to nothing outside itself.
 */
import { Ajv2020 } from "ajv/dist/2020.js";
import type { ErrorObject, ValidateFunction } from "ajv/dist/2020.js";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { checkJson } from "../yaml.ts";
import type { Json, JsonObject } from "../yaml.ts";
import { refuseBundle } from "./refuse.ts";

/** Keywords whose value maps names to schemas; the names are no keywords. */
const maps: ReadonlySet<string> = new Set(["properties", "patternProperties", "$defs", "dependentSchemas"]);
/** Keywords whose value is data, not schema. */
const data: ReadonlySet<string> = new Set(["const", "enum", "default", "examples"]);
/** Keywords for people, which cost nothing. */
const notes: ReadonlySet<string> = new Set(["title", "description", "$comment"]);
/** At most this many violations are named. */
const maxViolations = 10;

/** Longest text a pattern is tried on; a longer one does not match. */
const patternTextLength = 512;

/**
 * Whether a backtracking engine could take long: what remains allowed is at most cubic in 512
 * characters. Escapes and classes are taken out first, for their characters repeat nothing.
 */
function slowPattern(pattern: string): boolean {
  const bare = pattern.replace(/\\./gs, "E").replace(/\[[^\]]*\]/g, "C");
  const count = (wanted: RegExp): number => bare.match(wanted)?.length ?? 0;
  return (
    pattern.length > 256 ||
    !bare.startsWith("^") ||
    /\)[*+{]/.test(bare) ||
    count(/[*+{]/g) > 3 ||
    count(/[?|]/g) > 8
  );
}

const slowText =
  'the pattern may take long: start with "^", repeat no group, repeat at most 3 times, and use at most 8 "?" and "|"';

/** The pattern engine handed to the validator: bounded text, the language's own matcher. */
const boundedRegExp = Object.assign(
  (pattern: string, flags: string) => {
    const matcher = new RegExp(pattern, flags);
    return { test: (text: string): boolean => text.length <= patternTextLength && matcher.test(text) };
  },
  { code: "new RegExp" },
);

function checkSchema(schema: Json, path: string): void {
  if (Array.isArray(schema)) {
    schema.forEach((item, i) => checkSchema(item, `${path}/${i}`));
    return;
  }
  if (schema === null || typeof schema !== "object") return;
  const bad = (why: string): MoorageError =>
    refuseBundle("MALFORMED", `Read parameter schema at "${path}": ${why}`);
  for (const [key, value] of Object.entries(schema)) {
    if (data.has(key)) continue;
    if (key === "$id" || key === "$async" || key === "$dynamicRef") throw bad(`"${key}" is not allowed`);
    if (key === "$ref" && !(typeof value === "string" && value.startsWith("#/")))
      throw bad('only references by path within the schema are allowed, as "#/$defs/port"');
    if (key === "sensitive" && value === true) {
      throw bad(
        "sensitive parameters are refused: name a secret reference instead, its value stays in the data plane",
      );
    }
    if (key === "pattern" && typeof value === "string" && slowPattern(value)) throw bad(slowText);
    if (maps.has(key) && value !== null && typeof value === "object") {
      for (const [name, sub] of Object.entries(value)) {
        if (key === "patternProperties" && slowPattern(name)) throw bad(slowText);
        checkSchema(sub, `${path}/${key}/${name}`);
      }
    } else checkSchema(value, `${path}/${key}`);
  }
}

/**
 * The values in a schema, data and notes left out and each reference counted as what it refers to: compiling and
 * checking cost by these. Refuses references that lead nowhere or in a circle, which have no such number.
 */
function elementsOf(root: JsonObject): number {
  const known = new Map<object, number>();
  const open = new Set<object>();
  /** `named`: the keys are names, not keywords. */
  const count = (value: Json, at: { path: string; named: boolean }): number => {
    if (value === null || typeof value !== "object") return 1;
    const before = known.get(value);
    if (before !== undefined) return before;
    if (open.has(value))
      throw refuseBundle("MALFORMED", `Read parameter schema at "${at.path}": it refers to itself`);
    open.add(value);
    let elements = 1;
    for (const [key, item] of Object.entries(value)) {
      if (!at.named && (data.has(key) || notes.has(key))) continue;
      const path = `${at.path}/${key}`;
      elements += count(item, { path, named: !at.named && maps.has(key) });
      if (!at.named && key === "$ref" && typeof item === "string")
        elements += count(targetOf(root, item, path), { path: item.slice(1), named: false });
    }
    open.delete(value);
    known.set(value, elements);
    return elements;
  };
  return count(root, { path: "", named: false });
}

/** What a reference by path refers to. */
function targetOf(root: Json, ref: string, path: string): Json {
  let at: Json | undefined = root;
  for (const part of ref.split("/").slice(1)) {
    const name = decoded(part)?.replaceAll("~1", "/").replaceAll("~0", "~");
    at =
      name !== undefined && at !== null && typeof at === "object" && Object.hasOwn(at, name)
        ? (at as JsonObject)[name]
        : undefined;
    if (at === undefined)
      throw refuseBundle("MALFORMED", `Read parameter schema at "${path}": "${ref}" leads nowhere`);
  }
  return at;
}

function decoded(part: string): string | undefined {
  try {
    return decodeURIComponent(part);
  } catch {
    return undefined;
  }
}

/** Validators by the text of their schema, those used last at the end. */
const compiled = new Map<string, { validator: ValidateFunction; elements: number }>();
/**
 * Elements of the schemas whose validators are kept, about half a kilobyte each. A hub sees the schemas
 * of the bundle versions in use, an agent those of its own applications.
 */
const KEPT_ELEMENTS = 100_000;
let keptElements = 0;

/** A compiled validator, kept for the next call; errors of the schema itself become MALFORMED. */
export function compileSchema(schema: JsonObject): ValidateFunction {
  const text = JSON.stringify(schema);
  const kept = compiled.get(text) ?? compile(schema, Buffer.byteLength(text));
  if (!compiled.delete(text)) keptElements += kept.elements;
  compiled.set(text, kept);
  for (const [oldest, { elements }] of compiled) {
    if (keptElements <= KEPT_ELEMENTS) break;
    compiled.delete(oldest);
    keptElements -= elements;
  }
  return kept.validator;
}

const options = {
  strict: true,
  strictTypes: false,
  allErrors: true,
  ownProperties: true,
  logger: false,
  // Written out at each place, one long definition would be compiled as often as it is referred to.
  inlineRefs: false,
  code: { regExp: boundedRegExp },
} as const;

/** Judges schemas; made once, for the schema of schemas takes longer to compile than most others. */
let judge: Ajv2020 | undefined;

function compile(schema: JsonObject, size: number): { validator: ValidateFunction; elements: number } {
  checkJson(schema, "parameter schema");
  const tooLarge = (why: string) => refuseBundle("TOO_LARGE", `Read parameter schema: ${why}`);
  if (size > limits.parametersBytes) throw tooLarge(`size is ${size} bytes, limit ${limits.parametersBytes}`);
  checkSchema(schema, "");
  const elements = elementsOf(schema);
  if (elements > limits.parameterSchemaElements)
    throw tooLarge(
      `it has ${elements} elements, each reference counted as what it refers to, the limit parameterSchemaElements is ${limits.parameterSchemaElements}`,
    );
  judge ??= new Ajv2020(options);
  // One each: what it compiled, a validator's maker keeps as long as itself.
  const ajv = new Ajv2020({ ...options, meta: false, validateSchema: false });
  ajv.addKeyword({ keyword: "sensitive", schemaType: "boolean" });
  try {
    // Throws: the schema of schemas is not asynchronous.
    void judge.validateSchema(schema, true);
    return { validator: ajv.compile(schema), elements };
  } catch (error) {
    throw refuseBundle(
      "MALFORMED",
      `Read parameter schema: ${error instanceof Error ? error.message : "not a schema"}`,
      error,
    );
  }
}

/** Violations as an INVALID_ARGUMENT whose fields are paths below `root`. */
export function violations(errors: readonly ErrorObject[] | null | undefined, root: string): MoorageError {
  const fields = (errors ?? []).slice(0, maxViolations).map((error) => {
    const extra: unknown = error.params["additionalProperty"];
    const named = typeof extra === "string" ? ` "${extra}"` : "";
    return {
      field: root + error.instancePath,
      description: `${error.message ?? "is invalid"}${named} (${error.keyword})`,
    };
  });
  const text = fields.map((field) => `"${field.field}" ${field.description}`).join("; ");
  return new MoorageError(Code.INVALID_ARGUMENT, `Check ${root}: ${text}`, {
    reason: "SCHEMA_VIOLATION",
    fields,
  });
}

/** Values over defaults: objects merge by key, everything else is replaced whole. */
function overlay(defaults: Json, values: Json): Json {
  const isObject = (value: Json): value is JsonObject =>
    value !== null && typeof value === "object" && !Array.isArray(value);
  if (!isObject(defaults) || !isObject(values)) return structuredClone(values);
  const merged: JsonObject = structuredClone(defaults);
  for (const [key, value] of Object.entries(values)) {
    const base = Object.hasOwn(defaults, key) ? defaults[key] : undefined;
    merged[key] = base === undefined ? structuredClone(value) : overlay(base, value);
  }
  return merged;
}

/**
 * The parameters with defaults filled in, checked.
 * @throws MoorageError INVALID_ARGUMENT `SCHEMA_VIOLATION` with each field's path and rule;
 * `TOO_LARGE`, `FORBIDDEN_KEY` or `TOO_DEEP` before any schema runs.
 */
export function checkParameters(
  declared: { schema: JsonObject; defaults: JsonObject },
  values: JsonObject,
): JsonObject {
  checkJson(values, "parameters");
  const merged = overlay(declared.defaults, values) as JsonObject;
  const size = Buffer.byteLength(JSON.stringify(merged));
  if (size > limits.parametersBytes) {
    throw refuseBundle(
      "TOO_LARGE",
      `Check parameters: size is ${size} bytes, limit ${limits.parametersBytes}`,
    );
  }
  const validate = compileSchema(declared.schema);
  if (validate(merged) !== true) throw violations(validate.errors, "parameters");
  return merged;
}
