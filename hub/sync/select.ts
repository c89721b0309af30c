import type { ResRow } from "../store/store.ts";
import type { Inventory } from "./compare.ts";
import { compareSends } from "./plan-resume.ts";
import type { Abilities } from "./rows.ts";
import { cannotTake, decodeRow, isRejected, isWithheld, readStatus } from "./rows.ts";
import type { Reporter, StatusDeps } from "./status.ts";
import { writeWithheld } from "./status.ts";

/** For whom rows are selected. `compare` is set during the first part of a compare. */
export interface Selection {
  by: Reporter;
  abilities: Abilities;
  compare: { inventory: Inventory; foreignEpoch: boolean } | undefined;
}

/**
 * The rows that go to the agent: all but what it cannot take (the hub's own verdict says so then)
 * and, in a compare, what it holds already or has rejected.
 */
export async function selectRows(
  deps: StatusDeps,
  rows: readonly ResRow[],
  on: Selection,
): Promise<ResRow[]> {
  const out: ResRow[] = [];
  for (const row of rows) if (await selects(deps, row, on)) out.push(row);
  return out;
}

async function selects(deps: StatusDeps, row: ResRow, on: Selection): Promise<boolean> {
  const { change } = decodeRow(row);
  const held = on.compare?.inventory.match(row.uid);
  if (change.case === "upsert") {
    const message = cannotTake(change.value, on.abilities);
    if (message !== undefined) {
      await writeWithheld(deps, on.by, { row, message });
      return false;
    }
  }
  if (on.compare === undefined) return true;
  const digestHex = change.case === "upsert" ? Buffer.from(change.value.digest).toString("hex") : "";
  if (!compareSends({ rev: row.rev, del: row.del, digestHex }, held, on.compare.foreignEpoch)) return false;
  if (row.del || held === undefined) return true;
  // A rejected revision is not sent again: the agent kept the one before and would reject it anew.
  const status = (await readStatus(deps.store, row.uid)).stored?.status;
  return !isRejected(status, row.rev) || isWithheld(status);
}
