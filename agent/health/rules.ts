import type { ConditionRule, Health, HealthRule, HealthStatus, UnknownObject } from "./health.ts";
import { conditionsOf, dig, findCondition, health, num, str } from "./read.ts";

/** The verdict of one rule: suspension, then conditions in order, then the phase, then `absent`. */
export function applyRule(object: UnknownObject, rule: HealthRule): Health {
  for (const when of rule.suspendedWhen ?? []) {
    const found = dig(object, ...when.path.split("."));
    if (found !== undefined && JSON.stringify(found) === JSON.stringify(when.value)) {
      return health("Suspended", "Suspended", `${when.path} is ${JSON.stringify(when.value)}`);
    }
  }
  for (const row of rule.conditions ?? []) {
    const verdict = byCondition(object, row);
    if (verdict !== undefined) return verdict;
  }
  if (rule.phase !== undefined) {
    const value = str(dig(object, ...rule.phase.path.split(".")));
    if (value !== "") {
      for (const status of ["Failed", "Suspended", "Current", "InProgress"] as const) {
        if (rule.phase[status]?.includes(value) === true)
          return health(status, value, `${rule.phase.path} is ${value}`);
      }
      return health("InProgress", value, `${rule.phase.path} is ${value}`);
    }
  }
  return health(rule.absent ?? "InProgress", "NotReported", "No condition or phase decides yet");
}

function byCondition(object: UnknownObject, row: ConditionRule): Health | undefined {
  const condition = findCondition(conditionsOf(object, row.path?.split(".")), row.type);
  if (condition === undefined) return undefined;
  const generation = num(dig(object, "metadata", "generation"));
  if (
    condition.observedGeneration !== undefined &&
    generation !== undefined &&
    condition.observedGeneration < generation
  ) {
    return health("InProgress", "ConditionStale", `${row.type} is of an older generation`);
  }
  const reasons = row.reasons ?? {};
  let status: HealthStatus | undefined = Object.hasOwn(reasons, condition.reason)
    ? reasons[condition.reason]
    : undefined;
  if (
    status === undefined &&
    (condition.status === "True" || condition.status === "False" || condition.status === "Unknown")
  ) {
    status = row[condition.status];
  }
  return status === undefined ? undefined : health(status, condition.reason || row.type, condition.message);
}

/** Rows for common kinds. Each was read in the documentation named by `reference`. */
export const DEFAULT_RULES: readonly HealthRule[] = [
  {
    kinds: ["/Node"],
    suspendedWhen: [{ path: "spec.unschedulable", value: true }],
    conditions: [{ type: "Ready", True: "Current", False: "Failed", Unknown: "Unknown" }],
    reference: "https://kubernetes.io/docs/reference/node/node-status/#condition",
  },
  {
    kinds: ["gateway.networking.k8s.io/GatewayClass"],
    conditions: [{ type: "Accepted", True: "Current", False: "Failed", Unknown: "InProgress" }],
    reference: "https://gateway-api.sigs.k8s.io/reference/spec/#gatewayclassconditiontype",
  },
  {
    kinds: ["gateway.networking.k8s.io/Gateway"],
    conditions: [
      { type: "Accepted", False: "Failed", Unknown: "InProgress", reasons: { Pending: "InProgress" } },
      {
        type: "Programmed",
        True: "Current",
        False: "InProgress",
        Unknown: "InProgress",
        reasons: { Invalid: "Failed" },
      },
    ],
    reference: "https://gateway-api.sigs.k8s.io/reference/spec/#gatewayconditiontype",
  },
  {
    kinds: ["cert-manager.io/Certificate"],
    conditions: [
      { type: "Ready", True: "Current" },
      { type: "Issuing", True: "InProgress", False: "Failed", reasons: { Failed: "Failed" } },
      { type: "Ready", False: "InProgress", Unknown: "InProgress" },
    ],
    reference: "https://cert-manager.io/docs/reference/api-docs/#cert-manager.io/v1.CertificateConditionType",
  },
  {
    kinds: ["cert-manager.io/Issuer", "cert-manager.io/ClusterIssuer"],
    conditions: [{ type: "Ready", True: "Current", False: "InProgress", Unknown: "InProgress" }],
    reference: "https://cert-manager.io/docs/reference/api-docs/#cert-manager.io/v1.IssuerConditionType",
  },
];
