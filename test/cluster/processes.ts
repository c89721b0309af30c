/**
 * The processes of a test cluster: loopback only, each in its own group, with pid files, so that a
 * run that was killed leaves nothing behind: the next start ends what an old pid file names, if the
 * process still is what the file says.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { systemClock, sleep } from "@moorage/shared/clock";

/** A started program. */
export interface Running {
  name: string;
  pid: number;
  logPath: string;
  /** Resolves when it has ended. */
  ended: Promise<void>;
  alive(): boolean;
}

/** Starts `program` with its output in `<dir>/<name>.log` and a pid file beside it. */
export function start(dir: string, what: { name: string; program: string; args: string[] }): Running {
  const logPath = join(dir, `${what.name}.log`);
  const out = openSync(logPath, "a");
  const child: ChildProcess = spawn(what.program, what.args, { stdio: ["ignore", out, out], detached: true });
  closeSync(out);
  const pid = child.pid;
  if (pid === undefined) throw new Error(`Cannot start "${what.program}"`);
  writeFileSync(join(dir, `${what.name}.pid`), JSON.stringify({ pid, program: what.program }));
  let alive = true;
  const ended = new Promise<void>((resolve) => {
    child.once("exit", () => {
      alive = false;
      rmSync(join(dir, `${what.name}.pid`), { force: true });
      resolve();
    });
  });
  child.unref();
  return { name: what.name, pid, logPath, ended, alive: () => alive };
}

/** How long a process may take to end by itself. */
const GRACE_MS = 5_000;

/** Ends the process and waits; SIGKILL after the grace, or at once when `kill`. */
export async function stop(running: Running, kill = false): Promise<void> {
  if (!running.alive()) return;
  signalGroup(running.pid, kill ? "SIGKILL" : "SIGTERM");
  const timer = systemClock.setTimer(GRACE_MS, () => signalGroup(running.pid, "SIGKILL"));
  await running.ended;
  timer.cancel();
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // Gone already.
  }
}

/** Ends what the pid files below `root` name, when the process still runs that very program. */
export function endStale(root: string): number {
  let ended = 0;
  for (const cluster of readdirOrEmpty(root)) {
    const dir = join(root, cluster);
    const owner = Number(readOrEmpty(join(dir, "owner")));
    if (cluster.endsWith(".new") || (owner > 0 && existsSync(`/proc/${owner}`))) continue;
    for (const file of readdirOrEmpty(dir).filter((f) => f.endsWith(".pid"))) {
      const named = readPid(join(dir, file));
      if (named === undefined) continue;
      if (readOrEmpty(`/proc/${named.pid}/cmdline`).split("\0")[0] !== named.program) continue;
      signalGroup(named.pid, "SIGKILL");
      ended++;
    }
    rmSync(dir, { recursive: true, force: true });
  }
  return ended;
}

/** What a pid file names; undefined when it was torn by a crash or names no process of ours. */
export function readPid(file: string): { pid: number; program: string } | undefined {
  try {
    const { pid, program } = JSON.parse(readOrEmpty(file)) as { pid?: unknown; program?: unknown };
    return typeof pid === "number" && pid > 1 && typeof program === "string" ? { pid, program } : undefined;
  } catch {
    return undefined;
  }
}

const readOrEmpty = (path: string): string => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
};
const readdirOrEmpty = (path: string): string[] => {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
};

/** A loopback port that was free a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() =>
        address === null || typeof address === "string"
          ? reject(new Error("no port"))
          : resolve(address.port),
      );
    });
  });
}

/** Polls `check` until it answers true; throws with `what` after `timeoutMs`. */
export async function until(what: string, check: () => Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const end = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    if (await check()) return;
    if (systemClock.monotonicMs() > end) throw new Error(`Timed out after ${timeoutMs} ms: ${what}`);
    await sleep(systemClock, 50);
  }
}

/** Makes `dir` and marks it as this process's. */
export function ownDir(dir: string, owner = process.pid): void {
  // Made aside: a folder without an owner would be taken for a dead one's.
  const aside = `${dir}.${process.pid}.new`;
  mkdirSync(aside, { recursive: true, mode: 0o700 });
  writeFileSync(join(aside, "owner"), String(owner));
  renameSync(aside, dir);
}
