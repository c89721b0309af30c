import { UNSCHEDULABLE_GRACE_MS, type Health, type UnknownObject } from "./health.ts";
import { conditionsOf, dig, findCondition, health, list, num, str } from "./read.ts";

/** Workload kinds; sources as in builtin.ts. */

const field = (object: UnknownObject, ...path: string[]): number => num(dig(object, ...path)) ?? 0;
const wanted = (object: UnknownObject): number => num(dig(object, "spec", "replicas")) ?? 1;
const short = (what: string, have: number, want: number): Health =>
  health("InProgress", `${what}Replicas`, `${what}: ${have}/${want}`);

/** kstatus; `spec.paused` from Argo CD. */
export function deployment(object: UnknownObject): Health {
  if (dig(object, "spec", "paused") === true)
    return health("Suspended", "Paused", "The deployment is paused");
  const conditions = conditionsOf(object);
  const progressing = findCondition(conditions, "Progressing");
  if (progressing?.reason === "ProgressDeadlineExceeded")
    return health("Failed", "ProgressDeadlineExceeded", progressing.message);
  if (num(dig(object, "status", "observedGeneration")) === undefined)
    return health("InProgress", "NotObserved", "Not observed yet");
  const want = wanted(object);
  const replicas = field(object, "status", "replicas");
  const updated = field(object, "status", "updatedReplicas");
  const ready = field(object, "status", "readyReplicas");
  const available = field(object, "status", "availableReplicas");
  if (replicas < want) return short("Created", replicas, want);
  if (updated < want) return short("Updated", updated, want);
  if (replicas > want) return health("InProgress", "ExtraReplicas", `${replicas - want} old replicas to go`);
  if (available < updated) return short("Available", available, updated);
  if (ready < want) return short("Ready", ready, want);
  if (num(dig(object, "spec", "progressDeadlineSeconds")) !== undefined) {
    if (
      progressing === undefined ||
      progressing.status !== "True" ||
      progressing.reason !== "NewReplicaSetAvailable"
    ) {
      return health("InProgress", "NewReplicaSetNotAvailable", progressing?.message ?? "");
    }
  }
  const condition = findCondition(conditions, "Available");
  if (condition?.status !== "True") return health("InProgress", "NotAvailable", condition?.message ?? "");
  return health("Current", "Available", `Replicas: ${replicas}`);
}

/** kstatus; observedGeneration 0 from Argo CD. */
export function statefulSet(object: UnknownObject): Health {
  if (str(dig(object, "spec", "updateStrategy", "type")) === "OnDelete")
    return health("Current", "OnDelete", "Updated when pods are deleted");
  if (field(object, "status", "observedGeneration") === 0)
    return health("InProgress", "NotObserved", "Not observed yet");
  const want = wanted(object);
  const replicas = field(object, "status", "replicas");
  const ready = field(object, "status", "readyReplicas");
  if (replicas < want) return short("Created", replicas, want);
  if (ready < want) return short("Ready", ready, want);
  if (replicas > want) return health("InProgress", "ExtraReplicas", `${replicas - want} replicas to go`);
  const partition = num(dig(object, "spec", "updateStrategy", "rollingUpdate", "partition"));
  if (partition !== undefined && partition > 0) {
    const updated = field(object, "status", "updatedReplicas");
    const due = Math.max(0, want - partition);
    return updated < due
      ? short("Updated", updated, due)
      : health("Current", "PartitionUpdated", `Updated: ${updated}`);
  }
  const current = field(object, "status", "currentReplicas");
  if (current < want) return short("Current", current, want);
  if (str(dig(object, "status", "currentRevision")) !== str(dig(object, "status", "updateRevision"))) {
    return health("InProgress", "RollingUpdate", "Pods of the former revision remain");
  }
  return health("Current", "Current", `Replicas: ${replicas}`);
}

/** kstatus: generation and observedGeneration must be set; OnDelete from Argo CD. */
export function daemonSet(object: UnknownObject): Health {
  if (str(dig(object, "spec", "updateStrategy", "type")) === "OnDelete")
    return health("Current", "OnDelete", "Updated when pods are deleted");
  const generation = num(dig(object, "metadata", "generation"));
  if (generation === undefined || num(dig(object, "status", "observedGeneration")) === undefined) {
    return health("InProgress", "NotObserved", "Not observed yet");
  }
  const want = num(dig(object, "status", "desiredNumberScheduled"));
  if (want === undefined) return health("InProgress", "NotScheduled", "Not scheduled yet");
  for (const [what, key] of [
    ["Current", "currentNumberScheduled"],
    ["Updated", "updatedNumberScheduled"],
    ["Available", "numberAvailable"],
    ["Ready", "numberReady"],
  ] as const) {
    const have = field(object, "status", key);
    if (have < want) return short(what, have, want);
  }
  return health("Current", "Current", `Scheduled: ${want}`);
}

