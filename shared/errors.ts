/**
 * The one coded error type of both sides. Its codes are gRPC's sixteen and no others; every thrown
 * value that leaves a process passes {@link MoorageError.from}. `cause` is for the log and is never
 * sent to a peer.
 */

/** gRPC status codes (https://grpc.io/docs/guides/status-codes/), without OK. */
export const Code = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;
export type Code = (typeof Code)[keyof typeof Code];

const names: ReadonlyMap<number, string> = new Map(Object.entries(Code).map(([name, code]) => [code, name]));

/** The name of a code, e.g. `NOT_FOUND`. */
export function codeName(code: number): string {
  return names.get(code) ?? "UNKNOWN";
}

/** One broken rule of one field: `field` is the request's field path, e.g. `tenant.spec.data_plane`. */
export interface FieldViolation {
  field: string;
  description: string;
}

/** What an error carries beside code and message; each becomes a google.rpc detail at the edge. */
export interface ErrorDetails {
  /** Stable UPPER_SNAKE_CASE reason (google.rpc.ErrorInfo); defaults to the code's name. */
  reason?: string;
  /** Facts for programs (google.rpc.ErrorInfo.metadata); no secrets. */
  metadata?: Record<string, string>;
  /** google.rpc.BadRequest. */
  fields?: FieldViolation[];
  /** google.rpc.PreconditionFailure. */
  preconditions?: { type: string; subject: string; description: string }[];
  /** google.rpc.QuotaFailure. */
  quota?: { subject: string; description: string }[];
  /** google.rpc.RetryInfo: when to try again, in milliseconds. */
  retryAfterMs?: number;
  /** For the log, never for the wire. */
  cause?: unknown;
}

/** A failure with a gRPC code, a stable reason and structured details. */
export class MoorageError extends Error {
  override readonly name = "MoorageError";
  readonly code: Code;
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fields: readonly FieldViolation[];
  readonly preconditions: NonNullable<ErrorDetails["preconditions"]>;
  readonly quota: NonNullable<ErrorDetails["quota"]>;
  readonly retryAfterMs: number | undefined;

  constructor(code: Code, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.reason = details.reason ?? codeName(code);
    this.metadata = details.metadata ?? {};
    this.fields = details.fields ?? [];
    this.preconditions = details.preconditions ?? [];
    this.quota = details.quota ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }

  /**
   * Any thrown value as a MoorageError. An abort becomes CANCELLED; everything unknown becomes
   * INTERNAL with a fixed message, since the text of a foreign error may hold secrets.
   */
  static from(thrown: unknown): MoorageError {
    if (thrown instanceof MoorageError) return thrown;
    if (thrown instanceof Error && thrown.name === "AbortError") {
      return new MoorageError(Code.CANCELLED, "The operation was cancelled", { cause: thrown });
    }
    return new MoorageError(Code.INTERNAL, "Internal error; see the log of the process that answered", {
      cause: thrown,
    });
  }
}

/** INVALID_ARGUMENT for one field, the commonest refusal. */
export function invalidField(field: string, description: string): MoorageError {
  return new MoorageError(Code.INVALID_ARGUMENT, `Invalid "${field}": ${description}`, {
    reason: "INVALID_FIELD",
    fields: [{ field, description }],
  });
}
