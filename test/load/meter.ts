/** How busy a process of the benchmark was: what decides whether it, and not the hub, was the limit. */
import { monitorEventLoopDelay, performance } from "node:perf_hooks";
import type { Clock } from "@moorage/shared/clock";

/** One process over one span of time. */
export interface MeterReading {
  pid: number;
  /** Length of the span in milliseconds. */
  spanMs: number;
  /** Share of the span in which the event loop was not idle, 0 to 1. */
  busy: number;
  /** CPU time of all threads by wall time: 1 is one core. */
  cores: number;
  /** 99th percentile of how late the event loop was, milliseconds. */
  loopDelayP99Ms: number;
  rssBytes: number;
}

/** Measures its own process from the last `mark` on. */
export interface Meter {
  /** Begins a new span. */
  mark(): void;
  /** The span so far. */
  read(): MeterReading;
}

/** Between looks at the event loop; subtracted from what is reported. */
const RESOLUTION_MS = 10;

/** A meter of this process, running. */
export function createMeter(clock: Clock): Meter {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  let since = { ms: clock.monotonicMs(), loop: performance.eventLoopUtilization(), cpu: process.cpuUsage() };
  return {
    mark() {
      delay.reset();
      since = { ms: clock.monotonicMs(), loop: performance.eventLoopUtilization(), cpu: process.cpuUsage() };
    },
    read() {
      const spanMs = Math.max(1, clock.monotonicMs() - since.ms);
      const cpu = process.cpuUsage(since.cpu);
      const late = delay.count === 0 ? 0 : delay.percentile(99) / 1e6 - RESOLUTION_MS;
      return {
        pid: process.pid,
        spanMs,
        busy: performance.eventLoopUtilization(since.loop).utilization,
        cores: (cpu.user + cpu.system) / 1_000 / spanMs,
        loopDelayP99Ms: Math.max(0, late),
        rssBytes: process.memoryUsage.rss(),
      };
    },
  };
}
