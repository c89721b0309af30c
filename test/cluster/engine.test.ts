/**
 * The engine's parts on a real API server: the client's conformance suite, and the promises of the
 * apply engine that only a server with schemas, defaults and controllers can break.
 */
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import type { ApplyPolicy, ApplyResult, Applier } from "@moorage/agent/apply/apply-set";
import { LiveCache, reduceMember } from "@moorage/agent/apply/live";
import { applySet } from "@moorage/agent/apply/run";
import { PART_OF_LABEL } from "@moorage/agent/apply/labels";
import type { InventoryEntry } from "@moorage/agent/apply/types";
import { kubeClientSuite } from "@moorage/agent/kube/client.conformance";
import type { KubeClient } from "@moorage/agent/kube/client";
import { KubeError } from "@moorage/agent/kube/errors";
import { createHttpClient } from "@moorage/agent/kube/http-client";
import { kubeconfigCredentials } from "@moorage/agent/kube/kubeconfig";
import { dig, type KubeObject } from "@moorage/agent/kube/object";
import { createReflector, reflectorStats } from "@moorage/agent/kube/reflector";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";

const unique = () => `e${Buffer.from(systemRng.bytes(4)).toString("hex")}`;
const connect = async (): Promise<KubeClient> =>
  createHttpClient({
    credentials: await kubeconfigCredentials(inject("cluster").kubeconfig),
    clock: systemClock,
  });

kubeClientSuite(
  "a real API server",
  async () => {
    const client = await connect();
    return { client, close: () => client.close() };
  },
  unique(),
);

const make = (apiVersion: string, kind: string, name: string, rest: object): KubeObject => ({
  apiVersion,
  kind,
  metadata: { name },
  ...rest,
});
/** A pod with what trips naive comparisons: quantities to normalise, a port without protocol, nulls, empty lists. */
const pod = {
  containers: [
    {
      name: "web",
      image: "example.invalid/web:1",
      ports: [{ containerPort: 80 }],
      env: [],
      resources: { requests: { cpu: "1000m", memory: "1024Mi" } },
    },
  ],
  volumes: null,
};
const template = { metadata: { labels: { app: "x" }, creationTimestamp: null }, spec: pod };
const selector = { matchLabels: { app: "x" } };
const runOnce = { template: { spec: { ...pod, restartPolicy: "Never" } } };
const claim = { accessModes: ["ReadWriteOnce"], resources: { requests: { storage: "1024Mi" } } };
const rbac = "rbac.authorization.k8s.io/v1";

const builtIn = (): KubeObject[] => [
  make("v1", "ConfigMap", "cm", { data: { text: "next\u0085line" } }),
  make("v1", "Secret", "secret", { stringData: { password: "w" } }),
  make("v1", "ServiceAccount", "sa", {}),
  make("v1", "Service", "svc", { spec: { selector: { app: "x" }, ports: [{ port: 80 }] } }),
  make("v1", "ResourceQuota", "quota", { spec: { hard: { cpu: "4000m" } } }),
  make("v1", "LimitRange", "limits", { spec: { limits: [{ type: "Container", default: { cpu: "500m" } }] } }),
  make("v1", "PersistentVolumeClaim", "claim", { spec: claim }),
  make("apps/v1", "Deployment", "web", { spec: { selector, template } }),
  make("apps/v1", "StatefulSet", "db", {
    spec: {
      serviceName: "svc",
      selector,
      template,
      volumeClaimTemplates: [{ metadata: { name: "d" }, spec: claim }],
    },
  }),
  make("apps/v1", "DaemonSet", "each", { spec: { selector, template } }),
  make("batch/v1", "Job", "once", { spec: runOnce }),
  make("batch/v1", "CronJob", "often", { spec: { schedule: "0 0 1 1 *", jobTemplate: { spec: runOnce } } }),
  make("networking.k8s.io/v1", "NetworkPolicy", "fence", {
    spec: { podSelector: {}, policyTypes: ["Ingress", "Egress"], ingress: [], egress: [{}] },
  }),
  make("networking.k8s.io/v1", "Ingress", "door", {
    spec: {
      rules: [
        {
          host: "a.example",
          http: {
            paths: [
              { path: "/", pathType: "Prefix", backend: { service: { name: "svc", port: { number: 80 } } } },
            ],
          },
        },
      ],
    },
  }),
  make("autoscaling/v2", "HorizontalPodAutoscaler", "scale", {
    spec: { scaleTargetRef: { apiVersion: "apps/v1", kind: "Deployment", name: "web" }, maxReplicas: 3 },
  }),
  make("policy/v1", "PodDisruptionBudget", "budget", { spec: { minAvailable: 1, selector } }),
  make(rbac, "Role", "role", { rules: [{ apiGroups: [""], resources: ["pods"], verbs: ["get"] }] }),
  make(rbac, "RoleBinding", "binding", {
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "role" },
    subjects: [],
  }),
];

