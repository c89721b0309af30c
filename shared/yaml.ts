/**
 * The one door for YAML and JSON text that an outsider wrote. Size is checked before parsing, then
 * aliases, depth, duplicate keys and keys that later merges could follow into a prototype. What
 * comes out is plain JSON: objects, arrays, strings, finite numbers, booleans, null. A whole number that a
 * JavaScript number would change is refused.
 */
import { Composer, Lexer, LineCounter, Parser, Scalar, stringify, visit } from "yaml";
import type { CST, Document } from "yaml";
import { Code, MoorageError } from "./errors.ts";
import { limits } from "./limits.ts";

/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
/** A JSON object. */
export type JsonObject = { [key: string]: Json };

/** What bounds one parse. */
export interface ParseOptions {
  /** What the text is called in errors, e.g. its path. */
  name: string;
  /** Largest accepted text, in bytes of UTF-8; default `limits.manifestBytes`. */
  maxBytes?: number;
  /** Most tokens of YAML, about seven for a line of one key and value; default `limits.yamlTokens`. */
  maxTokens?: number;
}

/** Keys that assignment or merge code may follow into a prototype. */
const forbiddenKeys: ReadonlySet<string> = new Set(["__proto__", "constructor", "prototype"]);

/** Characters of a document once its aliases are copied out. No text without aliases comes near it. */
const maxExpanded = 4 * limits.manifestBytes;
/** Charged for each value beside its characters. */
const valueCharacters = 16;

/** The parser's own error codes that have a reason of ours; all others are MALFORMED. */
const reasons: Readonly<Record<string, string>> = { RESOURCE_EXHAUSTION: "TOO_DEEP" };

/** INVALID_ARGUMENT with a stable reason, the way every parse refuses. */
function refuse(reason: string, name: string, rule: string): MoorageError {
  return new MoorageError(Code.INVALID_ARGUMENT, `Parse "${name}": ${rule}`, { reason });
}

/** True for the source of a whole number whose value is another one, or will be once it is written out again. */
const isInexact = (value: unknown, source: string | undefined): source is string =>
  typeof value === "number" &&
  !Number.isSafeInteger(value) &&
  source !== undefined &&
  /^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)$/.test(source);

function inexact(name: string, where: string, source: string): MoorageError {
  const shown = source.length > 32 ? `${source.slice(0, 16)}…${source.slice(-4)}` : source;
  const rule = `${shown} is beyond what a number holds exactly: quote it or use a smaller number`;
  return refuse("NOT_JSON", name, `${where}: ${rule}`);
}

function checkSize(text: string, options: ParseOptions): void {
  const max = options.maxBytes ?? limits.manifestBytes;
  const size = Buffer.byteLength(text);
  if (size > max) throw refuse("TOO_LARGE", options.name, `size is ${size} bytes, limit ${max}`);
}

/**
 * Refuses brackets nested deeper than the limit before a recursive parser sees them: the parsers
 * recurse, so their stack would be the limit otherwise. Text in quotes is skipped.
 */
function checkJsonDepth(text: string, options: ParseOptions): void {
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (quoted) {
      if (char === 0x5c) i++;
      else if (char === 0x22) quoted = false;
    } else if (char === 0x22) quoted = true;
    else if (char === 0x5b || char === 0x7b) {
      if (++depth > limits.jsonDepth) {
        throw refuse("TOO_DEEP", options.name, `depth is above ${limits.jsonDepth} at offset ${i}`);
      }
    } else if (char === 0x5d || char === 0x7d) depth--;
  }
}

/**
 * Checks a value for depth, forbidden keys and non-JSON content, and returns it.
 * @throws MoorageError INVALID_ARGUMENT `TOO_DEEP`, `FORBIDDEN_KEY` or `NOT_JSON`, with the path.
 */
export function checkJson(value: unknown, name: string): Json {
  walk(value, { name, path: "", depth: 0 });
  return value as Json;
}

/** Where a walk is; `spend` is told of the characters it meets. */
interface Place {
  name: string;
  path: string;
  depth: number;
  spend?: (characters: number) => void;
}

function walk(value: unknown, at: Place): void {
  const where = at.path === "" ? "/" : at.path;
  at.spend?.(valueCharacters + (typeof value === "string" ? value.length : 0));
  if (value === null || typeof value === "string" || typeof value === "boolean") return;
  if (typeof value === "number") {
    if (Number.isFinite(value)) return;
    throw refuse("NOT_JSON", at.name, `${where} is ${value}, which JSON cannot hold`);
  }
  if (typeof value !== "object") throw refuse("NOT_JSON", at.name, `${where} is no JSON value`);
  if (at.depth >= limits.jsonDepth)
    throw refuse("TOO_DEEP", at.name, `depth is above ${limits.jsonDepth} at ${where}`);
  if (Array.isArray(value)) {
    value.forEach((item, i) => walk(item, { ...at, path: `${at.path}/${i}`, depth: at.depth + 1 }));
    return;
  }
  const proto: unknown = Object.getPrototypeOf(value);
  if (proto !== Object.prototype && proto !== null)
    throw refuse("NOT_JSON", at.name, `${where} is no plain object`);
  for (const key of Object.keys(value)) {
    if (forbiddenKeys.has(key))
      throw refuse("FORBIDDEN_KEY", at.name, `key "${key}" is not allowed at ${where}`);
    at.spend?.(key.length);
    const item = (value as Record<string, unknown>)[key];
    walk(item, { ...at, path: `${at.path}/${key}`, depth: at.depth + 1 });
  }
}

