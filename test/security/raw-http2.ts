/** HTTP/2 frame by frame (RFC 9113), for clients that do what no library lets them do. */
import type { ClientHttp2Session, IncomingHttpHeaders } from "node:http2";
import { connect as http2Connect } from "node:http2";
import type { Socket } from "node:net";
import { connect as tcpConnect } from "node:net";
import type { ConnectionOptions } from "node:tls";
import { connect as tlsConnect } from "node:tls";

/** Frame types. */
export const Type = {
  DATA: 0,
  HEADERS: 1,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;

/** Flags. */
export const END_STREAM = 1;
export const END_HEADERS = 4;

/** Settings by their identifiers. */
export const Setting = { MAX_CONCURRENT_STREAMS: 3, MAX_HEADER_LIST_SIZE: 6 } as const;

/** A frame that arrived. */
export interface Frame {
  type: number;
  flags: number;
  stream: number;
  payload: Buffer;
}

/** A connection that sends what it is told and remembers what came. */
export interface RawConnection {
  socket: Socket;
  /** All frames so far. */
  frames: Frame[];
  send(...data: Buffer[]): void;
  /** The first frame that fits, come or still to come; undefined when the connection ends before. */
  first(fits: (frame: Frame) => boolean): Promise<Frame | undefined>;
  /** Resolves when the connection is closed. */
  closed: Promise<void>;
}

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

/** One frame. */
export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Buffer = Buffer.alloc(0),
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** A 32-bit number as a payload. */
export function uint32(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(value);
  return out;
}

function hpackInteger(value: number): Buffer {
  if (value < 127) return Buffer.from([value]);
  const out = [127];
  for (value -= 127; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) | 128);
  return Buffer.from([...out, value]);
}

/** A header block of literals that are not indexed and not compressed (RFC 7541, 6.2.2). */
export function headerBlock(headers: readonly (readonly [string, string])[]): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of headers) {
    parts.push(Buffer.from([0]), hpackInteger(name.length), Buffer.from(name));
    parts.push(hpackInteger(value.length), Buffer.from(value));
  }
  return Buffer.concat(parts);
}

/** The headers of a gRPC call. */
export function callHeaders(path: string): readonly (readonly [string, string])[] {
  return [
    [":method", "POST"],
    [":scheme", "https"],
    [":path", path],
    [":authority", "localhost"],
    ["content-type", "application/grpc"],
    ["te", "trailers"],
  ];
}

/** Connects and sends the preface with empty settings; `tls` undefined is plain TCP and no preface. */
export async function rawConnect(port: number, tls: ConnectionOptions | undefined): Promise<RawConnection> {
  const host = "127.0.0.1";
  const socket: Socket =
    tls === undefined
      ? tcpConnect(port, host)
      : tlsConnect({ host, port, servername: "localhost", ALPNProtocols: ["h2"], ...tls });
  const frames: Frame[] = [];
  let waiting: (() => void)[] = [];
  let open = true;
  const wake = () => {
    for (const fn of waiting.splice(0)) fn();
  };
  let rest = Buffer.alloc(0);
  socket.on("data", (data: Buffer) => {
    rest = Buffer.concat([rest, data]);
    while (rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
      const length = rest.readUIntBE(0, 3);
      frames.push({
        type: rest[3] as number,
        flags: rest[4] as number,
        stream: rest.readUInt32BE(5) & 0x7fffffff,
        payload: rest.subarray(9, 9 + length),
      });
      rest = rest.subarray(9 + length);
    }
    wake();
  });
  socket.on("error", () => undefined);
  const closed = new Promise<void>((resolve) =>
    socket.once("close", () => {
      open = false;
      wake();
      resolve();
    }),
  );
  const ready = new Promise<void>((resolve) => {
    socket.once(tls === undefined ? "connect" : "secureConnect", () => resolve());
    socket.once("close", () => resolve());
  });
  await ready;
  if (tls !== undefined && open) socket.write(Buffer.concat([PREFACE, frame(Type.SETTINGS, 0, 0)]));
  return {
    socket,
    frames,
    send: (...data) => {
      if (!socket.destroyed) socket.write(data.length === 1 ? (data[0] as Buffer) : Buffer.concat(data));
    },
    async first(fits) {
      for (;;) {
        const found = frames.find(fits);
        if (found !== undefined || !open) return found;
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
    closed,
  };
}

/** The values of a SETTINGS frame by identifier. */
export function settingsOf(payload: Buffer): Map<number, number> {
  const out = new Map<number, number>();
  for (let i = 0; i + 6 <= payload.length; i += 6)
    out.set(payload.readUInt16BE(i), payload.readUInt32BE(i + 2));
  return out;
}

/** Bytes of one gRPC message. */
export function message(body: Buffer, head: { flag?: number; length?: number } = {}): Buffer {
  return Buffer.concat([Buffer.from([head.flag ?? 0]), uint32(head.length ?? body.length), body]);
}

/** One gRPC call through Node's HTTP/2 client: its status, or undefined when the stream was reset. */
export function call(
  session: ClientHttp2Session,
  path: string,
  body: Buffer,
  headers: Record<string, string> = {},
): Promise<{ status: number | undefined; http: number | undefined; text: string }> {
  return new Promise((resolve) => {
    const request = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      ...headers,
    });
    const got: IncomingHttpHeaders = {};
    request.on("response", (h) => Object.assign(got, h));
    request.on("trailers", (h) => Object.assign(got, h));
    request.on("error", () => undefined);
    request.on("close", () => {
      const status = got["grpc-status"];
      resolve({
        status: status === undefined ? undefined : Number(status),
        http: got[":status"] as number | undefined,
        text: decodeURI(String(got["grpc-message"] ?? "")),
      });
    });
    request.resume();
    request.end(body);
  });
}

/** A connection through Node's HTTP/2 client. */
export async function session(port: number, tls: ConnectionOptions): Promise<ClientHttp2Session> {
  const made = http2Connect(`https://localhost:${port}`, { ...tls, host: "127.0.0.1" } as never);
  made.on("error", () => undefined);
  await new Promise<void>((resolve) => made.once("connect", () => resolve()));
  return made;
}
