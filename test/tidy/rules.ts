/**
 * The rules of the source tree, as pure functions from files to offences. What is enforced here is
 * what CONTRIBUTING.md states; each rule has a planted offender in tidy.test.ts that keeps it from
 * going blind.
 */

/** One source file: its path from the root with forward slashes, and its text. */
export interface SourceFile {
  path: string;
  text: string;
}

/** One broken rule, with what to do instead. */
export interface Offence {
  path: string;
  rule: string;
  detail: string;
}

/** What each package may import of the others: `proto <- shared <- {hub, agent, cli} <- test`. */
const mayImport: Record<string, readonly string[]> = {
  proto: ["proto"],
  shared: ["proto", "shared"],
  hub: ["proto", "shared", "hub"],
  agent: ["proto", "shared", "agent"],
  cli: ["proto", "shared", "cli"],
  test: ["proto", "shared", "hub", "agent", "cli", "test"],
};

/** Heavy or dangerous dependencies and the one place that may import each. */
const oneImporter: Record<string, string> = {
  "better-sqlite3": "hub/store/sqlite/",
  "@grpc/grpc-js": "shared/grpc/",
  "@kubernetes/client-node": "agent/kube/",
  undici: "agent/kube/",
  "prom-client": "shared/metrics.ts",
  pino: "shared/log.ts",
  commander: "cli/",
  yaml: "shared/yaml.ts",
  "@peculiar/x509": "shared/x509.ts",
  ajv: "shared/bundle/",
  jose: "hub/identity/",
};

/** Folders and files that hold no I/O and no clock. */
const pure = [
  /^hub\/core\//,
  /(^|\/)plan\.ts$/,
  /^shared\/money\//,
  /^shared\/conditions\//,
  /^agent\/health\//,
];

/** Built-ins that are I/O, time or chance; the rest (node:crypto's hashes, node:buffer) compute. */
const ioBuiltins =
  /^node:(fs|net|tls|http|https|http2|dns|dgram|child_process|worker_threads|cluster|timers|os|process|readline|stream)(\/|$)/;

