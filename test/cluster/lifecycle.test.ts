/** The end of a data plane, and the agent that follows a dead one. A world of its own: it is gone afterwards. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { MoorageError } from "@moorage/shared/errors";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { tellLogs } from "../world/logs.ts";
import { root } from "../world/process.ts";
import type { AgentProcess, HubProcess } from "../world/world.ts";
import { agentNamespace, installAgent, pushBundle, removeDir, startHubProcess } from "../world/world.ts";
import type { Cluster } from "./rig.ts";
import { startCluster } from "./rig.ts";

let cluster: Cluster;
let hub: HubProcess;
let dir: string;
const agents: AgentProcess[] = [];
const dataPlane = "dataPlanes/local";

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "moorage-world-"));
  cluster = await startCluster();
  hub = await startHubProcess(dir, [
    "--heartbeat-interval",
    "2s",
    "--reconnect-spread",
    "1s",
    "--drain-time",
    "1s",
  ]);
  agents.push(await installAgent({ hub, cluster, dir, dataPlane: "local" }));
  await pushBundle(hub.api, join(root, "deploy/examples/bundles/web"));
  await hub.api.tenants.createTenant({ tenantId: "acme", tenant: { spec: { dataPlane } } });
});

beforeEach(() => tellLogs(() => [hub.child, ...agents.map((a) => a.child)]));

afterAll(async () => {
  for (const a of agents) await a.stop("SIGKILL");
  hub?.link.close();
  await hub?.stop();
  await cluster?.stop();
  if (dir !== undefined) removeDir(dir);
});

const application = async (id: string): Promise<void> => {
  await hub.api.applications.createApplication({
    parent: "tenants/acme",
    applicationId: id,
    application: { spec: { bundle: "bundles/web", version: "1.0.0", parameters: { replicas: 1 } } },
  });
  await hub.api.wait.waitFor({ name: `tenants/acme/applications/${id}`, timeout: { seconds: 60n } });
};

describe("a data plane", { shuffle: false }, () => {
  it("is taken over by the next agent process, under the same Lease, when the first one dies", async () => {
    const [first] = agents as [AgentProcess];
    await first.stop("SIGKILL");
    // The second waits for the dead one's Lease, and takes a higher term than it had.
    const term = () =>
      cluster.kubectl([
        "get",
        "lease",
        "moorage-agent",
        "-n",
        agentNamespace,
        "-o",
        "jsonpath={.spec.holderIdentity}",
      ]);
    const before = await term();
    await first.start();
    expect(await term()).not.toBe(before);
    await application("web");
  });

  it("is not deleted while a tenant lives in it", async () => {
    const refused = await hub.api.dataPlanes.deleteDataPlane({ name: dataPlane }).then(
      () => undefined,
      (error: unknown) => error as MoorageError,
    );
    expect(refused?.reason).toBe("TENANTS_REMAIN");
    expect(refused?.message).toContain("1 tenants");
  });

  it("goes when it is empty and its agent has confirmed", async () => {
    await hub.api.tenants.deleteTenant({ name: "tenants/acme" });
    await hub.api.wait.waitFor({ name: "tenants/acme", deleted: true, timeout: { seconds: 60n } });
    await hub.api.dataPlanes.deleteDataPlane({ name: dataPlane });
    await hub.api.wait.waitFor({ name: dataPlane, deleted: true, timeout: { seconds: 60n } });
    const { dataPlanes } = await hub.api.dataPlanes.listDataPlanes({});
    expect(dataPlanes).toEqual([]);
    expect(await cluster.kubectl(["get", "namespace", "tenant-acme", "--ignore-not-found"])).toBe("");
  });
});
