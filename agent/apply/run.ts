import { failpoint } from "@moorage/shared/failpoint";
import { aggregate } from "../health/aggregate.ts";
import { gates } from "../health/builtin.ts";
import type { Health } from "../health/health.ts";
import { isNotFound, KubeError } from "../kube/errors.ts";
import type { KubeObject } from "../kube/object.ts";
import { apiVersionOf, dig } from "../kube/object.ts";
import { applyObject, type ApplyContext } from "./apply-object.ts";
import type { ApplyResult, ApplySetInput } from "./apply-set.ts";
import { inventoryChanged, mergeRun, writeAhead } from "./inventory.ts";
import { applySetId, memberLabels } from "./labels.ts";
import { normalise, type NormalObject } from "./normalise.ts";
import { plan, type Plan } from "./plan.ts";
import { pool } from "./pool.ts";
import { prune } from "./prune.ts";
import { planPrune, undesired } from "./prune-plan.ts";
import {
  describeId,
  idKey,
  type InventoryEntry,
  type LiveState,
  type ObjectAction,
  type ObjectId,
  type ObjectOutcome,
  type PruneHold,
  type PruneOutcome,
  Superseded,
  type Wait,
} from "./types.ts";

/** Calls under way at a time when the caller names no number. */
const DEFAULT_CONCURRENCY = 16;

/**
 * One run over one application: write the inventory ahead, apply phase by phase, prune, write the
 * inventory. Returns what happened; failures of single objects are data. It throws only when it could
 * not go on at all: discovery or the inventory write failed (KubeError or the callback's own error).
 */
export async function applySet(input: ApplySetInput): Promise<ApplyResult> {
  const types = await resolveTypes(input);
  const planned = planOf(input, types);
  return "refused" in planned ? refused(input, planned.refused, planned.message) : run(input, planned);
}

type Planned = Plan | { refused: string; message: string };

/** Plans by the desired set itself: a set that is handed in again, as each full compare does, is not planned again. */
const plans = new WeakMap<readonly KubeObject[], { facts: string; planned: Planned }>();

function planOf(input: ApplySetInput, types: ReadonlyMap<string, "Namespaced" | "Cluster">): Planned {
  const labels = memberLabels(input.identity);
  const namespaces = input.policy?.namespaces;
  const facts = JSON.stringify([[...types], labels, input.defaultNamespace, namespaces]);
  const kept = plans.get(input.desired);
  if (kept?.facts === facts) return kept.planned;
  const planned = planAnew(input, { types, labels });
  plans.set(input.desired, { facts, planned });
  return planned;
}

function planAnew(
  input: ApplySetInput,
  by: { types: ReadonlyMap<string, "Namespaced" | "Cluster">; labels: Readonly<Record<string, string>> },
): Planned {
  const objects = normalise(input.desired, {
    scopeOf: (apiVersion, kind) => by.types.get(`${apiVersion}/${kind}`),
    labels: by.labels,
    ...(input.defaultNamespace === undefined ? {} : { defaultNamespace: input.defaultNamespace }),
    ...(input.policy?.namespaces === undefined ? {} : { namespaces: input.policy.namespaces }),
  });
  if ("errors" in objects) return { refused: "InvalidManifests", message: objects.errors.join("; ") };
  const planned = plan(objects);
  return "error" in planned ? { refused: "InvalidOrder", message: planned.error } : planned;
}

