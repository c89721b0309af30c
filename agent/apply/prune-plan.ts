import { hashJson } from "./hash.ts";
import { ON_REMOVE_ANNOTATION } from "./labels.ts";
import {
  compareIds,
  describeId,
  idKey,
  type InventoryEntry,
  type LiveState,
  type ObjectId,
  type PruneHold,
  type PruneOutcome,
} from "./types.ts";

/** What leaves the cluster, decided without a call. Deletion is a positive order, never an inference. */

/** Input of the decision. */
export interface PruneInput {
  /** The inventory before this run. */
  inventory: readonly InventoryEntry[];
  /** Keys of the desired set. */
  desired: ReadonlySet<string>;
  /** Uids that this run applied: the same object under another group is not pruned (cohabitation). */
  appliedUids: ReadonlySet<string>;
  /** What lives; undefined: not there. */
  live: ReadonlyMap<string, LiveState | undefined>;
  partOf: string;
  /** Manager of the fields that this application applies. */
  fieldManager: string;
  deleteData: boolean;
  removal: boolean;
  /** Abandon what would be deleted. */
  abandon: boolean;
  approvedPlans: readonly string[];
  /** Namespaces that desired objects live in. */
  usedNamespaces: ReadonlySet<string>;
}

/** The decision. */
export interface PrunePlan {
  /** To delete, in order: reverse phases, custom resources before CRDs, namespaces last. */
  deletes: readonly { entry: InventoryEntry; uid: string }[];
  /** To strip of our labels and left alone. */
  abandons: readonly { entry: InventoryEntry; uid: string; reason: string }[];
  /** Decided already: gone, recreated, kept, or on their way. */
  settled: readonly PruneOutcome[];
  held?: PruneHold;
}

/** More than this many, and more than 30 % of the inventory, need an approval. */
export const PRUNE_FREE_COUNT = 10;
export const PRUNE_FREE_RATIO = 0.3;

const PROTECTED = new Set([
  "/Namespace",
  "apiextensions.k8s.io/CustomResourceDefinition",
  "/PersistentVolumeClaim",
  "/PersistentVolume",
]);
const DATA_KINDS = new Set([
  "/PersistentVolumeClaim",
  "/PersistentVolume",
  "apiextensions.k8s.io/CustomResourceDefinition",
]);

/** Entries that are no longer desired, by the version-less identity. */
export function undesired(
  inventory: readonly InventoryEntry[],
  desired: ReadonlySet<string>,
): InventoryEntry[] {
  return inventory.filter((entry) => !desired.has(idKey(entry)));
}

/** The whole decision. Pure. */
export function planPrune(input: PruneInput): PrunePlan {
  const deletes: { entry: InventoryEntry; uid: string }[] = [];
  const abandons: { entry: InventoryEntry; uid: string; reason: string }[] = [];
  const settled: PruneOutcome[] = [];
  for (const entry of undesired(input.inventory, input.desired)) {
    const live = input.live.get(idKey(entry));
    if (live === undefined) {
      settled.push({ id: idOfEntry(entry), action: "Deleted", reason: "NotFound", message: "" });
      continue;
    }
    const verdict = judge(entry, live, input);
    // The version that it was found at: the listed one may be served no longer.
    const found = { entry: { ...entry, version: live.version }, uid: live.uid };
    if (verdict === undefined) deletes.push(found);
    else if (verdict.action === "Abandoned") abandons.push({ ...found, reason: verdict.reason });
    else settled.push({ id: idOfEntry(entry), ...verdict });
  }
  deletes.sort(
    (a, b) =>
      deleteOrder(a.entry) - deleteOrder(b.entry) ||
      b.entry.phase - a.entry.phase ||
      compareIds(a.entry, b.entry),
  );
  const held = guard(
    deletes.map((d) => d.entry),
    input,
  );
  if (held === undefined) return { deletes, abandons, settled };
  return { deletes: [], abandons: [], settled, held };
}

type Verdict = { action: PruneOutcome["action"]; reason: string; message: string };

