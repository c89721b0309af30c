/**
 * The agent's end of the sync stream: the contract of this folder. It keeps one stream to the hub for
 * as long as it runs, with the hub away for ever too, and knows nothing of Kubernetes: desired state
 * goes to a {@link SyncStore} and status comes from it.
 *
 * - A new process dials at once; a lost stream waits `uniform(0, reconnect_spread)`, then backs off.
 * - Changes are acked in order, once durable. A stream that breaks rules is left and dialled anew.
 * - Nothing is inferred: what the hub does not send stays as it is.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  AgentInfo,
  BlobRef,
  SyncRequestSchema,
  SyncResponse,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import type { MoorageError } from "@moorage/shared/errors";
import type { Link } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import type { SyncStore } from "../mirror/store.ts";

/** A message to the hub. */
export type ToHub = NonNullable<MessageInitShape<typeof SyncRequestSchema>["message"]>;
/** A message from the hub. */
export type FromHub = SyncResponse["message"];

/** Another exchange on the same stream, e.g. usage. */
export interface LinkExtension {
  /** A stream is up; answers who takes its messages until `close`. */
  open(send: (message: ToHub) => void): { take(message: FromHub): void; close(): void };
}

/** Facts of this process for the hello. */
export interface HelloFacts {
  dataPlaneUid: string;
  /** Term of the Lease. */
  generation: number;
  /** 16 random bytes a process. */
  instanceId: Uint8Array;
  agent: Pick<AgentInfo, "version" | "kubernetesVersion" | "labels" | "clusterUid">;
}

/** What the link needs. */
export interface HubLinkDeps {
  store: SyncStore;
  /** A connection for the stream, with the identity of now; rejects while there is none. */
  connect(signal: AbortSignal): Promise<Link>;
  hello(): HelloFacts;
  /** The verified content of a body that came by reference. */
  fetchBlob(ref: BlobRef, signal: AbortSignal): Promise<readonly Uint8Array[]>;
  /** The hub refused our generation and names the one it knows. */
  onRefusedGeneration(known: number): void;
  /** A stream ended, or could not be opened. `reason` is short and of a small set. */
  onEnded?(end: { reason: string; error: MoorageError | undefined }): void;
  extensions?: readonly LinkExtension[];
  clock: Clock;
  rng: Rng;
  log: Logger;
}

/** What the link shows of itself. */
export interface LinkState {
  connected: boolean;
  /** Wall time of the hello's answer, milliseconds. */
  connectedSinceMs: number;
  lastMessageMs: number;
  /** Newest revision received, and durable. */
  desiredRevision: number;
  appliedRevision: number;
  /** Own clock minus the hub's at hello; undefined before the first. */
  clockOffsetMs: number | undefined;
  /** The hub's bound on removals; 0 leaves the agent's own. */
  maxRemovalsPerSync: number;
}

/** The link as a service. */
export interface HubLink extends Service {
  readonly state: Readonly<LinkState>;
  /** Calls `fn` after a stream came up or went; returns the way out. */
  onChange(fn: () => void): () => void;
}