async function run(input: ApplySetInput, planned: Plan): Promise<ApplyResult> {
  let inventory: readonly InventoryEntry[] = input.inventory;
  const counter = { writes: 0, superseded: input.policy?.stopped?.() === true };
  const ahead = writeAhead(inventory, planned);
  if (ahead !== undefined && !counter.superseded) {
    await input.writeInventory(ahead);
    failpoint("agent/inventory-written");
    inventory = ahead;
  }
  const context = contextOf(input, planned, { counter, inventory });
  const objects = await applyPhases(input, { planned, inventory, context, counter });
  const applied = objects.every((o) => APPLIED.has(o.action) || o.reason === "Present");
  failpoint("agent/before-prune");
  const removed = await pruneStep(input, { planned, inventory, objects, applied, context, counter });
  // A stopped run leaves what a crash would: all that it may have touched is listed, the next one finds out.
  const { superseded } = counter;
  const after = superseded ? inventory : mergeRun(inventory, { objects, pruned: removed.pruned });
  if (inventoryChanged(inventory, after)) {
    failpoint("agent/before-inventory-result");
    await input.writeInventory(after);
  }
  return {
    objects,
    ...conclude(input, objects, removed.pruned),
    pruned: removed.pruned,
    ...(removed.held === undefined ? {} : { pruneHeld: removed.held }),
    inventory: after,
    applied,
    superseded,
    writes: counter.writes,
  };
}

/** Actions after which the object is there as desired. */
const APPLIED: ReadonlySet<ObjectAction> = new Set(["Unchanged", "Created", "Configured", "Confirmed"]);

async function resolveTypes(input: ApplySetInput): Promise<Map<string, "Namespaced" | "Cluster">> {
  const types = new Map<string, "Namespaced" | "Cluster">();
  const wanted = new Map(
    input.desired.map((o) => [`${o.apiVersion}/${o.kind}`, { apiVersion: o.apiVersion, kind: o.kind }]),
  );
  for (const [key, kind] of wanted) {
    try {
      const type = input.discovery.cached(kind) ?? (await input.discovery.resolve(kind));
      types.set(key, type.namespaced ? "Namespaced" : "Cluster");
    } catch (thrown) {
      if (!isNotFound(thrown)) throw thrown;
    }
  }
  for (const o of input.desired) {
    if (o.kind !== "CustomResourceDefinition") continue;
    const scope = dig(o, "spec", "scope") === "Cluster" ? "Cluster" : "Namespaced";
    const versions = dig(o, "spec", "versions");
    for (const v of Array.isArray(versions) ? (versions as unknown[]) : []) {
      const key = `${apiVersionOf(String(dig(o, "spec", "group")), String(dig(v, "name")))}/${String(dig(o, "spec", "names", "kind"))}`;
      if (!types.has(key)) types.set(key, scope);
    }
  }
  return types;
}

/** What a run came to so far. */
interface Counter {
  writes: number;
  superseded: boolean;
}

function contextOf(
  input: ApplySetInput,
  planned: Plan,
  state: { counter: Counter; inventory: readonly InventoryEntry[] },
): ApplyContext {
  const { counter } = state;
  let fenced: Promise<void> | undefined;
  const crds = new Set<string>();
  const scaled = new Set<string>();
  for (const o of planned.phases.flat()) {
    const target =
      o.id.kind === "HorizontalPodAutoscaler" || o.id.kind === "ScaledObject"
        ? dig(o.object, "spec", "scaleTargetRef")
        : undefined;
    // KEDA's kind defaults to Deployment.
    if (target !== undefined)
      scaled.add(
        `${String(dig(target, "kind") ?? "Deployment")}/${o.id.namespace}/${String(dig(target, "name"))}`,
      );
    if (o.id.kind === "CustomResourceDefinition")
      crds.add(`${String(dig(o.object, "spec", "group"))}/${String(dig(o.object, "spec", "names", "kind"))}`);
  }
  return {
    session: input.applier.session,
    live: input.live,
    reduce: input.reduce,
    fieldManager: input.identity.fieldManager,
    partOf: applySetId(input.identity.parent),
    policy: input.policy ?? {},
    fights: input.fights,
    firstInstall: input.inventory.length === 0,
    autoscaled: (o) => scaled.has(`${o.id.kind}/${o.id.namespace}/${o.id.name}`),
    crdInSet: (o) => crds.has(`${o.id.group}/${o.id.kind}`),
    async fence() {
      // What is stopped writes nothing, this included: each `begin` says so.
      if (fenced === undefined) counter.superseded ||= input.policy?.stopped?.() === true;
      if (!counter.superseded) await (fenced ??= input.writeInventory(state.inventory));
    },
    begin: () => {
      counter.superseded ||= input.policy?.stopped?.() === true;
      if (counter.superseded) throw new Superseded();
      counter.writes++;
    },
  };
}

