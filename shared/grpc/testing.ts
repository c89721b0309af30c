/** For tests: calls that no client of ours would make, half sent or never read, through Node's own HTTP/2. */
import { once } from "node:events";
import type { ClientHttp2Session, IncomingHttpHeaders } from "node:http2";
import { connect } from "node:http2";
import type { DescMethod, MessageInitShape } from "@bufbuild/protobuf";
import type { MoorageError } from "../errors.ts";
import { encode } from "./codec.ts";
import { methodPath } from "./dispatch.ts";
import { DETAILS_KEY, decodeStatus } from "./status-details.ts";

/** One call whose parts are sent by hand. */
export interface RawCall<M extends DescMethod> {
  /** Sends one message. */
  send(message: MessageInitShape<M["input"]>): void;
  /** Says that no message follows. */
  endRequest(): void;
  /** Begins to read the answer; until then no more than one HTTP/2 window of it leaves the server. */
  read(): void;
  /** Resolves once the answer has begun: its headers are there. */
  readonly begun: Promise<void>;
  /** The status once the call has ended: undefined for OK, "reset" when there is none. */
  readonly ended: Promise<MoorageError | "reset" | undefined>;
}

/** A connection to a port without TLS. */
export async function rawSession(port: number): Promise<ClientHttp2Session> {
  const session = connect(`http://127.0.0.1:${port}`);
  session.on("error", () => undefined);
  await once(session, "connect");
  return session;
}

/** Opens a call: its headers are sent, and nothing else. */
export function rawCall<M extends DescMethod>(
  session: ClientHttp2Session,
  method: M,
  headers: Readonly<Record<string, string>> = {},
): RawCall<M> {
  const stream = session.request({
    ":method": "POST",
    ":path": methodPath(method),
    "content-type": "application/grpc",
    te: "trailers",
    ...headers,
  });
  const got: IncomingHttpHeaders = {};
  const begun = Promise.withResolvers<void>();
  stream.on("response", (h) => {
    Object.assign(got, h);
    begun.resolve();
  });
  const ended = Promise.withResolvers<MoorageError | "reset" | undefined>();
  const over = () => {
    const code = got["grpc-status"];
    if (code === undefined) return;
    const details = got[DETAILS_KEY];
    const bytes = typeof details === "string" ? Buffer.from(details, "base64") : undefined;
    const error = decodeStatus(Number(code), decodeURI(String(got["grpc-message"] ?? "")), bytes);
    ended.resolve(Number(code) === 0 ? undefined : error);
  };
  // A refusal comes as headers alone: it is known before anything is read.
  stream.on("response", over);
  stream.on("trailers", (h) => {
    Object.assign(got, h);
    over();
  });
  stream.on("error", () => undefined);
  stream.on("close", () => {
    begun.resolve();
    ended.resolve("reset");
  });
  return {
    send(message) {
      const bytes = encode(method.input, message);
      const head = Buffer.alloc(5);
      head.writeUInt32BE(bytes.length, 1);
      stream.write(Buffer.concat([head, bytes]));
    },
    endRequest: () => void stream.end(),
    read: () => void stream.resume(),
    begun: begun.promise,
    ended: ended.promise,
  };
}