/** Why this object is not deleted; undefined: it is. */
function judge(entry: InventoryEntry, live: LiveState, input: PruneInput): Verdict | undefined {
  const key = `${entry.group}/${entry.kind}`;
  // One that was missing and that we made anew bears our fields; an agent may have died before it listed the new uid.
  if (entry.uid !== "" && entry.uid !== live.uid && live.ownHashes[input.fieldManager] === undefined)
    return {
      action: "Recreated",
      reason: "Recreated",
      message: `${describeId(entry)} was recreated by somebody else`,
    };
  if (live.partOf !== input.partOf)
    return {
      action: "Kept",
      reason: "NotOurs",
      message: `${describeId(entry)} is no longer labelled as part of this application`,
    };
  if (input.appliedUids.has(live.uid))
    return { action: "Deleted", reason: "AppliedUnderAnotherGroup", message: "" };
  const keep = input.abandon ? "Orphaned" : keepReason(live);
  if (keep !== undefined) return { action: "Abandoned", reason: keep, message: "" };
  if (live.owners.length > 0)
    return {
      action: "Kept",
      reason: "ForeignOwner",
      message: `${describeId(entry)} is owned by ${live.owners.join(", ")}`,
    };
  if (live.deleting) {
    const waits = live.finalizers.length === 0 ? "" : `; finalizers: ${live.finalizers.join(", ")}`;
    return {
      action: "Deleting",
      reason: "Terminating",
      message: `${describeId(entry)} is being deleted${waits}`,
    };
  }
  if (DATA_KINDS.has(key) && !input.deleteData)
    return {
      action: "Kept",
      reason: "DataRetained",
      message: `${describeId(entry)} holds data and no data-deletion policy is set`,
    };
  if (key === "/Namespace" && input.usedNamespaces.has(entry.name))
    return {
      action: "Kept",
      reason: "NamespaceInUse",
      message: `Namespace "${entry.name}" holds objects that are still applied`,
    };
  return undefined;
}

/** The annotation that keeps an object, in any of the dialects people use. */
export function keepReason(live: LiveState): string | undefined {
  const a = live.annotations;
  if (a[ON_REMOVE_ANNOTATION] === "keep") return "KeepAnnotation";
  if (a["cli-utils.sigs.k8s.io/on-remove"] === "keep") return "CliUtilsKeep";
  if (a["client.lifecycle.config.k8s.io/deletion"] === "detach") return "DetachAnnotation";
  if (a["helm.sh/resource-policy"]?.split(",").some((v) => v.trim() === "keep") === true) return "HelmKeep";
  if (/(^|,)\s*Prune=(false|confirm)\s*(,|$)/.test(a["argocd.argoproj.io/sync-options"] ?? ""))
    return "ArgoPruneFalse";
  return undefined;
}

/** Ordinary objects, then the CRDs that they may be instances of, then namespaces. */
function deleteOrder(entry: InventoryEntry): number {
  if (entry.kind === "ValidatingWebhookConfiguration") return 0;
  if (entry.kind === "MutatingWebhookConfiguration") return 1;
  if (entry.kind === "CustomResourceDefinition") return 3;
  if (entry.kind === "Namespace") return 4;
  return 2;
}

/** The guard rails. A removal order stands in for them. */
function guard(entries: readonly InventoryEntry[], input: PruneInput): PruneHold | undefined {
  if (input.removal || entries.length === 0) return undefined;
  const ids = entries.map(idOfEntry);
  const planDigest = pruneDigest(entries);
  if (input.approvedPlans.includes(planDigest)) return undefined;
  if (input.desired.size === 0) {
    return {
      reason: "EmptyDesiredSet",
      message: "The desired set is empty without a removal order",
      planDigest,
      ids,
    };
  }
  const kept = entries.filter((e) => PROTECTED.has(`${e.group}/${e.kind}`));
  if (kept.length > 0) {
    return {
      reason: "ProtectedKind",
      message: `The prune would delete ${kept.map(describeId).join(", ")}`,
      planDigest,
      ids,
    };
  }
  const free = Math.max(PRUNE_FREE_COUNT, PRUNE_FREE_RATIO * input.inventory.length);
  if (entries.length > free) {
    return {
      reason: "TooMany",
      message: `The prune would delete ${entries.length} of ${input.inventory.length} objects`,
      planDigest,
      ids,
    };
  }
  return undefined;
}

/** The digest that an approval must name: identities and uids, so a changed plan needs a new one. */
export function pruneDigest(entries: readonly InventoryEntry[]): string {
  return hashJson(entries.map((e) => `${idKey(e)}@${e.uid}`).sort());
}

function idOfEntry(e: InventoryEntry): ObjectId {
  return { group: e.group, kind: e.kind, namespace: e.namespace, name: e.name };
}
