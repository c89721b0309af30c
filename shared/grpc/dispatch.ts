import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { Code, MoorageError } from "../errors.ts";
import type { BoundService, CallContext, CallOptions, Client, ClientDuplex, ServerDuplex } from "./types.ts";

/** A handler with its types erased; the method's kind decides its arguments. */
type AnyHandler = (...args: unknown[]) => unknown;

/** `/package.Service/Method`, the HTTP/2 path of a method. */
export function methodPath(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

/** True for a method whose answer does not end by itself (AIP-style `Watch...`). */
export function isWatch(method: DescMethod): boolean {
  return method.methodKind === "server_streaming" && method.name.startsWith("Watch");
}

/**
 * Runs the handler of one call to its end. Resolves when the answer is complete (the transport then
 * sends OK) and rejects with what the handler threw.
 */
export async function serveCall(
  service: BoundService,
  method: DescMethod,
  call: { stream: ServerDuplex<unknown, unknown>; ctx: CallContext },
): Promise<void> {
  const { stream, ctx } = call;
  const handler = service.handlers[method.localName] as AnyHandler | undefined;
  if (handler === undefined)
    throw new MoorageError(Code.UNIMPLEMENTED, `Method "${ctx.method}" is not served`);
  switch (method.methodKind) {
    case "unary":
      stream.write(await handler(await only(stream.read(), "request"), ctx));
      return;
    case "client_streaming":
      stream.write(await handler(stream.read(), ctx));
      return;
    case "server_streaming": {
      const answer = handler(await only(stream.read(), "request"), ctx, stream);
      if (isIterable(answer)) await pump(answer, stream, ctx.signal);
      else await answer;
      return;
    }
    case "bidi_streaming":
      await handler(stream, ctx);
  }
}

/** Opens a call on some transport. */
export type Open = (method: DescMethod, options: CallOptions) => ClientDuplex<unknown, unknown>;

/** A typed client whose calls are opened by `open`. */
export function makeClient<S extends DescService>(service: S, open: Open): Client<S> {
  const client: Record<string, unknown> = {};
  for (const method of service.methods) client[method.localName] = caller(method, open);
  return client as Client<S>;
}

function caller(method: DescMethod, open: Open): AnyHandler {
  switch (method.methodKind) {
    case "unary":
      return async (request, options) => {
        const call = open(method, (options ?? {}) as CallOptions);
        call.write(request);
        call.end();
        return only(call.read(), "response");
      };
    case "server_streaming":
      return (request, options) =>
        readAll(method, open, { request, options: (options ?? {}) as CallOptions });
    case "client_streaming":
      return async (requests, options) => {
        const call = open(method, (options ?? {}) as CallOptions);
        const answer = only(call.read(), "response");
        // The answer may come, as a refusal, before all is sent: then sending stops.
        const sent = pump(requests as AsyncIterable<unknown>, call).then(
          () => call.end(),
          (thrown: unknown) => {
            call.cancel();
            throw thrown;
          },
        );
        return Promise.race([answer, sent.then(() => answer)]).finally(() => {
          answer.catch(() => undefined);
          sent.catch(() => undefined);
        });
      };
    case "bidi_streaming":
      return (options) => open(method, (options ?? {}) as CallOptions);
  }
}

async function* readAll(method: DescMethod, open: Open, call: { request: unknown; options: CallOptions }) {
  const stream = open(method, call.options);
  stream.write(call.request);
  stream.end();
  try {
    yield* stream.read();
  } finally {
    stream.cancel();
  }
}

/** Writes all of `items`, no faster than the stream takes them. */
async function pump(
  items: AsyncIterable<unknown>,
  stream: Pick<ClientDuplex<unknown, unknown>, "write" | "drained">,
  signal?: AbortSignal,
): Promise<void> {
  for await (const item of items) {
    if (signal?.aborted) throw signal.reason;
    if (!stream.write(item)) await stream.drained();
  }
}

/** The one message of a direction that carries exactly one; else it is the sender's mistake. */
async function only(messages: AsyncIterable<unknown>, what: "request" | "response"): Promise<unknown> {
  const code = what === "request" ? Code.INVALID_ARGUMENT : Code.INTERNAL;
  const refuse = (why: string) =>
    new MoorageError(code, `The ${what} has ${why}`, { reason: "MALFORMED_CALL" });
  let found: unknown;
  for await (const message of messages) {
    if (found !== undefined) throw refuse("more than one message");
    found = message;
  }
  if (found === undefined) throw refuse("no message");
  return found;
}

function isIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}
