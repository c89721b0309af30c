/**
 * The install file: everything that a customer applies to admit an agent, as raw objects in the order
 * of their dependence. Pure.
 *
 * What the agent may do beyond its roles is bounded by an admission policy that it cannot change: a
 * stolen agent could otherwise bind itself in any namespace through the one role it may bind.
 */
import { crds } from "./crds.ts";
import { agentPermissions, installNames, tenantApplierRules } from "./permissions.ts";
import type { Permission } from "./permissions.ts";

/** What differs between installs. */
export interface InstallOptions {
  /** Default `moorage-system`. */
  namespace?: string;
  /** Id of the data plane. */
  dataPlane: string;
  dataPlaneUid: string;
  /** Shown once by the hub; good for one agent. */
  joinToken: string;
  /** host:port of the hub's listeners. */
  enrolmentAddress: string;
  agentAddress: string;
  trustBundlePem: string;
  trustDomain: string;
  image: string;
  /** What the agent may do, stated again with each apply. Absent: `Auto` at first, and then what the customer says. */
  mode?: "Observe" | "Auto";
}

/** A raw object. */
export interface InstallObject {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string; labels?: Record<string, string> };
  [field: string]: unknown;
}

/**
 * A small young generation costs a few collections more and saves 20 MB of resident memory (130 to 107 MB
 * with two applications, kubeconfig authentication included); the bound on the old one is what 300
 * applications leave room in.
 */
export const agentNodeOptions = "--max-semi-space-size=2 --max-old-space-size=96";

const labels = { "app.kubernetes.io/name": "moorage-agent", "app.kubernetes.io/part-of": "moorage" };
const tenantLabel = "moorage.dev/tenant-uid";

/** The install file's objects. */
export function installManifest(options: InstallOptions): InstallObject[] {
  const namespace = options.namespace ?? "moorage-system";
  const meta = (name: string) => ({ name, namespace, labels });
  return [
    // Hand-applied and small; no pod of the agent needs more than the restricted profile.
    {
      apiVersion: "v1",
      kind: "Namespace",
      metadata: {
        name: namespace,
        labels: { ...labels, "pod-security.kubernetes.io/enforce": "restricted" },
      },
    },
    ...(crds as unknown as InstallObject[]),
    { apiVersion: "v1", kind: "ServiceAccount", metadata: meta(installNames.agent) },
    {
      apiVersion: "v1",
      kind: "ServiceAccount",
      metadata: meta(installNames.platformApplier),
      automountServiceAccountToken: false,
    },
    ...roles(namespace),
    ...fence(namespace),
    {
      apiVersion: "moorage.dev/v1alpha1",
      kind: "AgentPolicy",
      metadata: meta(installNames.policy),
      // Without a mode the definition's default counts, and applying the file again leaves the customer's.
      spec: options.mode === undefined ? {} : { mode: options.mode },
    },
    // Without data, so that applying the file again never wipes the key that the agent keeps in it.
    { apiVersion: "v1", kind: "Secret", metadata: meta(installNames.identitySecret), type: "Opaque" },
    {
      apiVersion: "v1",
      kind: "Secret",
      metadata: meta(installNames.joinTokenSecret),
      type: "Opaque",
      stringData: { token: options.joinToken },
    },
    {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: meta(installNames.configMap),
      data: {
        "data-plane": options.dataPlane,
        "data-plane-uid": options.dataPlaneUid,
        "trust-domain": options.trustDomain,
        "agent-address": options.agentAddress,
        "enrolment-address": options.enrolmentAddress,
        "ca.pem": options.trustBundlePem,
      },
    },
    deployment(namespace, options),
  ];
}

function rule(p: Permission): Record<string, unknown> {
  return {
    apiGroups: [p.group],
    resources: p.resources,
    verbs: p.verbs,
    ...(p.resourceNames === undefined ? {} : { resourceNames: p.resourceNames }),
  };
}

const rbac = "rbac.authorization.k8s.io";

function roles(namespace: string): InstallObject[] {
  const agent = { kind: "ServiceAccount", name: installNames.agent, namespace };
  const platform = { kind: "ServiceAccount", name: installNames.platformApplier, namespace };
  const apiVersion = `${rbac}/v1`;
  return [
    {
      apiVersion,
      kind: "ClusterRole",
      metadata: { name: installNames.tenantApplierRole, labels },
      rules: tenantApplierRules,
    },
    {
      apiVersion,
      kind: "ClusterRole",
      metadata: { name: installNames.agent, labels },
      rules: agentPermissions.filter((p) => p.scope === "all").map(rule),
    },
    {
      apiVersion,
      kind: "ClusterRoleBinding",
      metadata: { name: installNames.agent, labels },
      roleRef: { apiGroup: rbac, kind: "ClusterRole", name: installNames.agent },
      subjects: [agent],
    },
    {
      apiVersion,
      kind: "Role",
      metadata: { name: installNames.agent, namespace, labels },
      rules: agentPermissions.filter((p) => p.scope === "agent").map(rule),
    },
    {
      apiVersion,
      kind: "RoleBinding",
      metadata: { name: installNames.agent, namespace, labels },
      roleRef: { apiGroup: rbac, kind: "Role", name: installNames.agent },
      subjects: [agent],
    },
    // Applications of the whole data plane: workloads in this namespace. The customer widens it as needed.
    {
      apiVersion,
      kind: "Role",
      metadata: { name: installNames.platformApplier, namespace, labels },
      rules: platformRules,
    },
    {
      apiVersion,
      kind: "RoleBinding",
      metadata: { name: installNames.platformApplier, namespace, labels },
      roleRef: { apiGroup: rbac, kind: "Role", name: installNames.platformApplier },
      subjects: [platform],
    },
  ];
}

