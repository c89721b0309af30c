/**
 * The controllers through the whole agent, without a hub: custom resources written as people would,
 * on the cluster in memory, with an API server that answers badly in every way of the table.
 */
import { createHash } from "node:crypto";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { checkConditions } from "@moorage/shared/conditions/check";
import type { Condition } from "@moorage/shared/conditions/conditions";
import { installNames, tenantApplierRules } from "@moorage/shared/install/permissions";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { describe, expect, it } from "vitest";
import { createAgent } from "../create-agent.ts";
import { KubeError } from "../kube/errors.ts";
import type { MemoryCall } from "../kube/memory-cluster.ts";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import { dig } from "../kube/object.ts";
import { manualClock } from "../mirror/testing.ts";

const namespace = "moorage-system";
const apiVersion = "moorage.dev/v1alpha1";

const packed = packBundle(
  filesOf({
    "bundle.yaml": bundleYaml(
      "parameters:\n  schema: {type: object, properties: {text: {type: string}}, additionalProperties: false}\n  defaults: {text: hello}\n",
    ),
    "manifests/a.yaml":
      "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {text: '${{ parameters.text }}', where: '${{ builtin.namespace }}'}\n",
  }),
);
const digest = createHash("sha256").update(packed.bytes).digest();

async function rig() {
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(7) });
  const session = cluster.client().asAgent();
  const put = (object: Record<string, unknown>) => session.create(object as never);
  // Their ends take time, as they do where there is more in the namespace.
  const slow = { finalizers: ["test/slow"] };
  await put({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, ...slow } });
  await put({
    apiVersion,
    kind: "AgentPolicy",
    metadata: { name: "default", namespace, ...slow },
    spec: { mode: "Auto" },
  });
  await put({
    apiVersion: "rbac.authorization.k8s.io/v1",
    kind: "ClusterRole",
    metadata: { name: installNames.tenantApplierRole },
    rules: tenantApplierRules,
  });
  await put({
    apiVersion,
    kind: "BundleChunk",
    metadata: { name: `c-${digest.toString("hex")}`, namespace },
    spec: { data: Buffer.from(packed.bytes).toString("base64"), sizeBytes: packed.bytes.length },
  });
  const stop = new AbortController();
  const agent = createAgent({
    kube: cluster.client(),
    namespace,
    dataPlane: "here",
    holder: "a",
    version: "0.1.0",
    clock,
    rng: seededRng(3),
    log: memoryLogger(),
  });
  const ended = agent.run(stop.signal);
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
  const end = async () => {
    stop.abort(new DOMException("ended", "AbortError"));
    await clock.advance(1_000);
    await ended;
  };
  return { clock, cluster, session, put, application, conditions, condition, until, configMap, end };
}

/** Fails every apply of a tenant's object with an answer. */
const answering = (error: () => KubeError) => (call: MemoryCall) => {
  if (call.verb === "apply" && call.identity.kind === "ServiceAccount") throw error();
};

