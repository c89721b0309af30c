/**
 * The whole path on real parts: a hub process, the bundled agent with the rights of its ServiceAccount,
 * a real API server with controllers. One world for the file; each test has a tenant of its own.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packBundle } from "@moorage/shared/bundle/pack";
import type { MoorageError } from "@moorage/shared/errors";
import { Code } from "@moorage/shared/errors";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { tellLogs } from "../world/logs.ts";
import { root } from "../world/process.ts";
import type { AgentProcess, HubProcess } from "../world/world.ts";
import {
  agentNamespace,
  httpText,
  installAgent,
  pushBundle,
  pushPacked,
  removeDir,
  startHubProcess,
} from "../world/world.ts";
import { until } from "./processes.ts";
import type { Cluster } from "./rig.ts";
import { startCluster } from "./rig.ts";

let cluster: Cluster;
let hub: HubProcess;
let agent: AgentProcess;
let dir: string;
const dataPlane = "dataPlanes/local";

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "moorage-world-"));
  cluster = await startCluster({ audit: true });
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
  await pushBundle(hub.api, join(root, "deploy/examples/bundles/report"));
  await ready("dataPlanes/local");
});

afterAll(async () => {
  await agent?.stop();
  hub?.link.close();
  await hub?.stop();
  await cluster?.stop();
  if (dir !== undefined) removeDir(dir);
});

beforeEach(async () => {
  tellLogs(() => [hub.child, agent.child]);
  // A test that failed midway has left them as it needed them.
  if (!hub.child.alive()) await hub.start();
  if (!agent.child.alive()) await agent.start();
});

const ready = async (name: string, generation = 0n): Promise<void> => {
  await hub.api.wait.waitFor({ name, generation, timeout: { seconds: 60n } });
};
const gone = async (name: string): Promise<void> => {
  try {
    await hub.api.wait.waitFor({ name, deleted: true, timeout: { seconds: 60n } });
  } catch (error) {
    const why = await conditionOf(name, "Deleting");
    throw new Error(`${name} did not go: ${why?.reason}: ${why?.message}`, { cause: error });
  }
};
const tenant = async (id: string): Promise<string> => {
  await hub.api.tenants.createTenant({
    tenantId: id,
    tenant: { spec: { dataPlane, quota: { pods: "20" } } },
  });
  return `tenants/${id}`;
};
const application = async (
  parent: string,
  id: string,
  spec: Record<string, unknown> = {},
): Promise<string> => {
  await hub.api.applications.createApplication({
    parent,
    applicationId: id,
    application: {
      spec: {
        bundle: "bundles/web",
        version: "1.0.0",
        parameters: { replicas: 1, message: "hello" },
        ...spec,
      },
    },
  });
  return `${parent}/applications/${id}`;
};
const get = async (args: string): Promise<string> =>
  (await cluster.kubectl(["get", ...args.split(" "), "--ignore-not-found"])).trim();
const appears = (what: string): Promise<void> =>
  until(`${what} is there`, async () => (await get(`${what} -o name`)) !== "", 30_000);
const conditionOf = async (name: string, type: string) => {
  const r = name.includes("/applications/")
    ? await hub.api.applications.getApplication({ name })
    : await hub.api.tenants.getTenant({ name });
  return r.status?.conditions.find((c) => c.type === type);
};

describe("a data plane with a hub", () => {
  it("brings a tenant and two dependent applications to Ready, with objects and readable resources in the cluster", async () => {
    const t = await tenant("main");
    await application(t, "report", {
      bundle: "bundles/report",
      parameters: {},
      dependsOn: [`${t}/applications/web`],
    });
    await application(t, "web");
    await ready(t);
    await ready(`${t}/applications/web`);
    await ready(`${t}/applications/report`);
    expect(await get("deployment,configmap,service -n tenant-main -o name")).toContain("deployment.apps/web");
    expect(await get("networkpolicy -n tenant-main -o name")).toContain("moorage-deny");
    const table = await get(`applications.moorage.dev -n ${agentNamespace}`);
    expect(table).toMatch(/READY/);
    expect(table).toMatch(/main\.web\.\S+\s+True/);
    const live = JSON.parse(await get("deployment web -n tenant-main -o json --show-managed-fields")) as {
      metadata: { managedFields: { manager: string }[] };
    };
    expect(live.metadata.managedFields.some((m) => m.manager.startsWith("moorage."))).toBe(true);
  });

  it("brings an edited parameter to the cluster and says Ready for that generation", async () => {
    const t = await tenant("edit");
    const name = await application(t, "web");
    await ready(name);
    const updated = await hub.api.applications.updateApplication({
      application: { name, spec: { parameters: { replicas: 1, message: "changed" } } },
      updateMask: { paths: ["spec.parameters.message"] },
    });
    expect(updated.generation).toBe(2n);
    await ready(name, 2n);
    expect(await get("configmap -n tenant-edit -o jsonpath={.items[*].data}")).toContain("changed");
  });

  it("repairs a deleted object, an edited one and a removed fence", async () => {
    const t = await tenant("drift");
    await ready(await application(t, "web"));
    await cluster.kubectl(["delete", "service", "web", "-n", "tenant-drift"]);
    await appears("service/web -n tenant-drift");
    await cluster.kubectl(["scale", "deployment", "web", "-n", "tenant-drift", "--replicas=3"]);
    await until(
      "the edit is undone",
      async () => (await get("deployment web -n tenant-drift -o jsonpath={.spec.replicas}")) === "1",
      30_000,
    );
    await cluster.kubectl(["delete", "networkpolicy", "moorage-deny", "-n", "tenant-drift"]);
    await appears("networkpolicy/moorage-deny -n tenant-drift");
    expect(await get("deployment web -n tenant-drift -o jsonpath={.spec.replicas}")).toBe("1");
  });

  it("shows a widened fence, and that it is in place again", async () => {
    const t = await tenant("fence");
    await ready(t);
    const open = {
      apiVersion: "networking.k8s.io/v1",
      kind: "NetworkPolicy",
      metadata: { name: "open", namespace: "tenant-fence" },
      spec: { podSelector: {}, ingress: [{}] },
    };
    await cluster.kubectl(["apply", "-f", "-"], JSON.stringify(open));
    await until(
      "the widened fence shows",
      async () => (await conditionOf(t, "IsolationEnforced"))?.reason === "ForeignAllow",
      30_000,
    );
    await cluster.kubectl(["delete", "networkpolicy", "open", "-n", "tenant-fence"]);
    await until(
      "the fence is in place",
      async () => (await conditionOf(t, "IsolationEnforced"))?.status === "True",
      30_000,
    );
    expect((await conditionOf(t, "Ready"))?.status).toBe("True");
  });

  it("repairs drift with the hub down, also after a restart of the agent, and the hub resends nothing", async () => {
    const t = await tenant("away");
    const name = await application(t, "web");
    await ready(name);
    await hub.stop("SIGKILL");
    await cluster.kubectl(["delete", "service", "web", "-n", "tenant-away"]);
    await appears("service/web -n tenant-away");
    await agent.stop("SIGKILL");
    await agent.start();
    await cluster.kubectl(["delete", "configmap", "--all", "-n", "tenant-away"]);
    await until(
      "the ConfigMap is back",
      async () => (await get("configmap -n tenant-away -o name")).includes("web"),
      60_000,
    );
    await hub.start();
    await until(
      "the agent is connected again",
      async () =>
        (await metric(`http://127.0.0.1:${hub.ports.ops}/metrics`, "moorage_hub_streams_connected")) === 1,
    );
    await ready(name);
    expect(
      await metric(`http://127.0.0.1:${hub.ports.ops}/metrics`, "moorage_hub_sync_updates_sent_total"),
    ).toBe(0);
  });

  it("finishes what a killed agent began", async () => {
    const t = await tenant("kill");
    await ready(t);
    const names = await Promise.all(
      ["a", "b", "c", "d"].map((id) =>
        application(t, id, { bundle: "bundles/report", parameters: {} }).then((n) => n),
      ),
    );
    await agent.stop("SIGKILL");
    await agent.start();
    for (const n of names) {
      const r = await hub.api.applications.getApplication({ name: n });
      expect(r.name).toBe(n);
    }
    // The four share object names of one bundle: exactly one owner each, the others say so and touch nothing.
    await until("each has an outcome", async () => {
      const list = await hub.api.applications.listApplications({ parent: t });
      return (
        list.applications.length === 4 &&
        list.applications.every(
          (a) => a.status?.conditions.some((c) => c.type === "Ready" && c.status !== "Unknown") === true,
        )
      );
    });
  });

  it("removes an application, and then a tenant with everything in it", async () => {
    const t = await tenant("remove");
    const web = await application(t, "web");
    await ready(web);
    const report = await application(t, "report", { bundle: "bundles/report", parameters: {} });
    await ready(report);
    await hub.api.applications.deleteApplication({ name: web });
    await gone(web);
    expect(await get("deployment/web -n tenant-remove -o name")).toBe("");
    expect(await get("deployment -n tenant-remove -o name")).toContain("report");
    await hub.api.tenants.deleteTenant({ name: t });
    await gone(t);
    expect(await get("namespace tenant-remove -o name")).toBe("");
  });

  it("gives a name a new life once the old one is gone", async () => {
    const t = await tenant("again");
    const first = await hub.api.tenants.getTenant({ name: t });
    await ready(await application(t, "web"));
    await hub.api.tenants.deleteTenant({ name: t });
    const refused = await tenant("again").then(
      () => undefined,
      (error: unknown) => error as MoorageError,
    );
    if (refused !== undefined)
      expect(refused).toMatchObject({ code: Code.ALREADY_EXISTS, reason: "TERMINATING" });
    await gone(t);
    await tenant("again");
    await ready(await application(t, "web"));
    const second = await hub.api.tenants.getTenant({ name: t });
    expect(second.uid).not.toBe(first.uid);
  });

  it("refuses a cluster-scoped object and one in another tenant's namespace, and touches neither", async () => {
    await ready(await tenant("victim"));
    const t = await tenant("reach");
    await ready(t);
    const bundle = (name: string, manifest: object) =>
      packBundle(
        new Map([
          [
            "bundle.yaml",
            Buffer.from(
              JSON.stringify({
                apiVersion: "moorage.dev/v1alpha1",
                kind: "Bundle",
                name,
                version: "1.0.0",
                format: "Plain",
              }),
            ),
          ],
          ["manifests/a.yaml", Buffer.from(JSON.stringify(manifest))],
        ]),
      );
    await pushPacked(
      hub.api,
      bundle("wide", {
        apiVersion: "rbac.authorization.k8s.io/v1",
        kind: "ClusterRole",
        metadata: { name: "wide" },
        rules: [],
      }),
    );
    await pushPacked(
      hub.api,
      bundle("foreign", {
        apiVersion: "v1",
        kind: "ConfigMap",
        metadata: { name: "planted", namespace: "tenant-victim" },
        data: { a: "b" },
      }),
    );
    for (const b of ["wide", "foreign"]) {
      const name = await application(t, b, { bundle: `bundles/${b}`, parameters: {} });
      await until(
        `${b} is refused`,
        async () => (await conditionOf(name, "Stalled"))?.status === "True",
        30_000,
      );
      expect((await conditionOf(name, "Ready"))?.message).not.toBe("");
    }
    expect(await get("clusterrole wide -o name")).toBe("");
    expect(await get("configmap planted -n tenant-victim -o name")).toBe("");
  });

  it("writes a custom resource that was deleted by hand anew, and removes no workload for it", async () => {
    const t = await tenant("hand");
    await ready(await application(t, "web"));
    const before = await get("deployment web -n tenant-hand -o jsonpath={.metadata.uid}");
    await cluster.kubectl([
      "delete",
      "applications.moorage.dev,tenants.moorage.dev",
      "--all",
      "-n",
      agentNamespace,
      "--wait=true",
      "--timeout=30s",
    ]);
    await until(
      "the resources are back",
      async () => (await get(`applications.moorage.dev -n ${agentNamespace} -o name`)).includes("hand.web"),
      30_000,
    );
    expect(await get("deployment web -n tenant-hand -o jsonpath={.metadata.uid}")).toBe(before);
  });

  it("goes on after its Lease was deleted", async () => {
    const t = await tenant("lease");
    await cluster.kubectl(["delete", "lease", "moorage-agent", "-n", agentNamespace]);
    await ready(await application(t, "web"));
    await appears(`lease/moorage-agent -n ${agentNamespace}`);
    expect(
      Number(await get(`lease moorage-agent -n ${agentNamespace} -o jsonpath={.spec.leaseTransitions}`)),
    ).toBeGreaterThan(0);
  });

  it("says Connected=False of a silent agent, then Unknown of all that depends on it, and what was last known", async () => {
    const t = await tenant("silent");
    const name = await application(t, "web");
    await ready(name);
    await agent.stop("SIGKILL");
    await hub.api.wait.waitFor({
      name: dataPlane,
      condition: "Connected",
      status: "False",
      timeout: { seconds: 60n },
    });
    await hub.api.wait.waitFor({ name, status: "Unknown", timeout: { seconds: 60n } });
    const condition = await conditionOf(name, "Ready");
    expect(condition).toMatchObject({ status: "Unknown", reason: "AgentSilent" });
    expect(condition?.message).toContain("True (Ready)");
    await agent.start();
    await ready(name);
  });

  it("makes no write call while nothing changes", async () => {
    const t = await tenant("quiet");
    await ready(await application(t, "web"));
    const { readFileSync } = await import("node:fs");
    const writes = () =>
      readFileSync(cluster.auditLogPath, "utf8")
        .split("\n")
        .filter(
          (l) =>
            l.includes('"stage":"ResponseComplete"') &&
            l.includes("tenant-quiet") &&
            /"verb":"(create|update|patch|delete)"/.test(l) &&
            /moorage/.test(l),
        ).length;
    const dp = await hub.api.dataPlanes.getDataPlane({ name: dataPlane });
    expect(dp.name).toBe(dataPlane);
    // Another tenant's life is work for the agent, and must cost this one nothing.
    const before = writes();
    await ready(await application(await tenant("noise"), "web"));
    expect(writes()).toBe(before);
  });
});

async function metric(url: string, name: string): Promise<number> {
  const line = (await httpText(url))
    .split("\n")
    .find((l) => l.startsWith(`${name} `) || l.startsWith(`${name}{`));
  return line === undefined ? 0 : Number(line.split(" ").at(-1));
}
