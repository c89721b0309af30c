import type { DescMethod } from "@bufbuild/protobuf";
import type { ServerDuplexStream, UntypedServiceImplementation } from "@grpc/grpc-js";
import { Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import type { Clock, Timer } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { serviceDefinition } from "./adapter.ts";
import type { CodecOptions } from "./codec.ts";
import { encode, Undecodable } from "./codec.ts";
import type { ServerTls } from "./credentials.ts";
import { ReloadableCredentials } from "./credentials.ts";
import { isWatch, methodPath, serveCall } from "./dispatch.ts";
import {
  encodingOf,
  onRefusedHalfOpen,
  onStreamClosed,
  peerCertificateOf,
  resetStream,
} from "./internals.ts";
import type { Address, Listener, ListenOptions } from "./listener.ts";
import { listen } from "./listener.ts";
import type { WireLimits } from "./options.ts";
import { channelOptions, http2Options } from "./options.ts";
import { DETAILS_KEY, encodeStatus, statusText } from "./status-details.ts";
import type { BoundService, CallContext, ServerDuplex } from "./types.ts";

/** One finished call, for metrics and the log. `error` is undefined for OK. */
export interface CallReport {
  /** The method called. */
  method: DescMethod;
  ctx: CallContext;
  durationMs: number;
  error: MoorageError | undefined;
}

/** Limits on connections; see {@link ListenOptions}. */
export type Admission = Pick<
  ListenOptions,
  "pace" | "handshakeMs" | "pendingPerAddress" | "connectionsPerAddress" | "onRefused"
>;

/** What a port needs. */
export interface ServerOptions {
  address: Address;
  /** The setting that holds the address, named when the port cannot be opened. */
  option?: string;
  /** "insecure" is for tests on loopback and refused elsewhere. */
  tls: ServerTls | "insecure";
  services: readonly BoundService[];
  limits: WireLimits;
  clock: Clock;
  /** What the listener admits; nothing is refused for what is absent. */
  admission?: Admission;
  codec?: CodecOptions;
  /** Whether UNAVAILABLE and RESOURCE_EXHAUSTED always say when to try again. */
  retryInfo?: boolean;
  /** Called before the handler; what it throws is the call's status. For authentication and admission. */
  before?: (ctx: CallContext, method: DescMethod) => void | Promise<void>;
  /** Called once a call has ended. Must not throw. */
  onCall?: (report: CallReport) => void;
}

/** An open port. A call whose request, or whose first of several, does not come within `limits.handshakeMs` is ended. */
export interface RunningServer {
  /** The address bound, with the port taken. */
  readonly address: Address;
  /** Connections open now. */
  connections(): number;
  /** New TLS material for later handshakes; throws and keeps the last when it does not load. */
  replaceTls(tls: ServerTls): void;
  /** Refuses connections and calls, waits `ms` for calls under way, then ends them. Idempotent. */
  drain(ms: number): Promise<void>;
}

type Call = ServerDuplexStream<unknown, unknown>;

const LOOPBACK = new Set(["127.0.0.1", "::1", "localhost"]);

/** Opens a port that serves `services`. Rejects with a MoorageError when it cannot be opened. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  if (options.tls === "insecure" && !LOOPBACK.has(options.address.host)) {
    throw new MoorageError(
      Code.FAILED_PRECONDITION,
      `Cannot listen on "${options.address.host}:${options.address.port}": without TLS only loopback is served`,
    );
  }
  const http2 = http2Options(options.limits);
  const credentials = options.tls === "insecure" ? undefined : new ReloadableCredentials(options.tls, http2);
  const server = new Server(channelOptions(options.limits));
  const injector = server.createConnectionInjector(credentials ?? ServerCredentials.createInsecure());
  const listener = await listen({
    ...options.admission,
    address: options.address,
    ...(options.option === undefined ? {} : { option: options.option }),
    clock: options.clock,
    accept: (socket) => injector.injectConnection(socket),
  });
  const port: Port = { options, listener, live: new Set(), unread: new Map(), onIdle: () => undefined };
  const codec = codecOf(options);
  for (const service of options.services) {
    server.addService(serviceDefinition(service.desc, codec), implementation(service, port));
  }
  let draining: Promise<void> | undefined;
  return {
    address: listener.address,
    connections: () => listener.connections(),
    replaceTls(tls) {
      if (credentials === undefined) throw new Error("Cannot replace TLS material: the port has none");
      credentials.replace(tls);
    },
    drain: (ms) => (draining ??= drain(server, port, ms)),
  };
}

/** What the calls of a port share. */
interface Port {
  options: ServerOptions;
  listener: Listener;
  live: Set<LiveCall>;
  /** Bytes that wait to be read, by account. */
  unread: Map<string, number>;
  /** Called when the last call has ended. */
  onIdle: () => void;
}

/** A call under way. */
interface LiveCall {
  method: DescMethod;
  end(error: MoorageError): void;
}

function codecOf({ codec, limits: { maxElements } }: ServerOptions): CodecOptions {
  if (maxElements === undefined) return codec ?? {};
  return { ...codec, elements: { elements: maxElements, depth: limits.messageDepth } };
}

/**
 * Watches end at once, since they do not end by themselves; whatever is left after `ms` is ended, too.
 * grpc-js's own tryShutdown sends GOAWAY, but does not wait for calls under way: on Node 24 its
 * sessions count as closed as soon as they are closing.
 */
async function drain(server: Server, port: Port, ms: number): Promise<void> {
  const { clock } = port.options;
  const { live, listener } = port;
  listener.stopAccepting();
  for (const call of live) if (isWatch(call.method)) call.end(shuttingDown());
  server.tryShutdown(() => undefined);
  await within(clock, ms, (done) => {
    port.onIdle = done;
    if (live.size === 0) done();
  });
  for (const call of live) call.end(shuttingDown());
  // The last statuses are on their way; a destroyed socket would take them along.
  await within(clock, limits.drainFlushMs, (done) => listener.onEmpty(done));
  server.forceShutdown();
  listener.destroyAll();
}

/** Resolves when `wait` calls back, `ms` later at most. */
function within(clock: Clock, ms: number, wait: (done: () => void) => void): Promise<void> {
  return new Promise((resolve) => {
    const timer = clock.setTimer(ms, resolve);
    wait(() => {
      timer.cancel();
      resolve();
    });
  });
}

function shuttingDown(): MoorageError {
  return new MoorageError(Code.UNAVAILABLE, "The call was ended: the server is shutting down", {
    reason: "SHUTTING_DOWN",
  });
}

function implementation(service: BoundService, port: Port): UntypedServiceImplementation {
  const functions: UntypedServiceImplementation = {};
  for (const method of service.desc.methods) {
    functions[method.localName] = (call: Call) => void serve(call, { service, method, port });
  }
  return functions;
}

/** The one place where a call starts and ends; never rejects. */
async function serve(
  call: Call,
  on: { service: BoundService; method: DescMethod; port: Port },
): Promise<void> {
  const { method, port } = on;
  const { options } = port;
  port.listener.established(call.getPeer());
  const startMs = options.clock.monotonicMs();
  const controller = new AbortController();
  call.once("cancelled", () => {
    // Told of every call whose stream closes; nobody listens any more to a call that was answered.
    if (!answered) controller.abort(new MoorageError(Code.CANCELLED, "The call was cancelled by its caller"));
  });
  const trailer = new Metadata();
  const end = (thrown: unknown) => {
    // In this order: a handler that ends as its signal aborts must not answer OK first.
    stream.abort(thrown);
    controller.abort(MoorageError.from(thrown));
  };
  const ctx = context(call, { method, signal: controller.signal, trailer, end });
  let failed: MoorageError | undefined;
  let over = false;
  let answered = false;
  const finish = (thrown?: { value: unknown }) => {
    if (over) return;
    over = true;
    if (thrown === undefined) {
      answered = method.methodKind === "unary";
      call.end(trailer);
    } else {
      failed = MoorageError.from(thrown.value);
      // Whoever has no key opens as many: they are not left open for a request that nobody reads.
      onRefusedHalfOpen(call, () => resetLater(call, options.clock));
      trailer.set(DETAILS_KEY, Buffer.from(encodeStatus(failed, { retryInfo: options.retryInfo ?? false })));
      call.emit("error", { code: failed.code, details: statusText(failed.message), metadata: trailer });
    }
  };
  let late: Timer | undefined;
  const stream = duplex(call, {
    method,
    maxSendBytes: options.limits.maxSendBytes,
    charge: (bytes) => charge(port.unread, ctx.account, bytes),
    clock: options.clock,
    signal: controller.signal,
    finish,
    isOver: () => over,
    // Of a single request the end must come, too: until then it holds a stream.
    onRead: (ended) => {
      if (ended || manyRequests(method)) late?.cancel();
    },
  });
  const live: LiveCall = { method, end };
  port.live.add(live);
  try {
    refuseCompression(encodingOf(call));
    await options.before?.(ctx, method);
    late = options.clock.setTimer(limits.handshakeMs, () => end(tooLate(ctx.method)));
    await serveCall(on.service, method, { stream, ctx });
    finish();
  } catch (thrown) {
    // What a handler throws because its caller went away is the caller's doing.
    finish({ value: controller.signal.aborted ? controller.signal.reason : thrown });
  }
  late?.cancel();
  port.live.delete(live);
  if (port.live.size === 0) port.onIdle();
  options.onCall?.({ method, ctx, durationMs: options.clock.monotonicMs() - startMs, error: failed });
}

function manyRequests({ methodKind }: DescMethod): boolean {
  return methodKind === "client_streaming" || methodKind === "bidi_streaming";
}

/**
 * grpc-js inflates every message of a received chunk at once, each up to the message limit: 60 KiB
 * on the wire become tens of megabytes. Neither our clients nor our agents compress.
 */
function refuseCompression(encoding: string): void {
  if (encoding === "identity") return;
  throw new MoorageError(
    Code.UNIMPLEMENTED,
    `Cannot read messages with grpc-encoding "${encoding}": only "identity" is accepted`,
    { reason: "COMPRESSION_REFUSED" },
  );
}

function tooLate(method: string): MoorageError {
  return new MoorageError(
    Code.DEADLINE_EXCEEDED,
    `No message of "${method}" came within ${limits.handshakeMs} ms`,
    { reason: "FIRST_MESSAGE_LATE" },
  );
}

/** Gives the peer a moment to read the status and to close the stream itself. */
function resetLater(call: Call, clock: Clock): void {
  const timer = clock.setTimer(limits.abortGraceMs, () => resetStream(call));
  onStreamClosed(call, () => timer.cancel());
}

/** Unread answers are bounded by caller: there are as many calls and connections as a caller likes. */
function charge(unread: Map<string, number>, account: string | undefined, bytes: number): void {
  if (account === undefined) return;
  const all = (unread.get(account) ?? 0) + bytes;
  if (bytes > 0 && all > limits.unreadBytesPerCaller) {
    const description = `${all} bytes would wait to be read, the limit unreadBytesPerCaller is ${limits.unreadBytesPerCaller}`;
    throw new MoorageError(
      Code.RESOURCE_EXHAUSTED,
      `Cannot answer before other answers are read: ${description}`,
      {
        reason: "TOO_MUCH_UNREAD",
        quota: [{ subject: account, description }],
        retryAfterMs: 1_000,
      },
    );
  }
  if (all <= 0) unread.delete(account);
  else unread.set(account, all);
}

/** grpc-js would find it out behind our back, answer without details and have the handler believe in OK. */
function tooLarge(method: DescMethod, bytes: number, limit: number): MoorageError {
  return new MoorageError(
    Code.RESOURCE_EXHAUSTED,
    `Cannot send a message of "${methodPath(method)}": it has ${bytes} bytes, the limit is ${limit}`,
    { reason: "MESSAGE_TOO_LARGE", metadata: { bytes: String(bytes), limit: String(limit) } },
  );
}

function context(
  call: Call,
  on: { method: DescMethod; signal: AbortSignal; trailer: Metadata; end: CallContext["end"] },
): CallContext {
  const deadline = call.getDeadline();
  const deadlineMs = deadline instanceof Date ? deadline.getTime() : deadline;
  return {
    signal: on.signal,
    metadata: { get: (name) => call.metadata.get(name)[0]?.toString() },
    peer: call.getPeer(),
    peerCertificateDer: peerCertificateOf(call),
    deadlineMs: Number.isFinite(deadlineMs) ? deadlineMs : undefined,
    method: methodPath(on.method),
    setTrailer: (name, value) => on.trailer.set(name, value),
    end: on.end,
    onClosed: (fn) => onStreamClosed(call, fn),
  };
}

function duplex(
  call: Call,
  on: {
    method: DescMethod;
    maxSendBytes: number;
    /** Charges the call's account, or gives back what is below 0; throws for too much. */
    charge(bytes: number): void;
    clock: Clock;
    signal: AbortSignal;
    finish(thrown?: { value: unknown }): void;
    isOver(): boolean;
    /** Something of the caller was read: a message, or the end of its messages. */
    onRead(ended: boolean): void;
  },
): ServerDuplex<unknown, unknown> {
  // grpc-js counts objects alone: sixteen may be megabytes.
  let queuedBytes = 0;
  const waiting = new Set<() => void>();
  const hasRoom = () => !call.writableNeedDrain && queuedBytes < limits.streamQueuedBytes;
  const left = (bytes: number) => {
    queuedBytes -= bytes;
    if (!isClosed) on.charge(-bytes);
    if (hasRoom()) for (const go of waiting) go();
  };
  // Of a call that was cut grpc-js says of some writes that they are over, and of others nothing.
  let isClosed = false;
  onStreamClosed(call, () => {
    on.charge(-queuedBytes);
    isClosed = true;
  });
  return {
    async *read() {
      try {
        for await (const message of call.iterator({ destroyOnReturn: false })) {
          if (message instanceof Undecodable) throw message.error;
          on.onRead(false);
          yield message;
        }
        on.onRead(true);
      } catch (thrown) {
        throw on.signal.aborted ? on.signal.reason : thrown;
      }
    },
    write(message) {
      if (on.isOver() || call.destroyed) return false;
      const bytes = encode(on.method.output, message);
      if (bytes.length > on.maxSendBytes) throw tooLarge(on.method, bytes.length, on.maxSendBytes);
      if (!isClosed) on.charge(bytes.length);
      queuedBytes += bytes.length;
      call.write(bytes, () => left(bytes.length));
      return hasRoom();
    },
    drained() {
      if (hasRoom() || call.destroyed || on.isOver()) return Promise.resolve();
      return new Promise((resolve) => {
        const done = () => {
          waiting.delete(done);
          call.off("close", done).off("cancelled", done);
          resolve();
        };
        waiting.add(done);
        call.on("close", done).on("cancelled", done);
      });
    },
    end: () => on.finish(),
    fail: (thrown) => on.finish({ value: thrown }),
    abort(thrown) {
      on.finish({ value: thrown });
      resetLater(call, on.clock);
    },
  };
}
