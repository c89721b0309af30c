/**
 * A scriptable TCP proxy on loopback: latency, rate, a direction that is lost, half-open connections
 * (nothing arrives, nobody is told), cuts by RST or FIN, flipped bytes. It needs no rights and no
 * kernel module. Faults are set while it runs and hold for bytes that arrive from then on.
 */
import type { AddressInfo, Socket } from "node:net";
import { connect, createServer } from "node:net";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";

/** The way of bytes: from the client to the server, or back. */
export type Direction = "up" | "down";

/** What happens to the bytes of one direction. */
export interface Fault {
  /** Each byte arrives so much later. */
  latencyMs?: number;
  /** Bytes a second; 0 stops reading, so that the sender's buffers fill. */
  bytesPerSecond?: number;
  /** Bytes are read and thrown away, and the end of the connection is not passed on: half-open. */
  lost?: boolean;
  /** One bit of the next bytes is flipped, once. */
  flipBit?: boolean;
}

/** A running proxy. */
export interface Proxy {
  readonly port: number;
  /** Sets the fault of a direction, or of both; `{}` heals it. */
  set(direction: Direction | "both", fault: Fault): void;
  /** Cuts all connections that stand: by RST, or by FIN in both directions. */
  cut(how: "rst" | "fin"): void;
  /** While true, new connections are reset. */
  refuse(refusing: boolean): void;
  /** Connections that stand. */
  connections(): number;
  /** Bytes that were passed on. */
  bytes(direction: Direction): number;
  /** Bytes that were thrown away. */
  lostBytes(direction: Direction): number;
  close(): Promise<void>;
}

/** Starts a proxy to a port on loopback. */
export async function startProxy(targetPort: number, clock: Clock = systemClock): Promise<Proxy> {
  const faults: Record<Direction, Fault> = { up: {}, down: {} };
  const bytes: Record<Direction, number> = { up: 0, down: 0 };
  const lost: Record<Direction, number> = { up: 0, down: 0 };
  const pairs = new Set<{ client: Socket; server: Socket; pipes: Pipe[] }>();
  let refusing = false;
  const accept = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    client.on("error", () => undefined);
    if (refusing) {
      client.resetAndDestroy();
      return;
    }
    const server = connect({ host: "127.0.0.1", port: targetPort, allowHalfOpen: true, noDelay: true });
    server.on("error", () => client.destroy());
    const counts = (direction: Direction) => ({
      clock,
      fault: () => faults[direction],
      passed: (n: number) => void (bytes[direction] += n),
      lost: (n: number) => void (lost[direction] += n),
    });
    const pipes = [
      new Pipe({ from: client, to: server, ...counts("up") }),
      new Pipe({ from: server, to: client, ...counts("down") }),
    ];
    const pair = { client, server, pipes };
    pairs.add(pair);
    // Both ends closed: nothing is left to pass on.
    const gone = () => client.destroyed && server.destroyed && pairs.delete(pair);
    client.once("close", gone);
    server.once("close", gone);
  });
  await new Promise<void>((resolve) => accept.listen(0, "127.0.0.1", resolve));
  return {
    port: (accept.address() as AddressInfo).port,
    set(direction, fault) {
      for (const d of direction === "both" ? (["up", "down"] as const) : [direction]) faults[d] = fault;
      for (const { pipes } of pairs) for (const pipe of pipes) pipe.changed();
    },
    cut(how) {
      for (const { client, server } of pairs) {
        for (const socket of [client, server]) {
          if (how === "rst") socket.resetAndDestroy();
          else socket.end();
        }
      }
    },
    refuse: (now) => void (refusing = now),
    connections: () => pairs.size,
    bytes: (direction) => bytes[direction],
    lostBytes: (direction) => lost[direction],
    close() {
      for (const { client, server } of pairs) for (const socket of [client, server]) socket.destroy();
      return new Promise((resolve) => accept.close(() => resolve()));
    },
  };
}

interface PipeOptions {
  from: Socket;
  to: Socket;
  clock: Clock;
  fault(): Fault;
  passed(n: number): void;
  lost(n: number): void;
}

/** One direction of one connection. Order holds: what was read first is written first. */
class Pipe {
  readonly #o: PipeOptions;
  #queue: { data: Buffer | "end" | "close"; atMs: number }[] = [];
  #busy = false;

  constructor(options: PipeOptions) {
    this.#o = options;
    const { from, to } = options;
    from.on("data", (data: Buffer) => this.#take(data));
    from.once("end", () => this.#take("end"));
    from.once("close", () => this.#take("close"));
    to.on("drain", () => this.changed());
    this.changed();
  }

  /** The fault changed, or room came. */
  changed(): void {
    const stopped = this.#o.fault().bytesPerSecond === 0;
    if (stopped || this.#o.to.writableNeedDrain) this.#o.from.pause();
    else this.#o.from.resume();
    void this.#run();
  }

  #take(data: Buffer | "end" | "close"): void {
    const fault = this.#o.fault();
    // Whoever lost the peer is not told: neither bytes nor their end arrive.
    if (fault.lost === true) {
      if (typeof data !== "string") this.#o.lost(data.length);
      return;
    }
    if (fault.flipBit === true && typeof data !== "string") {
      data[data.length >> 1] = (data[data.length >> 1] as number) ^ 1;
      fault.flipBit = false;
    }
    this.#queue.push({ data, atMs: this.#o.clock.monotonicMs() + (fault.latencyMs ?? 0) });
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      const rate = this.#o.fault().bytesPerSecond;
      if (rate === 0) break;
      await this.#wait(next.atMs - this.#o.clock.monotonicMs());
      this.#queue.shift();
      this.#write(next.data);
      if (rate !== undefined && typeof next.data !== "string")
        await this.#wait((next.data.length / rate) * 1_000);
    }
    this.#busy = false;
  }

  #write(data: Buffer | "end" | "close"): void {
    const { to, passed } = this.#o;
    if (to.destroyed) return;
    if (data === "end") to.end();
    else if (data === "close") to.destroySoon();
    else {
      passed(data.length);
      if (!to.write(data)) this.#o.from.pause();
    }
  }

  #wait(ms: number): Promise<void> {
    return ms <= 0 ? Promise.resolve() : new Promise((resolve) => this.#o.clock.setTimer(ms, resolve));
  }
}
