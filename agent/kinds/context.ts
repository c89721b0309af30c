/**
 * What the kinds share: the cluster, the mirror, and the facts that bound every write. Each kind is a
 * {@link KindController}: a reconcile by uid over one keyed queue, registered in main.ts.
 */
import type { Clock } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { ApplyResult } from "../apply/apply-set.ts";
import type { FightLog } from "../apply/fights.ts";
import type { KubeClient } from "../kube/client.ts";
import type { Outcome } from "../control/outcome.ts";
import type { Mirror } from "../mirror/mirror.ts";
import type { InventoryStore } from "./inventory-store.ts";
import type { LiveObjects } from "./live-objects.ts";
import type { RemovalDecision } from "./removals.ts";

/** What the customer's policy and both pauses allow right now. */
export interface WriteGate {
  /** `Auto` may write; `Observe` and `Approve` only look (a missing policy is Observe). */
  mode: "Observe" | "Approve" | "Auto";
  /** Why all writes are paused; undefined when they are not. */
  paused: string | undefined;
}

/** The shared parts. */
export interface KindContext {
  kube: KubeClient;
  mirror: Mirror;
  live: LiveObjects;
  inventory: InventoryStore;
  /** Told of every run of the apply engine, for metrics. */
  applied(result: ApplyResult): void;
  /** Who keeps undoing our repairs, over all records. */
  fights: FightLog;
  clock: Clock;
  log: Logger;
  /** Namespace of the agent's own resources. */
  agentNamespace: string;
  /** Id of this data plane. */
  dataPlane(): string;
  gate(): WriteGate;
  /** False while another agent may hold the Lease: nothing is written. */
  leaseHeld(): boolean;
  /** The removal guard's word on a record that is ordered to go. */
  mayRemove(uid: string): RemovalDecision;
  /** `v<major>.<minor>` of the API server. */
  kubernetesMinor(): string;
}

/** One kind's reconcile. */
export interface KindController {
  readonly kind: "Tenant" | "Application";
  /** Makes the record `uid` so, or says why not. A uid that is gone settles at once. */
  reconcile(uid: string, signal: AbortSignal): Promise<Outcome>;
}