interface RunState {
  planned: Plan;
  inventory: readonly InventoryEntry[];
  context: ApplyContext;
  counter: Counter;
}

async function applyPhases(input: ApplySetInput, state: RunState): Promise<ObjectOutcome[]> {
  const entries = new Map(state.inventory.map((e) => [idKey(e), e]));
  const done = new Map<string, ObjectOutcome>();
  const out: ObjectOutcome[] = [];
  for (const [phase, members] of state.planned.phases.entries()) {
    const outcomes = await pool(members, input.concurrency ?? DEFAULT_CONCURRENCY, async (target) => {
      if (state.counter.superseded) {
        const { name: reason, message } = new Superseded();
        return idle(target, { action: "Skipped", reason, message });
      }
      const blocked = blockedBy(target, state, { done, live: input.live });
      if (blocked === undefined && state.context.crdInSet(target)) forgetMiss(input, target);
      return blocked ?? applyObject({ target, entry: entries.get(idKey(target.id)), phase }, state.context);
    });
    for (const outcome of outcomes) {
      done.set(idKey(outcome.id), outcome);
      out.push(outcome);
    }
  }
  return out;
}

/** Its CRD is Current now: what discovery remembers from before must not stand in the way. */
function forgetMiss(input: ApplySetInput, target: NormalObject): void {
  const { apiVersion, kind } = target.object;
  if (input.discovery.cached({ apiVersion, kind }) === undefined) input.discovery.invalidate(apiVersion);
}

/** A failed dependency skips its dependants alone; one that is not Current makes them wait. */
function blockedBy(
  target: NormalObject,
  state: RunState,
  now: { done: ReadonlyMap<string, ObjectOutcome>; live: ApplySetInput["live"] },
): ObjectOutcome | undefined {
  for (const id of state.planned.hard.get(idKey(target.id)) ?? []) {
    const outcome = now.done.get(idKey(id));
    if (outcome === undefined) continue;
    const name = describeId(id);
    if (outcome.action === "Waiting")
      return idle(target, {
        action: "Waiting",
        reason: "DependencyNotReady",
        message: `Dependency ${name} is waiting`,
      });
    if (!APPLIED.has(outcome.action) && outcome.reason !== "Present") {
      return idle(target, {
        action: "Skipped",
        reason: "DependencyFailed",
        message: `Dependency ${name} failed: ${outcome.message}`,
      });
    }
    const live = now.live.get(id) ?? outcome.live;
    if (live?.health.status !== "Current") {
      return idle(target, {
        action: "Waiting",
        reason: "DependencyNotReady",
        message: `Dependency ${name} is ${live?.health.status ?? "NotFound"}`,
      });
    }
  }
  return undefined;
}

function idle(
  target: NormalObject,
  r: { action: ObjectAction; reason: string; message: string },
): ObjectOutcome {
  return { id: target.id, ...r, fields: [], ambiguous: false, warnings: [], drift: false };
}

