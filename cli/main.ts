/** The command as a process: streams, environment and signals; see program.ts for what it does. */
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { systemClock } from "@moorage/shared/clock";
import { run } from "./program.ts";

/** Runs a command line; answers the exit code. */
export function main(argv: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  process.once("SIGINT", () => {
    interrupt.abort();
    // A second one ends the process whatever it does.
    process.once("SIGINT", () => process.exit(130));
  });
  quietWarnings();
  // A reader such as "head" that has enough is no failure.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  return run(argv, {
    out: (t) => void process.stdout.write(t),
    err: (t) => void process.stderr.write(t),
    stdin: () => text(process.stdin),
    env: process.env,
    clock: systemClock,
    signal: interrupt.signal,
    runNode,
  });
}

/** Prints Node's warnings but for DEP0123: gRPC names the server by address when a person wrote one. */
function quietWarnings(): void {
  process.removeAllListeners("warning");
  process.on("warning", (warning: Error & { code?: string }) => {
    if (warning.code !== "DEP0123") process.stderr.write(`warning: ${warning.message}\n`);
  });
}

function runNode(script: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, ...args], { stdio: "inherit" });
    const forward = (signal: NodeJS.Signals) => void child.kill(signal);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, forward);
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      for (const s of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.off(s, forward);
      resolve(code ?? (signal === "SIGINT" ? 130 : 143));
    });
  });
}
