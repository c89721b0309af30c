/** The data plane's conditions from facts: pure. */
import { limits } from "@moorage/shared/limits";
import type { DataPlaneSpec } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Fact } from "../status.ts";
import type { PolicyState } from "./policy.ts";

/** All agent-owned condition types of a data plane. */
export const dataPlaneTypes: readonly string[] = [
  "Ready",
  "AgentUpToDate",
  "PolicyAccepted",
  "PermissionsSufficient",
  "Paused",
  "DeletionGuarded",
  "ClockSynchronized",
  "Draining",
];

/** What is known of the data plane. */
export interface DataPlaneFacts {
  policy: PolicyState;
  spec: DataPlaneSpec | undefined;
  permissions: Fact | undefined;
  guard: { guarded: boolean; message: string };
  /** Own clock minus the hub's; undefined when no hub was heard. */
  clockOffsetMs: number | undefined;
  version: string;
  mirrorSynced: boolean;
  /** Names of data-plane applications that are not Ready. */
  notReady: readonly string[];
  /** Set while the data plane is to go: how many tenants and applications are left. */
  removing: { left: number } | undefined;
  nowMs: number;
}

/** Who pauses all writes now, and why; `by` is empty when nobody does. */
export function pauses(
  spec: DataPlaneSpec | undefined,
  policy: PolicyState,
  nowMs: number,
): { by: ("Hub" | "Customer")[]; message: string } {
  const by: ("Hub" | "Customer")[] = [];
  const why: string[] = [];
  const hub = spec?.pause;
  if (hub?.paused === true && (hub.until === undefined || timestampMs(hub.until) > nowMs)) {
    by.push("Hub");
    why.push(`by the hub: ${hub.reason || "no reason given"}`);
  }
  const customer = policy.policy.pause;
  if (customer !== undefined && (customer.untilMs === undefined || customer.untilMs > nowMs)) {
    by.push("Customer");
    why.push(`by the customer: ${customer.reason || "no reason given"}`);
  }
  return { by, message: why.length === 0 ? "" : `Paused ${why.join(", ")}` };
}

/** All conditions of the data plane. */
export function dataPlaneConditions(f: DataPlaneFacts): Fact[] {
  const paused = pauses(f.spec, f.policy, f.nowMs);
  const pausedReason =
    paused.by.length === 2
      ? "PausedByBoth"
      : paused.by.length === 1
        ? `PausedBy${String(paused.by[0])}`
        : "NotPaused";
  const left = f.removing?.left ?? 0;
  return [
    ready(f),
    { type: "AgentUpToDate", status: "True", reason: "UpToDate", message: `Version ${f.version}` },
    f.policy.fact,
    f.permissions ?? { type: "PermissionsSufficient", status: "Unknown", reason: "Pending", message: "" },
    {
      type: "Paused",
      status: paused.by.length > 0 ? "True" : "False",
      reason: pausedReason,
      message: paused.message,
    },
    {
      type: "DeletionGuarded",
      status: f.guard.guarded ? "True" : "False",
      reason: f.guard.guarded ? "TooManyRemovals" : "NotGuarded",
      message: f.guard.message,
    },
    clock(f.clockOffsetMs),
    f.removing === undefined
      ? { type: "Draining", status: "False", reason: "NotDraining", message: "" }
      : {
          type: "Draining",
          status: "True",
          reason: left > 0 ? "TenantsRemain" : "Drained",
          message: left > 0 ? `${left} tenants and applications are left` : "",
        },
  ];
}

function ready(f: DataPlaneFacts): Fact {
  const not = (reason: string, message: string): Fact => ({
    type: "Ready",
    status: "False",
    reason,
    message,
  });
  if (!f.mirrorSynced) return not("MirrorStale", "The cluster's records are still being read");
  if (f.policy.fact.status !== "True") return not("PolicyRejected", f.policy.fact.message);
  if (f.permissions === undefined) return not("Progressing", "Rights are being reviewed");
  if (f.permissions.status === "False") return not("PermissionsMissing", f.permissions.message);
  if (f.notReady.length > 0)
    return not(
      "ApplicationsNotReady",
      `Not ready: ${f.notReady.slice(0, 5).join(", ")}${f.notReady.length > 5 ? " …" : ""}`,
    );
  return { type: "Ready", status: "True", reason: "Ready", message: "" };
}

function clock(offsetMs: number | undefined): Fact {
  const type = "ClockSynchronized";
  if (offsetMs === undefined)
    return { type, status: "Unknown", reason: "Pending", message: "No hub was heard yet" };
  if (Math.abs(offsetMs) <= limits.clockSkewMs)
    return { type, status: "True", reason: "Synchronized", message: "" };
  // Whole minutes, so that a clock that wanders writes no status.
  const minutes = Math.round(offsetMs / 60_000);
  return {
    type,
    status: "False",
    reason: "Skewed",
    message: `The clock is about ${minutes === 0 ? "half a" : minutes} min off the hub's`,
  };
}
