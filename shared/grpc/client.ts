import type { DescMethod } from "@bufbuild/protobuf";
import type { ChannelOptions, ClientDuplexStream, StatusObject } from "@grpc/grpc-js";
import { ChannelCredentials, Client as GrpcClient, Metadata } from "@grpc/grpc-js";
import { createSecureContext } from "node:tls";
import type { Clock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { methodDefinition } from "./adapter.ts";
import { NamedServerCredentials } from "./client-credentials.ts";
import { makeClient } from "./dispatch.ts";
import type { Address } from "./listener.ts";
import type { WireLimits } from "./options.ts";
import { channelOptions } from "./options.ts";
import { MessageQueue } from "./queue.ts";
import { DETAILS_KEY, decodeStatus } from "./status-details.ts";
import type { CallOptions, ClientDuplex, Link } from "./types.ts";

/** TLS of a client, in PEM. */
export interface ClientTls {
  /** The certificate authorities to trust; the machine's when absent. */
  caPem?: string;
  /** The client's own certificate and key; both or none. */
  certPem?: string;
  keyPem?: string;
  /** Name to check the server's certificate against, when not the target's host. */
  serverName?: string;
}

/** What a connection needs. */
export interface ConnectOptions {
  target: Address;
  /** "insecure" is for tests on loopback. */
  tls: ClientTls | "insecure";
  limits: WireLimits;
  clock: Clock;
  /** Metadata of every call, e.g. authorization; asked at each call. */
  headers?: () => Readonly<Record<string, string>>;
  /** A connection of its own, not shared with other links to the same target; with its HTTP/2 window in bytes. */
  ownConnection?: { flowControlWindowBytes?: number };
  /** An HTTP proxy to reach the target by CONNECT; the environment is never asked. */
  proxy?: Address & { credentials?: string };
}

/** 24 days, a little less than 2^31 ms. */
const MAX_TIMEOUT_MS = 24 * 24 * 3_600_000;

/** Connects lazily to a server; a broken connection is tried again by the next call. */
export function connect(options: ConnectOptions): Link {
  const target = join(options.target);
  const channel: ChannelOptions = { ...channelOptions(options.limits), "grpc.default_authority": target };
  if (options.ownConnection !== undefined) {
    channel["grpc.use_local_subchannel_pool"] = 1;
    const window = options.ownConnection.flowControlWindowBytes;
    if (window !== undefined) channel["grpc-node.flow_control_window"] = window;
  }
  if (options.proxy !== undefined) {
    channel["grpc.http_connect_target"] = `dns:${target}`;
    if (options.proxy.credentials !== undefined)
      channel["grpc.http_connect_creds"] = options.proxy.credentials;
  }
  const client = new GrpcClient(
    join(options.proxy ?? options.target),
    credentials(options.tls, options.target.host),
    channel,
  );
  return {
    client: (service) => makeClient(service, (method, call) => open(client, method, { call, link: options })),
    close: () => client.close(),
  };
}

function join(address: Address): string {
  return address.host.includes(":") ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

function credentials(tls: ClientTls | "insecure", host: string): ChannelCredentials {
  if (tls === "insecure") return ChannelCredentials.createInsecure();
  const context = createSecureContext({
    minVersion: "TLSv1.3",
    ...(tls.caPem === undefined ? {} : { ca: tls.caPem }),
    ...(tls.certPem === undefined ? {} : { cert: tls.certPem }),
    ...(tls.keyPem === undefined ? {} : { key: tls.keyPem }),
  });
  return new NamedServerCredentials(context, tls.serverName ?? host);
}

function open(
  client: GrpcClient,
  method: DescMethod,
  on: { call: CallOptions; link: ConnectOptions },
): ClientDuplex<unknown, unknown> {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries({ ...on.link.headers?.(), ...on.call.headers }))
    metadata.set(name, value);
  const definition = methodDefinition(method, {});
  // A grpc-timeout of 2^31 ms or more overflows at the server: the call would be late at once.
  const timeoutMs = Math.min(on.call.timeoutMs ?? 0, MAX_TIMEOUT_MS);
  const deadline = on.call.timeoutMs === undefined ? {} : { deadline: on.link.clock.now() + timeoutMs };
  const call = client.makeBidiStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    metadata,
    deadline,
  );
  return duplex(call, on.call.signal);
}

function duplex(
  call: ClientDuplexStream<unknown, unknown>,
  signal: AbortSignal | undefined,
): ClientDuplex<unknown, unknown> {
  let over = false;
  const incoming = new MessageQueue<unknown>(() => {
    if (call.isPaused()) call.resume();
  });
  let cancelled = false;
  const cancel = () => {
    cancelled = true;
    call.cancel();
  };
  let status: StatusObject | undefined;
  call.on("data", (message) => {
    if (!incoming.push(message)) call.pause();
  });
  // The error repeats the status, which has the details; without a listener it would crash.
  call.on("error", () => undefined);
  const finish = () => {
    if (incoming.ended) return;
    if (status === undefined) incoming.fail(new MoorageError(Code.UNAVAILABLE, "The connection was closed"));
    else if (status.code === 0) incoming.end();
    else incoming.fail(errorOf(status, cancelled));
  };
  call.on("status", (received: StatusObject) => {
    over = true;
    status = received;
    signal?.removeEventListener("abort", cancel);
    call.emit("drain");
    if (call.readableEnded) finish();
  });
  call.on("end", () => queueMicrotask(finish));
  call.on("close", () => status !== undefined && finish());
  if (signal?.aborted) cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  return {
    read: () => incoming.read(),
    write: (message) => (over || call.writableEnded ? false : call.write(message)),
    drained() {
      if (over || !call.writableNeedDrain) return Promise.resolve();
      return new Promise((resolve) => call.once("drain", resolve));
    },
    end: () => void call.end(),
    cancel,
  };
}

/**
 * The error of a status. A stream that was reset, by the server or by what broke the connection, has
 * no status of its own: grpc-js calls it INTERNAL or CANCELLED, and it is UNAVAILABLE here, so that
 * whoever may try again does.
 */
function errorOf(status: StatusObject, cancelled: boolean): MoorageError {
  const details = status.metadata.get(DETAILS_KEY)[0];
  const reset =
    (status.code === Code.INTERNAL && status.details.startsWith("Received RST_STREAM")) ||
    (status.code === Code.CANCELLED && !cancelled);
  if (details === undefined && reset)
    return new MoorageError(Code.UNAVAILABLE, "The stream was reset", { cause: status });
  return decodeStatus(status.code, status.details, typeof details === "string" ? undefined : details);
}
