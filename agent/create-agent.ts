/**
 * The agent, put together: everything but sockets, files and the environment, so that the simulation
 * runs the same code on a cluster in memory and a link in memory with a virtual clock.
 *
 * One process leads at a time: all that reads or writes for the data plane is made anew with each term
 * of the Lease and ends with it. A process that waits for the Lease holds nothing.
 */
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Link } from "@moorage/shared/grpc/types";
import type { Logger } from "@moorage/shared/log";
import type { Metrics } from "@moorage/shared/metrics";
import type { Rng } from "@moorage/shared/rng";
import { runServices } from "@moorage/shared/run-services";
import type { Service } from "@moorage/shared/service";
import { isAbort } from "@moorage/shared/service";
import type { Unpack } from "./kinds/application/bundle-store.ts";
import { BundleStore } from "./kinds/application/bundle-store.ts";
import { createControllers } from "./kinds/controllers.ts";
import { createDataPlaneController } from "./kinds/dataplane/controller.ts";
import { createPolicyWatch } from "./kinds/dataplane/policy.ts";
import { InventoryStore } from "./kinds/inventory-store.ts";
import { LiveObjects } from "./kinds/live-objects.ts";
import { Removals } from "./kinds/removals.ts";
import type { KubeClient } from "./kube/client.ts";
import { KubeError, parseAnswer } from "./kube/errors.ts";
import { dig } from "./kube/object.ts";
import { Lease } from "./lease/lease.ts";
import { fetchBlob } from "./link/blobs.ts";
import { createHubLink } from "./link/create-link.ts";
import type { HubLink, LinkExtension } from "./link/hub-link.ts";
import { declareAgentMetrics } from "./metrics.ts";
import { ClusterMirror } from "./mirror/cluster-mirror.ts";
import { SyncState } from "./mirror/sync-state.ts";

/** The way to a hub. */
export interface HubAccess {
  /** A new connection with the identity of now; rejects while there is none. `blobs`: one of its own. */
  connect(purpose: "sync" | "blobs", signal: AbortSignal): Promise<{ link: Link; dataPlaneUid: string }>;
  /** The last `sync` connection came up, or was refused for its identity. */
  outcome?(accepted: boolean): void;
  /** Runs beside the link, e.g. renewal of certificates. */
  services?: readonly Service[];
}

/** What an agent is made of. */
export interface AgentOptions {
  kube: KubeClient;
  /** Namespace of the agent's own resources. */
  namespace: string;
  /** Absent: private SaaS, orders come from custom resources of origin local alone. */
  hub?: HubAccess;
  /** Id of the data plane where no record of it exists (private SaaS). */
  dataPlane?: string;
  /** Pod uid, or anything that no other agent of the cluster has. */
  holder: string;
  version: string;
  /** Labels of the install, shown at the hub. */
  labels?: Readonly<Record<string, string>>;
  /** Unpacks bundles; absent: on zlib's threads, which no virtual clock waits for. */
  unpack?: Unpack;
  /** Further exchanges on the stream, e.g. usage. */
  extensions?: readonly LinkExtension[];
  /** Further services of a leading process, made for each term. */
  leading?: (parts: LeadingParts) => readonly Service[];
  clock: Clock;
  rng: Rng;
  log: Logger;
  metrics?: Metrics;
}

/** What a leading process consists of, for further services. */
export interface LeadingParts {
  kube: KubeClient;
  namespace: string;
  mirror: ClusterMirror;
  inventory: InventoryStore;
  link: HubLink | undefined;
  term: number;
  leaseHeld(): boolean;
}

/** A running agent. */
export interface Agent extends Service {
  /** Undefined while ready; else why not. */
  ready(): string | undefined;
  /** The parts of the current term; undefined while another process leads. */
  readonly leading: LeadingParts | undefined;
}

