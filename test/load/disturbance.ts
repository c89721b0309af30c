/** What other work used of the machine while a goal was measured: it makes figures worse and says so. */
import { readdirSync, readFileSync } from "node:fs";
import { hostClock } from "./host-clock.ts";

/** Clock ticks a second in /proc (USER_HZ). */
const TICKS_PER_SECOND = 100;
/** From this share of the machine on a figure that is missed, or a ratio, says nothing. */
const TOLERATED = 0.15;

/** One line of /proc/<pid>/stat: who started it, and CPU time with that of children that ended, in ticks. */
export interface ProcessTimes {
  pid: number;
  parent: number;
  ticks: number;
}

/** Reads a line of /proc/<pid>/stat. */
export function parseStat(line: string): ProcessTimes {
  // The second field is the program's name in parentheses and may hold anything.
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  const ticks = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0);
  return { pid: Number.parseInt(line, 10), parent: Number(fields[1]), ticks };
}

/** CPU ticks of a process and of all that it started. */
export function treeTicks(all: readonly ProcessTimes[], root: number): number {
  const children = new Map<number, ProcessTimes[]>();
  for (const p of all) children.set(p.parent, [...(children.get(p.parent) ?? []), p]);
  let sum = all.find((p) => p.pid === root)?.ticks ?? 0;
  const open = [root];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    for (const child of children.get(pid) ?? []) {
      sum += child.ticks;
      open.push(child.pid);
    }
  }
  return sum;
}

/** CPU ticks of the machine that were not idle, from /proc/stat. */
export function busyTicks(stat: string): number {
  const fields = (/^cpu +(.*)$/m.exec(stat)?.[1] ?? "").split(" ").map(Number);
  // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
  return [0, 1, 2, 5, 6, 7].reduce((sum, i) => sum + (fields[i] ?? 0), 0);
}

function readAll(): { atMs: number; busy: number; own: number } {
  const all: ProcessTimes[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      all.push(parseStat(readFileSync(`/proc/${name}/stat`, "utf8")));
    } catch {
      // It ended between the listing and the reading.
    }
  }
  return {
    atMs: hostClock.monotonicMs(),
    busy: busyTicks(readFileSync("/proc/stat", "utf8")),
    own: treeTicks(all, process.pid),
  };
}

/** A shorter span holds too few ticks to tell. */
const LEAST_MS = 2_000;

/** Begins a span; the function answers the cores that others used in it, undefined when it was too short. */
export function watchOthers(): () => number | undefined {
  const before = readAll();
  return () => {
    const now = readAll();
    if (now.atMs - before.atMs < LEAST_MS) return undefined;
    const seconds = (now.atMs - before.atMs) / 1_000;
    const others = now.busy - before.busy - (now.own - before.own);
    return Math.max(0, others / TICKS_PER_SECOND / seconds);
  };
}

/** Why a figure measured beside others' work does not count; undefined when it does. */
export function disturbance(
  figure: { met: boolean; isRatio: boolean },
  on: { othersCores: number; cpus: number },
): string | undefined {
  if (on.othersCores <= TOLERATED * on.cpus || (figure.met && !figure.isRatio)) return undefined;
  return `other work used ${on.othersCores.toFixed(2)} of ${on.cpus} cores`;
}
