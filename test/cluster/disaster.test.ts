/**
 * What must not cost a tenant anything: a policy that only observes, a revoked agent, a hub that lost
 * its store, an uninstall. One world that is worn down step by step, so the order is fixed.
 */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installManifest } from "@moorage/shared/install/manifest";
import { stringifyYamlAll } from "@moorage/shared/yaml";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { tellLogs } from "../world/logs.ts";
import { root } from "../world/process.ts";
import type { AgentProcess, HubProcess } from "../world/world.ts";
import { agentNamespace, installAgent, pushBundle, removeDir, startHubProcess } from "../world/world.ts";
import { until } from "./processes.ts";
import type { Cluster } from "./rig.ts";
import { startCluster } from "./rig.ts";

let cluster: Cluster;
let hub: HubProcess;
let agent: AgentProcess;
let dir: string;
const dataPlane = "dataPlanes/local";
const tenant = "tenants/kept";
const name = `${tenant}/applications/web`;

const workload = (): Promise<string> =>
  cluster.kubectl([
    "get",
    "deployment",
    "web",
    "-n",
    "tenant-kept",
    "--ignore-not-found",
    "-o",
    "jsonpath={.metadata.uid}",
  ]);

const setMode = (mode: string): Promise<string> =>
  cluster.kubectl([
    "patch",
    "agentpolicy",
    "default",
    "-n",
    agentNamespace,
    "--type=merge",
    "-p",
    JSON.stringify({ spec: { mode } }),
  ]);

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
  agent = await installAgent({ hub, cluster, dir, dataPlane: "local" });
  await pushBundle(hub.api, join(root, "deploy/examples/bundles/web"));
  await hub.api.tenants.createTenant({ tenantId: "kept", tenant: { spec: { dataPlane } } });
});

beforeEach(() => tellLogs(() => [hub.child, agent.child]));

afterAll(async () => {
  await agent?.stop("SIGKILL");
  hub?.link.close();
  await hub?.stop();
  await cluster?.stop();
  if (dir !== undefined) removeDir(dir);
});

describe("a tenant's workload survives", { shuffle: false }, () => {
  it("and waits for a policy that only observes, which says so", async () => {
    await hub.api.wait.waitFor({ name: tenant, timeout: { seconds: 60n } });
    await setMode("Observe");
    const policy = {
      name: dataPlane,
      condition: "PolicyAccepted",
      status: "True",
      timeout: { seconds: 30n },
    };
    await hub.api.wait.waitFor(policy);
    await hub.api.applications.createApplication({
      parent: tenant,
      applicationId: "web",
      application: { spec: { bundle: "bundles/web", version: "1.0.0", parameters: { replicas: 1 } } },
    });
    const ready = async () =>
      (await hub.api.applications.getApplication({ name })).status?.conditions.find(
        (c) => c.type === "Ready",
      );
    await until("the pause shows", async () => (await ready())?.reason === "Paused", 30_000);
    expect((await ready())?.message).toContain("Observe");
    expect(await workload()).toBe("");
    await setMode("Auto");
    await hub.api.wait.waitFor({ name, timeout: { seconds: 60n } });
    expect(await workload()).not.toBe("");
  });

  it("an API server that is killed and comes back, and drift from that time is repaired", async () => {
    await cluster.restartApiServer();
    await cluster.kubectl(["delete", "service", "web", "-n", "tenant-kept"]);
    await until(
      "the Service is back",
      async () =>
        (await cluster.kubectl(["get", "service", "-n", "tenant-kept", "-o", "name"])).includes("web"),
      60_000,
    );
    expect(await workload()).not.toBe("");
  });

  it("a revoked agent, whose stream ends at once", async () => {
    const before = await workload();
    await hub.api.joinTokens.revokeAgentCredentials({ name: dataPlane, reason: "a test" });
    await hub.api.wait.waitFor({
      name: dataPlane,
      condition: "CredentialsValid",
      status: "False",
      timeout: { seconds: 5n },
    });
    await hub.api.wait.waitFor({
      name: dataPlane,
      condition: "Connected",
      status: "False",
      timeout: { seconds: 30n },
    });
    expect(await workload()).toBe(before);
  });

  it("a hub that lost its store, and an agent that starts anew against it", async () => {
    const before = await workload();
    await hub.stop();
    for (const file of readdirSync(hub.dataDir).filter((f) => f.startsWith("moorage.db")))
      rmSync(join(hub.dataDir, file));
    await hub.start();
    await agent.stop("SIGKILL");
    await agent.start();
    // Drift is still repaired: the agent works on, with what it holds.
    await cluster.kubectl(["delete", "service", "web", "-n", "tenant-kept"]);
    await until(
      "the Service is back",
      async () =>
        (await cluster.kubectl(["get", "service", "-n", "tenant-kept", "-o", "name"])).includes("web"),
      60_000,
    );
    expect(await workload()).toBe(before);
  });

  it("kubectl delete -f of the whole install file, which ends within a minute", async () => {
    const before = await workload();
    const objects = installManifest({
      dataPlane: "local",
      dataPlaneUid: "",
      joinToken: "none",
      enrolmentAddress: "127.0.0.1:1",
      agentAddress: "127.0.0.1:1",
      trustBundlePem: "",
      trustDomain: "moorage.local",
      image: "moorage-agent:0.1.0",
    });
    await cluster.kubectl(
      ["delete", "-f", "-", "--ignore-not-found", "--timeout=55s"],
      stringifyYamlAll(objects as never),
    );
    expect(await cluster.kubectl(["get", "namespace", agentNamespace, "--ignore-not-found"])).toBe("");
    expect(before).not.toBe("");
    expect(await workload()).toBe(before);
    expect(await cluster.kubectl(["get", "networkpolicy", "-n", "tenant-kept", "-o", "name"])).toContain(
      "moorage-deny",
    );
  });
});
