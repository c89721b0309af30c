/** A data plane for the failpoint tests: a cluster in memory, and an agent on it in this process or in a child. */
import type { ChildProcess } from "node:child_process";
import { fork } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { readAgentConfig } from "@moorage/agent/config";
import { createAgent } from "@moorage/agent/create-agent";
import { createHubAccess } from "@moorage/agent/hub-access";
import type { MemoryCluster } from "@moorage/agent/kube/memory-cluster";
import { createMemoryCluster } from "@moorage/agent/kube/memory-cluster";
import { isNotFound } from "@moorage/agent/kube/errors";
import { dig } from "@moorage/agent/kube/object";
import { systemClock } from "@moorage/shared/clock";
import { installNames, tenantApplierRules } from "@moorage/shared/install/permissions";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import type { ApiClients } from "../world/world.ts";
import type { HubRig } from "./hub-rig.ts";
import { serveCluster } from "./kube-over-ipc.ts";

const NAMESPACE = "moorage-system";
const child = fileURLToPath(new URL("./agent-child.ts", import.meta.url));
const store = { manager: "kubectl" };

/** See the module's text. */
export class PlaneRig {
  readonly cluster: MemoryCluster;
  readonly #hub: HubRig;
  readonly #dir: string;
  readonly #log = memoryLogger();
  #end: AbortController | undefined;
  #child: { process: ChildProcess; log: string; exit: Promise<NodeJS.Signals | null> } | undefined;

  constructor(hub: HubRig, dir: string) {
    this.#hub = hub;
    this.#dir = dir;
    this.cluster = createMemoryCluster({ clock: systemClock, rng: systemRng });
    countQuotas(this.cluster);
    const put = (object: Record<string, unknown>) => this.cluster.store.create(object as never, store);
    put({ apiVersion: "v1", kind: "Namespace", metadata: { name: NAMESPACE } });
    put({
      apiVersion: "moorage.dev/v1alpha1",
      kind: "AgentPolicy",
      metadata: { name: "default", namespace: NAMESPACE },
      spec: { mode: "Auto" },
    });
    put({
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRole",
      metadata: { name: installNames.tenantApplierRole },
      rules: tenantApplierRules,
    });
  }

  /** A new token in the cluster, for an agent that has no identity yet. */
  async token(api: ApiClients, dataPlane: string): Promise<void> {
    const { token } = await api.joinTokens.createJoinToken({ parent: `dataPlanes/${dataPlane}` });
    this.forget("v1", "Secret", "join");
    this.cluster.store.create(
      {
        apiVersion: "v1",
        kind: "Secret",
        metadata: { name: "join", namespace: NAMESPACE },
        data: { token: Buffer.from(token).toString("base64") },
      },
      store,
    );
  }

  /** Deletes an object of the agent's namespace; nothing when it is not there. */
  forget(apiVersion: string, kind: string, name: string): void {
    const ref = { apiVersion, kind, name, namespace: NAMESPACE };
    if (this.cluster.store.list({ apiVersion, kind }).some((o) => o.metadata.name === name))
      this.cluster.store.delete(ref, {});
  }

