/**
 * Configuration from one table: flags, `MOORAGE_*` variables, the file's keys, types, help and the
 * reference all derive from it. Precedence: flag, environment, file, default. Pure: the caller
 * passes arguments, environment and a reader of the file.
 */

/** One option, keyed in the table by its lower-camel name (`apiAddress` -> `--api-address`, `MOORAGE_API_ADDRESS`). */
export interface OptionSpec<T = unknown> {
  /** What the value is, for the help: `HOST:PORT`, `DURATION`, ... */
  value: string;
  help: string;
  /** Text to value; throws an Error whose message is the rule that was broken. */
  parse(text: string): T;
  /** The default; without one the option is required. `undefined` makes it optional. */
  default?: T;
  hasDefault: boolean;
  /** Kept out of printed configurations. */
  secret?: boolean;
  /** True for options that need no value on the command line. */
  flag?: boolean;
}

/** A table of options. */
export type OptionTable = Readonly<Record<string, OptionSpec>>;

/** The values of a table. */
export type ConfigOf<T extends OptionTable> = {
  readonly [K in keyof T]: T[K] extends OptionSpec<infer V> ? V : never;
};

/** Where values come from. */
export interface ConfigSources {
  /** Arguments after the program's name. */
  argv: readonly string[];
  env: Readonly<Record<string, string | undefined>>;
  /** Reads and parses the file named by `--config` or `MOORAGE_CONFIG` to an object. */
  readFile(path: string): unknown;
}

/** Bad configuration; the message holds every problem, one a line. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

type Base = { help: string; secret?: boolean };

function spec<T>(base: Base & { default?: T }, value: string, parse: (text: string) => T): OptionSpec<T> {
  return { ...base, value, parse, hasDefault: "default" in base };
}

function rule(message: string): never {
  throw new Error(message);
}

/** A text. */
export function text(base: Base & { default?: string }): OptionSpec<string> {
  return spec(base, "TEXT", (t) => (t === "" ? rule("must not be empty") : t));
}

/** A text that may be absent. */
export function optionalText(base: Base): OptionSpec<string | undefined> {
  return spec<string | undefined>({ ...base, default: undefined }, "TEXT", (t) => t);
}

/** One of a closed list. */
export function choice<const V extends string>(
  values: readonly V[],
  base: Base & { default?: NoInfer<V> },
): OptionSpec<V> {
  return spec(
    base,
    values.join("|"),
    (t) => values.find((v) => v === t) ?? rule(`must be one of ${values.join(", ")}`),
  );
}

/** A boolean; `--x` alone is true. */
export function bool(base: Base & { default?: boolean }): OptionSpec<boolean> {
  const parse = (t: string) => (t === "true" ? true : t === "false" ? false : rule("must be true or false"));
  return { ...spec(base, "true|false", parse), flag: true };
}

/** An integer in a range, bounds included. */
export function integer(
  range: { min: number; max: number },
  base: Base & { default?: number },
): OptionSpec<number> {
  return spec(base, "INTEGER", (t) => {
    const n = /^-?\d+$/.test(t) ? Number(t) : Number.NaN;
    return n >= range.min && n <= range.max
      ? n
      : rule(`must be an integer from ${range.min} to ${range.max}`);
  });
}

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A duration such as `500ms`, `30s`, `15m`, `24h` or `7d`, in milliseconds. */
export function duration(base: Base & { default?: number }): OptionSpec<number> {
  return spec(base, "DURATION", (t) => {
    const m = /^(\d+)(ms|s|m|h|d)$/.exec(t);
    return m === null
      ? rule("must be a duration such as 500ms, 30s, 15m or 24h")
      : Number(m[1]) * (UNITS[m[2] as string] as number);
  });
}

/** `host:port`; IPv6 hosts in brackets; port 0 takes a free one. */
export function address(
  base: Base & { default?: { host: string; port: number } },
): OptionSpec<{ host: string; port: number }> {
  return spec(base, "HOST:PORT", (t) => {
    const m = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(t);
    const port = Number(m?.[3]);
    return m === null || port > 65_535 ? rule("must be HOST:PORT") : { host: (m[1] ?? m[2]) as string, port };
  });
}

