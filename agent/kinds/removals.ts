/** The removal guard over the whole mirror: what of the ordered removals may be carried out. */
import type { Clock } from "@moorage/shared/clock";
import type { Mirror, MirrorRecord } from "../mirror/mirror.ts";
import { RemovalGuard } from "./removal-guard.ts";
import type { GuardDecision, Guarded } from "./removal-guard.ts";

/** The guard's word on one record. */
export interface RemovalDecision {
  allowed: boolean;
  /** Why it is held, for the Deleting condition. */
  message: string;
}

/** Decides over all tenants and applications; the data plane's own order covers everything in it. */
export class Removals {
  readonly #guard = new RemovalGuard();
  readonly #mirror: Mirror;
  readonly #clock: Clock;
  readonly #maxRemovals: () => number;

  constructor(deps: { mirror: Mirror; clock: Clock; maxRemovals: () => number }) {
    this.#mirror = deps.mirror;
    this.#clock = deps.clock;
    this.#maxRemovals = deps.maxRemovals;
  }

  /** The guard's decision now; also the source of the DeletionGuarded condition. */
  decide(): GuardDecision {
    const [dataPlane] = this.#mirror.list("DataPlane");
    const all = [...this.#mirror.list("Tenant"), ...this.#mirror.list("Application")];
    const guarded: Guarded[] = all.map((r) => ({
      uid: r.uid,
      name: r.name,
      parentUid: parentOf(r) ?? dataPlane?.uid,
      removal: r.removal,
    }));
    if (dataPlane !== undefined) {
      guarded.push({
        uid: dataPlane.uid,
        name: dataPlane.name,
        parentUid: undefined,
        removal: dataPlane.removal,
      });
    }
    return this.#guard.decide(guarded, {
      monotonicMs: this.#clock.monotonicMs(),
      maxRemovals: this.#maxRemovals(),
    });
  }

  /** Whether `uid`, which is ordered to go, may go. Local orders are given by the cluster's owner and never held. */
  mayRemove(uid: string): RemovalDecision {
    if (this.#mirror.get(uid)?.origin === "local") return { allowed: true, message: "" };
    const decision = this.decide();
    return { allowed: !decision.held.has(uid), message: decision.message };
  }
}

function parentOf(record: MirrorRecord): string | undefined {
  if (record.body.kind !== "Application") return undefined;
  return record.body.value.tenantUid === "" ? undefined : record.body.value.tenantUid;
}