/**
 * The parser's tokens, counted: parsing costs a microsecond a token whatever the text's size, and
 * nested openers cost it the square of their depth, so both end here before the parser has worked.
 */
function* tokensOf(text: string, options: ParseOptions, lines: LineCounter): Generator<CST.Token, void> {
  const max = options.maxTokens ?? limits.yamlTokens;
  const parser = new Parser(lines.addNewLine);
  lines.addNewLine(0);
  let tokens = 0;
  for (const token of new Lexer().lex(text)) {
    if (++tokens > max)
      throw refuse("TOO_LARGE", options.name, `line ${lines.lineStarts.length}: more than ${max} tokens`);
    yield* untilError(parser.next(token), options, lines);
    // One entry a collection and a few for what is under way; checkTree counts exactly.
    if (parser.stack.length > 2 * limits.jsonDepth) throw tooDeep(options.name);
  }
  yield* untilError(parser.end(), options, lines);
}

/** Ends at the first token that fits nowhere: a hostile text has nothing else, and none after it matters. */
function* untilError(
  tokens: Iterable<CST.Token>,
  options: ParseOptions,
  lines: LineCounter,
): Generator<CST.Token, void> {
  for (const token of tokens) {
    if (token.type === "error") {
      const line = lines.linePos(token.offset).line;
      throw refuse("MALFORMED", options.name, `line ${line}: ${token.message}`);
    }
    yield token;
  }
}

function tooDeep(name: string): MoorageError {
  return refuse("TOO_DEEP", name, `depth is above ${limits.jsonDepth}`);
}

/** Parses the stream; the parser's own stack overflow (about 785 levels) counts as too deep. */
function documentsOf(text: string, options: ParseOptions, lines: LineCounter): Document[] {
  const composer = new Composer({
    version: "1.2",
    schema: "core",
    merge: false,
    strict: true,
    // The parser's own check compares all pairs of keys; checkTree does it in linear time.
    uniqueKeys: false,
    prettyErrors: false,
    logLevel: "silent",
  });
  // The composer makes an error for each rule that is broken, as often as it is: 15 microseconds each with a stack,
  // two without. Nothing awaits in between, so nobody else's error loses its own.
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return [...composer.compose(tokensOf(text, options, lines))];
  } catch (error) {
    if (error instanceof MoorageError) throw error;
    if (error instanceof RangeError) throw tooDeep(options.name);
    throw refuse("MALFORMED", options.name, error instanceof Error ? error.message : "not YAML");
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

/** Aliases, depth, forbidden keys and numbers that would change, on the syntax tree: nothing is expanded yet. */
function checkTree(document: Document, lines: LineCounter, at: { name: string; document: string }): void {
  let aliases = 0;
  const line = (node: { range?: readonly number[] | null | undefined }): string =>
    `${at.document}, line ${lines.linePos(node.range?.[0] ?? 0).line}`;
  visit(document, {
    Alias(_key, node) {
      if (++aliases > limits.yamlAliases) {
        throw refuse("TOO_MANY_ALIASES", at.name, `${line(node)}: more than ${limits.yamlAliases} aliases`);
      }
    },
    Scalar(_key, node) {
      if (isInexact(node.value, node.source)) throw inexact(at.name, line(node), node.source);
    },
    Collection(_key, node, path) {
      // A pair stands between a map and its value; only collections count as levels.
      const depth = path.filter((parent) => "items" in parent).length + 1;
      if (depth > limits.jsonDepth)
        throw refuse("TOO_DEEP", at.name, `${line(node)}: depth is above ${limits.jsonDepth}`);
      const seen = new Set<string>();
      for (const item of node.items) {
        const key: unknown =
          typeof item === "object" && item !== null && "key" in item ? item.key : undefined;
        if (typeof key !== "object" || key === null || !("value" in key)) continue;
        const text = String(key.value);
        if (seen.has(text)) {
          throw refuse(
            "DUPLICATE_KEY",
            at.name,
            `${line(key as { range?: readonly number[] })}: key "${text}" stands twice`,
          );
        }
        seen.add(text);
      }
    },
    Pair(_key, pair) {
      const key = pair.key;
      const text = typeof key === "object" && key !== null && "value" in key ? String(key.value) : undefined;
      if (text === undefined) throw refuse("NOT_JSON", at.name, `${at.document}: a key is no scalar`);
      if (forbiddenKeys.has(text)) {
        const range = (key as { range?: readonly number[] | null }).range;
        throw refuse("FORBIDDEN_KEY", at.name, `${line({ range })}: key "${text}" is not allowed`);
      }
    },
  });
}

function toJson(document: Document, at: { name: string; document: string }): Json {
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: limits.yamlAliases });
  } catch (error) {
    const cause = error instanceof ReferenceError ? error.message : "not representable as JSON";
    throw refuse("TOO_MANY_ALIASES", at.name, `${at.document}: ${cause}`);
  }
  // Aliases may nest values deeper than the tree, and repeat a long one: check what came out, too, before
  // it is copied. A shared reference is copied, so that no later edit shows in two places.
  let left = maxExpanded;
  const spend = (characters: number): void => {
    left -= characters;
    if (left < 0)
      throw refuse(
        "TOO_MANY_ALIASES",
        at.name,
        `${at.document}: aliases expand to more than ${maxExpanded} characters`,
      );
  };
  walk(value, { name: at.name, path: "", depth: 0, spend });
  return JSON.parse(JSON.stringify(value)) as Json;
}

