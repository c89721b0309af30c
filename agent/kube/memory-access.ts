import type { AppliedAs } from "./client.ts";
import type { MemoryStore } from "./memory-store.ts";
import { asMap, dig, type KubeObject } from "./object.ts";

/** A simple reading of RBAC: enough that a ServiceAccount without a binding gets its 403. */

const RBAC = "rbac.authorization.k8s.io/v1";

/** Roles that every cluster has; what they allow is coarser here than on a real server. */
const DEFAULT_ROLES: Readonly<Record<string, readonly unknown[]>> = {
  "cluster-admin": [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }],
  admin: [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }],
  edit: [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }],
  view: [{ apiGroups: ["*"], resources: ["*"], verbs: ["get", "list", "watch"] }],
};

/** What is asked. `namespace` is `""` for cluster scope. */
export interface AccessRequest {
  verb: string;
  group: string;
  plural: string;
  namespace: string;
}

/** Whether `identity` may do `request`. The agent may do everything. */
export function allowed(store: MemoryStore, identity: AppliedAs, request: AccessRequest): boolean {
  if (identity.kind === "Agent") return true;
  const names = (binding: KubeObject): boolean =>
    list(binding["subjects"]).some((s) => {
      const at = dig(s, "namespace") ?? binding.metadata.namespace;
      if (dig(s, "kind") === "ServiceAccount")
        return dig(s, "name") === identity.name && at === identity.namespace;
      return dig(s, "kind") === "Group" && dig(s, "name") === `system:serviceaccounts:${identity.namespace}`;
    });
  const bindings = [
    ...store.list({ apiVersion: RBAC, kind: "ClusterRoleBinding" }),
    ...store
      .list({ apiVersion: RBAC, kind: "RoleBinding" })
      .filter((b) => request.namespace !== "" && b.metadata.namespace === request.namespace),
  ];
  return bindings
    .filter(names)
    .some((binding) => rulesOf(store, binding).some((rule) => covers(rule, request)));
}

function rulesOf(store: MemoryStore, binding: KubeObject): readonly unknown[] {
  const kind = String(dig(binding, "roleRef", "kind"));
  const name = String(dig(binding, "roleRef", "name"));
  const role = store
    .list({ apiVersion: RBAC, kind: kind === "Role" ? "Role" : "ClusterRole" })
    .find(
      (r) =>
        r.metadata.name === name && (kind !== "Role" || r.metadata.namespace === binding.metadata.namespace),
    );
  if (role !== undefined) return list(role["rules"]);
  return kind === "ClusterRole" && Object.hasOwn(DEFAULT_ROLES, name) ? (DEFAULT_ROLES[name] ?? []) : [];
}

function covers(rule: unknown, request: AccessRequest): boolean {
  const has = (field: string, value: string) =>
    list(asMap(rule)?.[field]).some((v) => v === "*" || v === value);
  return has("apiGroups", request.group) && has("resources", request.plural) && has("verbs", request.verb);
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
