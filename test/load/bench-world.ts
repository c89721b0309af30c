/** The parts that the goals measure: a cluster that syncs every write, a hub process, the bundled agent. */
import { join } from "node:path";
import { packBundle } from "@moorage/shared/bundle/pack";
import type { Cluster } from "../cluster/rig.ts";
import { startCluster } from "../cluster/rig.ts";
import type { AgentProcess, HubProcess } from "../world/world.ts";
import { installAgent, pushPacked, startHubProcess } from "../world/world.ts";
import type { Lab } from "./goal.ts";
import { patiently } from "./patience.ts";
import { refuseUnsafe } from "./safety.ts";

/** Size of the ConfigMap's data in every goal. */
export const PAYLOAD_BYTES = 1_024;

const MARKER_DIGITS = 8;

/** A running world with the bundle `bench` and the tenant `bench` in it. */
export interface BenchWorld {
  cluster: Cluster;
  hub: HubProcess;
  agent: AgentProcess;
  tenant: string;
}

/** Starts it with default options, checks that every store syncs, and waits until the tenant is Ready. */
export async function startBenchWorld(lab: Lab, options: { audit: boolean }): Promise<BenchWorld> {
  lab.progress("starting an API server with fsync, a hub and an agent");
  const cluster = await startCluster({ fsync: true, audit: options.audit });
  lab.defer(() => cluster.stop());
  const hub = await startHub(lab);
  refuseUnsafe({ pids: [...cluster.pids(), hub.child.pid], dirs: [cluster.dir, hub.dataDir] });
  const agent = await installAgent({
    hub,
    cluster,
    dir: join(lab.dir, "world"),
    dataPlane: "bench",
    podFiles: { caPem: cluster.caPem },
  });
  lab.defer(() => agent.stop());
  await pushPacked(hub.api, benchBundle());
  const tenant = "tenants/bench";
  await hub.api.tenants.createTenant({
    tenantId: "bench",
    tenant: { spec: { dataPlane: "dataPlanes/bench" } },
  });
  await patiently(() => hub.api.wait.waitFor({ name: tenant, timeout: { seconds: 60n } }));
  return { cluster, hub, agent, tenant };
}

/** Starts a hub process of the lab, ended with it. */
export async function startHub(lab: Lab): Promise<HubProcess> {
  const hub = await startHubProcess(join(lab.dir, "world"));
  lab.defer(async () => {
    hub.link.close();
    await hub.stop();
  });
  refuseUnsafe({ pids: [hub.child.pid], dirs: [hub.dataDir] });
  return hub;
}

/** The marker of change `n`: it makes each version of the object distinct without changing its size. */
export const markerOf = (n: number): string => String(n).padStart(MARKER_DIGITS, "0");

/** Data of the measured ConfigMap: {@link PAYLOAD_BYTES} with its marker. */
export const configData = (marker: string): { marker: string; payload: string } => ({
  marker,
  payload: "x".repeat(PAYLOAD_BYTES - MARKER_DIGITS),
});

function benchBundle() {
  const manifest = {
    apiVersion: "moorage.dev/v1alpha1",
    kind: "Bundle",
    name: "bench",
    version: "1.0.0",
    format: "Plain",
    parameters: {
      schema: {
        type: "object",
        required: ["name", "marker"],
        properties: { name: { type: "string" }, marker: { type: "string" } },
      },
    },
  };
  const object = {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: "${{ parameters.name }}", namespace: "${{ builtin.namespace }}" },
    data: configData("${{ parameters.marker }}"),
  };
  return packBundle(
    new Map([
      ["bundle.yaml", Buffer.from(JSON.stringify(manifest))],
      ["manifests/configmap.yaml", Buffer.from(JSON.stringify(object))],
    ]),
  );
}

/** Creates an application of the bundle `bench` whose ConfigMap has the application's id as its name. */
export async function createBenchApplication(world: BenchWorld, id: string): Promise<string> {
  await world.hub.api.applications.createApplication({
    parent: world.tenant,
    applicationId: id,
    application: {
      spec: { bundle: "bundles/bench", version: "1.0.0", parameters: { name: id, marker: markerOf(0) } },
    },
  });
  return `${world.tenant}/applications/${id}`;
}
