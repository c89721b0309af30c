import { create } from "@bufbuild/protobuf";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { StoredDivergence } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredDivergenceSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import type { Store } from "../store/store.ts";
import type { SyncCounts } from "./counts.ts";
import { replaceUnknown, writeDivergences } from "./epoch.ts";
import { storeUnknown } from "./links.ts";
import type { HeldResource, Restored } from "./plan-resume.ts";
import type { AgentPrincipal } from "./sync.ts";

/** What it needs of the session's surroundings. */
interface HeldBackDeps {
  store: Store;
  clock: Clock;
  counts: SyncCounts;
  restored(): Restored | undefined;
  settleDivergences(): void;
}

/** What is held back from one data plane, in memory and in the store. */
export class HeldBack {
  readonly #deps: HeldBackDeps;
  readonly #of: AgentPrincipal;
  readonly #all: Map<string, StoredDivergence>;

  constructor(deps: HeldBackDeps, of: AgentPrincipal, stored: ReadonlyMap<string, StoredDivergence>) {
    this.#deps = deps;
    this.#of = of;
    this.#all = new Map(stored);
  }

  /** By uid. */
  get all(): ReadonlyMap<string, StoredDivergence> {
    return this.#all;
  }

  /** Durable once this settles; only then may a cursor pass the rows. */
  async add(withheld: readonly StoredDivergence[]): Promise<void> {
    if (withheld.length === 0) return;
    for (const d of withheld) this.#all.set(d.uid, d);
    this.#deps.counts.withheld(withheld.length);
    await writeDivergences(this.#deps.store, this.#of.dataPlane, withheld);
    // The acceptance may have come between the decision and the write: then nobody else sends them.
    if (this.#deps.restored() === undefined) this.#deps.settleDivergences();
  }

  /** All rows were compared. What no row matched stays at the agent, and is listed. */
  async endCompare(unmatched: readonly { uid: string; held: HeldResource }[]): Promise<void> {
    const { store, clock } = this.#deps;
    const unknown = unmatched.map(({ uid, held }) =>
      create(StoredDivergenceSchema, {
        name: held.name,
        uid,
        kind: DivergenceKind.UNKNOWN_TO_HUB,
        agentRevision: BigInt(held.revision),
        dataPlaneUid: this.#of.dataPlaneUid,
      }),
    );
    await replaceUnknown(store, this.#of.dataPlane, unknown);
    await storeUnknown(store, this.#of.dataPlaneUid, { count: unknown.length, nowMs: clock.now() });
  }
}
