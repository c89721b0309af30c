/**
 * What the live objects say of a tenant's fence, in contrast to what was written. Pure.
 *
 * NetworkPolicies are a union: any policy in the namespace that is not ours can only widen the fence,
 * so one that allows anything makes `IsolationEnforced` false and is named.
 */
import type { TenantSpec } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { PodSecurity } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import type { KubeObject } from "../../kube/object.ts";
import { asMap, dig } from "../../kube/object.ts";
import { names } from "./plan.ts";

/** One finding: a condition's status, reason and message. */
export interface Finding {
  status: "True" | "False";
  reason: string;
  message: string;
}

/** What is live in a tenant's namespace. */
export interface LiveFence {
  namespace: KubeObject | undefined;
  networkPolicies: readonly KubeObject[];
  quota: KubeObject | undefined;
}

/** Names that are printed of a longer list. */
const NAMED = 5;

/** `IsolationEnforced`: our policies are there as planned, and no foreign one widens them. */
export function verifyIsolation(planned: readonly KubeObject[], live: LiveFence, spec: TenantSpec): Finding {
  const wanted = planned.filter((o) => o.kind === "NetworkPolicy");
  const byName = new Map(live.networkPolicies.map((p) => [p.metadata.name, p]));
  const missing = wanted.filter((w) => !byName.has(w.metadata.name)).map((w) => w.metadata.name);
  if (missing.length > 0) {
    return no("FenceMissing", `NetworkPolicy ${list(missing)} is missing; it is written again at once`);
  }
  const changed = wanted
    .filter((w) => !equalSpec(dig(w, "spec"), dig(byName.get(w.metadata.name), "spec")))
    .map((w) => w.metadata.name);
  if (changed.length > 0) {
    return no(
      "FenceChanged",
      `NetworkPolicy ${list(changed)} differs from the tenant's fence; it is repaired at once`,
    );
  }
  const ours = new Set(wanted.map((w) => w.metadata.name));
  const foreign = live.networkPolicies.filter((p) => !ours.has(p.metadata.name) && allowsAnything(p));
  if (foreign.length > 0) {
    const who = list(foreign.map((p) => p.metadata.name));
    return no(
      "ForeignAllow",
      `NetworkPolicy ${who} is not ours and widens the fence; remove it, or grant the peer in the tenant's spec`,
    );
  }
  const level = dig(live.namespace, "metadata", "labels", "pod-security.kubernetes.io/enforce");
  const wantedLevel = dig(planned[0], "metadata", "labels", "pod-security.kubernetes.io/enforce");
  if (level !== wantedLevel) {
    return no(
      "FenceChanged",
      `Pod security level is "${String(level)}" instead of "${String(wantedLevel)}"; it is repaired at once`,
    );
  }
  const privileged = spec.isolation?.podSecurity === PodSecurity.PRIVILEGED;
  return {
    status: "True",
    reason: "Enforced",
    message: privileged
      ? "The fence is in place, but privileged pods can leave it through the node's network"
      : "The fence is in place; that the network plugin enforces NetworkPolicy is not proven",
  };
}

/** `QuotaEnforced`: the live quota holds every wanted bound and the quota controller has counted it. */
export function verifyQuota(planned: readonly KubeObject[], live: LiveFence): Finding {
  const wanted =
    asMap(
      dig(
        planned.find((o) => o.metadata.name === names.quota),
        "spec",
        "hard",
      ),
    ) ?? {};
  if (live.quota === undefined)
    return no("Missing", `ResourceQuota ${names.quota} is missing; it is written again at once`);
  const hard = asMap(dig(live.quota, "spec", "hard")) ?? {};
  const wrong = Object.keys(wanted).filter((k) => hard[k] === undefined);
  if (wrong.length > 0)
    return no("Changed", `ResourceQuota ${names.quota} lacks ${list(wrong)}; it is repaired at once`);
  const counted = asMap(dig(live.quota, "status", "hard"));
  if (counted === undefined)
    return no("Pending", "The cluster's quota controller has not counted the quota yet");
  const used = asMap(dig(live.quota, "status", "used")) ?? {};
  const full = Object.keys(wanted).filter(
    (k) => wanted[k] !== "0" && used[k] !== undefined && used[k] === counted[k],
  );
  return {
    status: "True",
    reason: "Enforced",
    message: full.length > 0 ? `The quota of ${list(full)} is used up` : "The quota is in place",
  };
}

/** `NamespaceReady`: the namespace is ours and active. */
export function verifyNamespace(
  live: KubeObject | undefined,
  wanted: { name: string; uidLabel: string; uid: string },
): Finding {
  if (live === undefined) return no("Missing", `Namespace "${wanted.name}" does not exist yet`);
  if (live.metadata.deletionTimestamp !== undefined) {
    return no(
      "Terminating",
      `Namespace "${wanted.name}" is being deleted; the tenant waits until it is gone`,
    );
  }
  if (live.metadata.labels?.[wanted.uidLabel] !== wanted.uid) {
    return no(
      "OwnedByOther",
      `Namespace "${wanted.name}" exists and is not this tenant's; to hand it over, label it ${wanted.uidLabel}=${wanted.uid}`,
    );
  }
  return { status: "True", reason: "Exists", message: `Namespace "${wanted.name}" is in place` };
}

/** True when a policy lets anything in or out: it has a rule of either direction, or omits a type it should close. */
export function allowsAnything(policy: KubeObject): boolean {
  const ingress = dig(policy, "spec", "ingress");
  const egress = dig(policy, "spec", "egress");
  return (Array.isArray(ingress) && ingress.length > 0) || (Array.isArray(egress) && egress.length > 0);
}

/** Structural equality; the API server omits empty maps and lists that we write, so those equal absence. */
function equalSpec(a: unknown, b: unknown): boolean {
  return JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
}

function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  const map = asMap(value);
  if (map === undefined) return value;
  return Object.fromEntries(
    Object.keys(map)
      .sort()
      .filter((k) => !(Array.isArray(map[k]) && (map[k] as unknown[]).length === 0))
      .map((k) => [k, canonical(map[k])]),
  );
}

const no = (reason: string, message: string): Finding => ({ status: "False", reason, message });

function list(items: readonly string[]): string {
  const shown = items
    .slice(0, NAMED)
    .map((i) => `"${i}"`)
    .join(", ");
  return items.length > NAMED ? `${shown} and ${items.length - NAMED} more` : shown;
}