/** `--kebab-case` of an option's key. */
export function flagName(key: string): string {
  return `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
}

/** `MOORAGE_UPPER_SNAKE` of an option's key. */
export function envName(key: string): string {
  return `MOORAGE_${key.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase()}`;
}

/** The configuration; throws ConfigError naming every option at fault and the rule it broke. */
export function parseConfig<T extends OptionTable>(table: T, sources: ConfigSources): ConfigOf<T> {
  const problems: string[] = [];
  const flags = readFlags(table, sources.argv, problems);
  const path = flags.get("config") ?? sources.env[envName("config")];
  const file = path === undefined ? new Map<string, string>() : readKeys(table, { path, sources, problems });
  // Unknown MOORAGE_ variables are let be: Kubernetes injects MOORAGE_..._SERVICE_HOST for Services.
  const out: Record<string, unknown> = {};
  for (const [key, option] of Object.entries(table)) {
    const candidates: [string, string | undefined][] = [
      [flagName(key), flags.get(key)],
      [envName(key), sources.env[envName(key)]],
      [`${key} in ${path}`, file.get(key)],
    ];
    const found = candidates.find(([, value]) => value !== undefined);
    if (found === undefined) {
      if (option.hasDefault) out[key] = option.default;
      else problems.push(`Missing ${flagName(key)} (or ${envName(key)}): it is required`);
      continue;
    }
    try {
      out[key] = option.parse(found[1] as string);
    } catch (thrown) {
      const shown = option.secret ? "the value" : `"${found[1]}"`;
      problems.push(`Cannot use ${shown} for ${found[0]}: ${(thrown as Error).message}`);
    }
  }
  if (problems.length > 0) throw new ConfigError(problems.join("\n"));
  return out as ConfigOf<T>;
}

function readFlags(table: OptionTable, argv: readonly string[], problems: string[]): Map<string, string> {
  const byFlag = new Map(["config", ...Object.keys(table)].map((key) => [flagName(key), key]));
  const out = new Map<string, string>();
  for (let i = 0; i < argv.length; i++) {
    const arg = argv[i] as string;
    const eq = arg.indexOf("=");
    const name = eq < 0 ? arg : arg.slice(0, eq);
    const key = byFlag.get(name);
    if (key === undefined) {
      problems.push(`Unknown flag "${name}"${suggest(name, [...byFlag.keys()])}`);
      // The word after an unknown flag is most likely its value, not a second mistake.
      if (eq < 0 && name.startsWith("--") && argv[i + 1]?.startsWith("--") === false) i += 1;
    } else if (out.has(key)) problems.push(`Flag "${name}" is given twice`);
    else if (eq >= 0) out.set(key, arg.slice(eq + 1));
    else if (table[key]?.flag) out.set(key, "true");
    else if (argv[i + 1] === undefined) problems.push(`Flag "${name}" needs a value`);
    else out.set(key, argv[++i] as string);
  }
  return out;
}

function readKeys(
  table: OptionTable,
  on: { path: string; sources: ConfigSources; problems: string[] },
): Map<string, string> {
  const out = new Map<string, string>();
  let parsed: unknown;
  try {
    parsed = on.sources.readFile(on.path);
  } catch (thrown) {
    on.problems.push(`Cannot read configuration file "${on.path}": ${(thrown as Error).message}`);
    return out;
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    on.problems.push(`Cannot use configuration file "${on.path}": it is not a mapping`);
    return out;
  }
  for (const [key, value] of Object.entries(parsed)) {
    if (!Object.hasOwn(table, key))
      on.problems.push(`Unknown key "${key}" in ${on.path}${suggest(key, Object.keys(table))}`);
    else if (!["string", "number", "boolean"].includes(typeof value)) {
      on.problems.push(`Cannot use key "${key}" in ${on.path}: it is not a text, number or boolean`);
    } else out.set(key, String(value));
  }
  return out;
}

/** `; did you mean "x"?` for the nearest candidate at most 3 edits away. */
function suggest(name: string, candidates: readonly string[]): string {
  let best: { candidate: string; edits: number } | undefined;
  for (const candidate of candidates) {
    const edits = distance(name, candidate);
    if (edits <= 3 && edits < (best?.edits ?? 4)) best = { candidate, edits };
  }
  return best === undefined ? "" : `; did you mean "${best.candidate}"?`;
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      next[j] = Math.min((next[j - 1] as number) + 1, (row[j] as number) + 1, (row[j - 1] as number) + cost);
    }
    row = next;
  }
  return row[b.length] as number;
}

function shownDefault(option: OptionSpec): string {
  if (!option.hasDefault) return "required";
  const value = option.default;
  if (value === undefined) return "none";
  if (typeof value === "object" && value !== null && "host" in value && "port" in value)
    return `${value.host}:${value.port}`;
  if (option.value === "DURATION") return showDuration(value as number);
  return String(value);
}

function showDuration(ms: number): string {
  const unit = ["d", "h", "m", "s"].find((u) => ms > 0 && ms % (UNITS[u] as number) === 0) ?? "ms";
  return `${ms / (UNITS[unit] as number)}${unit}`;
}

/** Help text, one option a paragraph. */
export function configHelp(table: OptionTable): string {
  const rows = Object.entries(table).map(
    ([key, o]) =>
      `  ${flagName(key)} ${o.value}\n      ${o.help} (${envName(key)}; default: ${shownDefault(o)})`,
  );
  return ["  --config FILE\n      Configuration file, YAML or JSON (MOORAGE_CONFIG)", ...rows].join("\n");
}

/** The reference as a Markdown table. */
export function configMarkdown(table: OptionTable): string {
  const cell = (s: string) => s.replaceAll("|", "\\|");
  const rows = Object.entries(table).map(([key, o]) =>
    [
      "",
      `\`${flagName(key)}\``,
      `\`${envName(key)}\``,
      `\`${key}\``,
      cell(o.value),
      cell(shownDefault(o)),
      cell(o.help),
      "",
    ]
      .join(" | ")
      .trim(),
  );
  return [
    "| Flag | Variable | File key | Value | Default | Meaning |",
    "| --- | --- | --- | --- | --- | --- |",
    ...rows,
    "",
  ].join("\n");
}
