import { expect, test } from "vitest";
import { busyTicks, disturbance, parseStat, treeTicks } from "./disturbance.ts";

test("a process counts with all that it started, and with those of them that ended", () => {
  const line = (pid: number, parent: number, times: string): string =>
    `${pid} (no de) x) S ${parent} 1 1 0 -1 4194560 1 2 3 4 ${times} 20 0 11 0`;
  const all = [
    parseStat(line(10, 1, "5 1 30 4")),
    parseStat(line(11, 10, "7 0 0 0")),
    parseStat(line(12, 11, "0 3 0 0")),
    parseStat(line(13, 1, "1000 0 0 0")),
  ];
  expect(all[0]).toEqual({ pid: 10, parent: 1, ticks: 40 });
  expect(treeTicks(all, 10)).toBe(50);
});

test("idle time and waiting for disks is no work of the machine", () => {
  expect(busyTicks("cpu  100 2 30 9000 500 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")).toBe(138);
});

test("beside other work a miss says nothing, nor does a ratio; a bound that holds all the same holds", () => {
  const busy = { othersCores: 1.2, cpus: 2 };
  expect(disturbance({ met: false, isRatio: false }, busy)).toBe("other work used 1.20 of 2 cores");
  expect(disturbance({ met: true, isRatio: true }, busy)).toBeDefined();
  expect(disturbance({ met: true, isRatio: false }, busy)).toBeUndefined();
  expect(disturbance({ met: false, isRatio: true }, { othersCores: 0.1, cpus: 2 })).toBeUndefined();
});
