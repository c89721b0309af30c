/** A fleet of protocol-only agents in several driver processes, as the benchmark sees it. */
import { fileURLToPath } from "node:url";
import type { MeterReading } from "../meter.ts";
import type { AskedChild } from "../child.ts";
import { startChild } from "../child.ts";
import type { Answers, Command, FleetTarget, Received, Seed } from "./protocol.ts";
import type { Counts } from "./tally.ts";
import { addCounts } from "./tally.ts";

/** What all processes of a fleet saw since the last mark. */
export interface FleetStats {
  counts: Counts;
  connected: number;
  inSync: number;
  /** Most refusals of one agent without a stream in between. */
  refusedRunning: number;
  /** On the host's monotonic clock, in no order. */
  handshakeMs: number[];
  initialEndMs: number[];
  /** Why agents were refused or left, with counts. */
  reasons: string;
  drivers: MeterReading[];
}

/** A fleet. Agents have indices; which process drives one is the fleet's business. */
export interface Fleet {
  readonly pids: readonly number[];
  /** Enrols through the hub's Enrol RPC; answers the data planes' uids by index. */
  enrol(seeds: readonly Seed[]): Promise<Map<number, string>>;
  /** Dials agents, `perSecond` in all, and waits until all are in sync. */
  connect(indices: readonly number[], on?: { perSecond?: number; timeoutMs?: number }): Promise<void>;
  disconnect(indices: readonly number[]): Promise<void>;
  mark(): Promise<void>;
  stats(): Promise<FleetStats>;
  awaitSync(indices: readonly number[], timeoutMs: number): Promise<void>;
  awaitReported(indices: readonly number[], timeoutMs: number): Promise<void>;
  /** Waits from now on for an ack above `revision` of each; the function answers the times of all acks. */
  expectAcks(indices: readonly number[], revision: number): Promise<(timeoutMs: number) => Promise<number[]>>;
  /** Updates that one agent received since the last mark, when the fleet records. */
  received(index: number): Promise<Received[]>;
  /** SIGSTOP or SIGCONT to every driver process. */
  signal(signal: "SIGSTOP" | "SIGCONT"): void;
  stop(): Promise<void>;
}

/** Dials a second of a whole fleet: below the hub's own admission. */
const CONNECTS_PER_SECOND = 150;
/** Enrol calls under way for each process; a connection of the port has 16 streams. */
const ENROLS_AT_A_TIME = 6;
const PATIENCE_MS = 300_000;

type Worker = AskedChild<Command, Answers & Record<string, unknown>>;

/** Starts the driver processes. */
export async function startFleet(options: {
  dir: string;
  name: string;
  processes: number;
  target: FleetTarget;
  /** Agents report the status of what they hold. */
  reports?: boolean;
  /** Each process keeps every update that it receives. */
  record?: boolean;
}): Promise<Fleet> {
  const { dir, name, target, reports = false, record = false } = options;
  const script = fileURLToPath(new URL("./worker.ts", import.meta.url));
  const workers = Array.from({ length: options.processes }, (_, i): Worker =>
    startChild({ script, dir, name: `${name}-${i}` }),
  );
  const workerOf = (index: number): Worker => workers[index % workers.length] as Worker;
  /** Each process with the indices that are its own, as far as there are any. */
  const split = (indices: readonly number[]): [Worker, number[]][] =>
    workers
      .map((w): [Worker, number[]] => [w, indices.filter((i) => workerOf(i) === w)])
      .filter(([, own]) => own.length > 0);
  await Promise.all(workers.map((w) => w.ask({ do: "configure", target, reports, record })));
  return {
    pids: workers.map((w) => w.pid),
    async enrol(seeds) {
      const parts = await Promise.all(
        split(seeds.map((s) => s.index)).map(([w, own]) => {
          const wanted = new Set(own);
          const theirs = seeds.filter((s) => wanted.has(s.index));
          return w.ask({ do: "enrol", seeds: theirs, atATime: ENROLS_AT_A_TIME });
        }),
      );
      return new Map(parts.flat().map((e) => [e.index, e.uid]));
    },
    async connect(indices, { perSecond = CONNECTS_PER_SECOND, timeoutMs = PATIENCE_MS } = {}) {
      await Promise.all(
        split(indices).map(([w, own]) =>
          w.ask({
            do: "connect",
            indices: own,
            perSecond: (perSecond * own.length) / indices.length,
            timeoutMs,
          }),
        ),
      );
    },
    async disconnect(indices) {
      await Promise.all(split(indices).map(([w, own]) => w.ask({ do: "disconnect", indices: own })));
    },
    async mark() {
      await Promise.all(workers.map((w) => w.ask({ do: "mark" })));
    },
    async stats() {
      const all = await Promise.all(workers.map((w) => w.ask({ do: "stats" })));
      return {
        counts: addCounts(all.map((s) => s.counts)),
        connected: all.reduce((sum, s) => sum + s.connected, 0),
        inSync: all.reduce((sum, s) => sum + s.inSync, 0),
        refusedRunning: Math.max(0, ...all.map((s) => s.refusedRunning)),
        handshakeMs: all.flatMap((s) => s.handshakeMs),
        initialEndMs: all.flatMap((s) => s.initialEndMs),
        reasons: all.flatMap((s) => s.reasons.map(([r, n]) => `${n} x ${r}`)).join(", "),
        drivers: all.map((s) => s.meter),
      };
    },
    async awaitSync(indices, timeoutMs) {
      await Promise.all(
        split(indices).map(([w, own]) => w.ask({ do: "awaitSync", indices: own, timeoutMs })),
      );
    },
    async awaitReported(indices, timeoutMs) {
      await Promise.all(
        split(indices).map(([w, own]) => w.ask({ do: "awaitReported", indices: own, timeoutMs })),
      );
    },
    async expectAcks(indices, revision) {
      const parts = split(indices);
      await Promise.all(parts.map(([w, own]) => w.ask({ do: "expect", indices: own, revision })));
      return async (timeoutMs) =>
        (await Promise.all(parts.map(([w]) => w.ask({ do: "acked", timeoutMs })))).flatMap((a) => a.ackMs);
    },
    received: (index) => workerOf(index).ask({ do: "received", index }),
    signal(signal) {
      for (const w of workers) w.signal(signal);
    },
    async stop() {
      for (const w of workers) w.signal("SIGCONT");
      await Promise.all(workers.map((w) => w.kill("SIGTERM")));
    },
  };
}