/** As a tenant's, but for Secrets: the agent's own key is in this namespace. */
const platformRules = tenantApplierRules.map((r) => ({
  ...r,
  resources: (r.resources as readonly string[]).filter((x) => x !== "secrets"),
}));

/** Keeps the agent's user inside its tenants' namespaces (entities-and-customers 7.3, trap f). */
function fence(namespace: string): InstallObject[] {
  const user = `system:serviceaccount:${namespace}:${installNames.agent}`;
  const isAgent = { name: "is-the-agent", expression: `request.userInfo.username == '${user}'` };
  const policy = (name: string, matchConstraints: unknown, validations: unknown): InstallObject => ({
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: "ValidatingAdmissionPolicy",
    metadata: { name, labels },
    spec: { failurePolicy: "Fail", matchConstraints, matchConditions: [isAgent], validations },
  });
  const binding = (name: string): InstallObject => ({
    apiVersion: "admissionregistration.k8s.io/v1",
    kind: "ValidatingAdmissionPolicyBinding",
    metadata: { name, labels },
    spec: { policyName: name, validationActions: ["Deny"] },
  });
  const inside = `${installNames.fence}-members`;
  const namespaces = `${installNames.fence}-namespaces`;
  const operations = ["CREATE", "UPDATE", "DELETE"];
  const has = (object: string) =>
    `has(${object}.metadata.labels) && '${tenantLabel}' in ${object}.metadata.labels`;
  return [
    policy(
      inside,
      {
        resourceRules: [
          {
            apiGroups: [""],
            apiVersions: ["*"],
            operations,
            resources: ["resourcequotas", "limitranges", "serviceaccounts"],
          },
          {
            apiGroups: ["networking.k8s.io"],
            apiVersions: ["*"],
            operations,
            resources: ["networkpolicies"],
          },
          { apiGroups: [rbac], apiVersions: ["*"], operations, resources: ["roles", "rolebindings"] },
        ],
      },
      [
        {
          expression: has("namespaceObject"),
          message: `the agent writes these kinds only in namespaces that carry the label ${tenantLabel}`,
        },
      ],
    ),
    binding(inside),
    policy(
      namespaces,
      { resourceRules: [{ apiGroups: [""], apiVersions: ["*"], operations, resources: ["namespaces"] }] },
      [
        {
          expression: `request.operation == 'CREATE' || (${has("oldObject")})`,
          message: `the agent changes and deletes only namespaces that carry the label ${tenantLabel}`,
        },
        {
          expression: `request.operation != 'CREATE' || (${has("object")})`,
          message: `the agent creates only namespaces that carry the label ${tenantLabel}`,
        },
      ],
    ),
    binding(namespaces),
  ];
}

function deployment(namespace: string, options: InstallOptions): InstallObject {
  const file = (key: string) => ({ configMapKeyRef: { name: installNames.configMap, key } });
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: installNames.agent, namespace, labels },
    spec: {
      replicas: 1,
      selector: { matchLabels: { "app.kubernetes.io/name": "moorage-agent" } },
      // Only who holds the Lease is ready, so the old one has to go first: a surge would wait for ever. Not
      // Recreate: the new one starts while the old one gives the Lease back, and an install of before, whose
      // rollingUpdate the API server filled in, takes this by every kind of apply.
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: 0, maxUnavailable: 1 } },
      template: {
        metadata: { labels },
        spec: {
          serviceAccountName: installNames.agent,
          // Kubernetes would otherwise inject MOORAGE_..._SERVICE_HOST variables.
          enableServiceLinks: false,
          securityContext: {
            runAsNonRoot: true,
            runAsUser: 65_532,
            seccompProfile: { type: "RuntimeDefault" },
          },
          containers: [
            {
              name: "agent",
              image: options.image,
              args: [
                "--hub-ca-file=/etc/moorage/ca.pem",
                `--join-token-secret=${installNames.joinTokenSecret}`,
                `--namespace=${namespace}`,
              ],
              env: [
                { name: "NODE_OPTIONS", value: agentNodeOptions },
                { name: "MOORAGE_HUB_ADDRESS", valueFrom: file("agent-address") },
                { name: "MOORAGE_ENROLMENT_ADDRESS", valueFrom: file("enrolment-address") },
                { name: "MOORAGE_POD_UID", valueFrom: { fieldRef: { fieldPath: "metadata.uid" } } },
              ],
              ports: [{ name: "ops", containerPort: 8081 }],
              readinessProbe: { httpGet: { path: "/readyz", port: "ops" } },
              livenessProbe: { httpGet: { path: "/healthz", port: "ops" } },
              resources: { requests: { cpu: "20m", memory: "96Mi" }, limits: { memory: "256Mi" } },
              securityContext: {
                allowPrivilegeEscalation: false,
                readOnlyRootFilesystem: true,
                capabilities: { drop: ["ALL"] },
              },
              volumeMounts: [{ name: "hub", mountPath: "/etc/moorage", readOnly: true }],
            },
          ],
          volumes: [
            {
              name: "hub",
              configMap: { name: installNames.configMap, items: [{ key: "ca.pem", path: "ca.pem" }] },
            },
          ],
        },
      },
    },
  };
}
