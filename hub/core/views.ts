/**
 * From what is stored to what a caller sees: a pure function of record, status and link at one
 * revision. Get, List, Watch and WaitFor all answer through here, so that they cannot disagree; what
 * basic-bytes.ts copies instead is held to it by a property.
 */
import { create } from "@bufbuild/protobuf";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { Condition } from "@moorage/proto/moorage/common/v1/condition_pb";
import { ConditionSchema } from "@moorage/proto/moorage/common/v1/condition_pb";
import { AppliedBundleSchema, ApplicationStatusSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { Connectivity, DataPlaneStatusSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantStatusSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { ResourceStatus } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type {
  StoredCredentials,
  StoredLink,
  StoredStatus,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { truncateMessage } from "@moorage/shared/conditions/conditions";
import type { Resource } from "./resources.ts";

/** What is stored beside a record, as of one revision; `revision` is the newest change of any of them. */
export interface Stored {
  record: Resource;
  /** Revision of the record's own last write: the one that agents judge. */
  recordRevision: number;
  status: StoredStatus | undefined;
  /** Length of the status as it is stored. */
  statusBytes?: number;
  /** Of the data plane that the resource lives in. */
  link: StoredLink | undefined;
  /** Of a data plane. */
  credentials?: StoredCredentials | undefined;
  /** Tenants placed in a data plane. */
  tenants?: number;
  revision: number;
}

/** The resource as the API shows it; the stored one stays as it is. */
export function view(stored: Stored, how: View): Resource {
  const { spec } = stored.record;
  // All that viewInto writes to: the rest may be shared, for nobody changes a view's parts.
  const own = { ...stored.record, ...(spec === undefined ? {} : { spec: { ...spec } }) } as Resource;
  return viewInto(own, stored, how);
}

/** {@link view} into `out`, an own copy of the record, which may be the record itself: lists spare the copy. */
export function viewInto(out: Resource, stored: Stored, how: View): Resource {
  const status = stored.status?.status;
  const silent = stored.link?.state === LinkState.SILENT;
  let conditions = agentConditions(stored, silent);
  if (out.$typeName === "moorage.hub.v1.DataPlane")
    conditions = [...hubConditions(stored), ...withUnknown(stored, conditions)];
  if (how === View.BASIC) conditions = conditions.filter((c) => basicConditions.has(c.type));
  const observedGeneration = status?.observedGeneration ?? 0n;
  out.revision = BigInt(stored.revision);
  out.reconciling = isReconciling(stored.record, conditions);
  const receivedTime = stored.status?.receivedTime;
  switch (out.$typeName) {
    case "moorage.hub.v1.DataPlane":
      out.status = create(DataPlaneStatusSchema, {
        observedGeneration,
        conditions,
        ...(receivedTime === undefined ? {} : { receivedTime }),
        ...(stored.link?.lastSeenTime === undefined ? {} : { lastSeenTime: stored.link.lastSeenTime }),
        ...(stored.link?.initializedTime === undefined
          ? {}
          : { initializedTime: stored.link.initializedTime }),
        agentVersion: stored.link?.agentVersion ?? "",
        kubernetesVersion: stored.link?.kubernetesVersion ?? "",
        clusterUid: stored.link?.clusterUid ?? "",
        tenants: stored.tenants ?? 0,
      });
      break;
    case "moorage.hub.v1.Tenant":
      out.status = create(TenantStatusSchema, {
        observedGeneration,
        conditions,
        ...(receivedTime === undefined ? {} : { receivedTime }),
        namespaces: status?.namespaces ?? [],
      });
      if (how === View.BASIC) out.annotations = {};
      break;
    case "moorage.hub.v1.Application":
      out.status = create(ApplicationStatusSchema, {
        observedGeneration,
        conditions,
        ...(receivedTime === undefined ? {} : { receivedTime }),
        ...applied(status),
      });
      if (how === View.BASIC) {
        out.annotations = {};
        if (out.spec !== undefined) delete out.spec.parameters;
      }
      break;
  }
  return out;
}

/** Condition types of view BASIC. */
export const basicConditions: ReadonlySet<string> = new Set([
  "Ready",
  "Reconciling",
  "Stalled",
  "Connected",
  "IsolationEnforced",
  "TrafficBlocked",
]);

function applied(status: ResourceStatus | undefined) {
  if (status === undefined || status.appliedDigest === "") return {};
  return {
    applied: create(AppliedBundleSchema, {
      generation: status.appliedGeneration,
      version: status.appliedVersion,
      digest: status.appliedDigest,
    }),
  };
}

function isReconciling(record: Resource, conditions: readonly Condition[]): boolean {
  if (record.deleteTime !== undefined) return true;
  const ready = conditions.find((c) => c.type === "Ready");
  return (
    ready === undefined ||
    ready.observedGeneration < record.generation ||
    conditions.some((c) => c.type === "Reconciling" && c.status === "True")
  );
}

/**
 * The agent's conditions. Ready is always there; a rejected revision lowers it; silence turns all of
 * them Unknown and keeps the last known value in the message.
 */
function agentConditions(stored: Stored, silent: boolean): Condition[] {
  const status = stored.status?.status;
  const { record } = stored;
  // What the hub knows better than the agent, an agent does not say.
  const own = record.$typeName === "moorage.hub.v1.DataPlane" ? hubOwned : none;
  let list = (status?.conditions ?? []).filter((c) => !own.has(c.type));
  // The hub's own stands as long as the agent has judged no revision as new.
  const verdict = stored.status?.withheld ?? status?.verdict;
  // A verdict on an older revision says nothing of this one, which may be the repair.
  if (verdict?.state === Verdict_State.REJECTED && Number(verdict.revision) >= stored.recordRevision) {
    list = list.filter((c) => c.type !== "Ready" && c.type !== "Stalled" && c.type !== "Reconciling");
    const why = {
      status: "False",
      reason: camelCase.test(verdict.reason) ? verdict.reason : "Invalid",
      message: verdict.message,
      observedGeneration: record.generation,
    };
    const when = stored.status?.receivedTime;
    list.unshift(
      condition({ type: "Ready", ...why }, when),
      condition({ type: "Stalled", ...why, status: "True" }, when),
    );
  }
  const ready = list.find((c) => c.type === "Ready");
  if (ready === undefined) {
    const message =
      record.deleteTime === undefined
        ? "The agent has not reported yet"
        : "Waits for the agent to confirm the removal";
    list.unshift(
      condition(
        { type: "Ready", status: "Unknown", reason: "Pending", message, observedGeneration: 0n },
        record.createTime,
      ),
    );
  } else if (ready.status === "True" && ready.observedGeneration < record.generation) {
    // An older generation's Ready says nothing of the wanted one.
    const message = `Generation ${record.generation} is not reported yet; generation ${ready.observedGeneration} was ready`;
    list = list.map((c) =>
      c === ready
        ? condition({ ...pick(ready), status: "False", reason: "Progressing", message }, record.updateTime)
        : c,
    );
  }
  if (!silent) return list;
  const since = stored.link?.transitionTime;
  return list
    .filter((c) => c.type !== "Reconciling" && c.type !== "Stalled")
    .map((c) =>
      condition(
        {
          ...pick(c),
          status: "Unknown",
          reason: "AgentSilent",
          message: `The agent is silent; last known: ${c.status} (${c.reason})${c.message === "" ? "" : `: ${c.message}`}`,
        },
        since,
      ),
    );
}

const hubOwned: ReadonlySet<string> = new Set(["Connected", "CredentialsValid"]);
const none: ReadonlySet<string> = new Set();
const camelCase = /^[A-Z][A-Za-z0-9]*$/;

/** What only the hub knows of a guarded data plane: the agent holds resources that no record speaks of. */
function withUnknown(stored: Stored, conditions: Condition[]): Condition[] {
  const { link } = stored;
  const guarded = conditions.find((c) => c.type === "DeletionGuarded");
  if (link === undefined || link.unknownResources === 0 || guarded?.status === "True") return conditions;
  const c = condition(
    {
      type: "DeletionGuarded",
      status: "True",
      reason: "UnknownToHub",
      message: `The agent keeps ${link.unknownResources} resources that this hub does not know: list them with "moorage hub epoch divergences"`,
      observedGeneration: guarded?.observedGeneration ?? stored.record.generation,
    },
    link.unknownTime,
  );
  return [...conditions.filter((other) => other !== guarded), c];
}

/** Connected, CredentialsValid and a conflict of the identity, from the stored link and the registered keys. */
function hubConditions(stored: Stored): Condition[] {
  const { link, credentials, record } = stored;
  const observedGeneration = record.generation;
  const unexpected =
    record.$typeName === "moorage.hub.v1.DataPlane" && record.spec?.connectivity === Connectivity.NONE;
  const at = link?.transitionTime ?? record.createTime;
  const connected = (status: string, reason: string, message: string) =>
    condition({ type: "Connected", status, reason, message, observedGeneration }, at);
  const out: Condition[] = [];
  if (unexpected) out.push(connected("Unknown", "NotExpected", "spec.connectivity is NONE"));
  else if (link === undefined || link.state === LinkState.UNSPECIFIED) {
    out.push(
      connected(
        "False",
        "NeverConnected",
        "No agent has connected yet: apply the install file in the cluster",
      ),
    );
  } else if (link.state === LinkState.CONNECTED) out.push(connected("True", "StreamOpen", ""));
  else
    out.push(
      connected(
        "False",
        "StreamLost",
        `No sign of life from the agent (${link.reason}): workloads run on; look at the agent's log and its network`,
      ),
    );
  if (link !== undefined && link.conflict !== "") {
    const message = `${link.conflictMessage}; end the other agent, or revoke and enrol anew`;
    const facts = {
      type: "IdentityConflict",
      status: "True",
      reason: link.conflict,
      message,
      observedGeneration,
    };
    out.push(condition(facts, link.conflictTime));
  }
  const valid = (status: string, reason: string, message: string, when: Timestamp | undefined) =>
    condition(
      { type: "CredentialsValid", status, reason, message, observedGeneration },
      when ?? record.createTime,
    );
  if (credentials?.revokedTime !== undefined)
    out.push(
      valid(
        "False",
        "Revoked",
        `Revoked: ${credentials.revokeReason || "no reason given"}; a new join token admits the agent again`,
        credentials.revokedTime,
      ),
    );
  else if (credentials === undefined || credentials.keys.length === 0)
    out.push(valid("False", "NotEnrolled", "No agent has enrolled yet", undefined));
  else out.push(valid("True", "Valid", "", credentials.keys[0]?.registeredTime));
  return out;
}

const pick = (c: Condition) => ({ type: c.type, observedGeneration: c.observedGeneration });

function condition(
  c: { type: string; status: string; reason: string; message: string; observedGeneration: bigint },
  lastTransitionTime: Timestamp | undefined,
): Condition {
  return create(ConditionSchema, {
    ...c,
    message: truncateMessage(c.message.replace(/\s*[\r\n]+\s*/g, " ")),
    ...(lastTransitionTime === undefined ? {} : { lastTransitionTime }),
  });
}

/** The conditions of a viewed resource. */
export function conditionsOf(resource: Resource): readonly Condition[] {
  return resource.status?.conditions ?? [];
}
