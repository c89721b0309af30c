import type { AddressInfo, Socket } from "node:net";
import { createServer, isIPv6 } from "node:net";
import type { Clock, Timer } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import type { Bucket } from "./token-bucket.ts";
import { fullBucket, takeToken } from "./token-bucket.ts";

/** A TCP port, as configured. */
export interface Address {
  host: string;
  /** 0 takes a free one. */
  port: number;
}

/** Why a connection was ended before it carried a call. */
export const refusedReasons = [
  "accept_rate",
  "address_pending",
  "address_connections",
  "waiting_timeout",
  "handshake_timeout",
] as const;
export type RefusedReason = (typeof refusedReasons)[number];

/** An open port before anything speaks on it. */
export interface Listener {
  /** The address bound. */
  readonly address: Address;
  /** Connections open now. */
  connections(): number;
  /** The connection of `peer` (`host:port`) carries a call: it has shown that it is a client. */
  established(peer: string): void;
  /** Calls `fn` once, when no connection is open: at once when that is so. */
  onEmpty(fn: () => void): void;
  /** Refuses new connections. Idempotent. */
  stopAccepting(): void;
  /** Destroys all connections. */
  destroyAll(): void;
}

/** What a port admits; all of it is checked before any TLS work is spent. */
export interface ListenOptions {
  address: Address;
  /** The setting that holds the address. */
  option?: string;
  clock: Clock;
  /** How fast connections may begin TLS, and who waits; unlimited when absent. */
  pace?: Pace;
  /** Time from the start of TLS to the first call; then the connection is ended. Unlimited when absent. */
  handshakeMs?: number;
  /** Connections of one source address (of a /64 for IPv6) before their first call. */
  pendingPerAddress?: number;
  /** Connections of one source address at all; absent where a certificate tells clients apart. */
  connectionsPerAddress?: number;
  onRefused?: (reason: RefusedReason) => void;
  accept(socket: Socket): void;
}

/**
 * A connection that opens costs more than all else. The others wait before TLS, unread, first come first served, while
 * the rate is used up or the event loop is behind with what was begun: work that is begun is finished in time, calls
 * under way go on, and what waits costs nothing.
 */
export interface Pace {
  /** Connections that may begin a second, in the long run. */
  perSecond: number;
  /** And at once. */
  burst: number;
  /** One at a time begins while the event loop is later than this. */
  loopDelayMs: number;
  /** How many may wait; whoever comes then is reset. */
  waiting: number;
  /** How long; then the connection is reset. */
  waitMs: number;
}

/** How often those that wait are looked at; how late that happens is the delay of the event loop. */
const LOOK_MS = 10;

/** What a busy or forbidden port means, in words. */
const REASONS: Readonly<Record<string, string>> = {
  EADDRINUSE: "address already in use",
  EACCES: "permission denied",
  EADDRNOTAVAIL: "address not available on this machine",
  ENOTFOUND: "host name not found",
};

/** The error for a port that cannot be opened; `option` names the setting to change. */
export function listenError(address: Address, thrown: NodeJS.ErrnoException, option?: string): MoorageError {
  const reason = REASONS[thrown.code ?? ""] ?? thrown.code ?? "unknown error";
  const hint = option === undefined ? "" : ` (option ${option})`;
  return new MoorageError(
    Code.FAILED_PRECONDITION,
    `Cannot listen on "${address.host}:${address.port}": ${reason}${hint}`,
    { reason: "CANNOT_LISTEN", cause: thrown },
  );
}

/**
 * What connections are counted by: the address, of IPv6 its first 64 bits, since a single host has
 * as many addresses as it likes below them. An IPv4-mapped address is the IPv4 one.
 */
export function sourceOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!isIPv6(address)) return address;
  const [head = "", tail] = (address.split("%")[0] as string).split("::");
  const groups = head === "" ? [] : head.split(":");
  const after = tail === undefined || tail === "" ? 0 : tail.split(":").length;
  const zeros = tail === undefined ? 0 : 8 - groups.length - after;
  const all = [...groups, ...Array<string>(zeros).fill("0"), ...(tail ?? "").split(":").filter(Boolean)];
  return `${all.slice(0, 4).join(":")}::/64`;
}

/** Opens a port and hands each admitted socket to `accept`; the others are reset. */
export function listen(options: ListenOptions): Promise<Listener> {
  const door = new Door(options);
  // Paused: nothing is read of a connection that waits.
  const server = createServer({ noDelay: true, pauseOnConnect: true }, (socket) => {
    // Errors of a raw socket are reported again by TLS or HTTP/2 above; alone they must not crash.
    socket.on("error", () => undefined);
    if (!door.enter(socket)) socket.resetAndDestroy();
  });
  return new Promise((resolve, reject) => {
    server.once("error", (thrown) => reject(listenError(options.address, thrown, options.option)));
    server.listen({ ...options.address, backlog: 4096 }, () => {
      resolve({
        address: { host: options.address.host, port: (server.address() as AddressInfo).port },
        connections: () => door.connections(),
        established: (peer) => door.established(peer),
        onEmpty: (fn) => door.onEmpty(fn),
        stopAccepting: () => void server.close(),
        destroyAll: () => door.destroyAll(),
      });
    });
  });
}

