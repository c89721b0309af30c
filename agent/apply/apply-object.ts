import { failpoint } from "@moorage/shared/failpoint";
import type { KubeSession } from "../kube/client.ts";
import { isKubeError } from "../kube/errors.ts";
import { asMap, dig, refOf, type KubeObject } from "../kube/object.ts";
import type { ApplyPolicy } from "./apply-set.ts";
import { APPLY_ANNOTATION, IMMUTABLE_ANNOTATION, SUSPEND_ANNOTATION } from "./labels.ts";
import type { FightLog } from "./fights.ts";
import { reduceMember, type ReduceContext } from "./live.ts";
import { migrate, migrateVersions } from "./migrate.ts";
import type { NormalObject } from "./normalise.ts";
import { outcomeOf, type FailureContext } from "./outcome.ts";
import {
  describeId,
  idKey,
  type InventoryEntry,
  type LiveState,
  type LiveView,
  type ObjectAction,
  type ObjectOutcome,
} from "./types.ts";

/** What one object's turn needs; the same for all objects of a run. */
export interface ApplyContext {
  session: KubeSession;
  live: LiveView;
  reduce: ReduceContext;
  fieldManager: string;
  /** Our `part-of` value. */
  partOf: string;
  policy: ApplyPolicy;
  /** No inventory existed before this run (for `AdoptIfNoInventory`). */
  firstInstall: boolean;
  crdInSet(o: NormalObject): boolean;
  /** An autoscaler of the set owns this object's `spec.replicas` (section 8). */
  autoscaled(o: NormalObject): boolean;
  fights: FightLog | undefined;
  /** Before the first write: the inventory is stored under this term. Rejects as the input's `writeInventory` does. */
  fence(): Promise<void>;
  /** Right before each write: counts it, or throws {@link Superseded} when the run is stopped. */
  begin(): void;
}

/** One object's turn. */
export interface ApplyTurn {
  target: NormalObject;
  entry: InventoryEntry | undefined;
  phase: number;
}

/**
 * Brings one object to its desired state: no call when both hashes agree, one PATCH when not. Never
 * waits, never retries but for one forced repeat after a conflict with people or controllers.
 */
export async function applyObject(turn: ApplyTurn, context: ApplyContext): Promise<ObjectOutcome> {
  const { target, entry } = turn;
  let live = context.live.get(target.id);
  // A name we never touched: somebody else's object would not be in a cache of labelled ones.
  if (live === undefined && (entry === undefined || entry.uid === "")) {
    try {
      live = await context.live.fetch(target.id, target.version);
    } catch (thrown) {
      // A reader without that right learns from the apply itself.
      if (!isKubeError(thrown, 403) && !isKubeError(thrown, 404)) return failure(turn, context, thrown);
    }
  }
  const early = beforeCall(turn, live, context);
  if (early !== undefined) return early;
  return write(turn, live, context);
}

/** All answers that need no call. */
function beforeCall(
  turn: ApplyTurn,
  live: LiveState | undefined,
  context: ApplyContext,
): ObjectOutcome | undefined {
  const { target, entry } = turn;
  const annotations = target.object.metadata.annotations ?? {};
  if (annotations[SUSPEND_ANNOTATION] === "true" || live?.annotations[SUSPEND_ANNOTATION] === "true") {
    return result(turn, {
      action: "Skipped",
      reason: "Suspended",
      message: `${describeId(target.id)} is suspended`,
      live,
    });
  }
  if (live === undefined) return undefined;
  if (live.deleting) return terminating(turn, live);
  if (live.partOf !== context.partOf) {
    const refused = adoption(turn, live, context);
    if (refused !== undefined) return refused;
  }
  if (annotations[APPLY_ANNOTATION] === "IfNotPresent") {
    return result(turn, {
      action: "Skipped",
      reason: "Present",
      message: "",
      live,
      entry: { ...entryOf(turn, live, ""), desiredHash: target.hash },
    });
  }
  if (
    entry !== undefined &&
    entry.desiredHash === target.hash &&
    entry.uid === live.uid &&
    entry.state !== "Pending"
  ) {
    const same = ownedBy(turn, live, context) === entry.appliedHash && live.partOf === context.partOf;
    const additions = live.formerManagers.length > 0 && annotations[APPLY_ANNOTATION] !== "Merge";
    if (same && !additions)
      return result(turn, { action: "Unchanged", reason: "Unchanged", message: "", live });
    return drifted(turn, live, context);
  }
  return undefined;
}

