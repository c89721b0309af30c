import type { KubeSession } from "../kube/client.ts";
import type { Discovery } from "../kube/discovery.ts";
import { isKubeError, KubeError } from "../kube/errors.ts";
import type { ObjectRef } from "../kube/object.ts";
import {
  APPLICATION_LABEL,
  DATA_PLANE_LABEL,
  MANAGED_BY_LABEL,
  PART_OF_LABEL,
  TENANT_LABEL,
} from "./labels.ts";
import { reduceMember, type ReduceContext } from "./live.ts";
import type { PrunePlan } from "./prune-plan.ts";
import { atServedVersion } from "./served.ts";
import { describeId, type InventoryEntry, type LiveView, type PruneOutcome, Superseded } from "./types.ts";

/** What carrying out a prune needs. */
export interface PruneContext {
  session: KubeSession;
  discovery: Discovery;
  live: LiveView;
  reduce: ReduceContext;
  fieldManager: string;
  /** Before the first write: the inventory is stored under this term. */
  fence(): Promise<void>;
  /** Right before each write: counts it, or throws {@link Superseded} when the run is stopped. */
  begin(): void;
  /** Runs `work` over `items` in parallel, keeping order in the answer. */
  pool<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]>;
}

/**
 * Carries out `plan`: one DELETE per object with its uid as precondition, in groups of equal order.
 * CRDs wait for the custom resources of the same plan, namespaces for everything else: what is still
 * terminating before them keeps them for the next run.
 */
export async function prune(plan: PrunePlan, context: PruneContext): Promise<PruneOutcome[]> {
  const out: PruneOutcome[] = [...plan.settled];
  if (plan.abandons.length + plan.deletes.length > 0) await context.fence();
  out.push(...(await context.pool(plan.abandons, (a) => abandon(a, context))));
  const last = (kind: string) => kind === "Namespace" || kind === "CustomResourceDefinition";
  const groups = [
    plan.deletes.filter((d) => !last(d.entry.kind)),
    plan.deletes.filter((d) => d.entry.kind === "CustomResourceDefinition"),
    plan.deletes.filter((d) => d.entry.kind === "Namespace"),
  ];
  let blocked = false;
  for (const group of groups) {
    if (blocked) {
      for (const d of group)
        out.push({
          id: d.entry,
          action: "Deleting",
          reason: "WaitingForOthers",
          message: `${describeId(d.entry)} goes after the objects before it`,
        });
      continue;
    }
    const answers = await context.pool(group, (d) => remove(d.entry, d.uid, context));
    out.push(...answers);
    blocked = answers.some((a) => a.action === "Deleting" || a.action === "Failed");
  }
  return out.map((o) => ({
    ...o,
    id: { group: o.id.group, kind: o.id.kind, namespace: o.id.namespace, name: o.id.name },
  }));
}

async function remove(entry: InventoryEntry, uid: string, context: PruneContext): Promise<PruneOutcome> {
  try {
    context.begin();
    const answer = await at(entry, context, (ref) =>
      context.session.delete(ref, { uid, propagationPolicy: "Background" }),
    );
    if (answer === undefined) return goneOutcome(entry, uid, context);
    if (answer.object === undefined) {
      context.live.forget(entry, uid);
      return { id: entry, action: "Deleted", reason: "Deleted", message: "" };
    }
    const live = reduceMember(answer.object, context.reduce);
    context.live.observe(live);
    const waits = live.finalizers.length === 0 ? "" : `; finalizers: ${live.finalizers.join(", ")}`;
    return {
      id: entry,
      action: "Deleting",
      reason: "Terminating",
      message: `${describeId(entry)} is being deleted${waits}`,
    };
  } catch (thrown) {
    if (isKubeError(thrown, 409)) return await conflicted(entry, uid, { context, thrown });
    return failedOutcome(entry, thrown);
  }
}

/** A refused precondition is one reason of a conflict among several: only another uid is another object. */
async function conflicted(
  entry: InventoryEntry,
  uid: string,
  on: { context: PruneContext; thrown: KubeError },
): Promise<PruneOutcome> {
  try {
    const live = await at(entry, on.context, (ref) => on.context.session.get(ref, { metadataOnly: true }));
    if (live === undefined) return goneOutcome(entry, uid, on.context);
    if (live.metadata.uid === uid) return failedOutcome(entry, on.thrown);
    return {
      id: entry,
      action: "Recreated",
      reason: "Recreated",
      message: `${describeId(entry)} was recreated by somebody else`,
    };
  } catch (thrown) {
    return failedOutcome(entry, thrown);
  }
}

/** Takes our labels and our field manager off, so that the object lives on as nobody's. */
async function abandon(
  { entry, uid, reason }: PrunePlan["abandons"][number],
  context: PruneContext,
): Promise<PruneOutcome> {
  try {
    const answer = await at(entry, context, (ref) => release(ref, uid, context));
    if (answer === undefined) return goneOutcome(entry, uid, context);
    if (answer === "recreated") {
      return {
        id: entry,
        action: "Recreated",
        reason: "Recreated",
        message: `${describeId(entry)} was recreated by somebody else`,
      };
    }
    context.live.forget(entry, "");
    return { id: entry, action: "Abandoned", reason, message: "" };
  } catch (thrown) {
    return failedOutcome(entry, thrown);
  }
}

async function release(
  ref: ObjectRef,
  uid: string,
  context: PruneContext,
): Promise<"released" | "recreated"> {
  const live = await context.session.get(ref);
  if (live.metadata.uid !== uid) return "recreated";
  const labels: Record<string, null> = {};
  for (const key of [PART_OF_LABEL, MANAGED_BY_LABEL, APPLICATION_LABEL, TENANT_LABEL, DATA_PLANE_LABEL])
    labels[key] = null;
  const kept = (live.metadata.managedFields ?? []).filter((e) => e.manager !== context.fieldManager);
  context.begin();
  await context.session.mergePatch(
    ref,
    // An empty list would mean "no change": one empty entry resets managedFields.
    {
      metadata: {
        labels,
        managedFields: kept.length === 0 ? [{}] : kept,
        resourceVersion: live.metadata.resourceVersion,
      },
    },
    { fieldManager: `${context.fieldManager}.abandon` },
  );
  return "released";
}

function goneOutcome(entry: InventoryEntry, uid: string, context: PruneContext): PruneOutcome {
  context.live.forget(entry, uid);
  return { id: entry, action: "Deleted", reason: "NotFound", message: "" };
}

function failedOutcome(entry: InventoryEntry, thrown: unknown): PruneOutcome {
  if (thrown instanceof Superseded)
    return { id: entry, action: "Failed", reason: thrown.name, message: thrown.message };
  if (!(thrown instanceof KubeError)) throw thrown;
  return { id: entry, action: "Failed", reason: thrown.reason, message: thrown.message };
}

function at<T>(
  entry: InventoryEntry,
  context: PruneContext,
  call: (ref: ObjectRef) => Promise<T>,
): Promise<T | undefined> {
  return atServedVersion(context.discovery, { id: entry, version: entry.version }, call);
}
