import { parseJson } from "./json.ts";
import { asMap } from "./object.ts";

/** One entry of `Status.details.causes`. */
export interface StatusCause {
  reason: string;
  message: string;
  field: string;
}

/** What a failed call is known by. */
export interface KubeErrorInit {
  /** HTTP status; 0 when no answer came. */
  status: number;
  /** `Status.reason`, e.g. `NotFound`; `Timeout` or `ConnectionLost` when no answer came. */
  reason: string;
  causes?: readonly StatusCause[];
  /** `Status.details.kind`: what the answer is about, e.g. `namespaces`. */
  about?: string;
  /** From `Retry-After` or `Status.details.retryAfterSeconds`. */
  retryAfterMs?: number;
  /** For the log. */
  cause?: unknown;
}

/**
 * A call that the API server refused, or that got no answer. `ambiguous` says that the write may
 * have been committed all the same (timeout, reset, 5xx); a 4xx has changed nothing.
 */
export class KubeError extends Error {
  override readonly name = "KubeError";
  readonly status: number;
  readonly reason: string;
  readonly causes: readonly StatusCause[];
  readonly about: string;
  readonly retryAfterMs: number | undefined;

  constructor(message: string, init: KubeErrorInit) {
    super(message, init.cause === undefined ? undefined : { cause: init.cause });
    this.status = init.status;
    this.reason = init.reason;
    this.causes = init.causes ?? [];
    this.about = init.about ?? "";
    this.retryAfterMs = init.retryAfterMs;
  }

  /** True when the write may have taken effect. */
  get ambiguous(): boolean {
    return this.status === 0 || this.status >= 500;
  }
}

/** True for a KubeError of HTTP status `status`, and of `reason` where one is given. */
export function isKubeError(thrown: unknown, status: number, reason?: string): thrown is KubeError {
  return (
    thrown instanceof KubeError &&
    thrown.status === status &&
    (reason === undefined || thrown.reason === reason)
  );
}

/** True for "no such object" or "no such resource type". */
export function isNotFound(thrown: unknown): thrown is KubeError {
  return isKubeError(thrown, 404);
}

/** True when a watch or page must start over: 410 in any of its spellings. */
export function isExpired(thrown: unknown): boolean {
  return (
    thrown instanceof KubeError &&
    (thrown.status === 410 || thrown.reason === "Expired" || thrown.reason === "Gone")
  );
}

/**
 * A KubeError from a `Status` body (meta/v1). `what` opens the message, e.g. `Cannot apply v1
 * ConfigMap shop/web`. Bodies that are no Status (a proxy's page) give reason `Unknown` (a 404
 * of that sort, "no such path", gives `KindNotInstalled`) and are cut at 256 characters.
 */
export function errorFromStatus(
  what: string,
  answer: { status: number; body: unknown; retryAfter?: string | undefined },
): KubeError {
  const body = asMap(answer.body);
  const details = asMap(body?.["details"]);
  const causes: StatusCause[] = [];
  if (Array.isArray(details?.["causes"])) {
    for (const raw of details["causes"]) {
      const cause = asMap(raw);
      if (cause === undefined) continue;
      causes.push({
        reason: text(cause["reason"]),
        message: text(cause["message"]),
        field: text(cause["field"]),
      });
    }
  }
  const seconds = Number(answer.retryAfter ?? details?.["retryAfterSeconds"]);
  const message = body?.["kind"] === "Status" ? text(body["message"]) : text(answer.body).slice(0, 256);
  return new KubeError(`${what}: ${message === "" ? `status ${answer.status}` : message}`, {
    status: answer.status,
    reason:
      text(body?.["reason"]) ||
      (answer.status === 404 && body === undefined ? "KindNotInstalled" : "Unknown"),
    causes,
    about: text(details?.["kind"]),
    ...(Number.isFinite(seconds) && seconds > 0 ? { retryAfterMs: seconds * 1000 } : {}),
  });
}

/** An answer that was given, and is not what was asked for (a proxy's page): it says nothing, and is asked for again. */
export function unparsable(what: string, why: string, cause?: unknown): KubeError {
  return new KubeError(`${what}: ${why}`, {
    status: 0,
    reason: "Unparsable",
    ...(cause === undefined ? {} : { cause }),
  });
}

/** The JSON of an answer; KubeError, reason `Unparsable`, when it is none. `what` opens the message. */
export function parseAnswer(what: string, body: string): unknown {
  try {
    return parseJson(body);
  } catch (cause) {
    throw unparsable(what, `the answer of ${body.length} characters is no JSON`, cause);
  }
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