  #args(): string[] {
    const ca = join(this.#dir, "agent-ca.pem");
    writeFileSync(ca, this.#hub.caPem());
    return [
      ...["--namespace", NAMESPACE, "--hub-server-name", "localhost", "--hub-ca-file", ca],
      ...["--hub-address", `127.0.0.1:${this.#hub.ports.agent}`, "--join-token-secret", "join"],
      ...["--enrolment-address", `127.0.0.1:${this.#hub.ports.enrolment}`],
    ];
  }

  /** Runs an agent in this process, until {@link stop}. */
  start(): void {
    if (this.#end !== undefined) return;
    this.#takeLease();
    const end = new AbortController();
    this.#end = end;
    const kube = this.cluster.client();
    const log = this.#log;
    const rng = { ...systemRng, float: () => systemRng.float() * 0.02 };
    const hub = createHubAccess(readAgentConfig(this.#args(), {}), { kube, clock: systemClock, rng, log });
    if (hub === undefined) throw new Error("No hub address");
    const agent = createAgent({
      kube,
      namespace: NAMESPACE,
      hub,
      holder: "rig",
      version: "0.1.0",
      clock: systemClock,
      rng,
      log,
    });
    agent.run(end.signal).catch((thrown: unknown) => {
      if (!end.signal.aborted) throw thrown;
    });
  }

  stop(): void {
    this.#end?.abort(new DOMException("The rig stops", "AbortError"));
    this.#end = undefined;
  }

  /** A killed predecessor's Lease is taken away: nobody waits for it to run out. */
  #takeLease(): void {
    this.forget("coordination.k8s.io/v1", "Lease", "moorage-agent");
  }

  /** Starts the agent in a child process. */
  startChild(failpoint?: string): void {
    this.#takeLease();
    const env = failpoint === undefined ? {} : { MOORAGE_FAILPOINT: failpoint };
    const process_ = fork(child, this.#args(), {
      env: { PATH: process.env["PATH"] ?? "", ...env },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    serveCluster(process_, this.cluster.client());
    const started = {
      process: process_,
      log: "",
      exit: new Promise<NodeJS.Signals | null>((resolve) =>
        process_.once("close", (_code, signal) => resolve(signal)),
      ),
    };
    for (const stream of [process_.stdout, process_.stderr])
      stream?.setEncoding("utf8").on("data", (text: string) => (started.log += text));
    this.#child = started;
  }

  get childAlive(): boolean {
    const p = this.#child?.process;
    return p !== undefined && p.exitCode === null && p.signalCode === null;
  }

  /** Signal and output of the child once it has ended. */
  async childEnd(): Promise<{ signal: NodeJS.Signals | null; log: string }> {
    const signal = (await this.#child?.exit) ?? null;
    return { signal, log: this.#child?.log ?? "" };
  }

  /** How often the agent in this process logged a message. */
  logged(message: string): number {
    return this.#log.records.filter((r) => r.message === message).length;
  }

  /** What the agent logged last, for a failure's message. */
  recentLog(): string {
    const own = this.#log.records.slice(-12).map((r) => JSON.stringify(r));
    return [...own, ...(this.#child?.log ?? "").split("\n").slice(-12)].join("\n");
  }

  async killChild(): Promise<void> {
    if (this.childAlive) this.#child?.process.kill("SIGKILL");
    await this.#child?.exit;
  }

  /** The cursor that the agent made durable; 0 for none. */
  cursor(): number {
    const [state] = this.cluster.store.list({ apiVersion: "moorage.dev/v1alpha1", kind: "SyncState" });
    return Number(dig(state, "spec", "revision") ?? 0);
  }

  /** `namespace/name=text` of every ConfigMap of an application, in order. */
  configMaps(): string[] {
    return this.cluster.store
      .list({ apiVersion: "v1", kind: "ConfigMap" })
      .filter(
        (o) => o.metadata.namespace?.startsWith("tenant-") === true && dig(o, "data", "text") !== undefined,
      )
      .map((o) => `${o.metadata.namespace}/${o.metadata.name}=${String(dig(o, "data", "text"))}`)
      .sort();
  }
}

/** Stands in for the cluster's quota controller, which the cluster in memory lacks: it counts every quota. */
function countQuotas(cluster: MemoryCluster): void {
  const { store: objects } = cluster;
  const before = objects.onChange;
  objects.onChange = (change) => {
    before?.(change);
    const quota = change.after;
    if (quota?.kind !== "ResourceQuota" || quota.metadata.deletionTimestamp !== undefined) return;
    const hard = dig(quota, "spec", "hard");
    if (hard === undefined || JSON.stringify(dig(quota, "status", "hard")) === JSON.stringify(hard)) return;
    queueMicrotask(() => {
      const { name, namespace } = quota.metadata;
      const ref = {
        apiVersion: "v1",
        kind: "ResourceQuota",
        name,
        ...(namespace === undefined ? {} : { namespace }),
      };
      try {
        objects.patch(ref, { manager: "quota-controller", subresource: "status" }, (live) => ({
          ...live,
          status: { hard: dig(live, "spec", "hard"), used: {} },
        }));
      } catch (thrown) {
        if (!isNotFound(thrown)) throw thrown;
      }
    });
  };
}
