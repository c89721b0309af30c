/** The stored contexts: which hubs a person can talk to, and with which key. One YAML file of mode 0600. */
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseYaml, stringifyYaml } from "@moorage/shared/yaml";
import { UsageError } from "./exit.ts";

/** One hub and the key for it. */
export interface Context {
  /** HOST:PORT of the public API. */
  server: string;
  /** Authority to trust, in PEM; the machine's when absent. */
  caPem?: string;
  /** Name to check the certificate against, when not the server's host. */
  serverName?: string;
  /** The API key's secret. */
  key: string;
}

/** The file's content. */
export interface Contexts {
  current: string | undefined;
  contexts: Record<string, Context>;
}

/** The file's path, from MOORAGE_HOME or the user's configuration folder. */
export function contextsPath(env: Readonly<Record<string, string | undefined>>): string {
  const home = env["MOORAGE_HOME"];
  if (home !== undefined && home !== "") return join(home, "config.yaml");
  const base = env["XDG_CONFIG_HOME"];
  return join(
    base !== undefined && base !== "" ? base : join(env["HOME"] ?? ".", ".config"),
    "moorage",
    "config.yaml",
  );
}

/** Reads the contexts; none when the file does not exist. */
export function readContexts(path: string): Contexts {
  if (!existsSync(path)) return { current: undefined, contexts: {} };
  const value = parseYaml(readFileSync(path, "utf8"), { name: path }) as {
    current?: unknown;
    contexts?: unknown;
  } | null;
  const contexts: Record<string, Context> = {};
  for (const [name, c] of Object.entries(
    (value?.contexts ?? {}) as Record<string, Record<string, unknown>>,
  )) {
    const { server, key, caPem, serverName } = c;
    if (typeof server !== "string" || typeof key !== "string")
      throw new UsageError(
        `Cannot read "${path}": context "${name}" lacks server or key`,
        'Log in again: "moorage login"',
      );
    contexts[name] = {
      server,
      key,
      ...(typeof caPem === "string" ? { caPem } : {}),
      ...(typeof serverName === "string" ? { serverName } : {}),
    };
  }
  return { current: typeof value?.current === "string" ? value.current : undefined, contexts };
}

/** Writes the contexts: whole or not at all, readable by the user alone. */
export function writeContexts(path: string, contexts: Contexts): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.${process.pid}.new`;
  writeFileSync(
    temporary,
    stringifyYaml({
      ...(contexts.current === undefined ? {} : { current: contexts.current }),
      contexts: contexts.contexts,
    }),
    { mode: 0o600 },
  );
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
}

/** The wanted or the current context; throws UsageError saying how to get one. */
export function pickContext(all: Contexts, wanted: string | undefined): Context {
  const name = wanted ?? all.current;
  if (name === undefined)
    throw new UsageError(
      "Not logged in to a hub",
      "moorage login --server HOST:PORT --ca FILE --key-file FILE",
    );
  const found = all.contexts[name];
  if (found === undefined)
    throw new UsageError(`Unknown context "${name}"`, '"moorage config get-contexts" lists them');
  return found;
}

/** HOST:PORT as parts; [::1]:7443 for IPv6. */
export function parseAddress(text: string): { host: string; port: number } {
  const m = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text);
  const host = m?.[1] ?? m?.[2];
  if (m === null || host === undefined || Number(m[3]) > 65_535)
    throw new UsageError(`Cannot read "${text}" for --server: write HOST:PORT, without a scheme`);
  return { host, port: Number(m[3]) };
}
