/** A child process that answers numbered commands over IPC. */
import { fork } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** A started child; `C` are its commands, `A` the answers by name. */
export interface AskedChild<C extends { do: string }, A extends Record<string, unknown>> {
  readonly pid: number;
  /** Sends a command and waits for its answer; rejects with the child's error, or when it ends first. */
  ask<K extends C["do"] & keyof A>(command: Extract<C, { do: K }>): Promise<A[K]>;
  alive(): boolean;
  /** Sends a signal and waits for the end; for SIGSTOP and SIGCONT use `signal`. */
  kill(signal: NodeJS.Signals): Promise<void>;
  signal(signal: NodeJS.Signals): void;
  log(): string;
}

/** Starts `script` (a path) with its output in `<dir>/<name>.log`. */
export function startChild<C extends { do: string }, A extends Record<string, unknown>>(what: {
  script: string;
  dir: string;
  name: string;
  args?: readonly string[];
  nodeArgs?: readonly string[];
  env?: Readonly<Record<string, string>>;
}): AskedChild<C, A> {
  const logPath = join(what.dir, `${what.name}.log`);
  const out = openSync(logPath, "a");
  const child = fork(what.script, what.args ?? [], {
    execArgv: [...(what.nodeArgs ?? [])],
    stdio: ["ignore", out, out, "ipc"],
    serialization: "advanced",
    cwd: what.dir,
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", ...what.env },
  });
  closeSync(out);
  const { pid } = child;
  if (pid === undefined) throw new Error(`Cannot start "${what.script}"`);
  const log = (): string => readFileSync(logPath, "utf8");
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let alive = true;
  const ended = new Promise<void>((resolve) => {
    child.once("exit", (code, signal) => {
      alive = false;
      const tail = log().slice(-2_000);
      for (const w of waiting.values())
        w.reject(new Error(`The process "${what.name}" ended (${signal ?? code}):\n${tail}`));
      waiting.clear();
      resolve();
    });
  });
  // Writing to a child that died fails; its end is reported by "exit".
  child.on("error", () => undefined);
  child.on("message", (answered: { id: number; value?: unknown; error?: string }) => {
    const w = waiting.get(answered.id);
    waiting.delete(answered.id);
    if (answered.error === undefined) w?.resolve(answered.value);
    else w?.reject(new Error(answered.error));
  });
  let next = 0;
  return {
    pid,
    ask(command) {
      if (!alive)
        return Promise.reject(new Error(`The process "${what.name}" has ended:\n${log().slice(-2_000)}`));
      return new Promise((resolve, reject) => {
        const id = ++next;
        waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
        child.send({ id, command });
      });
    },
    alive: () => alive,
    async kill(signal) {
      if (alive) child.kill(signal);
      await ended;
    },
    signal: (signal) => void (alive && child.kill(signal)),
    log,
  };
}
