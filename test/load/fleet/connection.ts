/**
 * One agent's connection: TCP, mTLS 1.3, HTTP/2, one Sync stream, as in production, on node:http2
 * directly. It costs the driver less than a gRPC channel, so that few processes carry thousands.
 */
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from "node:http2";
import { connect as http2Connect } from "node:http2";
import { connect as tlsConnect } from "node:tls";
import type { MoorageError } from "@moorage/shared/errors";
import { decodeStatus } from "@moorage/shared/grpc/status-details";
import { Deframer, frame } from "./framing.ts";

/** Where and as whom to connect. */
export interface ConnectionOptions {
  host: string;
  port: number;
  /** Address to come from; loopback has many, so that each agent can have its own, as in production. */
  localAddress?: string;
  /** Name in the hub's certificate. */
  serverName: string;
  caPem: string;
  certPem: string;
  keyPem: string;
}

/** How far a connection had come: no TCP, no TLS, no answer of the hub, an answer. */
export type Stage = "tcp" | "tls" | "stream" | "up";

/** How a connection ended. `status` is gRPC's, undefined when it broke without one. */
export interface Closed {
  stage: Stage;
  status: MoorageError | undefined;
  /** The stream ended with OK. */
  ok: boolean;
}

/** What happens on a connection; `onClosed` comes once, last. */
export interface ConnectionEvents {
  onSecure(): void;
  onMessage(message: Buffer): void;
  onClosed(closed: Closed): void;
}

/** An open or opening connection. */
export interface Connection {
  send(message: Uint8Array): void;
  /** HTTP/2 PING, as gRPC's keepalive sends it; false while the last one is not answered. */
  ping(): boolean;
  /** Half-closes the stream, then the connection. */
  end(): void;
  /** Breaks it at once. */
  destroy(): void;
}

const SYNC_PATH = "/moorage.agent.v1.SyncService/Sync";

/** Dials; nothing is thrown, all ends in `onClosed`. */
export function openConnection(options: ConnectionOptions, on: ConnectionEvents): Connection {
  const { host, port, serverName } = options;
  let stage: Stage = "tcp";
  const socket = tlsConnect({
    host,
    port,
    ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
    servername: serverName,
    ca: options.caPem,
    cert: options.certPem,
    key: options.keyPem,
    ALPNProtocols: ["h2"],
    minVersion: "TLSv1.3",
  });
  socket.setNoDelay(true);
  socket.once("connect", () => (stage = "tls"));
  socket.once("secureConnect", () => {
    stage = "stream";
    on.onSecure();
  });
  const session: ClientHttp2Session = http2Connect(`https://${serverName}:${port}`, {
    createConnection: () => socket,
    settings: { enablePush: false },
  });
  const stream: ClientHttp2Stream = session.request({
    ":method": "POST",
    ":path": SYNC_PATH,
    "content-type": "application/grpc",
    te: "trailers",
  });
  const deframer = new Deframer();
  let status: { code: number; error: MoorageError } | undefined;
  let over = false;
  let pinging = false;
  const finish = (): void => {
    if (over) return;
    over = true;
    session.destroy();
    socket.destroy();
    on.onClosed({ stage, status: status?.error, ok: status?.code === 0 });
  };
  const noteStatus = (headers: IncomingHttpHeaders): void => {
    if (headers["grpc-status"] !== undefined) status ??= readStatus(headers);
  };
  // Errors say no more than the closing that follows each of them.
  for (const part of [socket, session, stream]) part.on("error", () => undefined);
  stream.on("response", (headers) => {
    if (headers["grpc-status"] === undefined) stage = "up";
    noteStatus(headers);
  });
  stream.on("trailers", noteStatus);
  stream.on("data", (chunk: Buffer) => {
    try {
      for (const message of deframer.push(chunk)) if (!over) on.onMessage(message);
    } catch {
      finish();
    }
  });
  // The hub's status ends its half only: nothing closes while the agent's half stays open.
  stream.once("end", () => setImmediate(finish));
  stream.once("close", finish);
  session.once("close", finish);
  socket.once("close", finish);
  return {
    send(message) {
      if (!over && !stream.destroyed && !stream.writableEnded) stream.write(frame(message));
    },
    ping() {
      if (pinging) return false;
      if (over || stage === "tcp" || stage === "tls") return true;
      pinging = true;
      session.ping(() => (pinging = false));
      return true;
    },
    end() {
      if (!over && !stream.destroyed) stream.end(finish);
      else finish();
    },
    destroy: finish,
  };
}

function readStatus(headers: IncomingHttpHeaders): { code: number; error: MoorageError } {
  const code = Number(headers["grpc-status"]);
  const details = headers["grpc-status-details-bin"];
  const message = String(headers["grpc-message"] ?? "");
  const bytes = typeof details === "string" ? Buffer.from(details, "base64") : undefined;
  return { code, error: decodeStatus(code, safeDecode(message), bytes) };
}

function safeDecode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
