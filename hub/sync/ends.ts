import { Code, MoorageError } from "@moorage/shared/errors";
import type { DisconnectReason } from "./counts.ts";
import type { AgentPrincipal } from "./sync.ts";

/** What streams end with, and what is counted then. */

/** When a refused twin may try again. */
const TWIN_RETRY_MS = 60_000;

/** Why a stream ended, for the metric. */
export function reasonOf(error: MoorageError): DisconnectReason {
  switch (error.reason) {
    case "REPLACED":
      return "replaced";
    case "CREDENTIALS_REVOKED":
      return "revoked";
    case "NO_HEARTBEAT":
      return "silent";
    case "STUCK":
      return "stuck";
    case "STOPPING":
      return "stopping";
    case "EPOCH_CHANGED":
      return "epoch";
    default:
      return error.code === Code.INTERNAL ? "internal" : "protocol";
  }
}

/** The hub ended the stream; the agent comes back. */
export function unavailable(why: string, reason: string): MoorageError {
  return new MoorageError(Code.UNAVAILABLE, `The stream was ended: ${why}`, { reason });
}

/** The agent lives and takes nothing of what it is sent. */
export function stuck(): MoorageError {
  return unavailable("its agent takes nothing of what it is sent", "STUCK");
}

/** The stream is of an epoch that is over. */
export function epochChanged(): MoorageError {
  return unavailable("the hub began a new epoch", "EPOCH_CHANGED");
}

/** The key of the stream may no longer speak for its data plane. */
export function revoked(principal: AgentPrincipal): MoorageError {
  return new MoorageError(
    Code.UNAUTHENTICATED,
    `The stream of "${principal.dataPlane}" was ended: its key is no longer registered`,
    { reason: "CREDENTIALS_REVOKED" },
  );
}

/** A newer stream of the same agent took over. */
export function replaced(): MoorageError {
  return new MoorageError(Code.ABORTED, "Another stream of this agent came up: the newest one wins", {
    reason: "REPLACED",
  });
}

/** The stream of an agent that another one has replaced; `newest` is the generation of that one. */
export function stale(newest: bigint): MoorageError {
  return new MoorageError(Code.FAILED_PRECONDITION, "Cannot open a stream: a newer agent has one", {
    reason: "STALE_GENERATION",
    metadata: { agent_generation: String(newest) },
  });
}

/** The stream of a second agent with the identity of one that lives. */
export function twin(dataPlane: string): MoorageError {
  return new MoorageError(
    Code.FAILED_PRECONDITION,
    `Cannot open a stream for "${dataPlane}": two agents with its identity live at the same time`,
    { reason: "TWIN_AGENTS", retryAfterMs: TWIN_RETRY_MS },
  );
}
