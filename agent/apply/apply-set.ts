import type { AgentSession, ServiceAccountSession } from "../kube/client.ts";
import type { Health } from "../health/health.ts";
import type { Discovery } from "../kube/discovery.ts";
import type { KubeObject } from "../kube/object.ts";
import type { FightLog } from "./fights.ts";
import type { ReduceContext } from "./live.ts";
import type { InventoryEntry, LiveView, ObjectOutcome, PruneHold, PruneOutcome, Wait } from "./types.ts";

/**
 * One run of the engine over one application: input and result. {@link ./run.ts} implements it. A run
 * returns what happened as data, never sleeps on health and never retries: a caller subscribes to
 * `waitingFor` and runs again.
 */

/** Who applies. A tenant's members can only be written under a ServiceAccount. */
export type Applier =
  | { scope: "Tenant"; session: ServiceAccountSession }
  | { scope: "DataPlane"; session: ServiceAccountSession | AgentSession };

/** Labels and names that mark members as one application's. */
export interface SetIdentity {
  /** The mirror object that is the ApplySet parent. */
  parent: { name: string; namespace: string; kind: string; group: string };
  /** `moorage.<application uid>`. */
  fieldManager: string;
  /** Values of `moorage.dev/{application,tenant,data-plane}`; hashed here when > 63 characters. */
  application: string;
  tenant?: string;
  dataPlane: string;
}

/** Policies of one application. */
export interface ApplyPolicy {
  /** Default `MustMatch`. */
  adoption?: "MustMatch" | "AdoptIfNoInventory" | "AdoptAll";
  /** Default `Correct`. `Warn` reports drift and changes nothing; `Off` does not look. */
  drift?: "Correct" | "Warn" | "Off";
  /** The set is a tenant's fence: contested or not, it is always repaired. Default false. */
  baseline?: boolean;
  /** On a refused change of an immutable field. Default `Fail`; Jobs are recreated in any case. */
  immutable?: "Fail" | "Recreate";
  /** Delete what left the desired set. Default true. */
  prune?: boolean;
  /** Set while anything suspends changes: nothing is pruned. */
  suspended?: boolean;
  /** A removal order covers everything: an empty desired set is meant, and the guard rails stand aside. */
  removal?: boolean;
  /** What would be deleted is abandoned instead: our labels and field ownership go, the objects stay. */
  abandon?: boolean;
  /** PVC, PV and CRD may go too. Default false. */
  deleteData?: boolean;
  /** Digests of prune plans that were approved. */
  approvedPlans?: readonly string[];
  /** Namespaces that the application may write; undefined for data-plane scope. */
  namespaces?: readonly string[];
  /**
   * Asked right before each write: true ends the run between two writes (the Lease is lost, the order is another,
   * the gate is closed). What follows then is left as it is, and the inventory as it was written ahead.
   */
  stopped?(): boolean;
}

/** Input of a run. */
export interface ApplySetInput {
  applier: Applier;
  discovery: Discovery;
  live: LiveView;
  identity: SetIdentity;
  /** Rendered manifests, in any order; normalised here. */
  desired: readonly KubeObject[];
  /** Default namespace of namespaced manifests that name none. */
  defaultNamespace?: string;
  inventory: readonly InventoryEntry[];
  /**
   * Stores the whole inventory under the Lease's term; rejects when it lost its compare-and-set, makes no call when just
   * that is stored already. Called before the first write of each run: a stale agent fails here and writes no member.
   */
  writeInventory(entries: readonly InventoryEntry[]): Promise<void>;
  policy?: ApplyPolicy;
  /** The same as the one that fills `live`. */
  reduce: ReduceContext;
  /** Memory of repairs that did not last; without it every drift is repaired at once. */
  fights?: FightLog;
  /** Parallel calls; default 16. */
  concurrency?: number;
}

/** Result of a run. */
export interface ApplyResult {
  /** Every desired object, in plan order. */
  objects: readonly ObjectOutcome[];
  /** What the run waits for; empty when settled. */
  waitingFor: readonly Wait[];
  pruned: readonly PruneOutcome[];
  pruneHeld?: PruneHold;
  /** The inventory as last written (equal to the input's when nothing changed). */
  inventory: readonly InventoryEntry[];
  /** Every desired object is in the cluster at this revision. */
  applied: boolean;
  /** Worst health over the desired objects. */
  health: Health;
  /** Drifted objects: repaired under `Correct`, only reported under `Warn`. */
  drifted: readonly ObjectOutcome["id"][];
  /** A shortest delay that a server asked for. */
  retryAfterMs?: number;
  /** The desired set cannot be planned: nothing was called. */
  invalid?: { reason: string; message: string };
  /** The run was stopped: what it was decided by is to be read again. */
  superseded: boolean;
  /** API writes made for members. */
  writes: number;
}
