/** A data plane in a simulated world: a cluster, an agent process that comes and goes, and its path. */
import { createAgent } from "@moorage/agent/create-agent";
import type { LeadingParts } from "@moorage/agent/create-agent";
import { KubeError } from "@moorage/agent/kube/errors";
import type { MemoryCluster } from "@moorage/agent/kube/memory-cluster";
import { createMemoryCluster } from "@moorage/agent/kube/memory-cluster";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import { installNames, tenantApplierRules } from "@moorage/shared/install/permissions";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import type { History } from "./history.ts";
import type { HubProcess } from "./hub-process.ts";
import type { Invariants } from "./invariants.ts";
import { Path } from "./network.ts";

/** Namespace of every simulated agent. */
export const NAMESPACE = "moorage-system";

/** What a data plane is made of. */
export interface PlaneOptions {
  name: string;
  uid: string;
  clock: Clock;
  /** The agent's host clock, which may be wrong. */
  agentClock: Clock;
  rng: Rng;
  log: Logger;
  bundles: ReadonlyMap<string, Bundle>;
  history: History;
  invariants: Invariants;
  /** The hub of now; undefined while none runs. */
  hub: () => HubProcess | undefined;
  /** Further services of a leading agent: where faults are planted. */
  leading?: ((parts: LeadingParts) => readonly Service[]) | undefined;
}

/** See the module's text. */
export class Plane {
  readonly name: string;
  readonly uid: string;
  readonly cluster: MemoryCluster;
  readonly path: Path;
  /** The API server answers badly at times. */
  troubled = false;
  /** Chance that a call to the API server is the last one of the process. */
  killChance = 0;
  readonly #on: PlaneOptions;
  #end: (() => void) | undefined;
  #starts = 0;

  constructor(on: PlaneOptions) {
    this.#on = on;
    this.name = on.name;
    this.uid = on.uid;
    this.cluster = createMemoryCluster({ clock: on.clock, rng: on.rng });
    this.path = new Path({ clock: on.clock, rng: on.rng });
    on.invariants.follow(on.name, this.cluster);
    this.#install();
    this.cluster.faults = {
      before: async (call) => {
        await sleep(on.clock, 1 + Math.floor(on.rng.float() * 8));
        if (this.troubled && on.rng.float() < 0.01) throw trouble();
        on.invariants.judge(on.name, this.cluster, call);
      },
      after: () => {
        if (on.rng.float() < this.killChance) this.kill();
        if (this.troubled && on.rng.float() < 0.005) throw trouble();
      },
    };
  }

  get running(): boolean {
    return this.#end !== undefined;
  }

  /** Starts the agent's process. */
  start(): void {
    const on = this.#on;
    const end = new AbortController();
    const kube = this.cluster.client();
    const agent = createAgent({
      kube,
      namespace: NAMESPACE,
      hub: {
        connect: async (_purpose, signal) => {
          await this.path.connect(signal);
          const hub = on.hub();
          if (hub === undefined || end.signal.aborted)
            throw new MoorageError(Code.UNAVAILABLE, "Cannot connect: nobody listens");
          const sync = this.path.delayed(hub.sync, (line) => on.history.event(`${on.name} ${line}`));
          const link = memoryConnect([sync, hub.blobs], { certificateDer: Buffer.from(on.uid) });
          this.path.links.add(link);
          return { link, dataPlaneUid: on.uid };
        },
      },
      holder: `${on.name}-${++this.#starts}`,
      version: "0.1.0",
      clock: on.agentClock,
      rng: on.rng,
      log: on.log,
      unpack: (_chunks, digest) => {
        const bundle = on.bundles.get(digest);
        return bundle === undefined
          ? Promise.reject(new Error(`no bundle ${digest}`))
          : Promise.resolve(bundle);
      },
      ...(on.leading === undefined ? {} : { leading: on.leading }),
    });
    on.history.event(`${on.name} agent starts`);
    const ended = agent.run(end.signal);
    ended.catch((thrown: unknown) => {
      if (end.signal.aborted) return;
      on.invariants.fail(
        "converges",
        `${on.name}: the agent ended by itself: ${String((thrown as Error).stack)}`,
      );
    });
    this.#end = () => {
      // First its calls, then itself: what a killed process had not sent is never sent.
      void kube.close();
      this.path.cut();
      end.abort(new DOMException("The agent was killed", "AbortError"));
    };
  }

  /** Ends the process as a kill does: nothing is given back. */
  kill(): void {
    if (this.#end === undefined) return;
    this.#on.history.event(`${this.name} agent killed`);
    this.#end();
    this.#end = undefined;
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

function trouble(): KubeError {
  return new KubeError("Cannot call: the API server is in trouble", {
    status: 503,
    reason: "ServiceUnavailable",
  });
}
