/** What the benchmark and its driver processes say to each other, one answer to each command. */
import type { MeterReading } from "../meter.ts";
import type { Counts } from "./tally.ts";

/** A data plane to enrol: its id in the fleet and a join token. */
export interface Seed {
  index: number;
  token: string;
}

/** Where a fleet connects. */
export interface FleetTarget {
  host: string;
  agentPort: number;
  enrolmentPort: number;
  serverName: string;
  caPem: string;
}

/** A command to a driver process. */
export type Command =
  | { do: "configure"; target: FleetTarget; reports: boolean; record: boolean }
  /** Enrols through the real RPC, `atATime` calls under way. */
  | { do: "enrol"; seeds: Seed[]; atATime: number }
  /** Dials the enrolled agents of these indices, `perSecond`; answers when all are in sync. */
  | { do: "connect"; indices: number[]; perSecond: number; timeoutMs: number }
  | { do: "disconnect"; indices: number[] }
  | { do: "mark" }
  | { do: "stats" }
  /** Answers when every connected agent of `indices` is in sync. */
  | { do: "awaitSync"; indices: number[]; timeoutMs: number }
  /** Answers when nothing of the agents' status waits for the hub. */
  | { do: "awaitReported"; indices: number[]; timeoutMs: number }
  /** Begins to wait for an ack above `revision` of each agent; `acked` answers when all came. */
  | { do: "expect"; indices: number[]; revision: number }
  | { do: "acked"; timeoutMs: number }
  /** Updates that one agent received since the last mark, when `record` is on. */
  | { do: "received"; index: number }
  | { do: "stop" };

/** One update as an agent received it; `atMs` on the host's monotonic clock. */
export interface Received {
  atMs: number;
  uid: string;
  revision: number;
}

/** What a driver process saw since the last mark. */
export interface WorkerStats {
  counts: Counts;
  connected: number;
  inSync: number;
  refusedRunning: number;
  handshakeMs: number[];
  initialEndMs: number[];
  reasons: [string, number][];
  meter: MeterReading;
}

/** The answer to a command. */
export interface Answers {
  configure: undefined;
  /** uid of each seed's data plane. */
  enrol: { index: number; uid: string }[];
  connect: undefined;
  disconnect: undefined;
  mark: undefined;
  stats: WorkerStats;
  awaitSync: undefined;
  awaitReported: undefined;
  expect: undefined;
  /** When each agent sent its ack. */
  acked: { ackMs: number[] };
  received: Received[];
  stop: undefined;
}

/** A command with its number. */
export interface Asked {
  id: number;
  command: Command;
}

/** The answer with the number of its command. */
export type Answered = { id: number; value: unknown } | { id: number; error: string };
