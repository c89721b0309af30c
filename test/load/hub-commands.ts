/** What the benchmark asks its hub process (hub-child.ts). */
import type { MeterReading } from "./meter.ts";

/** A command. */
export type HubCommand =
  | { do: "ready" }
  /** Begins a new span of meter and counters. */
  | { do: "mark" }
  | { do: "read" }
  /** Full garbage collections, then memory. */
  | { do: "collect" }
  /** Encodes new content for a tenant of each data plane. */
  | { do: "prepare"; dps: string[]; bodyBytes: number; round: number }
  /** Commits what was prepared. */
  | { do: "fanOut" }
  | { do: "awaitAcked"; dps: string[]; revision: number }
  /** Answers when each of them was sent, and has acked, all that its data plane has up to `revision`. */
  | { do: "awaitPosition"; dps: string[]; revision: number };

/** Answers by command; times on the host's monotonic clock. */
export interface HubAnswers {
  ready: undefined;
  mark: undefined;
  /** `commits` since the last mark. */
  read: { meter: MeterReading; commits: number; revision: number; connected: number };
  collect: { rss: number; heapUsed: number; external: number; arrayBuffers: number };
  prepare: undefined;
  fanOut: { startMs: number; committedMs: number; revision: number };
  awaitAcked: { atMs: number };
  awaitPosition: { atMs: number };
}
