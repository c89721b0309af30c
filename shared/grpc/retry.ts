import type { DescMethod, DescService } from "@bufbuild/protobuf";
import { isMessage } from "@bufbuild/protobuf";
import type { Clock } from "../clock.ts";
import { sleep } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import type { Rng } from "../rng.ts";
import { uuid } from "../rng.ts";
import { backoffMs } from "../service.ts";
import type { CallOptions, Client, Link } from "./types.ts";

/** How a failed call is tried again. */
export interface RetryPolicy {
  /** Tries in all, the first among them. */
  attempts: number;
  baseMs: number;
  capMs: number;
  /** From the first try to the start of the last; a call's `timeoutMs` bounds all of them, too. */
  totalMs: number;
}

/** What the limits say. */
export const defaultRetryPolicy: RetryPolicy = {
  attempts: limits.retryAttempts,
  baseMs: limits.retryBaseMs,
  capMs: limits.retryCapMs,
  totalMs: limits.retryTotalMs,
};

/** What retrying needs. */
export interface RetryDeps {
  clock: Clock;
  rng: Rng;
  policy?: RetryPolicy;
}

/**
 * A link whose unary calls outlive a restart of the server. A call is tried again after UNAVAILABLE
 * when that is safe: it reads, or it has a request_id, by which the server recognises what it has
 * done already (AIP-155); a call that has the field and leaves it empty is given one. The wait is the
 * server's RetryInfo plus exponential back-off with full jitter. Streams pass as they are:
 * see `resumableWatch`.
 */
export function retryingLink(link: Link, deps: RetryDeps): Link {
  return {
    client<S extends DescService>(service: S): Client<S> {
      const client = { ...(link.client(service) as Record<string, unknown>) };
      for (const method of service.methods) {
        if (method.methodKind !== "unary") continue;
        const call = client[method.localName] as Call;
        client[method.localName] = (request: object, options: CallOptions = {}) =>
          callAgain(call, identified(method, request, deps.rng), { method, options, deps });
      }
      return client as Client<S>;
    },
    close: () => link.close(),
  };
}

type Call = (request: object, options: CallOptions) => Promise<unknown>;

/** Methods without effects, by the names that the API's rules give them. */
const READS = /^(Get|List|WaitFor|Check)/;

/** The request with a request_id, where its type has one and it is empty. */
function identified(method: DescMethod, request: object, rng: Rng): object {
  if (method.input.field["requestId"] === undefined || requestIdOf(request) !== undefined) return request;
  if (request instanceof Uint8Array) return request;
  const copy = isMessage(request)
    ? Object.assign(Object.create(Object.getPrototypeOf(request) as object) as object, request)
    : { ...request };
  return Object.assign(copy, { requestId: uuid(rng) });
}

function requestIdOf(request: object): string | undefined {
  const id = (request as { requestId?: unknown }).requestId;
  return typeof id === "string" && id !== "" ? id : undefined;
}

async function callAgain(
  call: Call,
  request: object,
  on: { method: DescMethod; options: CallOptions; deps: RetryDeps },
): Promise<unknown> {
  const { options, deps } = on;
  const { clock, rng } = deps;
  const policy = deps.policy ?? defaultRetryPolicy;
  const safe = READS.test(on.method.name) || requestIdOf(request) !== undefined;
  const untilMs = clock.monotonicMs() + Math.min(policy.totalMs, options.timeoutMs ?? policy.totalMs);
  const deadlineMs = options.timeoutMs === undefined ? undefined : clock.monotonicMs() + options.timeoutMs;
  for (let attempt = 0; ; attempt++) {
    const left = deadlineMs === undefined ? {} : { timeoutMs: deadlineMs - clock.monotonicMs() };
    try {
      return await call(request, { ...options, ...left });
    } catch (thrown) {
      const error = MoorageError.from(thrown);
      const again = safe && error.code === Code.UNAVAILABLE && attempt + 1 < policy.attempts;
      const waitMs = (error.retryAfterMs ?? 0) + backoffMs(policy, attempt, rng);
      if (!again || options.signal?.aborted || clock.monotonicMs() + waitMs >= untilMs) throw thrown;
      await sleep(clock, waitMs, options.signal);
    }
  }
}
