import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { aggregate } from "./aggregate.ts";
import { gates } from "./builtin.ts";
import { evaluate } from "./evaluate.ts";
import type { Health, HealthStatus, UnknownObject } from "./health.ts";
import { DEFAULT_RULES } from "./rules.ts";

const now = Date.UTC(2030, 0, 1);
const ago = (ms: number) => new Date(now - ms).toISOString();
const condition = (type: string, status: string, reason = "", more: object = {}) => ({
  type,
  status,
  reason,
  message: "",
  ...more,
});
const of = (apiVersion: string, kind: string, rest: object = {}): UnknownObject => ({
  apiVersion,
  kind,
  metadata: { name: "x", generation: 1 },
  ...rest,
});
const check = (o: UnknownObject, more: object = {}) => evaluate(o, { now, rules: DEFAULT_RULES, ...more });

const deployment = (status: object, spec: object = { replicas: 2 }) =>
  of("apps/v1", "Deployment", { spec, status: { observedGeneration: 1, ...status } });
const full = { replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2 };
const available = condition("Available", "True");
const sts = (status: object, spec: object = {}) =>
  of("apps/v1", "StatefulSet", {
    spec: { replicas: 2, ...spec },
    status: {
      observedGeneration: 1,
      replicas: 2,
      readyReplicas: 2,
      currentReplicas: 2,
      updatedReplicas: 2,
      ...status,
    },
  });
const ds = (status: object) =>
  of("apps/v1", "DaemonSet", {
    status: {
      observedGeneration: 1,
      desiredNumberScheduled: 1,
      currentNumberScheduled: 1,
      updatedNumberScheduled: 1,
      numberAvailable: 1,
      numberReady: 1,
      ...status,
    },
  });
const pod = (status: object, spec: object = {}) => of("v1", "Pod", { spec, status });
const withConditions = (apiVersion: string, kind: string, ...conditions: object[]) =>
  of(apiVersion, kind, { status: { conditions } });
const crd = (...conditions: object[]) =>
  withConditions("apiextensions.k8s.io/v1", "CustomResourceDefinition", ...conditions);
const hpa = (...conditions: object[]) =>
  withConditions("autoscaling/v2", "HorizontalPodAutoscaler", ...conditions);
const custom = (status?: unknown, metadata: object = {}) =>
  of("x.example/v1", "Thing", {
    metadata: { name: "x", generation: 2, creationTimestamp: ago(1_000), ...metadata },
    status,
  });

