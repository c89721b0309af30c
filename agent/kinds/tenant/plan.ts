/**
 * The tenant's baseline: from the wanted tenant to the objects that fence it. Pure.
 *
 * Order of the result is the order of writing: the fence stands before the first pod can. Every list
 * of peers is non-empty by construction, since an empty `from` or `to` of a NetworkPolicy means
 * everybody (Kubernetes API, NetworkPolicyIngressRule).
 */
import type { NetworkPeer, NetworkPort, TenantSpec } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { PodSecurity } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { contains, metadataRanges, overlaps, parseCidr } from "@moorage/shared/cidr";
import type { KubeObject } from "../../kube/object.ts";

/** What the plan needs beside the spec. */
export interface TenantContext {
  /** Id of the tenant, the last part of its name. */
  tenant: string;
  uid: string;
  /** Id of the data plane. */
  dataPlane: string;
  /** `v<major>.<minor>` that Pod Security levels are pinned to. */
  podSecurityVersion: string;
  /** Where the cluster's DNS answers. */
  dns: DnsTarget;
  /** Namespace of another tenant of this data plane, undefined when it is not here. */
  namespaceOf(tenant: string): string | undefined;
}

/** DNS pods by namespace and labels, the ports they answer on, and a node-local address if there is one. */
export interface DnsTarget {
  namespace: string;
  podLabels: Readonly<Record<string, string>>;
  ports: readonly number[];
  nodeLocalAddress?: string;
}

/** The baseline of one tenant. */
export interface TenantPlan {
  namespace: string;
  /** In the order of writing, the Namespace first. */
  objects: readonly KubeObject[];
  /** Peers that could not be granted, one line each; shown in the condition. */
  ungranted: readonly string[];
}

/** Names of the baseline's objects; whatever else stands in the namespace is not ours. */
export const names = {
  quota: "moorage-quota",
  limits: "moorage-limits",
  deny: "moorage-deny",
  within: "moorage-tenant",
  dns: "moorage-dns",
  from: "moorage-from",
  to: "moorage-to",
  applier: "moorage-applier",
  applierRole: "moorage-tenant-applier",
} as const;

/** Label that binds a namespace to one tenant's uid; admission requires it for every baseline write. */
export const tenantUidLabel = "moorage.dev/tenant-uid";
/** Label every object of the baseline carries. */
export const managedBy = { "app.kubernetes.io/managed-by": "moorage" } as const;

/**
 * The namespace of a tenant. Ids have at most 40 characters, so the name is never cut and never
 * depends on anything but the id.
 */
export function namespaceName(tenant: string): string {
  return `tenant-${tenant}`;
}

/** Plans the baseline. The same input gives byte-identical objects. */
export function planTenant(spec: TenantSpec, context: TenantContext): TenantPlan {
  const namespace = namespaceName(context.tenant);
  const ungranted: string[] = [];
  const meta = (name: string) => ({ name, namespace, labels: baselineLabels(context) });
  const policy = (name: string, rules: Record<string, unknown>): KubeObject => ({
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: meta(name),
    // Both types always: an omitted Egress type would leave egress open.
    spec: { podSelector: {}, policyTypes: ["Ingress", "Egress"], ...rules },
  });

  const objects: KubeObject[] = [
    namespaceObject(namespace, spec, context),
    {
      apiVersion: "v1",
      kind: "ResourceQuota",
      metadata: meta(names.quota),
      spec: { hard: { "services.loadbalancers": "0", "services.nodeports": "0", ...spec.quota } },
    },
    {
      apiVersion: "v1",
      kind: "LimitRange",
      metadata: meta(names.limits),
      spec: { limits: [containerLimits(spec)] },
    },
    policy(names.deny, {}),
    policy(names.within, { ingress: [{ from: [own(namespace)] }], egress: [{ to: [own(namespace)] }] }),
  ];
  const network = spec.isolation?.network;
  if (network?.dnsDisabled !== true) objects.push(policy(names.dns, { egress: [dnsRule(context.dns)] }));
  const suspended = spec.suspension?.trafficBlocked === true;
  const from = suspended ? [] : peerRules(network?.allowFrom ?? [], "from", { context, ungranted });
  const to = peerRules(network?.allowTo ?? [], "to", { context, ungranted });
  if (from.length > 0) objects.push(policy(names.from, { ingress: from }));
  if (to.length > 0) objects.push(policy(names.to, { egress: to }));
  objects.push(
    {
      apiVersion: "v1",
      kind: "ServiceAccount",
      metadata: meta("default"),
      automountServiceAccountToken: false,
    },
    {
      apiVersion: "v1",
      kind: "ServiceAccount",
      metadata: meta(names.applier),
      automountServiceAccountToken: false,
    },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: meta(names.applier),
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: names.applierRole },
      subjects: [{ kind: "ServiceAccount", name: names.applier, namespace }],
    },
  );
  return { namespace, objects, ungranted };
}

