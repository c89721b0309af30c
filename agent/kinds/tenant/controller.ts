/**
 * The tenant controller: the fence in the cluster, kept as planned, and judged by what is live.
 *
 * The baseline is written by the agent itself through the same engine as applications, with one field
 * manager for each tenant, so that drift, conflicts and withdrawn policies are handled the same way.
 */
import type { TenantSpec } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { TenantSpecSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { create } from "@bufbuild/protobuf";
import { applySet } from "../../apply/run.ts";
import type { ApplyResult } from "../../apply/apply-set.ts";
import { describeId } from "../../apply/types.ts";
import { ANEW, type Outcome } from "../../control/outcome.ts";
import { isNotFound } from "../../kube/errors.ts";
import type { KubeObject } from "../../kube/object.ts";
import { dig } from "../../kube/object.ts";
import type { MirrorRecord } from "../../mirror/mirror.ts";
import type { KindContext, KindController } from "../context.ts";
import { blockedByPolicy, holds } from "../holds.ts";
import type { Fact } from "../status.ts";
import { conditionsWith } from "../status.ts";
import { dnsDiscovery } from "./dns.ts";
import type { TenantPlan } from "./plan.ts";
import { namespaceName, names, planTenant, tenantUidLabel } from "./plan.ts";
import { verifyIsolation, verifyNamespace, verifyQuota } from "./verify.ts";

/** Every condition of a Tenant but the abnormal-true pair. */
export const tenantConditions = [
  "Ready",
  "NamespaceReady",
  "IsolationEnforced",
  "QuotaEnforced",
  "PlacementSatisfied",
  "TrafficBlocked",
  "ComputeSuspended",
  "Frozen",
  "RetentionHold",
  "Deleting",
] as const;

/** A stalled tenant's cause (RBAC, a namespace that is not ours) is looked at again after this time. */
const RECHECK_MS = 10 * 60_000;

const namespaceKind = { apiVersion: "v1", kind: "Namespace" };
const policyKind = { apiVersion: "networking.k8s.io/v1", kind: "NetworkPolicy" };
const quotaKind = { apiVersion: "v1", kind: "ResourceQuota" };
const baselineKinds = [
  namespaceKind,
  policyKind,
  quotaKind,
  { apiVersion: "v1", kind: "LimitRange" },
  { apiVersion: "v1", kind: "ServiceAccount" },
  { apiVersion: "rbac.authorization.k8s.io/v1", kind: "RoleBinding" },
];

/** The id of a tenant from its resource name. */
export const tenantId = (name: string): string => name.replace(/^tenants\//, "");

/** The controller of kind Tenant. */
export function tenantController(context: KindContext): KindController {
  const dns = dnsDiscovery({ session: context.kube.asAgent(), clock: context.clock });

  async function reconcile(uid: string): Promise<Outcome> {
    if (context.mirror.get(uid)?.body.kind !== "Tenant" || !context.leaseHeld()) return { kind: "done" };
    await context.live.ensure(baselineKinds);
    // Only now: what is read before a wait may be another order after it.
    const record = context.mirror.get(uid);
    if (record === undefined || record.body.kind !== "Tenant") return { kind: "done" };
    if (record.removal !== undefined) return remove(record);
    const spec = record.body.value.spec ?? create(TenantSpecSchema);
    const namespace = namespaceName(tenantId(record.name));
    const plan = planTenant(spec, {
      tenant: tenantId(record.name),
      uid: record.uid,
      dataPlane: context.dataPlane(),
      podSecurityVersion: context.kubernetesMinor(),
      dns: await dns(),
      namespaceOf: (t) => peerNamespace(t),
    });
    const blocked = writeBlocked();
    if (blocked !== undefined) return conclude(record, { plan, spec, facts: [], blocked });
    const existing = await readNamespace(namespace);
    const found = verifyNamespace(existing, { name: namespace, uidLabel: tenantUidLabel, uid: record.uid });
    if (existing !== undefined && found.status === "False") {
      return conclude(record, {
        plan,
        spec,
        facts: [{ type: "NamespaceReady", ...found }],
        blocked: undefined,
      });
    }
    const result = await applyBaseline(record, plan);
    if (result.superseded) return ANEW;
    return conclude(record, { plan, spec, facts: [], blocked: undefined, result });
  }

  async function applyBaseline(record: MirrorRecord, plan: TenantPlan): Promise<ApplyResult> {
    const id = tenantId(record.name);
    const session = context.kube.asAgent();
    const inventory = context.inventory.entries(record.uid);
    const result = await applySet({
      applier: { scope: "DataPlane", session },
      discovery: context.kube.discovery,
      live: await context.live.viewAs(session, inventory),
      reduce: context.live.reduce,
      identity: {
        parent: {
          name: record.objectName,
          namespace: context.agentNamespace,
          kind: "Tenant",
          group: "moorage.dev",
        },
        fieldManager: `moorage.${record.uid}`,
        application: record.uid,
        tenant: id,
        dataPlane: context.dataPlane(),
      },
      desired: plan.objects,
      inventory,
      writeInventory: (entries) => context.inventory.write(record, entries),
      // The cluster itself creates the ServiceAccount "default": the baseline takes over what it finds,
      // in a namespace that was proven to be this tenant's.
      policy: {
        adoption: "AdoptAll",
        drift: "Correct",
        baseline: true,
        stopped: () => !holds(context, record),
      },
      fights: context.fights,
    });
    context.applied(result);
    return result;
  }

  /** Namespace of another tenant in this data plane, if it is here and stays. */
  function peerNamespace(id: string): string | undefined {
    const [peer] = context.mirror.byName(`tenants/${id}`).filter((r) => r.removal === undefined);
    return peer === undefined ? undefined : namespaceName(id);
  }

  function writeBlocked(): Fact | undefined {
    const message = blockedByPolicy(context);
    return message === undefined ? undefined : { type: "Ready", status: "False", reason: "Paused", message };
  }

  async function readNamespace(name: string): Promise<KubeObject | undefined> {
    const cached = context.live.object(namespaceKind, { name });
    if (cached !== undefined) return cached;
    try {
      // One that does not carry our label is in no cache: it must not be taken for a missing one.
      return await context.kube.asAgent().get({ ...namespaceKind, name });
    } catch (error) {
      if (isNotFound(error)) return undefined;
      throw error;
    }
  }

  async function conclude(
    record: MirrorRecord,
    seen: {
      plan: TenantPlan;
      spec: TenantSpec;
      facts: readonly Fact[];
      blocked: Fact | undefined;
      result?: ApplyResult;
    },
  ): Promise<Outcome> {
    const { plan, spec } = seen;
    const live = {
      namespace: context.live.object(namespaceKind, { name: plan.namespace }),
      networkPolicies: context.live.objects(policyKind, plan.namespace),
      quota: context.live.object(quotaKind, { namespace: plan.namespace, name: names.quota }),
    };
    const namespace = verifyNamespace(live.namespace, {
      name: plan.namespace,
      uidLabel: tenantUidLabel,
      uid: record.uid,
    });
    const isolation = verifyIsolation(plan.objects, live, spec);
    const ungranted =
      plan.ungranted.length === 0 ? "" : `; not granted: ${plan.ungranted.slice(0, 3).join("; ")}`;
    const facts: Fact[] = [
      { type: "NamespaceReady", ...namespace },
      { type: "IsolationEnforced", ...isolation, message: isolation.message + ungranted },
      { type: "QuotaEnforced", ...verifyQuota(plan.objects, live) },
      { type: "PlacementSatisfied", status: "True", reason: "NotRequested", message: "Shared nodes" },
      ...suspensionFacts(spec, live.networkPolicies),
      { type: "RetentionHold", status: "False", reason: "NotRequested", message: "" },
      { type: "Deleting", status: "False", reason: "NotRequested", message: "" },
      ...seen.facts,
    ];
    const { ready, outcome } = readiness(facts, seen);
    await context.mirror.setStatus(
      record.uid,
      {
        observedGeneration: record.generation,
        conditions: conditionsWith(record, [...facts, ...ready], {
          all: tenantConditions,
          now: context.clock.now(),
        }),
        namespaces: [plan.namespace],
      },
      { settled: outcome.kind === "done" && ready[0]?.status === "True" },
    );
    return outcome;
  }

  async function remove(record: MirrorRecord): Promise<Outcome> {
    const decision = context.mayRemove(record.uid);
    if (!decision.allowed) return deleting(record, { reason: "Held", message: decision.message });
    const left = context.mirror
      .list("Application")
      .filter((r) => r.body.kind === "Application" && r.body.value.tenantUid === record.uid);
    if (left.length > 0) {
      const message = `${left.length} applications are removed first: ${left
        .slice(0, 3)
        .map((r) => r.name)
        .join(", ")}`;
      return deleting(record, { reason: "DependentsRemain", message });
    }
    const blocked = blockedByPolicy(context);
    if (blocked !== undefined) return deleting(record, { reason: "Held", message: blocked });
    const name = namespaceName(tenantId(record.name));
    const namespace = await readNamespace(name);
    // The order may be withdrawn, and more may be ordered than may go, since it was decided above.
    if (!holds(context, record) || !context.mayRemove(record.uid).allowed) return ANEW;
    // Only a namespace that carries this tenant's uid is ours to delete.
    if (namespace?.metadata.labels?.[tenantUidLabel] === record.uid) {
      if (record.removal?.orphan !== true) return deleteNamespace(record, namespace);
      await releaseNamespace(name);
      if (!holds(context, record)) return ANEW;
    }
    await context.inventory.drop(record.uid);
    await context.mirror.finishRemoval(record.uid);
    return { kind: "done" };
  }

  async function deleteNamespace(record: MirrorRecord, namespace: KubeObject): Promise<Outcome> {
    const { name, uid, deletionTimestamp } = namespace.metadata;
    if (deletionTimestamp === undefined) {
      await context.kube.asAgent().delete({ ...namespaceKind, name }, uid === undefined ? {} : { uid });
    }
    const stuck = remaining(namespace);
    return deleting(record, {
      reason: stuck === "" ? "InProgress" : "FinalizersRemain",
      message: stuck === "" ? `Namespace "${name}" is being deleted` : stuck,
    });
  }

  /** Orphan: the namespace and everything in it stay, and are nobody's of ours any more. */
  async function releaseNamespace(name: string): Promise<void> {
    const labels = Object.fromEntries(
      [
        "app.kubernetes.io/managed-by",
        "applyset.kubernetes.io/part-of",
        "moorage.dev/application",
        "moorage.dev/tenant",
        "moorage.dev/data-plane",
      ].map((l) => [l, null]),
    );
    // The tenant-uid label goes last and with the others: without it admission refuses any further write of ours.
    await context.kube
      .asAgent()
      .mergePatch(
        { ...namespaceKind, name },
        { metadata: { labels: { ...labels, [tenantUidLabel]: null } } },
      );
  }

  async function deleting(record: MirrorRecord, why: { reason: string; message: string }): Promise<Outcome> {
    const facts: Fact[] = [
      { type: "Deleting", status: "True", ...why },
      { type: "Ready", status: "False", reason: "Deleting", message: why.message },
      why.reason === "Held"
        ? { type: "Stalled", status: "True", reason: "Held", message: why.message }
        : { type: "Reconciling", status: "True", reason: "Deleting", message: why.message },
    ];
    const conditions = conditionsWith(record, facts, { all: tenantConditions, now: context.clock.now() });
    await context.mirror.setStatus(
      record.uid,
      { observedGeneration: record.generation, conditions },
      { settled: false },
    );
    // The namespace's end arrives by watch; a held order is looked at again when the guard's window has moved.
    return { kind: "done", recheckAfterMs: why.reason === "Held" ? 60_000 : 30_000 };
  }

  return { kind: "Tenant", reconcile };
}

function suspensionFacts(spec: TenantSpec, policies: readonly KubeObject[]): Fact[] {
  const wanted = spec.suspension?.trafficBlocked === true;
  const open = policies.some((p) => p.metadata.name === names.from);
  return [
    wanted
      ? {
          type: "TrafficBlocked",
          status: open ? "False" : "True",
          reason: open ? "Blocking" : "Blocked",
          message: "New connections from outside the tenant are refused; established ones may last",
        }
      : { type: "TrafficBlocked", status: "False", reason: "NotRequested", message: "" },
    { type: "ComputeSuspended", status: "False", reason: "NotRequested", message: "" },
    spec.suspension?.changesFrozen === true
      ? {
          type: "Frozen",
          status: "True",
          reason: "Frozen",
          message: "New generations are stored and not applied",
        }
      : { type: "Frozen", status: "False", reason: "NotRequested", message: "" },
  ];
}

/** Ready with what follows from it, and the queue's outcome. */
function readiness(
  facts: readonly Fact[],
  seen: { blocked: Fact | undefined; result?: ApplyResult },
): { ready: Fact[]; outcome: Outcome } {
  if (seen.blocked !== undefined)
    return { ready: [seen.blocked], outcome: { kind: "done", recheckAfterMs: RECHECK_MS } };
  const failed = seen.result?.objects.find((o) => o.action === "Stalled" || o.action === "Conflict");
  const retry = seen.result?.objects.find((o) => o.action === "Retry");
  if (failed !== undefined) {
    const reason =
      failed.reason === "Forbidden" || failed.reason === "QuotaExceeded" ? failed.reason : "Invalid";
    const message = `${describeId(failed.id)}: ${failed.message}`;
    return {
      ready: [
        { type: "Ready", status: "False", reason, message },
        { type: "Stalled", status: "True", reason, message },
      ],
      outcome: { kind: "done", recheckAfterMs: RECHECK_MS },
    };
  }
  const waiting = (reason: string, message: string): Fact[] => [
    { type: "Ready", status: "False", reason, message },
    { type: "Reconciling", status: "True", reason: "Progressing", message },
  ];
  if (retry !== undefined) {
    const message = `${describeId(retry.id)}: ${retry.message}`;
    return {
      ready: waiting("Progressing", message),
      outcome: {
        kind: "retry",
        reason: retry.reason,
        message,
        ...(retry.retryAfterMs === undefined ? {} : { minDelayMs: retry.retryAfterMs }),
      },
    };
  }
  const gates: [string, string][] = [
    ["NamespaceReady", "NamespaceNotReady"],
    ["IsolationEnforced", "IsolationNotEnforced"],
    ["QuotaEnforced", "QuotaNotEnforced"],
  ];
  for (const [type, reason] of gates) {
    // A later fact of a type overrides an earlier one.
    const fact = facts.findLast((f) => f.type === type);
    if (fact !== undefined && fact.status !== "True") {
      return { ready: waiting(reason, fact.message), outcome: { kind: "done", recheckAfterMs: RECHECK_MS } };
    }
  }
  const blocked = facts.find((f) => f.type === "TrafficBlocked" && f.status === "True");
  if (blocked !== undefined) {
    return {
      ready: [{ type: "Ready", status: "False", reason: "Suspended", message: blocked.message }],
      outcome: { kind: "done" },
    };
  }
  return {
    ready: [
      { type: "Ready", status: "True", reason: "Ready", message: "The fence and the quota are in place" },
    ],
    outcome: { kind: "done" },
  };
}

/** What keeps a namespace from going, from its own conditions. */
function remaining(namespace: KubeObject): string {
  const conditions = (dig(namespace, "status", "conditions") ?? []) as {
    type: string;
    status: string;
    message?: string;
  }[];
  return conditions
    .filter((c) => c.status === "True" && /Remaining|Failure/.test(c.type))
    .map((c) => `${c.type}: ${c.message ?? ""}`)
    .join("; ");
}
