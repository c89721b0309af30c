/** The agents of one process: enrolled, connected, waited for. No IPC: worker.ts serves this to its parent. */
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { sleep } from "@moorage/shared/clock";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits } from "@moorage/shared/grpc/options";
import { systemRng } from "@moorage/shared/rng";
import { createCsr, generateKeyPem } from "@moorage/shared/x509";
import { hostClock } from "../host-clock.ts";
import { createMeter } from "../meter.ts";
import { ProtocolAgent } from "./agent.ts";
import type { Answers, FleetTarget, Received, Seed, WorkerStats } from "./protocol.ts";
import { Tally } from "./tally.ts";

/** Between looks at whether all agents are where they should be. */
const LOOK_MS = 20;

/** Settings of a driver process. */
export interface DriverOptions {
  target: FleetTarget;
  reports: boolean;
  record: boolean;
}

/** See the module's text. */
export class Driver {
  readonly #o: DriverOptions;
  readonly #agents = new Map<number, ProtocolAgent>();
  readonly #indexOf = new Map<ProtocolAgent, number>();
  readonly #tally = new Tally();
  readonly #meter = createMeter(hostClock);
  readonly #received = new Map<number, Received[]>();
  #expected: { revision: bigint; waiting: Set<number>; ackMs: number[] } | undefined;

  constructor(options: DriverOptions) {
    this.#o = options;
  }

