/** What tests of the controllers through the whole agent share: an agent without a hub, on the cluster in memory. */
import { createHash } from "node:crypto";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import type { Condition } from "@moorage/shared/conditions/conditions";
import { installNames, tenantApplierRules } from "@moorage/shared/install/permissions";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { createAgent } from "../create-agent.ts";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import { dig } from "../kube/object.ts";
import { manualClock } from "../mirror/testing.ts";

export const namespace = "moorage-system";
export const apiVersion = "moorage.dev/v1alpha1";

/** A bundle of ConfigMaps: `one`, and `more` others. */
function bundleWith(more: number) {
  const others = Array.from({ length: more }, (_, i) => [
    `manifests/m${i}.yaml`,
    `apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m${i}}\n`,
  ]);
  const packed = packBundle(
    filesOf({
      "bundle.yaml": bundleYaml(
        "parameters:\n  schema: {type: object, properties: {text: {type: string}}, additionalProperties: false}\n  defaults: {text: hello}\n",
      ),
      "manifests/a.yaml":
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {text: '${{ parameters.text }}', where: '${{ builtin.namespace }}'}\n",
      ...(Object.fromEntries(others) as Record<string, string>),
    }),
  );
  return { packed, digest: createHash("sha256").update(packed.bytes).digest() };
}

/** A cluster with what an install brings: the namespace, the policy and the applier's role. */
export async function agentCluster(meta: { finalizers?: string[] } = {}) {
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(7) });
  const session = cluster.client().asAgent();
  const put = (object: Record<string, unknown>) => session.create(object as never);
  await put({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, ...meta } });
  await put({
    apiVersion,
    kind: "AgentPolicy",
    metadata: { name: "default", namespace, ...meta },
    spec: { mode: "Auto" },
  });
  await put({
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "ClusterRole",
    metadata: { name: installNames.tenantApplierRole },
    rules: tenantApplierRules,
  });
  return { clock, cluster, session, put };
}

/** A cluster with a tenant and an agent in it; `more` objects in the bundle beside `one`. */
export async function rig(options: { more?: number } = {}) {
  const { packed, digest } = bundleWith(options.more ?? 0);
  // Their ends take time, as they do where there is more in the namespace.
  const { clock, cluster, session, put } = await agentCluster({ finalizers: ["test/slow"] });
  await put({
    apiVersion,
    kind: "BundleChunk",
    metadata: { name: `c-${digest.toString("hex")}`, namespace },
    spec: { data: Buffer.from(packed.bytes).toString("base64"), sizeBytes: packed.bytes.length },
  });
  /** Starts an agent; its calls are told apart by `process`. */
  const start = (holder: string) => {
    const stop = new AbortController();
    const agent = createAgent({
      kube: cluster.client(holder),
      namespace,
      dataPlane: "here",
      holder,
      version: "0.1.0",
      clock,
      rng: seededRng(3),
      log: memoryLogger(),
    });
    const ended = agent.run(stop.signal);
    const end = async () => {
      stop.abort(new DOMException("ended", "AbortError"));
      await clock.advance(1_000);
      await ended;
    };
    return { agent, end };
  };
  const first = start("a");
  await put({
    apiVersion,
    kind: "Tenant",
    metadata: { name: "acme", namespace },
    spec: { name: "tenants/acme", desired: { spec: { dataPlane: "dataPlanes/here" } } },
  });
  const application = (parameters: Record<string, unknown> = {}) => ({
    apiVersion,
    kind: "Application",
    metadata: { name: "acme.web", namespace },
    spec: {
      name: "tenants/acme/applications/web",
      desired: {
        spec: { bundle: "bundles/small", version: "1.0.0", parameters },
        bundle: {
          digest: digest.toString("base64"),
          sizeBytes: String(packed.bytes.length),
          chunks: [{ digest: digest.toString("base64"), sizeBytes: packed.bytes.length }],
        },
      },
    },
  });
  const conditions = async (kind = "Application", name = "acme.web"): Promise<Condition[]> => {
    const object = await session.get({ apiVersion, kind, namespace, name });
    return (dig(object, "status", "conditions") ?? []) as Condition[];
  };
  const condition = async (type: string) => (await conditions()).find((c) => c.type === type);
  /** Virtual time moves until the condition says so: unpacking a bundle takes turns that no clock counts. */
  const until = async (type: string, status: string): Promise<void> => {
    for (let i = 0; i < 2_000 && (await condition(type))?.status !== status; i++) await clock.advance(250);
  };
  const configMap = { apiVersion: "v1", kind: "ConfigMap", namespace: "tenant-acme", name: "one" };
  const setMode = async (mode: string) => {
    const policy = await session.get({ apiVersion, kind: "AgentPolicy", namespace, name: "default" });
    await session.update({ ...policy, spec: { mode } });
  };
  const { agent, end } = first;
  return {
    clock,
    cluster,
    session,
    put,
    start,
    agent,
    application,
    conditions,
    condition,
    until,
    configMap,
    setMode,
    end,
  };
}