describe("health", () => {
  it.each<[string, UnknownObject, HealthStatus]>([
    [
      "anything under deletion",
      of("v1", "ConfigMap", { metadata: { deletionTimestamp: ago(0) } }),
      "Terminating",
    ],
    [
      "a stale generation",
      of("x/v1", "Y", {
        metadata: { generation: 2 },
        status: { observedGeneration: 1, conditions: [condition("Ready", "True")] },
      }),
      "InProgress",
    ],
    [
      "Reconciling",
      custom({ conditions: [condition("Ready", "True"), condition("Reconciling", "True")] }),
      "InProgress",
    ],
    ["Stalled", custom({ conditions: [condition("Stalled", "True", "Bad")] }), "Failed"],
    [
      "a Ready of an older generation",
      custom({ conditions: [condition("Ready", "True", "", { observedGeneration: 1 })] }),
      "InProgress",
    ],
    ["Ready", custom({ conditions: [condition("Ready", "True")] }), "Current"],
    ["not Ready", custom({ conditions: [condition("Ready", "False")] }), "InProgress"],
    ["no status yet", custom(), "InProgress"],
    ["no status for a minute", custom(undefined, { creationTimestamp: ago(61_000) }), "Current"],
    [
      "an abnormal condition",
      custom({ conditions: [condition("SyncFailed", "True"), condition("Available", "True")] }),
      "Failed",
    ],
    ["Available", custom({ conditions: [condition("Available", "True")] }), "Current"],
    ["a good phase", custom({ phase: "Running" }), "Current"],
    ["a bad phase", custom({ state: "Failed" }), "Failed"],
    ["a status that nobody understands", custom({ foo: "bar" }), "InProgress"],
    ["a full deployment", deployment({ ...full, conditions: [available] }), "Current"],
    ["a paused deployment", deployment(full, { paused: true }), "Suspended"],
    ["a deployment that is not observed", of("apps/v1", "Deployment", { spec: {} }), "InProgress"],
    [
      "a deployment with old replicas",
      deployment({ ...full, replicas: 3, conditions: [available] }),
      "InProgress",
    ],
    [
      "a deployment that is not available",
      deployment({ ...full, conditions: [condition("Available", "False")] }),
      "InProgress",
    ],
    [
      "a deployment beyond its deadline",
      deployment({ conditions: [condition("Progressing", "False", "ProgressDeadlineExceeded")] }),
      "Failed",
    ],
    [
      "a deployment before NewReplicaSetAvailable",
      deployment(
        { ...full, conditions: [available, condition("Progressing", "True", "ReplicaSetUpdated")] },
        { replicas: 2, progressDeadlineSeconds: 600 },
      ),
      "InProgress",
    ],
    ["a full stateful set", sts({ currentRevision: "a", updateRevision: "a" }), "Current"],
    ["a rolling stateful set", sts({ currentRevision: "a", updateRevision: "b" }), "InProgress"],
    [
      "a partitioned stateful set",
      sts(
        { updatedReplicas: 1, currentRevision: "a", updateRevision: "b" },
        { updateStrategy: { rollingUpdate: { partition: 1 } } },
      ),
      "Current",
    ],
    [
      "an OnDelete stateful set",
      sts({ readyReplicas: 0 }, { updateStrategy: { type: "OnDelete" } }),
      "Current",
    ],
    ["an unobserved stateful set", of("apps/v1", "StatefulSet", { spec: {}, status: {} }), "InProgress"],
    ["a full daemon set", ds({}), "Current"],
    ["a daemon set that lacks a pod", ds({ numberReady: 0 }), "InProgress"],
    [
      "a daemon set without generation",
      of("apps/v1", "DaemonSet", { metadata: {}, status: { desiredNumberScheduled: 0 } }),
      "InProgress",
    ],
    [
      "a replica set that cannot create pods",
      withConditions("apps/v1", "ReplicaSet", condition("ReplicaFailure", "True", "FailedCreate")),
      "Failed",
    ],
    [
      "a running and ready pod",
      pod({ phase: "Running", conditions: [condition("Ready", "True")] }),
      "Current",
    ],
    [
      "a pod that runs once",
      pod({ phase: "Running", conditions: [condition("Ready", "True")] }, { restartPolicy: "Never" }),
      "InProgress",
    ],
    ["a succeeded pod", pod({ phase: "Succeeded" }), "Current"],
    ["a failed pod", pod({ phase: "Failed" }), "Failed"],
    [
      "a crashing pod",
      pod({ phase: "Running", containerStatuses: [{ state: { waiting: { reason: "CrashLoopBackOff" } } }] }),
      "Failed",
    ],
    [
      "a pod without its image",
      pod({ phase: "Pending", containerStatuses: [{ state: { waiting: { reason: "ErrImagePull" } } }] }),
      "Failed",
    ],
    [
      "a pod just unschedulable",
      pod({
        phase: "Pending",
        conditions: [
          condition("PodScheduled", "False", "Unschedulable", { lastTransitionTime: ago(10_000) }),
        ],
      }),
      "InProgress",
    ],
    [
      "a pod long unschedulable",
      pod({
        phase: "Pending",
        conditions: [
          condition("PodScheduled", "False", "Unschedulable", { lastTransitionTime: ago(16_000) }),
        ],
      }),
      "Failed",
    ],
    ["a complete job", withConditions("batch/v1", "Job", condition("Complete", "True")), "Current"],
    ["a failed job", withConditions("batch/v1", "Job", condition("Failed", "True")), "Failed"],
    ["a suspended job", withConditions("batch/v1", "Job", condition("Suspended", "True")), "Suspended"],
    ["a running job", of("batch/v1", "Job", { status: { active: 1 } }), "InProgress"],
    ["a suspended cron job", of("batch/v1", "CronJob", { spec: { suspend: true } }), "Suspended"],
    ["a cron job before its first run", of("batch/v1", "CronJob", { spec: {} }), "Current"],
    [
      "a cron job whose last run failed",
      of("batch/v1", "CronJob", { status: { lastScheduleTime: ago(10), lastSuccessfulTime: ago(20) } }),
      "Failed",
    ],
    [
      "a cron job whose last run succeeded",
      of("batch/v1", "CronJob", { status: { lastScheduleTime: ago(20), lastSuccessfulTime: ago(10) } }),
      "Current",
    ],
    ["a cluster service", of("v1", "Service", { spec: { type: "ClusterIP" } }), "Current"],
    [
      "a pending load balancer",
      of("v1", "Service", { spec: { type: "LoadBalancer" }, status: { loadBalancer: {} } }),
      "InProgress",
    ],
    [
      "a load balancer with an address",
      of("v1", "Service", {
        spec: { type: "LoadBalancer" },
        status: { loadBalancer: { ingress: [{ ip: "1.2.3.4" }] } },
      }),
      "Current",
    ],
    ["an ingress without address", of("networking.k8s.io/v1", "Ingress"), "InProgress"],
    ["a bound claim", of("v1", "PersistentVolumeClaim", { status: { phase: "Bound" } }), "Current"],
    ["a lost claim", of("v1", "PersistentVolumeClaim", { status: { phase: "Lost" } }), "Failed"],
    ["a pending claim", of("v1", "PersistentVolumeClaim", { status: { phase: "Pending" } }), "InProgress"],
    ["a scaling autoscaler", hpa(condition("AbleToScale", "True")), "Current"],
    [
      "an autoscaler without metrics",
      hpa(condition("AbleToScale", "True"), condition("ScalingActive", "False", "FailedGetResourceMetric")),
      "Failed",
    ],
    [
      "an autoscaler of v1 by its annotation",
      of("autoscaling/v1", "HorizontalPodAutoscaler", {
        metadata: {
          annotations: {
            "autoscaling.alpha.kubernetes.io/conditions": JSON.stringify([condition("AbleToScale", "True")]),
          },
        },
      }),
      "Current",
    ],
    [
      "an available API service",
      withConditions("apiregistration.k8s.io/v1", "APIService", condition("Available", "True")),
      "Current",
    ],
    [
      "an unavailable API service",
      withConditions("apiregistration.k8s.io/v1", "APIService", condition("Available", "False")),
      "InProgress",
    ],
    [
      "an established definition",
      crd(condition("NamesAccepted", "True"), condition("Established", "True")),
      "Current",
    ],
    ["a definition under installation", crd(condition("Established", "False", "Installing")), "InProgress"],
    [
      "a definition whose names are taken",
      crd(condition("NamesAccepted", "False", "Conflict"), condition("Established", "True")),
      "Failed",
    ],
    [
      "a definition without a structural schema",
      crd(condition("NonStructuralSchema", "True"), condition("Established", "True")),
      "Failed",
    ],
    [
      "an observed disruption budget",
      of("policy/v1", "PodDisruptionBudget", { status: { observedGeneration: 1 } }),
      "Current",
    ],
    [
      "a disruption budget that cannot sync",
      withConditions(
        "policy/v1",
        "PodDisruptionBudget",
        condition("DisruptionAllowed", "False", "SyncFailed"),
      ),
      "Failed",
    ],
    ["an active namespace", of("v1", "Namespace", { status: { phase: "Active" } }), "Current"],
    ["a config map", of("v1", "ConfigMap"), "Current"],
    ["a role", of("rbac.authorization.k8s.io/v1", "Role"), "Current"],
    ["a ready node", withConditions("v1", "Node", condition("Ready", "True")), "Current"],
    ["a node that nobody hears of", withConditions("v1", "Node", condition("Ready", "Unknown")), "Unknown"],
    [
      "a cordoned node",
      of("v1", "Node", {
        spec: { unschedulable: true },
        status: { conditions: [condition("Ready", "True")] },
      }),
      "Suspended",
    ],
    [
      "a programmed gateway",
      withConditions(
        "gateway.networking.k8s.io/v1",
        "Gateway",
        condition("Accepted", "True"),
        condition("Programmed", "True"),
      ),
      "Current",
    ],
    [
      "a rejected gateway",
      withConditions("gateway.networking.k8s.io/v1", "Gateway", condition("Accepted", "False", "Invalid")),
      "Failed",
    ],
    [
      "an issued certificate",
      withConditions("cert-manager.io/v1", "Certificate", condition("Ready", "True")),
      "Current",
    ],
    [
      "a failed issuance",
      withConditions(
        "cert-manager.io/v1",
        "Certificate",
        condition("Ready", "False"),
        condition("Issuing", "False", "Failed"),
      ),
      "Failed",
    ],
  ])("of %s", (_what, object, status) => {
    expect(check(object).status).toBe(status);
  });

  it("is of low confidence when nothing says so", () => {
    expect(check(custom(undefined, { creationTimestamp: ago(61_000) })).confidence).toBe("low");
    expect(check(custom(), { crdHasStatus: false })).toMatchObject({ status: "Current", confidence: "high" });
  });

  it("looks into the children only of what is in progress", () => {
    const children = [
      pod({
        phase: "Running",
        containerStatuses: [{ name: "web", state: { waiting: { reason: "CrashLoopBackOff" } } }],
      }),
    ];
    expect(check(deployment({}), { children })).toMatchObject({
      status: "Failed",
      reason: "CrashLoopBackOff",
    });
    expect(check(deployment({ ...full, conditions: [available] }), { children }).status).toBe("Current");
  });

  it("asks the application's own rule first, and a later rule before an earlier one", () => {
    const verdict: Health = { status: "Suspended", reason: "R", message: "", confidence: "high" };
    expect(check(deployment({}), { custom: () => verdict })).toEqual(verdict);
    const rule = {
      kinds: ["x.example/Thing"],
      phase: { path: "status.phase", Current: ["Fine"], Failed: ["Sad"] },
      reference: "",
    };
    const by = (phase: string) => check(custom({ phase }), { rules: [rule] }).status;
    expect([by("Fine"), by("Sad"), by("Odd")]).toEqual(["Current", "Failed", "InProgress"]);
  });

  it("is total on arbitrary JSON, and never Current on a stale generation", () => {
    const kinds = fc.constantFrom(
      "Deployment",
      "StatefulSet",
      "DaemonSet",
      "ReplicaSet",
      "Pod",
      "Job",
      "CronJob",
      "Service",
      "Namespace",
      "PersistentVolumeClaim",
      "HorizontalPodAutoscaler",
      "CustomResourceDefinition",
      "Thing",
    );
    const apiVersions = fc.constantFrom(
      "v1",
      "apps/v1",
      "batch/v1",
      "autoscaling/v2",
      "apiextensions.k8s.io/v1",
      "x.example/v1",
    );
    const any = fc.record({
      apiVersion: apiVersions,
      kind: kinds,
      metadata: fc.jsonValue(),
      spec: fc.jsonValue(),
      status: fc.oneof(fc.jsonValue(), fc.record({ conditions: fc.jsonValue(), phase: fc.jsonValue() })),
    });
    fc.assert(
      fc.property(any, (object) => {
        expect([
          "Current",
          "InProgress",
          "Failed",
          "Suspended",
          "Terminating",
          "NotFound",
          "Unknown",
        ]).toContain(check(object).status);
        expect(
          check({
            ...object,
            metadata: { generation: 2 },
            status: { ...(object.status as object), observedGeneration: 1 },
          }).status,
        ).not.toBe("Current");
      }),
    );
  });
});

