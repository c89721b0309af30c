import type { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import type { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import type { Handlers } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Metrics } from "@moorage/shared/metrics";
import type { Rng } from "@moorage/shared/rng";
import type { Compare, Op, ResRow, RowOp, Store } from "../store/store.ts";

/**
 * The hub's end of the agent stream: the contract of this folder; `create-sync.ts` makes one.
 *
 * - A stream is a position in its data plane's rows, never a queue: it reads rows above the position
 *   whenever the window and the transport have room, so a slow agent sees fewer, newer states.
 * - Nothing is inferred from absence: an update leaves only for a row of the store.
 * - One stream per data plane: the highest agent generation wins, of equal ones the newest; two agents
 *   that live at the same time are found out, and the newcomer is refused.
 * - After a lost history nothing leaves that could undo what agents did meanwhile, until an operator
 *   accepts the new epoch; epoch.ts says what is held back.
 * - Time comes from the clock alone; with a virtual one and the memory store a run is deterministic.
 */

/** Whom a stream belongs to, by its client certificate. */
export interface AgentPrincipal {
  dataPlaneUid: string;
  /** Resource name, e.g. `dataPlanes/eu-1`. */
  dataPlane: string;
  /** SHA-256 of the public key in lower-case hex. */
  thumbprint: string;
}

/** What the streams need of identity. */
export interface AgentIdentity {
  /** UNAUTHENTICATED or PERMISSION_DENIED unless the certificate may speak for a data plane now. */
  authenticateAgent(certificateDer: Uint8Array | undefined): Promise<AgentPrincipal>;
  /** A stream with this key came up: a candidate key becomes the registered one. */
  confirmAgentKey(principal: AgentPrincipal): Promise<void>;
  /** Calls `fn` with a data plane and the thumbprints that may still speak for it, on each change. */
  onCredentials(fn: (dataPlaneUid: string, valid: ReadonlySet<string>) => void): () => void;
}

/** What the hub asks of agents; milliseconds. */
export interface SyncPolicy {
  /** At least; a large fleet is asked for fewer. */
  heartbeatIntervalMs: number;
  statusMinIntervalMs: number;
  /** 0: by the size of the fleet. */
  reconnectSpreadMs: number;
  compareIntervalMs: number;
  usageSpreadMs: number;
  bookmarkIntervalMs: number;
  /** Lowers the agents' own bound on removals; 0 leaves it. */
  maxRemovalsPerSync: number;
}

/** The policy that holds without configuration. */
export const defaultPolicy: SyncPolicy = {
  heartbeatIntervalMs: 20_000,
  statusMinIntervalMs: 20,
  reconnectSpreadMs: 0,
  compareIntervalMs: 6 * 3_600_000,
  usageSpreadMs: 5 * 60_000,
  bookmarkIntervalMs: 60_000,
  maxRemovalsPerSync: 0,
};

/** A txn that ends a resource whose removal the agent confirmed; undefined: nothing to do. */
export type Finalise = (
  dataPlaneUid: string,
  row: ResRow,
) => Promise<{ if: Compare[]; then: Op[]; rows: RowOp[] } | undefined>;

/** What {@link Sync} is made of. */
export interface SyncOptions {
  store: Store;
  clock: Clock;
  rng: Rng;
  log: Logger;
  identity: AgentIdentity;
  finalise: Finalise;
  metrics?: Metrics;
  policy?: Partial<SyncPolicy>;
  /** Name of this replica in the hello; default "hub". */
  replica?: string;
}

/** One live stream, for views, metrics and support. */
export interface ConnectedAgent {
  dataPlaneUid: string;
  dataPlane: string;
  agentGeneration: number;
  agentVersion: string;
  mode: "DELTA" | "COMPARE" | "SNAPSHOT";
  /** Revision up to which everything was sent. */
  position: number;
  /** Revision up to which everything is durable at the agent. */
  ackedRevision: number;
  /** Agent's clock minus the hub's, as of the last sign of life; beyond `limits.clockSkewMs` it is a fault. */
  clockOffsetMs: number;
  /** Of the last bookmark; undefined before the first echo. */
  roundTripMs: number | undefined;
  /** Resources that the agent holds and the hub does not know; they stay. From the last compare. */
  unknownToHub: readonly string[];
}

/** The streams of all agents. */
export interface Sync {
  readonly name: string;
  readonly syncHandlers: Handlers<typeof SyncService>;
  readonly blobHandlers: Handlers<typeof BlobService>;
  connected(): ConnectedAgent[];
  /** Follows silence and revocation until `signal` aborts, then ends all streams. */
  run(signal: AbortSignal): Promise<void>;
  /** Says Goodbye to all within `ms`, each stream at its own moment, and refuses new ones. */
  drain(ms: number): Promise<void>;
}
