import { canonicalJson } from "../kube/json.ts";
import type { Plan } from "./plan.ts";
import { compareIds, idKey, type InventoryEntry, type ObjectOutcome, type PruneOutcome } from "./types.ts";

/**
 * The inventory as a pure model. The law: every member that may live in the cluster is listed at
 * every step, whatever happens between two writes.
 */

/** Entries of one Inventory object: 1,500 x ~200 B stay far below etcd's 1.5 MiB. */
export const INVENTORY_SHARD_ENTRIES = 1_500;

/** The inventory with all of the plan's identities; undefined when none is new (no write needed). */
export function writeAhead(inventory: readonly InventoryEntry[], plan: Plan): InventoryEntry[] | undefined {
  const known = new Set(inventory.map(idKey));
  const fresh: InventoryEntry[] = [];
  plan.phases.forEach((phase, index) => {
    for (const o of phase) {
      if (known.has(idKey(o.id))) continue;
      fresh.push({
        ...o.id,
        version: o.version,
        uid: "",
        desiredHash: "",
        appliedHash: "",
        phase: index,
        state: "Pending",
      });
    }
  });
  return fresh.length === 0 ? undefined : sortEntries([...inventory, ...fresh]);
}

/** What a run did, as far as the inventory is concerned. */
export interface RunFacts {
  objects: readonly ObjectOutcome[];
  pruned: readonly PruneOutcome[];
}

/**
 * The inventory after a run: succeeded, plus failed or skipped ones as they were listed before, plus
 * survivors of the prune, minus deleted and abandoned ones. An entry without uid whose write was
 * refused stays too (`Failed`): forgetting and listing it anew would cost two writes a retry.
 */
export function mergeRun(before: readonly InventoryEntry[], run: RunFacts): InventoryEntry[] {
  const out = new Map(before.map((entry) => [idKey(entry), entry]));
  for (const outcome of run.objects) {
    const key = idKey(outcome.id);
    const old = out.get(key);
    if (outcome.entry !== undefined) out.set(key, outcome.entry);
    else if (old !== undefined) out.set(key, { ...old, state: stateAfter(outcome, old) });
  }
  for (const p of run.pruned) {
    const key = idKey(p.id);
    const old = out.get(key);
    if (p.action === "Deleted" || p.action === "Abandoned" || p.action === "Recreated") out.delete(key);
    else if (old !== undefined)
      out.set(key, {
        ...old,
        state: p.action === "Deleting" ? "Pruning" : p.action === "Kept" ? "Kept" : old.state,
      });
  }
  return sortEntries([...out.values()]);
}

function stateAfter(outcome: ObjectOutcome, old: InventoryEntry): InventoryEntry["state"] {
  switch (outcome.action) {
    case "Unchanged":
      return "Applied";
    case "Skipped":
      return old.uid === "" ? "Pending" : "Skipped";
    case "Waiting":
      return old.uid === "" ? "Pending" : old.state;
    default:
      return outcome.ambiguous ? "Pending" : "Failed";
  }
}

/** Entries in the order in which they are stored. */
export function sortEntries(entries: readonly InventoryEntry[]): InventoryEntry[] {
  return [...entries].sort(compareIds);
}

/** Whether two inventories differ in content; order does not matter. */
export function inventoryChanged(a: readonly InventoryEntry[], b: readonly InventoryEntry[]): boolean {
  return canonicalJson(sortEntries(a)) !== canonicalJson(sortEntries(b));
}

/**
 * Entries in shards of at most {@link INVENTORY_SHARD_ENTRIES}; always at least one, possibly empty,
 * shard. An entry goes where its position in the sorted list puts it, so a small set is one object.
 */
export function shards(
  entries: readonly InventoryEntry[],
  perShard: number = INVENTORY_SHARD_ENTRIES,
): InventoryEntry[][] {
  const sorted = sortEntries(entries);
  const out: InventoryEntry[][] = [];
  for (let i = 0; i < sorted.length || out.length === 0; i += perShard)
    out.push(sorted.slice(i, i + perShard));
  return out;
}