/** Calls that only shared/clock.ts and shared/rng.ts may make, with what to use instead. */
const bannedCalls: readonly { pattern: RegExp; use: string; allowed: RegExp }[] = [
  { pattern: /\bDate\.now\s*\(/, use: "clock.now()", allowed: /^shared\/clock\.ts$/ },
  { pattern: /\bperformance\.now\s*\(/, use: "clock.monotonicMs()", allowed: /^shared\/clock\.ts$/ },
  { pattern: /\bsetTimeout\s*\(/, use: "clock.setTimer()", allowed: /^shared\/clock\.ts$/ },
  { pattern: /\bsetInterval\s*\(/, use: "clock.setTimer()", allowed: /^shared\/clock\.ts$/ },
  { pattern: /\bMath\.random\s*\(/, use: "rng.float()", allowed: /^shared\/rng\.ts$/ },
  { pattern: /\bnew Date\s*\(\s*\)/, use: "new Date(clock.now())", allowed: /^shared\/clock\.ts$/ },
];

/** Files that may read the environment: entry points hand it to the option table. */
const envAllowed = /(^|\/)main\.ts$|^cli\/|^test\//;

/** Lines a file may have; a larger one mixes state, I/O and policy. */
export const maxFileLines = 500;

/** Every specifier that a file imports or re-exports, statically or dynamically. */
export function specifiers(text: string): string[] {
  const found: string[] = [];
  const code = stripComments(text);
  const patterns = [
    /^\s*(?:import|export)\b[^'"`;]*?\bfrom\s*["']([^"']+)["']/gm,
    /^\s*import\s*["']([^"']+)["']/gm,
    /\bimport\s*\(\s*["']([^"']+)["']\s*\)/g,
  ];
  for (const p of patterns) for (const m of code.matchAll(p)) found.push(m[1] as string);
  return found;
}

/** The text without comments; strings that hold comment marks keep them, which is safe for these rules. */
function stripComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, " ").replace(/(^|[^:"'`\\])\/\/.*$/gm, "$1");
}

const packageOf = (path: string): string => path.split("/")[0] as string;

/** The package and path that a specifier of ours points to, or undefined for a foreign one. */
function target(path: string, specifier: string): string | undefined {
  if (specifier.startsWith("@moorage/")) return specifier.slice("@moorage/".length);
  if (!specifier.startsWith(".")) return undefined;
  const parts = path.split("/").slice(0, -1);
  for (const p of specifier.split("/")) {
    if (p === "..") parts.pop();
    else if (p !== ".") parts.push(p);
  }
  return parts.join("/");
}

/** The npm package of a foreign specifier. */
function npmName(specifier: string): string {
  const parts = specifier.split("/");
  return specifier.startsWith("@") ? parts.slice(0, 2).join("/") : (parts[0] as string);
}

const nodeBuiltins =
  /^(fs|path|crypto|net|tls|http|https|http2|os|url|util|events|stream|zlib|worker_threads|child_process|assert|buffer|dns|timers|process|readline|v8|vm)(\/|$)/;

/** All offences of one file. */
export function offences(file: SourceFile): Offence[] {
  const out: Offence[] = [];
  const add = (rule: string, detail: string) => out.push({ path: file.path, rule, detail });
  const own = packageOf(file.path);
  const isTest = own === "test" || /\.test\.ts$|\.conformance\.ts$/.test(file.path);
  const isPure = pure.some((p) => p.test(file.path)) && !isTest;

  for (const s of specifiers(file.text)) {
    const to = target(file.path, s);
    if (to !== undefined) {
      const allowed = isTest ? mayImport["test"] : mayImport[own];
      if (allowed !== undefined && !allowed.includes(packageOf(to))) {
        add("import-direction", `"${s}": ${own} may import ${allowed.join(", ")} only`);
      }
      if (s.startsWith(".") && packageOf(to) !== own) {
        add("import-across", `"${s}": use @moorage/${to.replace(/\.ts$/, "")}`);
      }
      if (s.startsWith(".") && !/\.(ts|mjs|json)$/.test(s))
        add("import-extension", `"${s}": name the file with .ts`);
      continue;
    }
    if (nodeBuiltins.test(s)) add("node-prefix", `"${s}": write "node:${s}"`);
    const only = oneImporter[npmName(s)];
    if (only !== undefined && !file.path.startsWith(only) && !isTest) {
      add("one-importer", `"${s}": only ${only} may import it`);
    }
    if (isPure && (ioBuiltins.test(s) || only !== undefined))
      add("pure-folder", `"${s}" is I/O; this file is pure`);
  }

  const code = stripComments(file.text);
  if (!isTest || own !== "test") {
    for (const b of bannedCalls) {
      if (!b.allowed.test(file.path) && b.pattern.test(code))
        add("injected-time-and-chance", `${b.pattern.source}: use ${b.use}`);
    }
    if (!envAllowed.test(file.path) && /\bprocess\.env\b(?!")/.test(code)) {
      add("environment", "process.env: read it in main.ts and pass it to the option table");
    }
  }
  if (/\bvi\.mock\s*\(/.test(code)) add("no-mocks", "vi.mock: use an engine that passes the same suite");
  if (/\b(it|test|describe)\.(skip|only|todo)\b/.test(code)) add("no-skips", "a skipped or exclusive test");
  if (/\b(TODO|FIXME|XXX)\b/.test(file.text)) add("no-todo", "finish it, or write an issue");
  if (/^\s*(export\s+)?(const\s+)?enum\s/m.test(code) || /^\s*(export\s+)?namespace\s/m.test(code)) {
    add("erasable", "enum or namespace: use a const object and a type of the same name");
  }
  const lines = file.text.split("\n").length;
  if (lines > maxFileLines)
    add("file-length", `${lines} lines, at most ${maxFileLines}: split state, I/O and policy`);
  if (/(^|\/)index\.ts$/.test(file.path)) add("no-barrels", "no index.ts: import the file itself");
  return out;
}