/**
 * Every document of a YAML stream as plain JSON, empty documents left out.
 * @throws MoorageError INVALID_ARGUMENT with reason `TOO_LARGE`, `TOO_MANY_ALIASES`, `TOO_DEEP`,
 * `FORBIDDEN_KEY`, `DUPLICATE_KEY`, `NOT_JSON` or `MALFORMED`; the message names document and line.
 */
export function parseYamlAll(text: string, options: ParseOptions): Json[] {
  checkSize(text, options);
  const lines = new LineCounter();
  const out: Json[] = [];
  documentsOf(text, options, lines).forEach((document, index) => {
    const at = { name: options.name, document: `document ${index + 1}` };
    const error = document.errors[0] ?? document.warnings[0];
    if (error !== undefined) {
      const reason = reasons[error.code] ?? "MALFORMED";
      const line = lines.linePos(error.pos[0]).line;
      throw refuse(reason, at.name, `${at.document}, line ${line}: ${error.message}`);
    }
    if (document.contents === null) return;
    try {
      checkTree(document, lines, at);
    } catch (thrown) {
      if (thrown instanceof RangeError) throw tooDeep(at.name);
      throw thrown;
    }
    const value = toJson(document, at);
    if (value !== null) out.push(value);
  });
  return out;
}

/** The only document of a YAML text. @throws as {@link parseYamlAll}; `MALFORMED` unless exactly one. */
export function parseYaml(text: string, options: ParseOptions): Json {
  const all = parseYamlAll(text, options);
  const [first] = all;
  if (first === undefined || all.length !== 1) {
    throw refuse("MALFORMED", options.name, `exactly one document is expected, found ${all.length}`);
  }
  return first;
}

/** What `JSON.parse` tells a reviver of a number: its source text. The library types of TypeScript 7.0 do not know it yet. */
type SourceReviver = (key: string, value: unknown, context: { source?: string }) => unknown;

/** `JSON.parse`, but for numbers that would change. A reviver costs about five times a plain parse. */
function parseExact(text: string, name: string): unknown {
  if (!/[0-9]{16}/.test(text)) return JSON.parse(text);
  const exact: SourceReviver = (key, value, { source }) => {
    if (isInexact(value, source)) throw inexact(name, `"${key}"`, source);
    return value;
  };
  return JSON.parse(text, exact as (key: string, value: unknown) => unknown);
}

/** JSON text within the same bounds. Duplicate keys are the language's: the last one wins. */
export function parseJsonBounded(text: string, options: ParseOptions): Json {
  checkSize(text, options);
  checkJsonDepth(text, options);
  let value: unknown;
  try {
    value = parseExact(text, options.name);
  } catch (error) {
    if (error instanceof MoorageError) throw error;
    throw refuse("MALFORMED", options.name, error instanceof Error ? error.message : "not JSON");
  }
  return checkJson(value, options.name);
}

/** A float that is a whole number too large to be read as one is written as a float: 1e+20. */
function asWritten(_key: unknown, value: unknown): unknown {
  if (typeof value !== "number" || !Number.isInteger(value) || Number.isSafeInteger(value)) return value;
  const float = new Scalar(value);
  float.format = "EXP";
  return float;
}

/** A value as YAML: two-space indent, no aliases, no line folding, keys in their own order. */
export function stringifyYaml(value: unknown): string {
  return stringify(value, asWritten, {
    aliasDuplicateObjects: false,
    lineWidth: 0,
    // In double quotes over several lines, the library loses a line of one blank.
    doubleQuotedMinMultiLineLength: Number.MAX_SAFE_INTEGER,
    version: "1.2",
  });
}

/** Several values as one stream. */
export function stringifyYamlAll(values: readonly unknown[]): string {
  return values.map((value) => stringifyYaml(value)).join("---\n");
}
