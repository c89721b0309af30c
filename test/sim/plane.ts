/** A data plane in a simulated world: a cluster and the processes of its agent. */
import { KubeError } from "@moorage/agent/kube/errors";
import type { MemoryCall, MemoryCluster } from "@moorage/agent/kube/memory-cluster";
import { createMemoryCluster } from "@moorage/agent/kube/memory-cluster";
import type { KubeObject } from "@moorage/agent/kube/object";
import type { KubeClient } from "@moorage/agent/kube/client";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { installNames, tenantApplierRules } from "@moorage/shared/install/permissions";
import { AgentProcess, NAMESPACE } from "./agent-process.ts";
import type { AgentProcessOptions } from "./agent-process.ts";
import type { FaultKind } from "./faults.ts";
import type { Invariants } from "./invariants.ts";

/** What a data plane is made of. */
export interface PlaneOptions extends Omit<AgentProcessOptions, "kube" | "secret" | "ended" | "sent"> {
  /** Name of the resource. */
  dataPlane: string;
  /** Absent for a cluster that the hub never heard of. */
  invariants: Invariants | undefined;
  /** Around each client of the cluster. */
  kube?: ((client: KubeClient, clock: Clock) => KubeClient) | undefined;
}

/** See the module's text. */
export class Plane {
  readonly name: string;
  readonly dataPlane: string;
  readonly uid: string;
  readonly cluster: MemoryCluster;
  /** Processes of the agent; one, or twins. */
  readonly agents: AgentProcess[] = [];
  /** Share of calls that the API server answers badly. */
  trouble = 0;
  /** The API server answers nothing, or slowly, until then. */
  downUntilMs = 0;
  slowUntilMs = 0;
  /** Since when the agent may only observe. */
  observesSinceMs: number | undefined;
  readonly #on: PlaneOptions;
  readonly #secret: AgentProcessOptions["secret"] = { certificate: undefined };

  constructor(on: PlaneOptions) {
    this.#on = on;
    this.name = on.name;
    this.dataPlane = on.dataPlane;
    this.uid = on.uid;
    this.cluster = createMemoryCluster({ clock: on.clock, rng: on.rng });
    on.invariants?.follow(this);
    this.#install();
    this.cluster.faults = {
      before: (call) => this.#before(call),
      after: (call) => this.#after(call),
    };
    this.addAgent();
  }

  /** The first process. */
  get agent(): AgentProcess {
    return this.agents[0] as AgentProcess;
  }

  /** One more process of the same install; not started. */
  addAgent(): AgentProcess {
    const { invariants, ...on } = this.#on;
    const name = `${on.name}${"'".repeat(this.agents.length)}`;
    const process = new AgentProcess({
      ...on,
      name,
      kube: (of) => {
        const client = this.cluster.client(of);
        return this.#on.kube?.(client, on.clock) ?? client;
      },
      secret: this.#secret,
      sent: (message) => invariants?.sent(this, message),
      ended: (thrown) =>
        invariants?.fail(
          "converges",
          `${name}: the agent ended by itself: ${String((thrown as Error).stack)}`,
        ),
    });
    this.agents.push(process);
    return process;
  }

  /** Ends all processes. */
  kill(): void {
    for (const agent of this.agents) agent.kill();
  }

  /** Starts what does not run. */
  revive(): void {
    for (const agent of this.agents) if (!agent.running) agent.start();
  }

  /** Breaks the connections of all processes. */
  cut(lingerMs = 0): void {
    for (const { path } of this.agents) path.cut(lingerMs);
  }

  /** Refuses connects for so long. */
  isolate(ms: number): void {
    this.cut();
    for (const { path } of this.agents) path.downUntilMs = this.#on.clock.monotonicMs() + ms;
  }

  /** Ends the isolation. */
  heal(): void {
    for (const { path } of this.agents) path.downUntilMs = 0;
  }

  /** The customer changes the policy's mode. */
  setMode(mode: "Auto" | "Observe"): void {
    const ref = {
      apiVersion: "moorage.dev/v1alpha1",
      kind: "AgentPolicy",
      name: "default",
      namespace: NAMESPACE,
    };
    const live = this.cluster.store.get(ref);
    this.observesSinceMs = mode === "Observe" ? this.#on.clock.monotonicMs() : undefined;
    this.cluster.store.update({ ...live, spec: { mode } } as KubeObject, { manager: "kubectl" });
  }

  async #before(call: MemoryCall): Promise<void> {
    const { clock, rng, history, invariants } = this.#on;
    const process = this.agents.find((a) => a.name === call.process);
    const slow = this.slowUntilMs > clock.monotonicMs() ? 3_000 : 8;
    await sleep(clock, 1 + Math.floor(rng.float() * slow));
    if (this.downUntilMs > clock.monotonicMs())
      throw new KubeError("Cannot call: connection refused", { status: 0, reason: "ConnectionLost" });
    // What stands still sends nothing: whatever led here was no timer of the process.
    if (process !== undefined && process.clock.pausedMs() > 0)
      throw new KubeError("Cannot call: the process stands still", { status: 0, reason: "ConnectionLost" });
    if (process?.dies() === true) {
      history.fault("agent-killed-in-call", process.name);
      throw trouble(503, "ServiceUnavailable");
    }
    if (rng.float() < this.trouble) {
      const [kind, error] = badAnswer(call, rng.float());
      history.fault(kind, this.name);
      throw error;
    }
    invariants?.judge(this, call);
  }

  async #after(call: MemoryCall): Promise<void> {
    const { clock, rng, history } = this.#on;
    const process = this.agents.find((a) => a.name === call.process);
    if (process?.dies() === true) history.fault("agent-killed-in-call", process.name);
    const paused = process?.clock.pausedMs() ?? 0;
    if (paused > 0) await sleep(clock, paused);
    if (rng.float() >= this.trouble / 2) return;
    history.fault("api-answer-lost", this.name);
    throw trouble(503, "ServiceUnavailable");
  }

  #install(): void {
    const { store } = this.cluster;
    const by = { manager: "kubectl" };
    store.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: NAMESPACE } }, by);
    store.create(
      {
        apiVersion: "moorage.dev/v1alpha1",
        kind: "AgentPolicy",
        metadata: { name: "default", namespace: NAMESPACE },
        spec: { mode: "Auto" },
      },
      by,
    );
    store.create(
      {
        apiVersion: "rbac.authorization.k8s.io/v1",
        kind: "ClusterRole",
        metadata: { name: installNames.tenantApplierRole },
        rules: tenantApplierRules as never,
      },
      by,
    );
  }
}

/** A bad answer that fits the call; `chance` in [0, 1) chooses. */
function badAnswer(call: MemoryCall, chance: number): [FaultKind, KubeError] {
  const writes = ["update", "patch", "delete"].includes(call.verb);
  if (writes && chance < 0.3) return ["api-conflict", trouble(409, "Conflict")];
  if (chance < 0.6) return ["api-throttled", trouble(429, "TooManyRequests", 1_000)];
  return ["api-unavailable", trouble(503, "ServiceUnavailable")];
}

function trouble(status: number, reason: string, retryAfterMs?: number): KubeError {
  return new KubeError("Cannot call: the API server is in trouble", {
    status,
    reason,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}