async function pruneStep(
  input: ApplySetInput,
  state: RunState & { objects: readonly ObjectOutcome[]; applied: boolean },
): Promise<{ pruned: PruneOutcome[]; held?: PruneHold }> {
  const policy = input.policy ?? {};
  const suspended = policy.suspended === true || state.objects.some((o) => o.reason === "Suspended");
  if (!state.applied || suspended || policy.prune === false || state.counter.superseded)
    return { pruned: [] };
  const desired = new Set(state.objects.map((o) => idKey(o.id)));
  const candidates = undesired(state.inventory, desired);
  if (candidates.length === 0) return { pruned: [] };
  const width = input.concurrency ?? DEFAULT_CONCURRENCY;
  const failed: PruneOutcome[] = [];
  const live = new Map<string, LiveState | undefined>();
  await pool(candidates, width, async (entry) => {
    try {
      // Not in the cache can also mean "lost its label" or "not synced": only a read may say "gone".
      live.set(idKey(entry), input.live.get(entry) ?? (await input.live.fetch(entry, entry.version)));
    } catch (thrown) {
      if (!(thrown instanceof KubeError)) throw thrown;
      failed.push({
        id: identityOf(entry),
        action: "Failed",
        reason: thrown.reason,
        message: thrown.message,
      });
    }
  });
  const unread = new Set(failed.map((f) => idKey(f.id)));
  const decision = planPrune({
    inventory: state.inventory.filter((e) => !unread.has(idKey(e))),
    desired,
    appliedUids: new Set(state.objects.map((o) => o.live?.uid ?? "").filter((uid) => uid !== "")),
    live,
    partOf: state.context.partOf,
    fieldManager: input.identity.fieldManager,
    deleteData: policy.deleteData === true,
    removal: policy.removal === true,
    abandon: policy.abandon === true,
    approvedPlans: policy.approvedPlans ?? [],
    usedNamespaces: new Set(state.objects.map((o) => o.id.namespace)),
  });
  const pruned = await prune(decision, {
    session: input.applier.session,
    discovery: input.discovery,
    live: input.live,
    reduce: input.reduce,
    fieldManager: input.identity.fieldManager,
    fence: () => state.context.fence(),
    begin: () => state.context.begin(),
    pool: (items, work) => pool(items, width, work),
  });
  return { pruned: [...pruned, ...failed], ...(decision.held === undefined ? {} : { held: decision.held }) };
}

function identityOf(e: InventoryEntry): ObjectId {
  return { group: e.group, kind: e.kind, namespace: e.namespace, name: e.name };
}

/** Waits, health, drift and retry hint, from the outcomes and what the cache says by now. */
function conclude(input: ApplySetInput, objects: readonly ObjectOutcome[], pruned: readonly PruneOutcome[]) {
  const waits: Wait[] = [];
  const healths: Health[] = [];
  let retryAfterMs: number | undefined;
  for (const o of objects) {
    if (o.retryAfterMs !== undefined) retryAfterMs = Math.min(retryAfterMs ?? Infinity, o.retryAfterMs);
    const health = (input.live.get(o.id) ?? o.live)?.health;
    if (o.action === "Waiting") waits.push({ id: o.id, reason: waitReason(o.reason), message: o.message });
    if (!gates(o.id)) continue;
    const shown: Health = health ?? {
      status: "NotFound",
      reason: "NotFound",
      message: "",
      confidence: "high",
    };
    healths.push({
      ...shown,
      message:
        shown.status === "Current" ? shown.message : `${describeId(o.id)}: ${shown.message || shown.reason}`,
    });
    if (APPLIED.has(o.action) && shown.status !== "Current")
      waits.push({ id: o.id, reason: "Health", message: shown.message });
  }
  for (const p of pruned)
    if (p.action === "Deleting") waits.push({ id: p.id, reason: "Deleting", message: p.message });
  return {
    waitingFor: waits,
    health: aggregate(healths),
    drifted: objects.filter((o) => o.drift).map((o) => o.id),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  };
}

function waitReason(reason: string): Wait["reason"] {
  return reason === "Terminating" || reason === "NamespaceTerminating" ? reason : "Dependency";
}

function refused(input: ApplySetInput, reason: string, message: string): ApplyResult {
  const health: Health = { status: "Unknown", reason, message, confidence: "high" };
  return {
    objects: [],
    waitingFor: [],
    pruned: [],
    inventory: input.inventory,
    applied: false,
    health,
    drifted: [],
    invalid: { reason, message },
    superseded: false,
    writes: 0,
  };
}
