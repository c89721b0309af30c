import { create } from "@bufbuild/protobuf";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { StoredDivergence } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredDivergenceSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { ResRow } from "../store/store.ts";
import type { Inventory } from "./compare.ts";
import { restamp } from "./epoch.ts";
import type { HeldResource, LossFacts, Restored } from "./plan-resume.ts";
import { heldProvesLoss, judgeRow } from "./plan-resume.ts";
import type { Abilities } from "./rows.ts";
import { cannotTake, rowFacts } from "./rows.ts";
import type { Reporter, StatusDeps } from "./status.ts";
import { clearWithheld, writeWithheld } from "./status.ts";

/** An agent holds a revision of this epoch that this hub gave and no longer has. */
export class HistoryLost extends Error {
  override readonly name = "HistoryLost";
  readonly revision: number;

  constructor(revision: number) {
    super(`History was lost: an agent holds revision ${revision}`);
    this.revision = revision;
  }
}

/** Throws {@link HistoryLost} when what is held proves it, of what the hub knows up to a revision. */
export function refuseLoss(held: HeldResource, known: number, on: LossFacts): void {
  if (heldProvesLoss(held.revision, known, on)) throw new HistoryLost(held.revision);
}

/** For whom rows are selected. */
export interface Selection {
  by: Reporter;
  abilities: Abilities;
  /** Set during the first part of a compare; `cursorRevision` is that of the agent's cursor. */
  compare:
    | {
        inventory: Inventory;
        cursorRevision: number | undefined;
        /** Uids of what was withheld before and can be delivered now. */
        deliverable: ReadonlySet<string>;
        /** Whether what is held may prove that this hub lost the end of its history. */
        loss: LossFacts;
      }
    | undefined;
  /** Set while the hub's epoch waits for its acceptance. */
  restored: Restored | undefined;
  /** What is held back from this data plane, by uid. */
  divergences: ReadonlyMap<string, StoredDivergence>;
}

/** Rows to send, and what is newly held back. */
export interface Selected {
  rows: ResRow[];
  withheld: StoredDivergence[];
}

/**
 * Sorts rows into those that go to the agent and those that are held back. Left out are what the agent
 * cannot take (the hub's own verdict says so then) and, in a compare, what it holds already; a body that
 * it rejected is held too.
 */
export async function selectRows(
  deps: StatusDeps,
  rows: readonly ResRow[],
  on: Selection,
): Promise<Selected> {
  const out: Selected = { rows: [], withheld: [] };
  for (const row of rows) await select(deps, row, { on, out });
  return out;
}

async function select(deps: StatusDeps, row: ResRow, to: { on: Selection; out: Selected }): Promise<void> {
  const { on, out } = to;
  const facts = row.del ? undefined : rowFacts(row);
  const held = on.compare?.inventory.match(row.uid);
  const message = facts === undefined ? undefined : cannotTake(facts, on.abilities);
  if (message !== undefined) return writeWithheld(deps, on.by, { row, message });
  if (on.compare === undefined) {
    const kind = heldBack(row, on);
    if (kind === undefined) out.rows.push(row);
    else out.withheld.push(divergenceOf(row, kind, { on, held: undefined }));
    return;
  }
  const digestHex = facts === undefined ? "" : Buffer.from(facts.digest).toString("hex");
  const action = judgeRow({ rev: row.rev, del: row.del, digestHex }, held, {
    cursorRevision: on.compare.cursorRevision,
    restored: on.restored,
  });
  switch (action.kind) {
    case "skip":
      // The agent has what was withheld from it once, and will not judge it again.
      if (on.compare.deliverable.has(row.uid)) await clearWithheld(deps, on.by, row.uid);
      return;
    case "withhold":
      out.withheld.push(divergenceOf(row, action.as, { on, held }));
      return;
    case "restamp":
      if (held !== undefined) refuseLoss(held, row.rev, on.compare.loss);
      if (!on.compare.inventory.mayRestamp(row.uid)) {
        // One line a compare: an agent can claim such revisions of all its rows.
        if (on.compare.inventory.leftOut++ === 0) {
          const { dataPlaneUid } = on.by;
          deps.log.warn("Held at a revision that no row reaches", { dataPlaneUid, uid: row.uid });
        }
        return;
      }
      await restamp(deps.store, { dataPlaneUid: on.by.dataPlaneUid, uid: row.uid });
      return;
    case "send":
      out.rows.push(row);
  }
}

/** Outside of a compare: tombstones wait, and all that a compare has found to differ. */
function heldBack(row: ResRow, on: Selection): DivergenceKind | undefined {
  if (on.restored === undefined) return undefined;
  if (row.del) return DivergenceKind.TOMBSTONE_WITHHELD;
  return on.divergences.get(row.uid)?.kind as DivergenceKind | undefined;
}

function divergenceOf(
  row: ResRow,
  kind: DivergenceKind,
  from: { on: Selection; held: HeldResource | undefined },
): StoredDivergence {
  const before = from.on.divergences.get(row.uid);
  return create(StoredDivergenceSchema, {
    name: row.name,
    uid: row.uid,
    kind,
    agentRevision: BigInt(from.held?.revision ?? before?.agentRevision ?? 0),
    hubRevision: BigInt(row.rev),
    dataPlaneUid: from.on.by.dataPlaneUid,
  });
}
