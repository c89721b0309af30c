import type { DescMethod, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";

/**
 * What a service sees of a transport, and nothing of gRPC's library: handlers and clients have these
 * types over sockets (server.ts, client.ts) and in memory (memory-link.ts). Thrown values cross as
 * MoorageError with code, message and details. Writers must stop when `write` answers false and go
 * on after `drained`; the transport buffers whatever it is given.
 */

/** Facts of one call at the server. */
export interface CallContext {
  /** Aborts when the caller cancelled, went away or the deadline passed. */
  readonly signal: AbortSignal;
  /** Request metadata; names are case-insensitive. */
  readonly metadata: { get(name: string): string | undefined };
  /** Address of the peer, host:port, for logs and rate limits. */
  readonly peer: string;
  /** The verified client certificate in DER, when the port demands one. */
  readonly peerCertificateDer: Uint8Array | undefined;
  /** Wall time in milliseconds at which the caller gives up; undefined without a deadline. */
  readonly deadlineMs: number | undefined;
  /** Who is charged for what waits to be read; set once known, nobody while absent. */
  account?: string;
  /** Full method, e.g. `/moorage.agent.v1.SyncService/Sync`. */
  readonly method: string;
  /** Sets one trailer of the answer. */
  setTrailer(name: string, value: string): void;
  /** Ends the call with the status of `thrown`, whatever its handler does or its caller reads; aborts `signal`. */
  end(thrown: unknown): void;
  /** Calls `fn` once nothing of the call is held any more: its answer has left, or its caller is gone. */
  onClosed(fn: () => void): void;
}

/** One direction or both of a stream, as its owner sees it. `In` is read, `Out` is written. */
export interface DuplexStream<In, Out> {
  /** Messages of the peer; ends at half-close, throws MoorageError when the call broke. One reader. */
  read(): AsyncIterable<In>;
  /**
   * Queues a message, or its encoded bytes as they are; false: wait for `drained` before the next. A
   * server throws RESOURCE_EXHAUSTED `MESSAGE_TOO_LARGE` for one that its port may not send.
   */
  write(message: Out | Uint8Array): boolean;
  /** Resolves when the queue has room, or when the call is over. */
  drained(): Promise<void>;
  /** Ends this direction; later writes are dropped. */
  end(): void;
}

/**
 * A stream at the server. `fail` ends it with the status of `thrown`, behind all that is queued.
 * `abort` does so too, but a peer that does not read is not waited for: its stream is reset after
 * `limits.abortGraceMs`.
 */
export interface ServerDuplex<In, Out> extends DuplexStream<In, Out> {
  fail(thrown: unknown): void;
  abort(thrown: unknown): void;
}

/** A stream at the client; `cancel` gives it up at once. */
export interface ClientDuplex<In, Out> extends DuplexStream<In, Out> {
  cancel(): void;
}

/** The write half handed to a server-streaming handler. */
export type Sink<Out> = Pick<ServerDuplex<never, Out>, "write" | "drained" | "fail">;

type In<M extends DescMethod> = MessageShape<M["input"]>;
type Out<M extends DescMethod> = MessageInitShape<M["output"]>;

/** The function that serves a method, by the method's kind. */
export type Handler<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: In<M>, ctx: CallContext) => Promise<Out<M>> | Out<M>
  : M["methodKind"] extends "server_streaming"
    ? (
        request: In<M>,
        ctx: CallContext,
        sink: Sink<Out<M>>,
      ) => AsyncIterable<Out<M> | Uint8Array> | Promise<void>
    : M["methodKind"] extends "client_streaming"
      ? (requests: AsyncIterable<In<M>>, ctx: CallContext) => Promise<Out<M>>
      : (stream: ServerDuplex<In<M>, Out<M>>, ctx: CallContext) => Promise<void>;

/** All handlers of a service, keyed by the method's lower-camel name. */
export type Handlers<S extends DescService> = { [K in keyof S["method"]]: Handler<S["method"][K]> };

/** A service with its handlers, type-erased so that one list holds many. */
export interface BoundService {
  readonly desc: DescService;
  readonly handlers: Readonly<Record<string, unknown>>;
}

/** Binds handlers to their service. */
export function bind<S extends DescService>(desc: S, handlers: Handlers<S>): BoundService {
  return { desc, handlers: handlers as Record<string, unknown> };
}

/** Options of one call at the client. `timeoutMs` must stay off long streams. */
export interface CallOptions {
  signal?: AbortSignal;
  timeoutMs?: number;
  headers?: Readonly<Record<string, string>>;
}

type Req<M extends DescMethod> = MessageInitShape<M["input"]>;
type Res<M extends DescMethod> = MessageShape<M["output"]>;

/** The function that calls a method, by the method's kind. */
export type Caller<M extends DescMethod> = M["methodKind"] extends "unary"
  ? (request: Req<M>, options?: CallOptions) => Promise<Res<M>>
  : M["methodKind"] extends "server_streaming"
    ? (request: Req<M>, options?: CallOptions) => AsyncIterable<Res<M>>
    : M["methodKind"] extends "client_streaming"
      ? (requests: AsyncIterable<Req<M> | Uint8Array>, options?: CallOptions) => Promise<Res<M>>
      : (options?: CallOptions) => ClientDuplex<Res<M>, Req<M>>;

/** A typed client of a service. */
export type Client<S extends DescService> = { [K in keyof S["method"]]: Caller<S["method"][K]> };

/** A way to one server. */
export interface Link {
  client<S extends DescService>(service: S): Client<S>;
  /** Ends the connection; calls under way fail. Idempotent. */
  close(): void;
}
