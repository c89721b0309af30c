/** Runs one worker in a child process and sees from outside what it cannot say itself: death, a blocked loop, memory. */
import { fork } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "@moorage/shared/clock";
import type { TargetFacts } from "./target.ts";
import type { Order, Report } from "./worker.ts";

/** CPU that a worker may use without a word, seconds; it reports each second, between two cases. */
const SILENT_CPU_S = 30;
/** JavaScript heap of a worker, MiB: garbage must not look like growth. */
const HEAP_MB = 512;
/** Clock ticks a second in /proc (USER_HZ, fixed for user space on Linux). */
const TICKS = 100;

/** How a worker ended. */
export interface Outcome {
  report: Report;
  seconds: number;
  /** What broke, and the input at fault; undefined when all held. */
  failure: { error: string; input: Uint8Array } | undefined;
}

const nothing: Report = { done: false, executions: 0, kept: 0, edges: 0, counters: 0 };

/** CPU seconds of a process; undefined where /proc has none. */
function cpuSeconds(pid: number): number | undefined {
  const fields = procText(pid, "stat")
    ?.replace(/^.*\) /s, "")
    .split(" ");
  return fields === undefined ? undefined : (Number(fields[11]) + Number(fields[12])) / TICKS;
}

/** Resident memory of a process, MiB; undefined where /proc has none. */
function residentMb(pid: number): number | undefined {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(procText(pid, "status") ?? "")?.[1];
  return kib === undefined ? undefined : Number(kib) / 1_024;
}

function procText(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return undefined;
  }
}

/** The case that a worker was at, from the file that it keeps: length, then bytes. */
function currentOf(path: string): Uint8Array {
  if (!existsSync(path)) return new Uint8Array();
  const data = readFileSync(path);
  return data.length < 4 ? new Uint8Array() : data.subarray(4, 4 + data.readUInt32LE(0));
}

/** Runs `order` to its end. Never rejects. */
export function runWorker(order: Order, of: TargetFacts): Promise<Outcome> {
  const child = fork(join(import.meta.dirname, "worker.ts"), [JSON.stringify(order)], {
    execArgv: [`--max-old-space-size=${HEAP_MB}`, "--disable-warning=ExperimentalWarning"],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  const start = systemClock.monotonicMs();
  const pid = child.pid as number;
  let report = nothing;
  let stderr = "";
  let why: string | undefined;
  let cpuAtReport = 0;
  child.stderr?.on("data", (data: Buffer) => (stderr = (stderr + data.toString()).slice(-8_192)));
  child.on("message", (message: Report) => {
    report = message;
    cpuAtReport = cpuSeconds(pid) ?? cpuAtReport;
  });
  const end = (reason: string) => {
    why ??= reason;
    child.kill("SIGKILL");
  };
  let timer = systemClock.setTimer(0, () => undefined);
  const look = () => {
    const silent = (cpuSeconds(pid) ?? cpuAtReport) - cpuAtReport;
    if (silent > SILENT_CPU_S) end(`It used ${silent.toFixed(0)} s of CPU on one case: the loop is blocked`);
    const resident = residentMb(pid) ?? 0;
    if (resident > of.rssMb) end(`It holds ${resident.toFixed(0)} MiB: the limit is ${of.rssMb} MiB`);
    timer = systemClock.setTimer(1_000, look);
  };
  look();
  return new Promise((resolve) => {
    child.on("close", (code, signal) => {
      timer.cancel();
      const seconds = (systemClock.monotonicMs() - start) / 1_000;
      let failure: Outcome["failure"];
      if (report.failure !== undefined) {
        failure = { error: report.failure.error, input: Buffer.from(report.failure.inputHex, "hex") };
      } else if (!report.done || code !== 0) {
        const how = why ?? `The process ended by ${signal ?? `code ${code}`}`;
        failure = { error: `${how}\n${stderr}`, input: currentOf(order.current) };
      }
      resolve({ report, seconds, failure });
    });
  });
}