/** kstatus; ReplicaFailure is a failure as in Argo CD. */
export function replicaSet(object: UnknownObject): Health {
  const failure = findCondition(conditionsOf(object), "ReplicaFailure");
  if (failure?.status === "True")
    return health("Failed", failure.reason || "ReplicaFailure", failure.message);
  if (num(dig(object, "status", "observedGeneration")) === undefined)
    return health("InProgress", "NotObserved", "Not observed yet");
  const want = wanted(object);
  for (const [what, key] of [
    ["Labelled", "fullyLabeledReplicas"],
    ["Available", "availableReplicas"],
    ["Ready", "readyReplicas"],
  ] as const) {
    const have = field(object, "status", key);
    if (have < want) return short(what, have, want);
  }
  const replicas = field(object, "status", "replicas");
  if (replicas > want) return health("InProgress", "ExtraReplicas", `${replicas - want} replicas to go`);
  return health("Current", "Current", `Replicas: ${replicas}`);
}

/** Argo CD for waiting reasons; kstatus for CrashLoopBackOff and Unschedulable; phase Failed is Failed. */
export function pod(object: UnknownObject, now: number): Health {
  const phase = str(dig(object, "status", "phase"));
  if (phase === "Succeeded") return health("Current", "Succeeded", "");
  if (phase === "Failed")
    return health(
      "Failed",
      str(dig(object, "status", "reason")) || "PodFailed",
      str(dig(object, "status", "message")),
    );
  const policy = str(dig(object, "spec", "restartPolicy")) || "Always";
  const bad = containerFailure(object, policy === "Always");
  if (bad !== undefined) return bad;
  const conditions = conditionsOf(object);
  if (phase === "Running" && policy === "Always" && findCondition(conditions, "Ready")?.status === "True")
    return health("Current", "Ready", "");
  const scheduled = findCondition(conditions, "PodScheduled");
  if (scheduled?.status === "False" && scheduled.reason === "Unschedulable") {
    const since = Date.parse(transitionOf(object, "PodScheduled"));
    if (!Number.isNaN(since) && now - since > UNSCHEDULABLE_GRACE_MS)
      return health("Failed", "Unschedulable", scheduled.message);
  }
  return health("InProgress", phase === "Running" ? "NotReady" : "Pending", `Phase is ${phase || "not set"}`);
}

function transitionOf(object: UnknownObject, type: string): string {
  for (const raw of list(dig(object, "status", "conditions"))) {
    if (dig(raw, "type") === type) return str(dig(raw, "lastTransitionTime"));
  }
  return "";
}

function containerFailure(object: UnknownObject, restarts: boolean): Health | undefined {
  for (const key of ["initContainerStatuses", "containerStatuses"]) {
    for (const status of list(dig(object, "status", key))) {
      const name = str(dig(status, "name"));
      const reason = str(dig(status, "state", "waiting", "reason"));
      const message = `Container ${name}: ${str(dig(status, "state", "waiting", "message")) || reason}`;
      if (reason === "CrashLoopBackOff") return health("Failed", reason, message);
      if (restarts && /^Err|Error$|BackOff$/.test(reason)) return health("Failed", reason, message);
      const terminated = str(dig(status, "lastState", "terminated", "reason"));
      if (
        restarts &&
        key === "containerStatuses" &&
        terminated !== "" &&
        terminated !== "Completed" &&
        dig(status, "ready") === false
      ) {
        return health("Failed", terminated, `Container ${name} is not ready after it ended: ${terminated}`);
      }
    }
  }
  return undefined;
}

/** A Job is done at Complete or Failed only. */
export function job(object: UnknownObject): Health {
  const conditions = conditionsOf(object);
  const failed = findCondition(conditions, "Failed");
  if (failed?.status === "True") return health("Failed", failed.reason || "JobFailed", failed.message);
  const complete = findCondition(conditions, "Complete");
  if (complete?.status === "True") return health("Current", "Complete", complete.message);
  if (findCondition(conditions, "Suspended")?.status === "True")
    return health("Suspended", "Suspended", "The job is suspended");
  return health(
    "InProgress",
    "Running",
    `Active: ${field(object, "status", "active")}, succeeded: ${field(object, "status", "succeeded")}`,
  );
}

/** Argo CD's Lua: a schedule that has not fired yet is healthy. */
export function cronJob(object: UnknownObject): Health {
  if (dig(object, "spec", "suspend") === true)
    return health("Suspended", "Suspended", "The schedule is suspended");
  if (list(dig(object, "status", "active")).length > 0)
    return health("InProgress", "JobRunning", "A job is running");
  const scheduled = Date.parse(str(dig(object, "status", "lastScheduleTime")));
  if (Number.isNaN(scheduled)) return health("Current", "NotYetScheduled", "No job was due yet");
  const succeeded = Date.parse(str(dig(object, "status", "lastSuccessfulTime")));
  // NaN compares false: a schedule that never succeeded is a failure.
  return succeeded >= scheduled
    ? health("Current", "LastJobSucceeded", "")
    : health("Failed", "LastJobFailed", "The last scheduled job did not succeed");
}
