import { Agent } from "undici";
import type { Clock } from "@moorage/shared/clock";
import { cachedAccess, type Access, type Credentials } from "./credentials.ts";
import { CALL_TIMEOUT_MS } from "./client.ts";
import { errorFromStatus, KubeError } from "./errors.ts";
import { parseJson } from "./json.ts";

/**
 * HTTP to the API server: two pools of HTTP/2 connections, one for requests and one for watches, so
 * that a burst of writes cannot starve watch frames. Failures come out as KubeError.
 */
export interface Transport {
  /** One request with its whole answer. Non-2xx answers throw. */
  send(request: HttpRequest): Promise<HttpAnswer>;
  /** The lines of a long answer. */
  lines(request: HttpRequest & { signal: AbortSignal }): AsyncIterable<string>;
  close(): Promise<void>;
}

/** A request; `what` opens its error messages. */
export interface HttpRequest {
  what: string;
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** With its query. */
  path: string;
  headers?: Record<string, string>;
  body?: string;
  signal?: AbortSignal;
}

/** An answer of 2xx. */
export interface HttpAnswer {
  status: number;
  text: string;
  warnings: readonly string[];
}

/** The server caps an HTTP/2 connection at 100 streams by default. */
const STREAMS_PER_CONNECTION = 100;
/** Dead peers of quiet watches are noticed within two of these. */
const PING_INTERVAL_MS = 30_000;

interface Pools {
  version: string;
  requests: Agent;
  watches: Agent;
}

/** A transport on `credentials`. Connections are rebuilt when the TLS material changes. */
export function createTransport(deps: { credentials: Credentials; clock: Clock }): Transport {
  const access = cachedAccess(deps.credentials, deps.clock);
  let pools: Pools | undefined;
  let closed = false;

  const connect = async (what: string): Promise<{ access: Access; pools: Pools }> => {
    if (closed) throw new KubeError(`${what}: the client is closed`, { status: 0, reason: "Closed" });
    let now: Access;
    try {
      now = await access.get();
    } catch (cause) {
      throw new KubeError(`${what}: cannot read credentials`, { status: 0, reason: "Credentials", cause });
    }
    if (pools?.version !== now.tlsVersion) {
      const old = pools;
      pools = open(now);
      // Calls under way on the old connections finish; its watches end at their own timeout.
      void old?.requests.close();
      void old?.watches.close();
    }
    return { access: now, pools };
  };

  const failed = (what: string, status: number, body: string, retryAfter: string | undefined): KubeError => {
    if (status === 401) access.invalidate();
    return errorFromStatus(what, { status, body: looseJson(body), retryAfter });
  };

  return {
    async send(request) {
      const { access: now, pools: at } = await connect(request.what);
      const { signal, finish } = deadline(deps.clock, request.signal);
      try {
        const answer = await at.requests.request({ ...call(now, request), signal });
        const text = await answer.body.text();
        if (answer.statusCode >= 300)
          throw failed(request.what, answer.statusCode, text, header(answer.headers["retry-after"]));
        return { status: answer.statusCode, text, warnings: warningsOf(answer.headers["warning"]) };
      } catch (thrown) {
        throw noAnswer(request, thrown, access.invalidate);
      } finally {
        finish();
      }
    },
    async *lines(request) {
      const { access: now, pools: at } = await connect(request.what);
      let rest: Buffer[] = [];
      try {
        const answer = await at.watches.request({ ...call(now, request), signal: request.signal });
        if (answer.statusCode >= 300) {
          throw failed(
            request.what,
            answer.statusCode,
            await answer.body.text(),
            header(answer.headers["retry-after"]),
          );
        }
        for await (const chunk of answer.body as AsyncIterable<Buffer>) {
          // Split bytes, not text: a chunk may end inside a character.
          let from = 0;
          for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
            rest.push(chunk.subarray(from, end));
            yield rest.length === 1
              ? (rest[0] as Buffer).toString("utf8")
              : Buffer.concat(rest).toString("utf8");
            rest = [];
            from = end + 1;
          }
          if (from < chunk.length) rest.push(chunk.subarray(from));
        }
      } catch (thrown) {
        throw noAnswer(request, thrown, access.invalidate);
      }
      if (rest.length > 0)
        throw new KubeError(`${request.what}: the stream ended inside a line`, {
          status: 0,
          reason: "ConnectionLost",
        });
    },
    async close() {
      closed = true;
      await Promise.all([pools?.requests.destroy(), pools?.watches.destroy()]);
      pools = undefined;
    },
  };
}