/** Labels of every object of the baseline. */
export function baselineLabels(
  context: Pick<TenantContext, "tenant" | "uid" | "dataPlane">,
): Record<string, string> {
  return {
    ...managedBy,
    "moorage.dev/data-plane": context.dataPlane,
    "moorage.dev/tenant": context.tenant,
    [tenantUidLabel]: context.uid,
  };
}

/** The Pod Security Standard as its label value. */
export function podSecurityLevel(level: PodSecurity | undefined): "restricted" | "baseline" | "privileged" {
  switch (level) {
    case PodSecurity.BASELINE:
      return "baseline";
    case PodSecurity.PRIVILEGED:
      return "privileged";
    default:
      // A value that this agent does not know gets the strictest fence.
      return "restricted";
  }
}

function namespaceObject(name: string, spec: TenantSpec, context: TenantContext): KubeObject {
  const level = podSecurityLevel(spec.isolation?.podSecurity);
  const security: Record<string, string> = {};
  for (const mode of ["enforce", "warn", "audit"]) {
    security[`pod-security.kubernetes.io/${mode}`] = level;
    security[`pod-security.kubernetes.io/${mode}-version`] = context.podSecurityVersion;
  }
  return {
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name, labels: { ...baselineLabels(context), ...security } },
  };
}

/** Defaults without which a pod that asks for nothing would be refused by the quota. */
const defaultRequest = { cpu: "50m", memory: "64Mi" };
const defaultLimit = { cpu: "500m", memory: "256Mi" };

function containerLimits(spec: TenantSpec): Record<string, unknown> {
  const max = spec.limits?.max ?? {};
  return {
    type: "Container",
    defaultRequest: { ...defaultRequest, ...spec.limits?.defaultRequest },
    default: { ...defaultLimit, ...spec.limits?.defaultLimit },
    ...(Object.keys(max).length > 0 ? { max } : {}),
  };
}

/** A peer by namespace name: kubernetes.io/metadata.name is set by the API server and cannot be forged. */
const own = (namespace: string) => ({
  namespaceSelector: {
    matchExpressions: [{ key: "kubernetes.io/metadata.name", operator: "In", values: [namespace] }],
  },
});

function dnsRule(dns: DnsTarget): Record<string, unknown> {
  const to: Record<string, unknown>[] = [
    { ...own(dns.namespace), podSelector: { matchLabels: { ...dns.podLabels } } },
  ];
  if (dns.nodeLocalAddress !== undefined) to.push({ ipBlock: { cidr: `${dns.nodeLocalAddress}/32` } });
  const ports = dns.ports.flatMap((port) => [
    { protocol: "UDP", port },
    { protocol: "TCP", port },
  ]);
  return { to, ports };
}

/** One rule for each peer that can be granted; the others are named in `ungranted`. */
function peerRules(
  peers: readonly NetworkPeer[],
  side: "from" | "to",
  into: { context: TenantContext; ungranted: string[] },
): Record<string, unknown>[] {
  const rules: Record<string, unknown>[] = [];
  peers.forEach((peer, i) => {
    const where = `isolation.network.allow_${side}[${i}]`;
    const target = peerTarget(peer, into.context);
    if (typeof target === "string") into.ungranted.push(`${where}: ${target}`);
    else rules.push({ [side]: [target], ...ports(peer.ports) });
  });
  return rules;
}

function peerTarget(peer: NetworkPeer, context: TenantContext): Record<string, unknown> | string {
  switch (peer.peer.case) {
    case "tenant": {
      const id = peer.peer.value.replace(/^tenants\//, "");
      const namespace = context.namespaceOf(id);
      return namespace === undefined ? `tenant "${id}" is not in this data plane` : own(namespace);
    }
    case "namespace":
      return peer.peer.value === "" ? "the namespace is empty" : own(peer.peer.value);
    case "cidr":
      return ipBlock(peer.peer.value);
    default:
      return "this agent does not know the kind of peer";
  }
}

/** The range without every metadata address in it; a range inside one is refused. */
export function ipBlock(text: string): Record<string, unknown> | string {
  const cidr = parseCidr(text);
  if (cidr === undefined) return `"${text}" is no CIDR range`;
  const except: string[] = [];
  for (const m of metadataRanges) {
    const range = parseCidr(m);
    if (range === undefined || !overlaps(cidr, range)) continue;
    if (contains(range, cidr)) return `"${text}" is a cloud metadata address`;
    except.push(m);
  }
  return { ipBlock: { cidr: text, ...(except.length > 0 ? { except } : {}) } };
}

function ports(list: readonly NetworkPort[]): { ports?: { protocol: string; port: number }[] } {
  if (list.length === 0) return {};
  return { ports: list.map((p) => ({ protocol: p.protocol === "" ? "TCP" : p.protocol, port: p.port })) };
}
