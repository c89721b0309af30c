import { Code, MoorageError } from "@moorage/shared/errors";

/** The reasons a store gives; stable, part of the interface in store.ts. */
export type StoreReason =
  | "COMPACTED"
  | "FUTURE_REVISION"
  | "INVALID_REVISION"
  | "INVALID_TTL"
  | "INVALID_LIMIT"
  | "TOO_MANY_OPS"
  | "DUPLICATE_KEY"
  | "KEY_TOO_LARGE"
  | "VALUE_TOO_LARGE"
  | "TXN_TOO_LARGE"
  | "LEASE_NOT_FOUND"
  | "DATA_PLANE_UNKNOWN"
  | "UNCERTAIN"
  | "STORE_FULL"
  | "STORE_CLOSED"
  | "STORE_FAILED"
  | "STORE_DAMAGED"
  | "STORE_READ_ONLY"
  | "RESTORE_REFUSED"
  | "BACKUP_FAILED"
  | "DATA_DIR_IN_USE"
  | "SCHEMA_TOO_NEW"
  | "NOT_DURABLE";

const codes: Record<StoreReason, Code> = {
  COMPACTED: Code.OUT_OF_RANGE,
  FUTURE_REVISION: Code.OUT_OF_RANGE,
  INVALID_REVISION: Code.INVALID_ARGUMENT,
  INVALID_TTL: Code.INVALID_ARGUMENT,
  INVALID_LIMIT: Code.INVALID_ARGUMENT,
  TOO_MANY_OPS: Code.INVALID_ARGUMENT,
  DUPLICATE_KEY: Code.INVALID_ARGUMENT,
  KEY_TOO_LARGE: Code.INVALID_ARGUMENT,
  VALUE_TOO_LARGE: Code.INVALID_ARGUMENT,
  TXN_TOO_LARGE: Code.INVALID_ARGUMENT,
  LEASE_NOT_FOUND: Code.NOT_FOUND,
  DATA_PLANE_UNKNOWN: Code.NOT_FOUND,
  UNCERTAIN: Code.UNAVAILABLE,
  STORE_FULL: Code.RESOURCE_EXHAUSTED,
  STORE_CLOSED: Code.UNAVAILABLE,
  STORE_FAILED: Code.UNAVAILABLE,
  STORE_DAMAGED: Code.DATA_LOSS,
  STORE_READ_ONLY: Code.FAILED_PRECONDITION,
  RESTORE_REFUSED: Code.FAILED_PRECONDITION,
  BACKUP_FAILED: Code.FAILED_PRECONDITION,
  DATA_DIR_IN_USE: Code.FAILED_PRECONDITION,
  SCHEMA_TOO_NEW: Code.FAILED_PRECONDITION,
  NOT_DURABLE: Code.FAILED_PRECONDITION,
};

/** A store's error: the code that belongs to `reason`, facts in `metadata`, `cause` for the log. */
export function storeError(
  reason: StoreReason,
  message: string,
  more: { metadata?: Record<string, string>; cause?: unknown } = {},
): MoorageError {
  return new MoorageError(codes[reason], message, { reason, ...more });
}

/** True when `thrown` is the store's error of that reason. */
export function isStoreError(thrown: unknown, reason: StoreReason): thrown is MoorageError {
  return thrown instanceof MoorageError && thrown.reason === reason;
}