  /** Enrols agents; their keys never leave this process. Rejects with the first refusal. */
  async enrol(seeds: readonly Seed[], atATime: number): Promise<Answers["enrol"]> {
    const { target } = this.#o;
    const link = connect({
      target: { host: target.host, port: target.enrolmentPort },
      tls: { caPem: target.caPem, serverName: target.serverName },
      limits: agentLimits,
      clock: hostClock,
    });
    const client = link.client(EnrolmentService);
    const out: Answers["enrol"] = [];
    const waiting = [...seeds];
    const one = async (): Promise<void> => {
      for (let seed = waiting.shift(); seed !== undefined; seed = waiting.shift()) {
        const { keyPem } = await generateKeyPem();
        const csrDer = await createCsr(keyPem);
        const answer = await client.enrol({ joinToken: seed.token, csrDer });
        const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
        this.#add(seed.index, {
          uid: answer.dataPlaneUid,
          keyPem,
          certPem: text(answer.certificateChainPem),
          caPem: text(answer.trustBundlePem),
          ...(target.host === "127.0.0.1" ? { localAddress: loopbackAddress(seed.index) } : {}),
        });
        out.push({ index: seed.index, uid: answer.dataPlaneUid });
      }
    };
    try {
      await Promise.all(Array.from({ length: atATime }, one));
    } finally {
      link.close();
    }
    return out;
  }

  #add(index: number, identity: ProtocolAgent["identity"]): void {
    const { target, reports, record } = this.#o;
    const agent = new ProtocolAgent(identity, {
      clock: hostClock,
      rng: systemRng,
      tally: this.#tally,
      target: { host: target.host, port: target.agentPort, serverName: target.serverName },
      reports,
      onAck: (_, revision, updates) => {
        this.#noteAck(index, revision);
        if (!record) return;
        const atMs = hostClock.monotonicMs();
        const list = this.#received.get(index) ?? [];
        for (const u of updates) list.push({ atMs, uid: u.uid, revision: Number(u.revision) });
        this.#received.set(index, list);
      },
    });
    this.#agents.set(index, agent);
    this.#indexOf.set(agent, index);
  }

  #noteAck(index: number, revision: bigint): void {
    const e = this.#expected;
    if (e === undefined || revision <= e.revision || !e.waiting.delete(index)) return;
    e.ackMs.push(hostClock.monotonicMs());
  }

  /** Dials the agents at a pace and waits until all are in sync. */
  async connect(indices: readonly number[], on: { perSecond: number; timeoutMs: number }): Promise<void> {
    const start = hostClock.monotonicMs();
    let n = 0;
    for (const agent of this.#named(indices)) {
      agent.start();
      const dueMs = start + (++n / on.perSecond) * 1_000;
      const waitMs = dueMs - hostClock.monotonicMs();
      if (waitMs > 1) await sleep(hostClock, waitMs);
    }
    await this.awaitSync(indices, on.timeoutMs);
  }

  /** Ends the streams of these agents for good. */
  disconnect(indices: readonly number[]): void {
    for (const agent of this.#named(indices)) agent.stop();
  }

  /** Begins a new span of counters, times and the meter. */
  mark(): void {
    this.#tally.mark();
    this.#received.clear();
    this.#meter.mark();
  }

  /** Everything since the last mark. */
  stats(): WorkerStats {
    const agents = [...this.#agents.values()];
    return {
      counts: { ...this.#tally.counts },
      connected: agents.filter((a) => a.up).length,
      inSync: agents.filter((a) => a.inSync).length,
      refusedRunning: this.#tally.refusedRunning,
      handshakeMs: [...this.#tally.handshakeMs],
      initialEndMs: [...this.#tally.initialEndMs],
      reasons: [...this.#tally.reasons],
      meter: this.#meter.read(),
    };
  }

  /** Resolves when all of them are in sync; rejects after the time. */
  awaitSync(indices: readonly number[], timeoutMs: number): Promise<void> {
    return this.#until(indices, { timeoutMs, what: "in sync", test: (a) => a.inSync });
  }

  /** Resolves when the hub has all status of all of them. */
  awaitReported(indices: readonly number[], timeoutMs: number): Promise<void> {
    return this.#until(indices, { timeoutMs, what: "reported", test: (a) => a.inSync && a.reported });
  }

  async #until(
    indices: readonly number[],
    on: { timeoutMs: number; what: string; test(agent: ProtocolAgent): boolean },
  ): Promise<void> {
    const agents = this.#named(indices);
    const start = hostClock.monotonicMs();
    for (;;) {
      const missing = agents.filter((a) => !on.test(a)).length;
      if (missing === 0) return;
      if (hostClock.monotonicMs() - start > on.timeoutMs) {
        const why = [...this.#tally.reasons].map(([r, n]) => `${n} x ${r}`).join(", ");
        throw new Error(
          `${missing} of ${agents.length} agents are not ${on.what} after ${on.timeoutMs} ms${why === "" ? "" : `: ${why}`}`,
        );
      }
      await sleep(hostClock, LOOK_MS);
    }
  }

  /** From now on acks above `revision` are noted. */
  expect(indices: readonly number[], revision: number): void {
    this.#expected = { revision: BigInt(revision), waiting: new Set(indices), ackMs: [] };
  }

  /** Resolves with the times of the expected acks. */
  async acked(timeoutMs: number): Promise<Answers["acked"]> {
    const start = hostClock.monotonicMs();
    const e = this.#expected;
    if (e === undefined) throw new Error("No ack is expected");
    while (e.waiting.size > 0) {
      if (hostClock.monotonicMs() - start > timeoutMs)
        throw new Error(`${e.waiting.size} acks did not come within ${timeoutMs} ms`);
      await sleep(hostClock, LOOK_MS);
    }
    return { ackMs: e.ackMs };
  }

  /** Updates that the agent received since the last mark. */
  received(index: number): Received[] {
    return this.#received.get(index) ?? [];
  }

  #named(indices: readonly number[]): ProtocolAgent[] {
    return indices.map((i) => {
      const agent = this.#agents.get(i);
      if (agent === undefined) throw new Error(`Agent ${i} is not enrolled in this process`);
      return agent;
    });
  }
}

/** A loopback address of its own for each of 4 million agents. */
export const loopbackAddress = (index: number): string =>
  `127.${64 + (Math.floor(index / 62_500) % 64)}.${1 + (Math.floor(index / 250) % 250)}.${1 + (index % 250)}`;
