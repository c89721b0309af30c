import type { Clock } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { KubeClient } from "../kube/client.ts";
import type { SyncState } from "./sync-state.ts";

/** What the mirror is made of. */
export interface MirrorDeps {
  kube: KubeClient;
  namespace: string;
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Loaded already. */
  state: SyncState;
  /** False while another agent may hold the Lease. */
  mayWrite(): boolean;
  /** Whether a hub is to be told of completed removals; without one they end at once. */
  hasHub: boolean;
  /** Whether an inventory of `uid` is here: its objects may live although its record was lost. Absent: none is. */
  hasInventory?(uid: string): boolean;
}
