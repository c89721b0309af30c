/** Whether the agent's rights suffice, by SelfSubjectAccessReview of a table, feature by feature. */
import type { AgentSession } from "../../kube/client.ts";
import { KubeError } from "../../kube/errors.ts";
import type { KubeObject } from "../../kube/object.ts";
import { dig } from "../../kube/object.ts";
import type { Fact } from "../status.ts";

/** One right that a feature needs; `home`: in the agent's own namespace alone. */
interface Right {
  feature: string;
  group: string;
  resource: string;
  verbs: readonly string[];
  home?: true;
  /** For one object of this name alone. */
  name?: string;
}

const manage = ["get", "list", "watch", "create", "patch", "delete"];

/** Everything that the agent does under its own name. */
export const rights: readonly Right[] = [
  ...["dataplanes", "tenants", "applications", "inventories", "bundlechunks", "syncstates"].map(
    (resource): Right => ({
      feature: "own records",
      group: "moorage.dev",
      resource,
      verbs: ["list", "create", "update", "delete"],
      home: true,
    }),
  ),
  {
    feature: "policy",
    group: "moorage.dev",
    resource: "agentpolicies",
    verbs: ["list", "watch"],
    home: true,
  },
  {
    feature: "lease",
    group: "coordination.k8s.io",
    resource: "leases",
    verbs: ["get", "create", "update"],
    home: true,
  },
  { feature: "tenants", group: "", resource: "namespaces", verbs: manage },
  { feature: "isolation", group: "networking.k8s.io", resource: "networkpolicies", verbs: manage },
  { feature: "quota", group: "", resource: "resourcequotas", verbs: manage },
  { feature: "quota", group: "", resource: "limitranges", verbs: manage },
  { feature: "appliers", group: "", resource: "serviceaccounts", verbs: manage },
  {
    feature: "appliers",
    group: "",
    resource: "serviceaccounts",
    verbs: ["impersonate"],
    name: "moorage-applier",
  },
  { feature: "appliers", group: "rbac.authorization.k8s.io", resource: "rolebindings", verbs: manage },
];

/** The PermissionsSufficient fact. A server that answers no reviews leaves it Unknown. */
export async function reviewAccess(
  session: AgentSession,
  namespace: string,
  signal: AbortSignal,
): Promise<Fact> {
  const missing: string[] = [];
  let answered = 0;
  for (const right of rights) {
    for (const verb of right.verbs) {
      const allowed = await review(session, { right, verb, namespace }, signal);
      if (allowed === undefined) continue;
      answered++;
      if (!allowed)
        missing.push(
          `${right.feature}: ${verb} ${right.group === "" ? right.resource : `${right.resource}.${right.group}`}`,
        );
    }
  }
  const type = "PermissionsSufficient";
  if (answered === 0)
    return {
      type,
      status: "Unknown",
      reason: "Pending",
      message: "The API server answers no access reviews",
    };
  if (missing.length === 0) return { type, status: "True", reason: "Sufficient", message: "" };
  return { type, status: "False", reason: "Forbidden", message: `Missing rights: ${missing.join("; ")}` };
}

async function review(
  session: AgentSession,
  of: { right: Right; verb: string; namespace: string },
  signal: AbortSignal,
): Promise<boolean | undefined> {
  const { right, verb, namespace } = of;
  const object = {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SelfSubjectAccessReview",
    // The server refuses a review whose metadata holds anything.
    metadata: {},
    spec: {
      resourceAttributes: {
        group: right.group,
        resource: right.resource,
        verb,
        ...(right.name === undefined ? {} : { name: right.name }),
        ...(right.home === true ? { namespace } : {}),
      },
    },
  } as unknown as KubeObject;
  try {
    const allowed = dig((await session.create(object, { signal })).object, "status", "allowed");
    return typeof allowed === "boolean" ? allowed : undefined;
  } catch (thrown) {
    if (thrown instanceof KubeError && thrown.status !== 0 && thrown.status < 500) return undefined;
    throw thrown;
  }
}