function open(access: Access): Pools {
  const h2Options = { maxConcurrentStreams: STREAMS_PER_CONNECTION, pingInterval: PING_INTERVAL_MS };
  const shared = { allowH2: true, connect: { ...access.tls }, h2Options, headersTimeout: CALL_TIMEOUT_MS };
  return {
    version: access.tlsVersion,
    requests: new Agent({ ...shared, connections: 2, bodyTimeout: CALL_TIMEOUT_MS }),
    // Beyond ~90 watches a connection is full and the pool opens another.
    watches: new Agent({ ...shared, connections: 8, bodyTimeout: 0 }),
  };
}

function call(access: Access, request: HttpRequest) {
  return {
    origin: access.server,
    path: request.path,
    method: request.method,
    headers: {
      accept: "application/json",
      "user-agent": "moorage-agent",
      ...request.headers,
      ...access.headers,
    },
    ...(request.body === undefined ? {} : { body: request.body }),
  };
}

/** A signal that aborts with `Timeout` after CALL_TIMEOUT_MS or with `outer`. */
function deadline(clock: Clock, outer: AbortSignal | undefined): { signal: AbortSignal; finish(): void } {
  const controller = new AbortController();
  const timer = clock.setTimer(CALL_TIMEOUT_MS, () =>
    controller.abort(
      new KubeError(`no answer within ${CALL_TIMEOUT_MS} ms`, { status: 0, reason: "Timeout" }),
    ),
  );
  const onAbort = () => controller.abort(outer?.reason);
  if (outer?.aborted === true) onAbort();
  outer?.addEventListener("abort", onAbort, { once: true });
  return {
    signal: controller.signal,
    finish() {
      timer.cancel();
      outer?.removeEventListener("abort", onAbort);
    },
  };
}

/** A KubeError of status 0 for a call without an answer; the caller's own abort passes unchanged. */
function noAnswer(request: HttpRequest, thrown: unknown, invalidate: () => void): unknown {
  if (request.signal?.aborted === true) return request.signal.reason;
  if (thrown instanceof KubeError) {
    if (thrown.reason !== "Timeout") return thrown;
    return new KubeError(`${request.what}: ${thrown.message}`, { status: 0, reason: "Timeout" });
  }
  const cause = thrown instanceof Error ? thrown : new Error(String(thrown));
  const code = (cause as { code?: unknown }).code;
  // A rotated CA shows as a verification failure: read the files again before the next call.
  if (typeof code === "string" && /CERT|SSL|TLS|VERIFY|SIGNATURE/.test(code)) invalidate();
  const timeout = typeof code === "string" && /TIMEOUT/.test(code);
  return new KubeError(`${request.what}: ${cause.message}`, {
    status: 0,
    reason: timeout ? "Timeout" : "ConnectionLost",
    cause,
  });
}

function header(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}

function looseJson(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}

/** Texts of `Warning: 299 - "..."` headers (RFC 7234 section 5.5), in order. */
export function warningsOf(value: string | string[] | undefined): string[] {
  const out: string[] = [];
  for (const line of value === undefined ? [] : Array.isArray(value) ? value : [value]) {
    for (const match of line.matchAll(/299 \S+ "((?:[^"\\]|\\.)*)"/g))
      out.push((match[1] as string).replace(/\\(.)/g, "$1"));
  }
  return out;
}