/** An agent; nothing happens before `run`, which ends when its signal aborts. */
export function createAgent(options: AgentOptions): Agent {
  const { kube, namespace, clock, rng, log } = options;
  const session = kube.asAgent();
  const instanceId = rng.bytes(16);
  let refusedGeneration = 0;
  let leading: LeadingParts | undefined;
  const inventoryTerm = () => lease.term;
  const lease = new Lease({
    session,
    namespace,
    name: "moorage-agent",
    holder: `${options.holder}_${Buffer.from(instanceId).toString("hex")}`,
    clock,
    log,
    async highestTerm() {
      const inventory = new InventoryStore({ session, namespace, term: inventoryTerm });
      await inventory.load();
      const { term } = await new SyncState({ session, namespace }).load();
      return Math.max(term, inventory.highestTerm(), refusedGeneration);
    },
  });
  const metrics =
    options.metrics === undefined
      ? undefined
      : declareAgentMetrics(options.metrics, {
          link: () => leading?.link?.state,
          mirror: () => leading?.mirror,
          leader: () => lease.isHeld(),
        });

  async function clusterFacts() {
    const kubeSystem = await session.get(
      { apiVersion: "v1", kind: "Namespace", name: "kube-system" },
      { metadataOnly: true },
    );
    const version = String(
      dig(
        parseAnswer("Cannot read the version of the cluster", await kube.rawGet("/version")),
        "gitVersion",
      ) ?? "",
    );
    return { clusterUid: kubeSystem.metadata.uid ?? "", kubernetesVersion: version };
  }

  /** All services of one term; ends with `signal`. */
  async function lead(term: number, signal: AbortSignal, restart: () => void): Promise<void> {
    const state = new SyncState({ session, namespace });
    const position = await state.load();
    // Durable before anything else carries it: a deleted Lease must not bring the term back.
    if (position.term < term) await state.write({ ...position, term });
    const cluster = await clusterFacts();
    const leaseHeld = () => lease.isHeld() && lease.term === term;
    const inventory = new InventoryStore({ session, namespace, term: () => term });
    const mirror = new ClusterMirror({
      kube,
      namespace,
      clock,
      rng,
      log,
      state,
      mayWrite: leaseHeld,
      hasHub: options.hub !== undefined,
      hasInventory: (uid) => inventory.has(uid),
    });
    const policy = createPolicyWatch({ kube, namespace, clock, rng, log });
    const link =
      options.hub === undefined ? undefined : hubLink(options.hub, { mirror, term, cluster, restart });
    const removals = new Removals({
      mirror,
      clock,
      maxRemovals: () => {
        const [record] = mirror.list("DataPlane");
        const own = record?.body.kind === "DataPlane" ? (record.body.value.spec?.maxRemovalsPerSync ?? 0) : 0;
        const bounds = [own, link?.state.maxRemovalsPerSync ?? 0].filter((n) => n > 0);
        return bounds.length === 0 ? 0 : Math.min(...bounds);
      },
    });
    const dataPlane = createDataPlaneController({
      session,
      namespace,
      mirror,
      policy,
      removals,
      clockOffsetMs: () => link?.state.clockOffsetMs,
      leaseHeld,
      version: options.version,
      clock,
      log,
      onGate: () => controllers.wakeAll(),
    });
    link?.onChange(() => dataPlane.wake());
    const bundles = new BundleStore({
      session,
      namespace,
      ...(options.unpack === undefined ? {} : { unpack: options.unpack }),
      fetchBlob: (ref, s) => {
        const { hub } = options;
        if (hub === undefined) {
          return Promise.reject(
            new MoorageError(
              Code.UNAVAILABLE,
              "Cannot fetch bundle: its chunks are not in the cluster and there is no hub",
              { reason: "NOT_FOUND" },
            ),
          );
        }
        return fetchBlob(ref, {
          connect: async (c) => (await hub.connect("blobs", c)).link,
          clock,
          signal: s,
        });
      },
    });
    const controllers = createControllers({
      context: {
        kube,
        live: new LiveObjects({ kube, clock, rng, log, signal }),
        inventory,
        clock,
        log,
        agentNamespace: namespace,
        dataPlane: () =>
          mirror.list("DataPlane")[0]?.name.replace(/^dataPlanes\//, "") ?? options.dataPlane ?? "local",
        gate: () => dataPlane.gate(),
        leaseHeld,
        mayRemove: (uid) => removals.mayRemove(uid),
        kubernetesMinor: () => /^v\d+\.\d+/.exec(cluster.kubernetesVersion)?.[0] ?? "",
      },
      mirror,
      bundles,
      onFullCompare() {
        bundles
          .collect(() => (leaseHeld() ? mirror.bundlesInUse() : undefined))
          .catch((error: unknown) => log.warn("unused bundle chunks could not be collected", { error }));
      },
      clock,
      rng,
      log,
      ...(metrics === undefined
        ? {}
        : { metrics: (kind: string) => metrics.loop(kind.toLowerCase()), applied: metrics.applied }),
    });
    const parts: LeadingParts = { kube, namespace, mirror, inventory, link, term, leaseHeld };
    leading = parts;
    const afterSync = (service: Service, also?: (s: AbortSignal) => Promise<void>): Service => ({
      name: service.name,
      async run(s) {
        await mirror.whenSynced(s);
        await also?.(s);
        await service.run(s);
      },
      ...(service.drain === undefined ? {} : { drain: () => service.drain?.() ?? Promise.resolve() }),
    });
    const services = [
      mirror,
      policy,
      afterSync(dataPlane),
      afterSync(controllers),
      // Without the inventories the mirror could not tell that nothing is here of what the hub orders to go.
      ...(link === undefined ? [] : [afterSync(link, (s) => inventory.whenLoaded(s))]),
      ...(options.hub?.services ?? []),
      ...(options.leading?.(parts) ?? []).map((s) => afterSync(s)),
    ];
    try {
      await runServices(services, { signal, log });
    } finally {
      leading = undefined;
    }
  }

  function hubLink(
    hub: HubAccess,
    on: {
      mirror: ClusterMirror;
      term: number;
      cluster: { clusterUid: string; kubernetesVersion: string };
      restart: () => void;
    },
  ): HubLink {
    let dataPlaneUid = "";
    const link = createHubLink({
      store: on.mirror,
      async connect(signal) {
        const made = await hub.connect("sync", signal);
        dataPlaneUid = made.dataPlaneUid;
        return made.link;
      },
      hello: () => ({
        dataPlaneUid,
        generation: on.term,
        instanceId,
        agent: { version: options.version, labels: { ...options.labels }, ...on.cluster },
      }),
      fetchBlob: (ref, signal) =>
        fetchBlob(ref, { connect: async (s) => (await hub.connect("blobs", s)).link, clock, signal }),
      onRefusedGeneration(known) {
        log.warn("the hub knows a newer term, a higher one is taken", { term: on.term, known });
        refusedGeneration = Math.max(refusedGeneration, known);
        on.restart();
      },
      onEnded({ reason, error }) {
        metrics?.streamEnded(reason);
        // What a live stream was denied says nothing of the identity that opened it.
        const identity =
          error?.code === Code.UNAUTHENTICATED ||
          (error?.code === Code.PERMISSION_DENIED && error.reason !== "NOT_YOUR_RESOURCE");
        if (identity) hub.outcome?.(false);
      },
      ...(options.extensions === undefined ? {} : { extensions: options.extensions }),
      clock,
      rng,
      log,
    });
    link.onChange(() => {
      if (link.state.connected) hub.outcome?.(true);
    });
    return link;
  }

  async function run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        const held = await lease.acquire(signal);
        const again = new AbortController();
        try {
          // Services stop by themselves when the process is asked to; only then is the Lease given back.
          await lead(held.term, AbortSignal.any([signal, held.lost, again.signal]), () =>
            again.abort(new DOMException("A higher term is taken", "AbortError")),
          );
        } finally {
          if (!held.lost.aborted || signal.aborted) await held.release();
        }
      } catch (thrown) {
        if (isAbort(thrown, signal) || signal.aborted) return;
        if (thrown instanceof DOMException && thrown.name === "AbortError") continue;
        // The API server's trouble passes; anything else is a fault of ours and ends the process.
        if (!(thrown instanceof KubeError)) throw thrown;
        log.warn("the cluster could not be read, it is tried again", { error: thrown });
        await sleep(clock, 1_000 + rng.float() * 4_000, signal).catch(() => undefined);
      }
    }
  }

  return {
    name: "agent",
    run,
    ready() {
      if (leading === undefined) return "another agent leads, or the Lease is being taken";
      return leading.mirror.synced ? undefined : "the cluster's records are being read";
    },
    get leading() {
      return leading;
    },
  };
}