/** Drift: undefined to repair it, or why it stays for now. */
function drifted(turn: ApplyTurn, live: LiveState, context: ApplyContext): ObjectOutcome | undefined {
  const policy = context.policy.drift ?? "Correct";
  if (policy !== "Correct") {
    const warn = policy === "Warn";
    return result(turn, {
      action: "Unchanged",
      reason: warn ? "Drifted" : "DriftIgnored",
      message: "",
      live,
      drift: warn,
    });
  }
  const by = { people: live.formerManagers.length > 0, baseline: context.policy.baseline === true };
  const name = describeId(live.id);
  switch (context.fights?.judge(idKey(live.id), by) ?? "repair") {
    case "repair":
      return undefined;
    case "later":
      return result(turn, {
        action: "Unchanged",
        reason: "DriftBackoff",
        message: `${name} is changed again and again`,
        live,
        drift: true,
      });
    case "hold":
      return result(turn, {
        action: "Conflict",
        reason: "DriftFight",
        message: `A controller keeps changing ${name}`,
        live,
        drift: true,
      });
  }
}

function terminating(turn: ApplyTurn, live: LiveState): ObjectOutcome {
  const waits = live.finalizers.length === 0 ? "" : `; finalizers: ${live.finalizers.join(", ")}`;
  return result(turn, {
    action: "Waiting",
    reason: "Terminating",
    message: `${describeId(live.id)} is being deleted${waits}`,
    live,
  });
}

/** Whether an object that is not labelled as ours may become so (cli-utils pkg/inventory/policy.go). */
function adoption(turn: ApplyTurn, live: LiveState, context: ApplyContext): ObjectOutcome | undefined {
  // Ours by uid: somebody took the label away, which is drift, unless another set put its own there.
  if (live.partOf === undefined && turn.entry !== undefined && turn.entry.uid === live.uid) return undefined;
  const policy = context.policy.adoption ?? "MustMatch";
  if (policy === "AdoptAll") return undefined;
  if (live.partOf === undefined && policy === "AdoptIfNoInventory" && context.firstInstall) return undefined;
  const whose =
    live.partOf === undefined
      ? "exists and is not managed by this application"
      : `belongs to application "${live.application ?? live.partOf}"`;
  return result(turn, {
    action: "Conflict",
    reason: live.partOf === undefined ? "NotManaged" : "OwnedByAnother",
    message: `${describeId(live.id)} ${whose}`,
    live,
  });
}

async function write(
  turn: ApplyTurn,
  live: LiveState | undefined,
  context: ApplyContext,
): Promise<ObjectOutcome> {
  const { target, entry } = turn;
  const ref = refOf(target.object);
  const others = Object.keys(live?.ownHashes ?? {}).filter((manager) => manager !== context.fieldManager);
  // A `moorage.` manager on an object whose part-of is ours is this application's former self.
  const formerSelf =
    others.length > 0 &&
    live?.partOf === context.partOf &&
    live.ownHashes[context.fieldManager] === undefined;
  await context.fence();
  try {
    const merge = target.object.metadata.annotations?.[APPLY_ANNOTATION] === "Merge";
    if (live !== undefined && ((live.formerManagers.length > 0 && !merge) || formerSelf)) {
      const begin = () => context.begin();
      await migrate(context.session, ref, { manager: context.fieldManager, formerSelf, begin });
    }
    const force = live !== undefined && (others.length === 0 || formerSelf);
    const payload = live === undefined ? target.object : await adoptReplicas(turn, context);
    context.begin();
    const answer = await context.session.apply(payload, { fieldManager: context.fieldManager, force });
    failpoint("agent/object-applied");
    return settle(turn, live, context, answer);
  } catch (thrown) {
    const first = outcomeOf(thrown, failureContext(turn, context));
    if (first.forceable === true) return force(turn, live, context);
    if (first.schema === true && live !== undefined) return afterVersionBump(turn, live, context, first);
    if (first.immutable === true && mayRecreate(turn, context)) return recreate(turn, live, entry, context);
    return failed(turn, first);
  }
}

