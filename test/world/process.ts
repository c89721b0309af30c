/** Child processes of a world: started, watched, ended by their pid. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { until } from "../cluster/processes.ts";

/** The repository's root. */
export const root = fileURLToPath(new URL("../..", import.meta.url));

/** A started child. */
export interface Child {
  pid: number;
  logPath: string;
  alive(): boolean;
  /** Resolves with its exit code (null after a signal). */
  ended: Promise<number | null>;
  /** Ends it and waits. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  log(): string;
}

/** Starts a Node program of the repository; its output goes to `<dir>/<name>.log`. */
export function startNode(what: {
  dir: string;
  name: string;
  script: string;
  args: readonly string[];
  env?: Record<string, string>;
}): Child {
  const logPath = join(what.dir, `${what.name}.log`);
  const out = openSync(logPath, "a");
  const env: Record<string, string> = {
    PATH: process.env["PATH"] ?? "",
    HOME: process.env["HOME"] ?? "",
    // For a profiler: NODE_OPTIONS=--cpu-prof make bench.
    ...(process.env["NODE_OPTIONS"] === undefined ? {} : { NODE_OPTIONS: process.env["NODE_OPTIONS"] }),
    ...what.env,
  };
  const child: ChildProcess = spawn(process.execPath, [join(root, what.script), ...what.args], {
    stdio: ["ignore", out, out],
    env,
    cwd: what.dir,
  });
  closeSync(out);
  const { pid } = child;
  if (pid === undefined) throw new Error(`Cannot start "${what.script}"`);
  let alive = true;
  const ended = new Promise<number | null>((resolve) => {
    child.once("exit", (code) => {
      alive = false;
      resolve(code);
    });
  });
  return {
    pid,
    logPath,
    alive: () => alive,
    ended,
    log: () => readFileSync(logPath, "utf8"),
    async stop(signal = "SIGTERM") {
      if (alive) child.kill(signal);
      await ended;
    },
  };
}

/** Waits until a child that was just started is ready; ends it when it is not in time, and throws. */
export async function whenReady(child: Child, name: string, ready: () => Promise<boolean>): Promise<Child> {
  try {
    await until(`the ${name} is not ready; its log is ${child.logPath}`, async () => {
      if (!child.alive()) throw new Error(`The ${name} ended at once:\n${child.log()}`);
      return ready();
    });
  } catch (error) {
    await child.stop("SIGKILL");
    throw error;
  }
  return child;
}