describe("the aggregate", () => {
  const part = fc.record<Health>({
    status: fc.constantFrom(
      "Current",
      "InProgress",
      "Failed",
      "Suspended",
      "Terminating",
      "NotFound",
      "Unknown",
    ),
    reason: fc.constantFrom("a", "b"),
    message: fc.constantFrom("", "m"),
    confidence: fc.constantFrom("high", "low"),
  });

  it("is the worst part, whatever their order", () => {
    fc.assert(
      fc.property(
        fc.array(part),
        (parts) => void expect(aggregate([...parts].reverse())).toEqual(aggregate(parts)),
      ),
    );
    const h = (status: HealthStatus): Health => ({ status, reason: status, message: "", confidence: "high" });
    expect(aggregate([h("Current"), h("Suspended")]).status).toBe("Suspended");
    expect(aggregate([h("Failed"), h("NotFound"), h("InProgress")]).status).toBe("Failed");
    expect(aggregate([h("Failed"), h("Unknown")]).status).toBe("Unknown");
    expect(aggregate([]).status).toBe("Current");
  });
});

describe("gating", () => {
  it("holds back for workloads, claims and custom kinds, not for load balancers", () => {
    expect([
      gates({ group: "apps", kind: "Deployment" }),
      gates({ group: "x.example", kind: "Thing" }),
      gates({ group: "", kind: "Service" }),
      gates({ group: "networking.k8s.io", kind: "Ingress" }),
    ]).toEqual([true, true, false, false]);
  });
});
