/** A TCP proxy that counts: what a connection costs on the wire, TLS and HTTP/2 included, TCP/IP headers not. */
import type { AddressInfo, Socket } from "node:net";
import { connect, createServer } from "node:net";

/** A running proxy. */
export interface CountingProxy {
  port: number;
  /** Bytes of both directions since the start or the last call of `reset`. */
  bytes(): { toHub: number; toAgents: number };
  reset(): void;
  close(): Promise<void>;
}

/** Forwards loopback connections to `port`. */
export function startCountingProxy(port: number): Promise<CountingProxy> {
  let toHub = 0;
  let toAgents = 0;
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (agent) => {
    const hub = connect({ host: "127.0.0.1", port, noDelay: true });
    for (const [socket, other] of [
      [agent, hub],
      [hub, agent],
    ] as const) {
      sockets.add(socket);
      socket.on("error", () => undefined);
      socket.once("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
    agent.on("data", (data) => {
      toHub += data.length;
      if (!hub.write(data)) agent.pause();
    });
    hub.on("data", (data) => {
      toAgents += data.length;
      if (!agent.write(data)) hub.pause();
    });
    agent.on("drain", () => hub.resume());
    hub.on("drain", () => agent.resume());
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      resolve({
        port: (server.address() as AddressInfo).port,
        bytes: () => ({ toHub, toAgents }),
        reset() {
          toHub = 0;
          toAgents = 0;
        },
        close() {
          for (const socket of sockets) socket.destroy();
          return new Promise((closed) => server.close(() => closed()));
        },
      });
    });
  });
}
