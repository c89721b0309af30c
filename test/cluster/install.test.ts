/** The install file on a real API server: it applies, again without effect, and fences the agent. */
import { installManifest } from "@moorage/shared/install/manifest";
import { stringifyYamlAll } from "@moorage/shared/yaml";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { until } from "./processes.ts";
import type { Cluster } from "./rig.ts";
import { startCluster } from "./rig.ts";

const namespace = "moorage-system";
const agent = ["--as", `system:serviceaccount:${namespace}:moorage-agent`];
const file = stringifyYamlAll(
  installManifest({
    dataPlane: "local",
    dataPlaneUid: "0b9c4b0e-7f0e-4c39-9b9e-0d6a1b5a4c11",
    joinToken: "token",
    enrolmentAddress: "hub.example:7445",
    agentAddress: "hub.example:7444",
    trustBundlePem: "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    trustDomain: "example",
    image: "moorage-agent:0.1.0",
  }),
);
let cluster: Cluster;

const binding = (ns: string, name = "probe") =>
  JSON.stringify({
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "RoleBinding",
    metadata: { name, namespace: ns },
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "moorage-tenant-applier" },
    subjects: [{ kind: "ServiceAccount", name: "moorage-applier", namespace: ns }],
  });
const asAgent = (args: readonly string[], input?: string) => cluster.kubectl([...args, ...agent], input);

beforeAll(async () => {
  cluster = await startCluster();
  // kubectl looks up every kind before it creates any, so that a new kind is found by the next try alone.
  await until("the install file does not apply", () =>
    cluster.kubectl(["apply", "-f", "-"], file).then(
      () => true,
      () => false,
    ),
  );
  await cluster.kubectl(["create", "namespace", "plain"]);
  await cluster.kubectl(["create", "namespace", "tenant-a"]);
  await cluster.kubectl(["label", "namespace", "tenant-a", "moorage.dev/tenant-uid=u1"]);
  // Admission policies take effect a moment after they are stored.
  await until("the admission policy is not in force", async () => {
    const refused = await asAgent(["create", "--dry-run=server", "-f", "-"], binding("plain")).then(
      () => "",
      String,
    );
    return refused.includes("moorage.dev/tenant-uid");
  });
});

afterAll(async () => cluster?.stop());

describe("the install file", () => {
  it("lets the agent write at first, and leaves the mode that the customer set since", async () => {
    const policy = ["agentpolicy", "default", "-n", namespace];
    const mode = () => cluster.kubectl(["get", ...policy, "-o", "jsonpath={.spec.mode}"]);
    expect(await mode()).toBe("Auto");
    await cluster.kubectl(["patch", ...policy, "--type=merge", "-p", '{"spec":{"mode":"Observe"}}']);
    await cluster.kubectl(["apply", "-f", "-"], file);
    expect(await mode()).toBe("Observe");
  });

  it("changes nothing when it is applied again, and keeps the agent's key", async () => {
    await cluster.kubectl([
      "patch",
      "secret",
      "moorage-agent-identity",
      "-n",
      namespace,
      "--type=merge",
      "-p",
      '{"stringData":{"key":"kept"}}',
    ]);
    const generations = () =>
      cluster.kubectl([
        "get",
        "validatingadmissionpolicies,validatingadmissionpolicybindings,crds,deployments,agentpolicies",
        "-A",
        "-o",
        'jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation}{"\\n"}{end}',
      ]);
    const before = await generations();
    await cluster.kubectl(["apply", "-f", "-"], file);
    expect(await generations()).toBe(before);
    expect(before).toContain("Deployment/moorage-agent 1");
    expect(
      await cluster.kubectl([
        "get",
        "secret",
        "moorage-agent-identity",
        "-n",
        namespace,
        "-o",
        "jsonpath={.data.key}",
      ]),
    ).toBe(Buffer.from("kept").toString("base64"));
  });

  it.each(["kube-system", "plain"])("keeps the agent from binding a role in %s", async (ns) => {
    await expect(asAgent(["create", "-f", "-"], binding(ns))).rejects.toThrow("moorage.dev/tenant-uid");
  });

  it("lets the agent bind the tenants' role in a tenant's namespace, and no other role", async () => {
    expect(await asAgent(["create", "-f", "-"], binding("tenant-a"))).toContain("created");
    await expect(
      asAgent(
        ["create", "-f", "-"],
        binding("tenant-a", "more").replace("moorage-tenant-applier", "cluster-admin"),
      ),
    ).rejects.toThrow(/forbidden/);
  });

  it("keeps the agent from deleting or taking in a namespace of others", async () => {
    await expect(asAgent(["delete", "namespace", "plain"])).rejects.toThrow("moorage.dev/tenant-uid");
    await expect(asAgent(["label", "namespace", "plain", "moorage.dev/tenant-uid=x"])).rejects.toThrow(
      "moorage.dev/tenant-uid",
    );
    await expect(asAgent(["create", "namespace", "unlabelled"])).rejects.toThrow("moorage.dev/tenant-uid");
  });

  it.each([
    ["list Secrets of the cluster", ["get", "secrets", "-A"]],
    ["read a Secret of a tenant", ["get", "secret", "any", "-n", "tenant-a"]],
    [
      "write its policy",
      [
        "patch",
        "agentpolicies.moorage.dev",
        "default",
        "-n",
        namespace,
        "--type=merge",
        "-p",
        '{"spec":{"mode":"Auto"}}',
      ],
    ],
    ["change the admission policy", ["delete", "validatingadmissionpolicies", "--all"]],
  ])("gives the agent no right to %s", async (_what, args) => {
    await expect(asAgent(args)).rejects.toThrow(/forbidden/i);
  });
});
