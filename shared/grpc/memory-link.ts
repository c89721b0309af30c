import type { DescMethod } from "@bufbuild/protobuf";
import { Code, MoorageError } from "../errors.ts";
import { decode, encode } from "./codec.ts";
import { makeClient, methodPath, serveCall } from "./dispatch.ts";
import { MessageQueue } from "./queue.ts";
import { decodeStatus, encodeStatus, statusText } from "./status-details.ts";
import type { BoundService, CallContext, CallOptions, ClientDuplex, Link, ServerDuplex } from "./types.ts";

/** A link without sockets, for the simulation. */
export interface MemoryLink extends Link {
  /** Breaks every call under way with UNAVAILABLE at both ends, dropping what is queued. */
  cut(): void;
}

/**
 * Connects to handlers in the same process. Messages and errors are encoded and decoded as on the
 * wire; order is that of the microtask queue, so a run is deterministic. `timeoutMs` is not
 * supported: the simulation's callers bound calls by `signal` on their clock.
 */
export function memoryConnect(
  services: readonly BoundService[],
  options: {
    certificateDer?: Uint8Array;
    peer?: string;
    headers?: () => Record<string, string>;
    /** As of a server's port. */
    retryInfo?: boolean;
    before?: (ctx: CallContext) => Promise<void>;
  } = {},
): MemoryLink {
  const live = new Set<(error: MoorageError) => void>();
  let closed = false;
  const open = (method: DescMethod, callOptions: CallOptions): ClientDuplex<unknown, unknown> => {
    const service = services.find((s) => s.desc.typeName === method.parent.typeName);
    const headers = { ...options.headers?.(), ...callOptions.headers };
    const call = pair(method, {
      peer: options.peer ?? "memory",
      peerCertificateDer: options.certificateDer,
      headers,
      retryInfo: options.retryInfo ?? false,
      onOver: (abort) => live.delete(abort),
    });
    live.add(call.abort);
    if (closed) call.abort(unavailable());
    const onAbort = () => call.abort(new MoorageError(Code.CANCELLED, "The call was cancelled"));
    if (callOptions.signal?.aborted) onAbort();
    callOptions.signal?.addEventListener("abort", onAbort, { once: true });
    const bound = service ?? { desc: method.parent, handlers: {} };
    const served = () => serveCall(bound, method, { stream: call.server, ctx: call.ctx });
    (options.before === undefined ? served() : options.before(call.ctx).then(served))
      .then(
        () => call.server.end(),
        (thrown: unknown) => call.server.fail(thrown),
      )
      .finally(() => callOptions.signal?.removeEventListener("abort", onAbort));
    return call.client;
  };
  const cut = () => {
    for (const abort of [...live]) abort(unavailable());
  };
  return {
    client: (service) => makeClient(service, open),
    cut,
    close() {
      closed = true;
      cut();
    },
  };
}

function unavailable(): MoorageError {
  return new MoorageError(Code.UNAVAILABLE, "The connection was cut");
}

interface PairOptions {
  peer: string;
  peerCertificateDer: Uint8Array | undefined;
  headers: Record<string, string>;
  retryInfo: boolean;
  onOver(abort: (error: MoorageError) => void): void;
}

/** Both ends of one call. */
function pair(method: DescMethod, options: PairOptions) {
  const up = new MessageQueue<Uint8Array>();
  const down = new MessageQueue<Uint8Array>();
  const controller = new AbortController();
  const lower = Object.fromEntries(Object.entries(options.headers).map(([k, v]) => [k.toLowerCase(), v]));
  const closed: (() => void)[] = [];
  let isClosed = false;
  const close = () => {
    options.onOver(abort);
    isClosed = true;
    for (const fn of closed.splice(0)) fn();
  };
  const abort = (error: MoorageError) => {
    close();
    // A call that the server has ended is over; what it wrote is still read.
    if (down.ended) return;
    up.fail(error, true);
    down.fail(error, true);
    controller.abort(error);
  };
  const over = () => {
    close();
    up.end();
  };
  const fail = (thrown: unknown) => {
    const error = MoorageError.from(thrown);
    down.fail(
      decodeStatus(
        error.code,
        statusText(error.message),
        encodeStatus(error, { retryInfo: options.retryInfo }),
      ),
    );
    over();
  };
  const server: ServerDuplex<unknown, unknown> = {
    read: () => map(up.read(), (data) => decode(method.input, data, {})),
    write: (message) => down.push(Uint8Array.from(encode(method.output, message))),
    drained: () => down.drained(),
    end() {
      down.end();
      over();
    },
    fail,
    // Nothing stands between the two ends that could keep a status back.
    abort: fail,
  };
  const client: ClientDuplex<unknown, unknown> = {
    read: () => map(down.read(), (data) => decode(method.output, data, {})),
    write: (message) => up.push(Uint8Array.from(encode(method.input, message))),
    drained: () => up.drained(),
    end: () => up.end(),
    cancel: () => abort(new MoorageError(Code.CANCELLED, "The call was cancelled")),
  };
  const ctx: CallContext = {
    signal: controller.signal,
    metadata: { get: (name) => lower[name.toLowerCase()] },
    peer: options.peer,
    peerCertificateDer: options.peerCertificateDer,
    deadlineMs: undefined,
    method: methodPath(method),
    setTrailer: () => undefined,
    end(thrown) {
      const error = MoorageError.from(thrown);
      fail(error);
      controller.abort(error);
    },
    onClosed(fn) {
      if (isClosed) fn();
      else closed.push(fn);
    },
  };
  return { server, client, ctx, abort };
}

async function* map<A, B>(items: AsyncIterable<A>, fn: (item: A) => B): AsyncGenerator<B, void, void> {
  for await (const item of items) yield fn(item);
}