describe("an agent without a hub", () => {
  it("applies what people wrote, as the tenant, and removes it when they delete it", async () => {
    const r = await rig();
    await r.put(r.application({ text: "from people" }));
    await r.until("Ready", "True");
    expect(await r.condition("Ready")).toMatchObject({ status: "True", reason: "Ready" });
    expect(dig(await r.session.get(r.configMap), "data")).toEqual({
      text: "from people",
      where: "tenant-acme",
    });
    const applies = r.cluster.calls.filter((c) => c.verb === "apply" && c.ref.kind === "ConfigMap");
    expect(applies.map((c) => c.identity)).toEqual([
      { kind: "ServiceAccount", namespace: "tenant-acme", name: "moorage-applier" },
    ]);
    await r.session.delete({ apiVersion, kind: "Application", namespace, name: "acme.web" });
    await r.clock.advance(30_000);
    await expect(r.session.get(r.configMap)).rejects.toMatchObject({ status: 404 });
    await r.end();
  });

  const home = { apiVersion: "v1", kind: "Namespace", name: namespace };
  const application = { apiVersion, kind: "Application", namespace, name: "acme.web" };
  const definition = {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    name: "applications.moorage.dev",
  };

  it.each([
    ["its namespace", home],
    ["the definition", definition],
  ])("leaves the workload when %s is deleted, however late the API server says so", async (_, goes) => {
    const r = await rig();
    await r.put({ ...definition, metadata: { name: definition.name, finalizers: ["test/slow"] }, spec: {} });
    await r.put(r.application());
    await r.until("Ready", "True");
    let failures = 3;
    r.cluster.faults = {
      async before(call) {
        if (call.verb !== "get" || call.ref.name !== goes.name) return;
        await new Promise<void>((resolve) => r.clock.setTimer(200, resolve));
        if (failures-- > 0) throw new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
      },
    };
    r.cluster.forgetCalls();
    await r.session.delete(goes);
    // The namespace takes its content along.
    await r.session.delete(application).catch((error: unknown) => error);
    await r.clock.advance(60_000);
    await expect(r.session.get(application)).rejects.toMatchObject({ status: 404 });
    expect(dig(await r.session.get(r.configMap), "data", "text")).toBe("hello");
    await r.end();
  });

  it("says nothing of a deletion until it is known to be an order", async () => {
    const r = await rig();
    await r.put(r.application());
    await r.until("Ready", "True");
    const answer = Promise.withResolvers<void>();
    r.cluster.faults = { before: (call) => (call.ref.name === namespace ? answer.promise : undefined) };
    await r.session.delete(application);
    await r.clock.advance(60_000);
    expect((await r.condition("Deleting"))?.status).toBe("False");
    expect((await r.condition("Ready"))?.status).toBe("True");
    answer.resolve();
    await r.clock.advance(60_000);
    await expect(r.session.get(r.configMap)).rejects.toMatchObject({ status: 404 });
    await expect(r.session.get(application)).rejects.toMatchObject({ status: 404 });
    await r.end();
  });

  it("makes no write call while nothing changes, full compares included", async () => {
    const r = await rig();
    await r.put(r.application());
    await r.until("Ready", "True");
    await r.clock.advance(10_000);
    r.cluster.forgetCalls();
    await r.clock.advance(15 * 60_000);
    const writes = r.cluster.calls.filter(
      (c) => ["create", "update", "apply", "patch", "delete"].includes(c.verb) && c.ref.kind !== "Lease",
    );
    expect(
      writes.filter((c) => c.ref.kind !== "SelfSubjectAccessReview").map((c) => `${c.verb} ${c.ref.kind}`),
    ).toEqual([]);
    await r.end();
  });

  it("states conditions that break no rule, and the same again after they were wiped", async () => {
    const r = await rig();
    await r.put(r.application());
    await r.until("Ready", "True");
    await r.clock.advance(10_000);
    const before = await r.conditions();
    for (const [entity, name] of [
      ["Application", "acme.web"],
      ["Tenant", "acme"],
    ] as const) {
      const list = await r.conditions(entity, name);
      const found = checkConditions({
        entity,
        generation: list[0]?.observedGeneration ?? 0,
        conditions: list,
        writer: "agent",
      });
      expect(found.filter((f) => f.rule.startsWith("F"))).toEqual([]);
    }
    await r.session.mergePatch(
      { apiVersion, kind: "Application", namespace, name: "acme.web" },
      { status: null },
      { subresource: "status" },
    );
    await r.clock.advance(10 * 60_000);
    const strip = (list: Condition[]) => list.map((c) => `${c.type}=${c.status}/${c.reason}`).sort();
    expect(strip(await r.conditions())).toEqual(strip(before));
    await r.end();
  });

  it("refuses parameters that break the schema, by name, and applies nothing", async () => {
    const r = await rig();
    await r.put(r.application({ text: 5 }));
    await r.until("ParametersValid", "False");
    expect(await r.condition("ParametersValid")).toMatchObject({
      status: "False",
      reason: "SchemaViolation",
    });
    expect((await r.condition("Stalled"))?.message).toContain("text");
    await expect(r.session.get(r.configMap)).rejects.toMatchObject({ status: 404 });
    await r.end();
  });

  const answers: [name: string, error: () => KubeError, stalled: string | undefined][] = [
    [
      "403",
      () => new KubeError("configmaps is forbidden", { status: 403, reason: "Forbidden" }),
      "Forbidden",
    ],
    [
      "422",
      () =>
        new KubeError("data: Invalid value", {
          status: 422,
          reason: "Invalid",
          causes: [{ reason: "FieldValueInvalid", message: "Invalid value", field: "data" }],
        }),
      "Invalid",
    ],
    [
      "429",
      () =>
        new KubeError("too many requests", { status: 429, reason: "TooManyRequests", retryAfterMs: 2_000 }),
      undefined,
    ],
    [
      "409",
      () => new KubeError("the object has been modified", { status: 409, reason: "Conflict" }),
      undefined,
    ],
    [
      "503",
      () => new KubeError("the server is shutting down", { status: 503, reason: "ServiceUnavailable" }),
      undefined,
    ],
    ["nothing", () => new KubeError("no answer", { status: 0, reason: "Timeout" }), undefined],
  ];
  it.each(answers)(
    "an API server that answers %s shows as a reason, harms nothing else, and is got over",
    async (_, error, stalled) => {
      const r = await rig();
      await r.clock.advance(3_000);
      r.cluster.faults = { before: answering(error) };
      await r.put(r.application());
      await r.until("Applied", "False");
      const ready = await r.condition("Ready");
      expect(ready?.status).toBe("False");
      expect(ready?.message).toContain("ConfigMap");
      expect((await r.condition("Stalled"))?.reason).toBe(stalled);
      const tenant = (await r.conditions("Tenant", "acme")).find((c) => c.type === "Ready");
      expect(tenant?.status, "the tenant is untouched").not.toBe("Unknown");
      r.cluster.faults = {};
      await r.clock.advance(11 * 60_000);
      expect((await r.condition("Ready"))?.status).toBe("True");
      await r.end();
    },
  );
});
