/** What the commands get of the machine; tests pass their own. */
import type { Clock } from "@moorage/shared/clock";
import { openApi } from "./api.ts";
import type { Api } from "./api.ts";
import { contextsPath, pickContext, readContexts } from "./contexts.ts";

/** The outside of a command. */
export interface Io {
  out(text: string): void;
  err(text: string): void;
  /** All of standard input. */
  stdin(): Promise<string>;
  env: Readonly<Record<string, string | undefined>>;
  clock: Clock;
  /** Aborts on the first interrupt. */
  signal: AbortSignal;
  /** Runs a Node program with this process's streams and signals; answers its exit code. */
  runNode(script: string, args: readonly string[]): Promise<number>;
}

/** Options of every command that talks to a hub. */
export interface Common {
  context?: string;
}

/** Runs `use` with the chosen hub's API and closes it. */
export async function withApi<T>(io: Io, common: Common, use: (api: Api) => Promise<T>): Promise<T> {
  const api = openApi(pickContext(readContexts(contextsPath(io.env)), common.context), io.clock);
  try {
    return await use(api);
  } finally {
    api.close();
  }
}