/** A connection of the door. */
interface Visitor {
  socket: Socket;
  source: string;
  /** No call yet. */
  pending: boolean;
  timer: Timer | undefined;
}

/** Connections now, before their first call and at all, of one source. */
interface Source {
  pending: number;
  all: number;
}

/** Who is in, and whether the next may enter. */
class Door {
  readonly #o: ListenOptions;
  readonly #visitors = new Map<string, Visitor>();
  readonly #sources = new Map<string, Source>();
  readonly #whenEmpty: (() => void)[] = [];
  readonly #waiting = new Set<Visitor>();
  #bucket: Bucket | undefined;
  /** A look at those that wait is to come. */
  #looking = false;

  constructor(options: ListenOptions) {
    this.#o = options;
    if (options.pace !== undefined) this.#bucket = fullBucket(options.pace, options.clock.monotonicMs());
  }

  connections(): number {
    return this.#visitors.size;
  }

  onEmpty(fn: () => void): void {
    if (this.#visitors.size === 0) fn();
    else this.#whenEmpty.push(fn);
  }

  destroyAll(): void {
    for (const { socket } of this.#visitors.values()) socket.destroy();
  }

  /** Lets a socket in, or says why not. The address is asked first: a flood of one must not use up the rate of all. */
  enter(socket: Socket): boolean {
    if (socket.remoteAddress === undefined) return false;
    const source = sourceOf(socket.remoteAddress);
    const counts = this.#sources.get(source) ?? { pending: 0, all: 0 };
    const refused = this.#refuses(counts);
    if (refused !== undefined) {
      this.#o.onRefused?.(refused);
      return false;
    }
    const peer = `${socket.remoteAddress}:${socket.remotePort}`;
    this.#sources.set(source, counts);
    counts.pending += 1;
    counts.all += 1;
    const visitor: Visitor = { socket, source, pending: true, timer: undefined };
    this.#visitors.set(peer, visitor);
    socket.once("close", () => {
      this.#waiting.delete(visitor);
      this.established(peer);
      this.#visitors.delete(peer);
      counts.all -= 1;
      if (counts.all === 0) this.#sources.delete(source);
      if (this.#visitors.size === 0) for (const fn of this.#whenEmpty.splice(0)) fn();
    });
    if (this.#waiting.size === 0 && this.#mayBegin()) this.#begin(visitor);
    else this.#wait(visitor);
    return true;
  }

  established(peer: string): void {
    const visitor = this.#visitors.get(peer);
    if (visitor === undefined || !visitor.pending) return;
    visitor.timer?.cancel();
    visitor.pending = false;
    const counts = this.#sources.get(visitor.source);
    if (counts !== undefined) counts.pending -= 1;
  }

  #refuses(counts: Source): RefusedReason | undefined {
    if (counts.pending >= (this.#o.pendingPerAddress ?? Number.POSITIVE_INFINITY)) return "address_pending";
    if (counts.all >= (this.#o.connectionsPerAddress ?? Number.POSITIVE_INFINITY))
      return "address_connections";
    if (this.#waiting.size >= (this.#o.pace?.waiting ?? Number.POSITIVE_INFINITY)) return "accept_rate";
    return undefined;
  }

  /** Takes a token of the rate. */
  #mayBegin(): boolean {
    const { pace, clock } = this.#o;
    if (pace === undefined || this.#bucket === undefined) return true;
    const taken = takeToken(this.#bucket, pace, clock.monotonicMs());
    this.#bucket = taken.bucket;
    return taken.waitMs === 0;
  }

  #wait(visitor: Visitor): void {
    this.#waiting.add(visitor);
    visitor.timer = this.#o.clock.setTimer(this.#o.pace?.waitMs ?? 0, () => {
      this.#o.onRefused?.("waiting_timeout");
      visitor.socket.resetAndDestroy();
    });
    this.#lookLater();
  }

  #lookLater(): void {
    if (this.#looking) return;
    this.#looking = true;
    const { clock, pace } = this.#o;
    const dueMs = clock.monotonicMs() + LOOK_MS;
    clock.setTimer(LOOK_MS, () => {
      this.#looking = false;
      // One in any case: a loop that is late for other reasons must not keep everybody out.
      let most = clock.monotonicMs() - dueMs > (pace?.loopDelayMs ?? 0) ? 1 : this.#waiting.size;
      for (const visitor of this.#waiting) {
        if (most-- === 0 || !this.#mayBegin()) break;
        this.#waiting.delete(visitor);
        visitor.timer?.cancel();
        this.#begin(visitor);
      }
      if (this.#waiting.size > 0) this.#lookLater();
    });
  }

  #begin(visitor: Visitor): void {
    if (this.#o.handshakeMs !== undefined) {
      visitor.timer = this.#o.clock.setTimer(this.#o.handshakeMs, () => {
        this.#o.onRefused?.("handshake_timeout");
        visitor.socket.destroy();
      });
    }
    // Its handle reads from now on, as that of a socket does which was never paused.
    visitor.socket.read(0);
    this.#o.accept(visitor.socket);
  }
}
