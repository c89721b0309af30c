/**
 * The customer's AgentPolicy: read, never written. A missing policy means Observe; of an invalid one the
 * last valid one stays in force, or Observe when there was none.
 */
import type { Clock } from "@moorage/shared/clock";
import { API_VERSION } from "@moorage/shared/install/crds";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import type { KubeClient } from "../../kube/client.ts";
import type { KubeObject } from "../../kube/object.ts";
import { asMap } from "../../kube/object.ts";
import { createReflector } from "../../kube/reflector.ts";
import type { Fact } from "../status.ts";

/** What the agent may do with objects it manages. */
export type PolicyMode = "Auto" | "Observe" | "Approve";

/** The parts of a policy that are enforced by the agent. */
export interface Policy {
  mode: PolicyMode;
  /** The customer's pause; `untilMs` undefined: until taken away. */
  pause: { untilMs: number | undefined; reason: string } | undefined;
}

/** The policy in force, and how it came to be. */
export interface PolicyState {
  policy: Policy;
  /** metadata.generation of the object in force; 0 for none. */
  generation: number;
  /** The PolicyAccepted condition. */
  fact: Fact;
}

const modes: readonly string[] = ["Auto", "Observe", "Approve"];
const observe: Policy = { mode: "Observe", pause: undefined };

/** A policy's spec read, or the rule that it breaks. Pure. */
export function parsePolicy(spec: unknown): Policy | { invalid: string } {
  const map = asMap(spec);
  if (map === undefined) return { invalid: "spec is missing" };
  const mode = map["mode"];
  if (typeof mode !== "string" || !modes.includes(mode))
    return { invalid: `spec.mode "${String(mode)}" is none of ${modes.join(", ")}` };
  if (map["pause"] === undefined || map["pause"] === null)
    return { mode: mode as PolicyMode, pause: undefined };
  const pause = asMap(map["pause"]);
  if (pause === undefined) return { invalid: "spec.pause is no object" };
  const until = pause["until"];
  const untilMs =
    until === undefined ? undefined : typeof until === "string" ? Date.parse(until) : Number.NaN;
  if (untilMs !== undefined && Number.isNaN(untilMs)) return { invalid: "spec.pause.until is no time" };
  return {
    mode: mode as PolicyMode,
    pause: { untilMs, reason: typeof pause["reason"] === "string" ? pause["reason"] : "" },
  };
}

/** The state after `objects` (all AgentPolicies of the namespace) were seen. Pure. */
export function nextPolicyState(
  objects: readonly KubeObject[],
  before: PolicyState | undefined,
): PolicyState {
  const fact = (status: Fact["status"], reason: string, message: string): Fact => ({
    type: "PolicyAccepted",
    status,
    reason,
    message,
  });
  const sorted = [...objects].sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  const [object] = sorted;
  if (object === undefined) {
    return {
      policy: observe,
      generation: 0,
      fact: fact("False", "PolicyMissing", "No AgentPolicy exists: the agent only observes"),
    };
  }
  const parsed =
    sorted.length > 1
      ? { invalid: `there are ${sorted.length} AgentPolicies, one is allowed` }
      : parsePolicy(object["spec"]);
  if ("invalid" in parsed) {
    const kept =
      before !== undefined && before.generation > 0
        ? `the one of generation ${before.generation} stays in force`
        : "the agent only observes";
    return {
      policy: before?.policy ?? observe,
      generation: before?.generation ?? 0,
      fact: fact("False", "Rejected", `Invalid AgentPolicy: ${parsed.invalid}; ${kept}`),
    };
  }
  return {
    policy: parsed,
    generation: object.metadata.generation ?? 1,
    fact: fact("True", "Accepted", `Mode ${parsed.mode}`),
  };
}

/** Follows the policy as a Service. */
export interface PolicyWatch extends Service {
  current(): PolicyState;
  /** True once the cluster was asked for the first time; Observe until then. */
  readonly synced: boolean;
  onChange(fn: () => void): () => void;
}

/** A watch on the AgentPolicies of `namespace`. */
export function createPolicyWatch(deps: {
  kube: KubeClient;
  namespace: string;
  clock: Clock;
  rng: Rng;
  log: Logger;
}): PolicyWatch {
  let state = nextPolicyState([], undefined);
  const listeners = new Set<() => void>();
  const objects = new Map<string, KubeObject>();
  const reflector = createReflector<true>({
    session: deps.kube.asAgent(),
    kind: { apiVersion: API_VERSION, kind: "AgentPolicy" },
    namespace: deps.namespace,
    clock: deps.clock,
    rng: deps.rng,
    reduce: (object) => {
      objects.set(object.metadata.name, object);
      return true;
    },
    onEvent: (event) => {
      if (event.type === "delete") objects.delete(event.key.slice(event.key.indexOf("/") + 1));
      const next = nextPolicyState([...objects.values()], state);
      const changed = JSON.stringify(next) !== JSON.stringify(state);
      state = next;
      if (changed || event.type === "synced") for (const fn of listeners) fn();
    },
    onError: (error) => deps.log.warn("policy could not be watched, it is tried again", { error }),
  });
  return {
    name: "agent policy",
    run: (signal) => reflector.run(signal),
    current: () => state,
    get synced() {
      return reflector.synced;
    },
    onChange(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
  };
}