/**
 * The payload for an object that lives: with an autoscaler, its `spec.replicas` is the live value.
 * Leaving the field out instead would make the server default it while we still own it.
 */
async function adoptReplicas(turn: ApplyTurn, context: ApplyContext): Promise<KubeObject> {
  const { object } = turn.target;
  if (!context.autoscaled(turn.target) || dig(object, "spec", "replicas") === undefined) return object;
  const replicas = dig(await context.session.get(refOf(object)), "spec", "replicas");
  return { ...object, spec: { ...asMap(object["spec"]), replicas } };
}

/** The hash that drift of this object is judged by. */
function ownedBy(turn: ApplyTurn, live: LiveState, context: ApplyContext): string {
  const hashes = context.autoscaled(turn.target) ? (live.autoscaledHashes ?? live.ownHashes) : live.ownHashes;
  return hashes[context.fieldManager] ?? "";
}

/** One more try where an old version's managedFields stood in the way; else the first answer holds. */
async function afterVersionBump(
  turn: ApplyTurn,
  live: LiveState,
  context: ApplyContext,
  first: ReturnType<typeof outcomeOf>,
): Promise<ObjectOutcome> {
  try {
    const options = { manager: context.fieldManager, begin: () => context.begin() };
    if (!(await migrateVersions(context.session, refOf(turn.target.object), options)))
      return failed(turn, first);
  } catch (thrown) {
    return failure(turn, context, thrown);
  }
  return force(turn, live, context);
}

async function force(
  turn: ApplyTurn,
  live: LiveState | undefined,
  context: ApplyContext,
): Promise<ObjectOutcome> {
  try {
    const payload = await adoptReplicas(turn, context);
    context.begin();
    const answer = await context.session.apply(payload, { fieldManager: context.fieldManager, force: true });
    return settle(turn, live, context, answer);
  } catch (thrown) {
    return failure(turn, context, thrown);
  }
}

/** Kinds that are never deleted to change a field. */
const NEVER_RECREATED = new Set([
  "Namespace",
  "CustomResourceDefinition",
  "PersistentVolume",
  "PersistentVolumeClaim",
]);

function mayRecreate(turn: ApplyTurn, context: ApplyContext): boolean {
  const { id, object } = turn.target;
  if (NEVER_RECREATED.has(id.kind)) return false;
  if (id.kind === "Job" && id.group === "batch") return true;
  return (
    object.metadata.annotations?.[IMMUTABLE_ANNOTATION] === "Recreate" ||
    context.policy.immutable === "Recreate"
  );
}

/** DELETE by uid now; the PATCH follows in the run that the object's absence starts. */
async function recreate(
  turn: ApplyTurn,
  live: LiveState | undefined,
  entry: InventoryEntry | undefined,
  context: ApplyContext,
): Promise<ObjectOutcome> {
  const uid = live?.uid ?? entry?.uid ?? "";
  const { target } = turn;
  if (uid === "")
    return result(turn, {
      action: "Retry",
      reason: "Recreating",
      message: `The uid of ${describeId(target.id)} is not known yet`,
      live,
    });
  try {
    context.begin();
    const answer = await context.session.delete(refOf(target.object), { uid });
    if (answer.object === undefined) {
      context.live.forget(target.id, uid);
      context.begin();
      return settle(
        turn,
        undefined,
        context,
        await context.session.apply(target.object, { fieldManager: context.fieldManager, force: false }),
      );
    }
    const state = reduceMember(answer.object, context.reduce);
    context.live.observe(state);
    return terminating(turn, state);
  } catch (thrown) {
    return failure(turn, context, thrown);
  }
}

