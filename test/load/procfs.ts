/** What Linux tells about a process: memory, CPU time, command line. */
import { readFileSync } from "node:fs";

/** Clock ticks a second in /proc/<pid>/stat: 100 on every Linux that Node runs on (USER_HZ). */
const TICKS_PER_SECOND = 100;

/** Resident memory of a process in MB (10^6 bytes). */
export function rssMb(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  if (kib === undefined) throw new Error(`Cannot read the memory of process ${pid}: no VmRSS`);
  return (Number(kib) * 1024) / 1e6;
}

/** CPU time that a process has used, all threads, in seconds. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The second field is the program's name in parentheses and may hold anything.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** The arguments of a process, the program first. */
export const commandLine = (pid: number): string[] =>
  readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");

/** The variables that a process was started with, as NAME=value. */
export const environment = (pid: number): string[] =>
  readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
