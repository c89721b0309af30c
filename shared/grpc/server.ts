import type { DescMethod } from "@bufbuild/protobuf";
import type { ServerDuplexStream, UntypedServiceImplementation } from "@grpc/grpc-js";
import { Metadata, Server, ServerCredentials } from "@grpc/grpc-js";
import type { Clock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { serviceDefinition } from "./adapter.ts";
import type { CodecOptions } from "./codec.ts";
import { Undecodable } from "./codec.ts";
import type { ServerTls } from "./credentials.ts";
import { ReloadableCredentials } from "./credentials.ts";
import { methodPath, serveCall } from "./dispatch.ts";
import type { Address } from "./listener.ts";
import { listen } from "./listener.ts";
import type { WireLimits } from "./options.ts";
import { channelOptions } from "./options.ts";
import { DETAILS_KEY, encodeStatus } from "./status-details.ts";
import type { BoundService, CallContext, ServerDuplex } from "./types.ts";

/** One finished call, for metrics and the log. `error` is undefined for OK. */
export interface CallReport {
  /** The method called. */
  method: DescMethod;
  ctx: CallContext;
  durationMs: number;
  error: MoorageError | undefined;
}

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
  /** Accepted connections a second; unlimited when absent. */
  acceptsPerSecond?: number;
  codec?: CodecOptions;
  /** Called before the handler; what it throws is the call's status. For authentication and admission. */
  before?: (ctx: CallContext, method: DescMethod) => void | Promise<void>;
  /** Called once a call has ended. Must not throw. */
  onCall?: (report: CallReport) => void;
}

/** An open port. */
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
  const credentials = options.tls === "insecure" ? undefined : new ReloadableCredentials(options.tls);
  const server = new Server(channelOptions(options.limits));
  const { maxElements } = options.limits;
  const codec: CodecOptions = {
    ...options.codec,
    ...(maxElements === undefined ? {} : { elements: { elements: maxElements, depth: limits.messageDepth } }),
  };
  for (const service of options.services) {
    server.addService(serviceDefinition(service.desc, codec), implementation(service, options));
  }
  const injector = server.createConnectionInjector(credentials ?? ServerCredentials.createInsecure());
  const listener = await listen({ ...options, accept: (socket) => injector.injectConnection(socket) });
  let draining: Promise<void> | undefined;
  return {
    address: listener.address,
    connections: () => listener.connections(),
    replaceTls(tls) {
      if (credentials === undefined) throw new Error("Cannot replace TLS material: the port has none");
      credentials.replace(tls);
    },
    drain(ms) {
      draining ??= new Promise((resolve) => {
        listener.stopAccepting();
        const timer = options.clock.setTimer(ms, () => {
          server.forceShutdown();
          listener.destroyAll();
          resolve();
        });
        server.tryShutdown(() => {
          timer.cancel();
          listener.destroyAll();
          resolve();
        });
      });
      return draining;
    },
  };
}

function implementation(service: BoundService, options: ServerOptions): UntypedServiceImplementation {
  const functions: UntypedServiceImplementation = {};
  for (const method of service.desc.methods) {
    functions[method.localName] = (call: Call) => void serve(call, { service, method, options });
  }
  return functions;
}

/** The one place where a call starts and ends; never rejects. */
async function serve(
  call: Call,
  on: { service: BoundService; method: DescMethod; options: ServerOptions },
): Promise<void> {
  const { method, options } = on;
  const startMs = options.clock.monotonicMs();
  const controller = new AbortController();
  call.once("cancelled", () => {
    controller.abort(new MoorageError(Code.CANCELLED, "The call was cancelled by its caller"));
  });
  const trailer = new Metadata();
  const ctx = context(call, { method, signal: controller.signal, trailer });
  let failed: MoorageError | undefined;
  let over = false;
  const finish = (thrown?: { value: unknown }) => {
    if (over) return;
    over = true;
    if (thrown === undefined) call.end(trailer);
    else {
      failed = MoorageError.from(thrown.value);
      trailer.set(DETAILS_KEY, Buffer.from(encodeStatus(failed)));
      call.emit("error", { code: failed.code, details: failed.message, metadata: trailer });
    }
  };
  const stream = duplex(call, { signal: controller.signal, finish, isOver: () => over });
  try {
    await options.before?.(ctx, method);
    await serveCall(on.service, method, { stream, ctx });
    finish();
  } catch (thrown) {
    // What a handler throws because its caller went away is the caller's doing.
    finish({ value: controller.signal.aborted ? controller.signal.reason : thrown });
  }
  options.onCall?.({ method, ctx, durationMs: options.clock.monotonicMs() - startMs, error: failed });
}

function context(
  call: Call,
  on: { method: DescMethod; signal: AbortSignal; trailer: Metadata },
): CallContext {
  const deadline = call.getDeadline();
  const deadlineMs = deadline instanceof Date ? deadline.getTime() : deadline;
  const raw = call.getAuthContext().sslPeerCertificate?.raw;
  return {
    signal: on.signal,
    metadata: { get: (name) => call.metadata.get(name)[0]?.toString() },
    peer: call.getPeer(),
    peerCertificateDer: raw === undefined ? undefined : new Uint8Array(raw),
    deadlineMs: Number.isFinite(deadlineMs) ? deadlineMs : undefined,
    method: methodPath(on.method),
    setTrailer: (name, value) => on.trailer.set(name, value),
  };
}

function duplex(
  call: Call,
  on: { signal: AbortSignal; finish(thrown?: { value: unknown }): void; isOver(): boolean },
): ServerDuplex<unknown, unknown> {
  return {
    async *read() {
      try {
        for await (const message of call.iterator({ destroyOnReturn: false })) {
          if (message instanceof Undecodable) throw message.error;
          yield message;
        }
      } catch (thrown) {
        throw on.signal.aborted ? on.signal.reason : thrown;
      }
    },
    write: (message) => (on.isOver() || call.destroyed ? false : call.write(message)),
    drained() {
      if (!call.writableNeedDrain || call.destroyed || on.isOver()) return Promise.resolve();
      return new Promise((resolve) => {
        const done = () => {
          call.off("drain", done).off("close", done).off("cancelled", done);
          resolve();
        };
        call.on("drain", done).on("close", done).on("cancelled", done);
      });
    },
    end: () => on.finish(),
    fail: (thrown) => on.finish({ value: thrown }),
  };
}