function settle(
  turn: ApplyTurn,
  before: LiveState | undefined,
  context: ApplyContext,
  answer: { object: KubeObject; created: boolean; warnings: readonly string[] },
): ObjectOutcome {
  const live = reduceMember(answer.object, context.reduce);
  context.live.observe(live);
  // The server accepts an apply onto an object that is being deleted, and the write goes with it.
  if (live.deleting) return { ...terminating(turn, live), warnings: answer.warnings };
  const own = ownedBy(turn, live, context);
  const entry = entryOf(turn, live, own);
  const old = turn.entry;
  const drift =
    !answer.created &&
    old !== undefined &&
    old.state !== "Pending" &&
    old.desiredHash === turn.target.hash &&
    old.uid === live.uid;
  const lost = answer.created && old !== undefined && old.uid !== "" && old.desiredHash === turn.target.hash;
  const changed =
    own !== (before === undefined ? (old?.appliedHash ?? "") : ownedBy(turn, before, context)) ||
    (before?.formerManagers.length ?? 0) > 0;
  if (drift || lost) context.fights?.corrected(idKey(turn.target.id));
  const action: ObjectAction = answer.created ? "Created" : changed ? "Configured" : "Confirmed";
  return {
    ...result(turn, { action, reason: action, message: "", live, entry, drift: drift || lost }),
    warnings: answer.warnings,
  };
}

function entryOf(turn: ApplyTurn, live: LiveState, own: string): InventoryEntry {
  const { target } = turn;
  return {
    ...target.id,
    version: target.version,
    uid: live.uid,
    desiredHash: target.hash,
    appliedHash: own,
    phase: turn.phase,
    state: "Applied",
  };
}

function failureContext(turn: ApplyTurn, context: ApplyContext): FailureContext {
  const object = turn.target.object;
  return {
    crdInSet: context.crdInSet(turn.target),
    // Our payload holds the field, or a part of it: then it is we who want it changed.
    changes: (field) => {
      let at: unknown = object;
      for (const name of field.split(/[.[]/)) {
        if (typeof at !== "object" || at === null) return false;
        if (Array.isArray(at)) return true;
        const map = at as Record<string, unknown>;
        if (!Object.hasOwn(map, name)) return false;
        at = map[name];
      }
      return true;
    },
  };
}

function failure(turn: ApplyTurn, context: ApplyContext, thrown: unknown): ObjectOutcome {
  return failed(turn, outcomeOf(thrown, failureContext(turn, context)));
}

function failed(turn: ApplyTurn, f: ReturnType<typeof outcomeOf>): ObjectOutcome {
  return {
    id: turn.target.id,
    action: f.action,
    reason: f.reason,
    message: f.message,
    fields: f.fields,
    ambiguous: f.ambiguous,
    warnings: [],
    drift: false,
    ...(f.retryAfterMs === undefined ? {} : { retryAfterMs: f.retryAfterMs }),
  };
}

function result(
  turn: ApplyTurn,
  r: {
    action: ObjectAction;
    reason: string;
    message: string;
    live: LiveState | undefined;
    entry?: InventoryEntry;
    drift?: boolean;
  },
): ObjectOutcome {
  return {
    id: turn.target.id,
    action: r.action,
    reason: r.reason,
    message: r.message,
    fields: [],
    ambiguous: false,
    warnings: [],
    drift: r.drift ?? false,
    ...(r.entry === undefined ? {} : { entry: r.entry }),
    ...(r.live === undefined ? {} : { live: r.live }),
  };
}
