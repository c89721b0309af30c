import type { AddressInfo, Socket } from "node:net";
import { createServer } from "node:net";
import type { Clock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";

/** A TCP port, as configured. */
export interface Address {
  host: string;
  /** 0 takes a free one. */
  port: number;
}

/** An open port before anything speaks on it. */
export interface Listener {
  /** The address bound. */
  readonly address: Address;
  /** Connections open now. */
  connections(): number;
  /** Refuses new connections. Idempotent. */
  stopAccepting(): void;
  /** Destroys all connections. */
  destroyAll(): void;
}

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
 * Opens a port and hands each socket to `accept`. Above `acceptsPerSecond` (a token bucket one
 * second deep, on `clock`) new sockets are destroyed before any TLS work is spent on them.
 */
export function listen(options: {
  address: Address;
  option?: string;
  acceptsPerSecond?: number;
  clock: Clock;
  accept(socket: Socket): void;
}): Promise<Listener> {
  const sockets = new Set<Socket>();
  const rate = options.acceptsPerSecond ?? Number.POSITIVE_INFINITY;
  let tokens = rate;
  let lastMs = options.clock.monotonicMs();
  const admitted = (): boolean => {
    if (rate === Number.POSITIVE_INFINITY) return true;
    const nowMs = options.clock.monotonicMs();
    tokens = Math.min(rate, tokens + ((nowMs - lastMs) / 1000) * rate);
    lastMs = nowMs;
    if (tokens < 1) return false;
    tokens -= 1;
    return true;
  };
  const server = createServer({ noDelay: true }, (socket) => {
    // Errors of a raw socket are reported again by TLS or HTTP/2 above; alone they must not crash.
    socket.on("error", () => undefined);
    if (!admitted()) {
      socket.resetAndDestroy();
      return;
    }
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    options.accept(socket);
  });
  return new Promise((resolve, reject) => {
    server.once("error", (thrown) => reject(listenError(options.address, thrown, options.option)));
    server.listen({ ...options.address, backlog: 4096 }, () => {
      resolve({
        address: { host: options.address.host, port: (server.address() as AddressInfo).port },
        connections: () => sockets.size,
        stopAccepting: () => void server.close(),
        destroyAll() {
          for (const socket of sockets) socket.destroy();
        },
      });
    });
  });
}