describe("the engine on a real API server", () => {
  let client: KubeClient;
  beforeAll(async () => {
    client = await connect();
  });
  afterAll(() => client.close());

  /** An application in a namespace of its own; `restart` forgets everything but the inventory. */
  async function application(applier?: Applier) {
    const agent = client.asAgent();
    const namespace = unique();
    await agent.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
    const reduce = { now: () => systemClock.now() };
    const newCache = () => new LiveCache({ session: agent, discovery: client.discovery, reduce });
    let live = newCache();
    let inventory: readonly InventoryEntry[] = [];
    return {
      namespace,
      agent,
      /** A fresh cache with what the cluster holds now. */
      async restart() {
        live = newCache();
        for (const entry of inventory) await live.fetch(entry, entry.version);
      },
      forgetHashes() {
        inventory = inventory.map((entry) => ({ ...entry, desiredHash: "" }));
      },
      run: (desired: readonly KubeObject[], policy: ApplyPolicy = {}): Promise<ApplyResult> =>
        applySet({
          applier: applier ?? { scope: "DataPlane", session: agent },
          discovery: client.discovery,
          live,
          reduce,
          identity: {
            parent: { name: namespace, namespace: "moorage", kind: "Application", group: "moorage.dev" },
            fieldManager: `moorage.${namespace}`,
            application: namespace,
            dataPlane: "dp",
          },
          defaultNamespace: namespace,
          desired,
          inventory,
          policy,
          writeInventory: (entries) => {
            inventory = entries;
            return Promise.resolve();
          },
        }),
    };
  }
  const except = (result: ApplyResult, action: string) =>
    result.objects.filter((o) => o.action !== action).map((o) => [o.id.kind, o.action, o.message]);

  it("applies every built-in kind once, and then makes no call, nor changes anything when made to", async () => {
    const app = await application();
    expect(except(await app.run(builtIn()), "Created")).toEqual([]);
    const second = await app.run(builtIn());
    expect([except(second, "Unchanged"), second.writes]).toEqual([[], 0]);
    await app.restart();
    const third = await app.run(builtIn());
    expect([except(third, "Unchanged"), third.writes]).toEqual([[], 0]);
    app.forgetHashes();
    expect(except(await app.run(builtIn()), "Confirmed")).toEqual([]);
  });

  it("undoes what kubectl changed and added in one repair", async () => {
    const app = await application();
    await app.run(builtIn());
    const ref = { apiVersion: "apps/v1", kind: "Deployment", namespace: app.namespace, name: "web" };
    const containers = [
      { name: "web", image: "example.invalid/other:1" },
      { name: "side", image: "example.invalid/side:1" },
    ];
    await app.agent.mergePatch(
      ref,
      { spec: { template: { spec: { containers } } } },
      { fieldManager: "kubectl-edit" },
    );
    await app.restart();
    const result = await app.run(builtIn());
    expect(except(result, "Unchanged")).toEqual([["Deployment", "Configured", ""]]);
    expect(result.drifted.map((id) => id.name)).toEqual(["web"]);
    const live = dig(await app.agent.get(ref), "spec", "template", "spec", "containers") as {
      name: string;
      image: string;
    }[];
    expect(live.map((c) => [c.name, c.image])).toEqual([["web", "example.invalid/web:1"]]);
    await app.restart();
    expect((await app.run(builtIn())).writes).toBe(0);
  });

  it("recreates a changed Job, and names an immutable and an unknown field", async () => {
    const app = await application();
    await app.run(builtIn());
    const replaced = (kind: string, object: KubeObject) =>
      builtIn().map((o) => (o.kind === kind ? object : o));
    const job = make("batch/v1", "Job", "once", {
      spec: { template: { spec: { ...pod, restartPolicy: "OnFailure" } } },
    });
    const first = await app.run(replaced("Job", job));
    expect(first.objects.find((o) => o.id.kind === "Job")?.action).toMatch(/^(Created|Waiting)$/);
    const set = await app.run(
      replaced(
        "StatefulSet",
        make("apps/v1", "StatefulSet", "db", { spec: { serviceName: "other", selector, template } }),
      ),
    );
    expect(set.objects.find((o) => o.id.kind === "StatefulSet")).toMatchObject({
      action: "Stalled",
      reason: "ImmutableField",
      fields: ["spec.serviceName"],
    });
    const unknown = await app.run(
      replaced(
        "Deployment",
        make("apps/v1", "Deployment", "web", { spec: { selector, template, bogus: 1 } }),
      ),
    );
    expect(unknown.objects.find((o) => o.id.kind === "Deployment")).toMatchObject({
      action: "Stalled",
      reason: "Invalid",
      message: expect.stringContaining("bogus") as string,
    });
    expect(unknown.pruned).toEqual([]);
  });

  it("prunes by uid what left the set, keeps the claim, and removes all on order", async () => {
    const app = await application();
    await app.run(builtIn());
    const gone = new Set(["CronJob", "Ingress", "PersistentVolumeClaim"]);
    const pruned = await app.run(builtIn().filter((o) => !gone.has(o.kind)));
    expect(pruned.pruned.map((p) => [p.id.kind, p.action]).sort()).toEqual([
      ["CronJob", "Deleted"],
      ["Ingress", "Deleted"],
      ["PersistentVolumeClaim", "Kept"],
    ]);
    const removal = await app.run([], { removal: true, deleteData: true });
    expect(removal.pruned.filter((p) => p.action !== "Deleted" && p.action !== "Deleting")).toEqual([]);
  });

  it("applies a custom resource again after its definition's version was bumped with a new default", async () => {
    const app = await application();
    const group = `${app.namespace}.bump.moorage.dev`;
    const version = (name: string, storage: boolean, properties: object) => ({
      name,
      served: true,
      storage,
      schema: { openAPIV3Schema: { type: "object", properties: { spec: { type: "object", properties } } } },
    });
    const definition = (versions: object[]): KubeObject =>
      make("apiextensions.k8s.io/v1", "CustomResourceDefinition", `gadgets.${group}`, {
        spec: {
          group,
          scope: "Namespaced",
          names: { plural: "gadgets", singular: "gadget", kind: "Gadget", listKind: "GadgetList" },
          versions,
        },
      });
    const text = { type: "string" };
    const gadget = (v: string, spec: object) => make(`${group}/${v}`, "Gadget", "g", { spec });
    const settle = async (set: KubeObject[]) => {
      for (;;) {
        try {
          await app.restart();
        } catch (thrown) {
          // A group is listed a moment before its kinds can be read: it is not known yet what is there.
          if (!(thrown instanceof KubeError)) throw thrown;
          continue;
        }
        const result = await app.run(set);
        if (result.applied || result.objects.some((o) => o.action === "Stalled")) return result;
      }
    };
    const old = version("v1", true, { a: text });
    await settle([definition([old]), gadget("v1", { a: "1" })]);
    const bumped = definition([
      { ...old, storage: false },
      version("v2", true, { a: text, b: { ...text, default: "d" } }),
    ]);
    const result = await settle([bumped, gadget("v2", { a: "2" })]);
    expect(result.objects.map((o) => [o.id.kind, o.action, o.message])).toContainEqual([
      "Gadget",
      "Configured",
      "",
    ]);
    expect(result.pruned).toEqual([]);
  });

  it("is refused by the server when a tenant's application reaches into another namespace", async () => {
    const account = { namespace: unique(), name: "tenant" };
    await client
      .asAgent()
      .create({ apiVersion: "v1", kind: "Namespace", metadata: { name: account.namespace } });
    const app = await application({ scope: "Tenant", session: client.asServiceAccount(account) });
    const result = await app.run([
      make("v1", "ConfigMap", "stray", { data: {} }),
      make(rbac, "ClusterRole", `stray-${app.namespace}`, { rules: [] }),
    ]);
    expect(result.objects.map((o) => [o.action, o.reason])).toEqual([
      ["Stalled", "Forbidden"],
      ["Stalled", "Forbidden"],
    ]);
  });

  it("keeps a reflector's cache equal to a list through a burst of changes", async () => {
    const app = await application();
    const names = Array.from({ length: 60 }, (_, i) => `burst-${i}`);
    const stop = new AbortController();
    const stats = reflectorStats();
    let wake = () => {};
    const reflector = createReflector({
      session: app.agent,
      kind: { apiVersion: "v1", kind: "ConfigMap" },
      namespace: app.namespace,
      labelSelector: PART_OF_LABEL,
      reduce: (o) => reduceMember(o, { now: () => 0 }).resourceVersion,
      onEvent: () => wake(),
      clock: systemClock,
      rng: systemRng,
      stats,
    });
    const ended = reflector.run(stop.signal);
    await reflector.whenSynced(stop.signal);
    await app.run(names.map((name) => make("v1", "ConfigMap", name, { data: { a: "1" } })));
    await app.run(names.slice(10).map((name) => make("v1", "ConfigMap", name, { data: { a: "2" } })));
    const listed = await app.agent.list(
      { apiVersion: "v1", kind: "ConfigMap" },
      { namespace: app.namespace, labelSelector: PART_OF_LABEL },
    );
    const same = () =>
      reflector.size === listed.items.length &&
      listed.items.every((o) => reflector.get(app.namespace, o.metadata.name) === o.metadata.resourceVersion);
    while (!same()) await new Promise<void>((resolve) => (wake = resolve));
    expect(reflector.size).toBe(50);
    expect(stats).toMatchObject({ lists: 1, unparsable: 0, failures: 0 });
    stop.abort(new Error("end"));
    await ended;
  });
});
