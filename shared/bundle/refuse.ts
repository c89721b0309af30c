/** Refusals of bundles: one shape, so that a caller can map reasons to conditions. */
import { Code, MoorageError } from "../errors.ts";

/** Why a bundle is refused; the agent's conditions carry the same words in CamelCase. */
export type BundleReason =
  "TOO_LARGE" | "MALFORMED" | "DIGEST_MISMATCH" | "SCHEMA_VIOLATION" | "FORMAT_UNSUPPORTED";

/** INVALID_ARGUMENT with a stable reason. */
export function refuseBundle(reason: BundleReason, message: string, cause?: unknown): MoorageError {
  return new MoorageError(Code.INVALID_ARGUMENT, message, { reason, cause });
}
