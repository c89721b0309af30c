/**
 * Everything the agent may do in a customer's cluster, one row a right, each with its reason. The
 * install file's roles, the reference page and the reviews of a customer all derive from this table;
 * what is not in it, the agent cannot do.
 */

/** One right. */
export interface Permission {
  /** `agent`: a Role in the agent's own namespace; `all`: a ClusterRole. */
  scope: "agent" | "all";
  group: string;
  resources: readonly string[];
  verbs: readonly string[];
  /** Restricts to objects of these names. */
  resourceNames?: readonly string[];
  /** What it is for, one sentence. */
  why: string;
}

const read = ["get", "list", "watch"] as const;
const write = ["create", "update", "patch", "delete"] as const;

/** Names that the install file gives. */
export const installNames = {
  agent: "moorage-agent",
  platformApplier: "moorage-platform-applier",
  tenantApplier: "moorage-applier",
  tenantApplierRole: "moorage-tenant-applier",
  identitySecret: "moorage-agent-identity",
  joinTokenSecret: "moorage-join-token",
  configMap: "moorage-agent",
  policy: "default",
  fence: "moorage-agent-fence",
} as const;

/** The agent's rights. */
export const agentPermissions: readonly Permission[] = [
  {
    scope: "agent",
    group: "moorage.dev",
    resources: ["dataplanes", "tenants", "applications", "bundlechunks", "inventories", "syncstates"].flatMap(
      (r) => [r, `${r}/status`],
    ),
    verbs: [...read, ...write],
    why: "Keep desired state, inventories and the cursor as resources of its own namespace.",
  },
  {
    scope: "agent",
    group: "moorage.dev",
    resources: ["agentpolicies"],
    verbs: read,
    why: "Read the customer's policy, which it cannot write.",
  },
  {
    scope: "agent",
    group: "coordination.k8s.io",
    resources: ["leases"],
    verbs: ["get", "create", "update", "patch"],
    why: "Keep a second agent from writing.",
  },
  {
    scope: "agent",
    group: "",
    resources: ["secrets"],
    verbs: ["get", "update", "patch"],
    resourceNames: [installNames.identitySecret],
    why: "Keep its own key and certificate.",
  },
  {
    scope: "agent",
    group: "",
    resources: ["secrets"],
    verbs: ["get"],
    resourceNames: [installNames.joinTokenSecret],
    why: "Read the join token once.",
  },
  {
    scope: "agent",
    group: "",
    resources: ["configmaps"],
    verbs: ["get"],
    resourceNames: [installNames.configMap],
    why: "Read the hub's addresses.",
  },
  {
    scope: "agent",
    group: "",
    resources: ["serviceaccounts"],
    verbs: ["impersonate"],
    resourceNames: [installNames.platformApplier],
    why: "Apply applications of the whole data plane as the account that the customer bound.",
  },
  {
    scope: "all",
    group: "",
    resources: ["namespaces"],
    verbs: [...read, ...write],
    why: "Make and remove tenants' namespaces; admission refuses any other.",
  },
  {
    scope: "all",
    group: "",
    resources: ["resourcequotas", "limitranges", "serviceaccounts"],
    verbs: [...read, ...write],
    why: "Bound what a tenant may hold, and give it its own identity; only in tenants' namespaces.",
  },
  {
    scope: "all",
    group: "networking.k8s.io",
    resources: ["networkpolicies"],
    verbs: [...read, ...write],
    why: "Fence tenants, and notice a widened fence.",
  },
  {
    scope: "all",
    group: "rbac.authorization.k8s.io",
    resources: ["rolebindings"],
    verbs: [...read, ...write],
    why: "Bind a tenant's account to the customer's role; only in tenants' namespaces.",
  },
  {
    scope: "all",
    group: "rbac.authorization.k8s.io",
    resources: ["clusterroles"],
    verbs: ["bind"],
    resourceNames: [installNames.tenantApplierRole],
    why: "Bind this one role without holding its rights.",
  },
  {
    scope: "all",
    group: "",
    resources: ["serviceaccounts"],
    verbs: ["impersonate"],
    resourceNames: [installNames.tenantApplier],
    why: "Write a tenant's objects as the tenant, so that the API server enforces its bounds.",
  },
  {
    scope: "all",
    group: "",
    resources: ["pods", "services", "configmaps", "persistentvolumeclaims", "nodes"],
    verbs: read,
    why: "See drift and health of what was applied. Secrets are not among them.",
  },
  {
    scope: "all",
    group: "apps",
    resources: ["deployments", "replicasets", "statefulsets", "daemonsets"],
    verbs: read,
    why: "See drift and health of workloads.",
  },
  {
    scope: "all",
    group: "batch",
    resources: ["jobs", "cronjobs"],
    verbs: read,
    why: "See drift and health of jobs.",
  },
  {
    scope: "all",
    group: "networking.k8s.io",
    resources: ["ingresses"],
    verbs: read,
    why: "See drift and health of ingresses.",
  },
  {
    scope: "all",
    group: "autoscaling",
    resources: ["horizontalpodautoscalers"],
    verbs: read,
    why: "See drift and health of autoscalers.",
  },
  {
    scope: "all",
    group: "policy",
    resources: ["poddisruptionbudgets"],
    verbs: read,
    why: "See drift of disruption budgets.",
  },
  {
    scope: "all",
    group: "discovery.k8s.io",
    resources: ["endpointslices"],
    verbs: read,
    why: "Find the ports of the cluster's DNS.",
  },
  {
    scope: "all",
    group: "apiextensions.k8s.io",
    resources: ["customresourcedefinitions"],
    verbs: read,
    why: "Notice kinds that come and go.",
  },
];

/** What a tenant's own account may do, in its namespace: the customer owns this role and may narrow it. */
export const tenantApplierRules = [
  {
    apiGroups: [""],
    resources: ["configmaps", "secrets", "services", "persistentvolumeclaims", "pods"],
    verbs: [...read, ...write],
  },
  {
    apiGroups: ["apps"],
    resources: ["deployments", "statefulsets", "daemonsets", "replicasets"],
    verbs: [...read, ...write],
  },
  { apiGroups: ["batch"], resources: ["jobs", "cronjobs"], verbs: [...read, ...write] },
  { apiGroups: ["networking.k8s.io"], resources: ["ingresses"], verbs: [...read, ...write] },
  { apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: [...read, ...write] },
  { apiGroups: ["policy"], resources: ["poddisruptionbudgets"], verbs: [...read, ...write] },
] as const;

/** The kinds that {@link tenantApplierRules} grant, each at a version that it was served at. */
export const tenantApplierKinds = [
  { apiVersion: "v1", kind: "ConfigMap" },
  { apiVersion: "v1", kind: "Secret" },
  { apiVersion: "v1", kind: "Service" },
  { apiVersion: "v1", kind: "PersistentVolumeClaim" },
  { apiVersion: "v1", kind: "Pod" },
  { apiVersion: "apps/v1", kind: "Deployment" },
  { apiVersion: "apps/v1", kind: "StatefulSet" },
  { apiVersion: "apps/v1", kind: "DaemonSet" },
  { apiVersion: "apps/v1", kind: "ReplicaSet" },
  { apiVersion: "batch/v1", kind: "Job" },
  { apiVersion: "batch/v1", kind: "CronJob" },
  { apiVersion: "networking.k8s.io/v1", kind: "Ingress" },
  { apiVersion: "autoscaling/v2", kind: "HorizontalPodAutoscaler" },
  { apiVersion: "policy/v1", kind: "PodDisruptionBudget" },
] as const;
