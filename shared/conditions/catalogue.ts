/**
 * Every condition type of every entity: who owns it, what it states, and the reasons it may carry.
 * The reference page and {@link checkConditions} of check.ts both read this table.
 */

/** The resources that carry conditions. */
export type Entity = "DataPlane" | "Tenant" | "Application" | "Hub";

/** One condition type of one entity. */
export interface ConditionKind {
  type: string;
  /** Who writes it; a hub-owned type is never written by an agent. */
  owner: "hub" | "agent";
  /** One sentence: what True means. */
  meaning: string;
  /** Present only while true, so absence is no gap: `Reconciling` and `Stalled`. */
  transient?: true;
  /** All reasons the condition may carry. */
  reasons: readonly string[];
}

/** Reasons any condition may carry: silence, and a fact not looked at yet. */
export const commonReasons: readonly string[] = ["AgentSilent", "NotExpected", "Pending", "Paused"];

function agent(type: string, meaning: string, reasons: readonly string[]): ConditionKind {
  return { type, owner: "agent", meaning, reasons };
}

function hub(type: string, meaning: string, reasons: readonly string[]): ConditionKind {
  return { type, owner: "hub", meaning, reasons };
}

const reconciling: ConditionKind = {
  ...agent("Reconciling", "The latest generation is being worked on.", [
    "Progressing",
    "AwaitingApproval",
    "AwaitingWindow",
    "AwaitingDependencies",
    "Retrying",
    "Deleting",
  ]),
  transient: true,
};

/** Why an application's generation failed; shared by Ready and Stalled. */
const failures = [
  "NotFound",
  "DigestMismatch",
  "TooLarge",
  "SignatureMissing",
  "KeyUntrusted",
  "RegistryDenied",
  "Malformed",
  "SchemaViolation",
  "Forbidden",
  "Invalid",
  "Immutable",
  "KindNotInstalled",
  "QuotaExceeded",
  "ProgressDeadlineExceeded",
  "HookFailed",
  "FormatUnsupported",
  "AgentTooOld",
] as const;

const stalled: ConditionKind = {
  ...agent("Stalled", "Work stopped and goes on only after a change of spec, cause or operator.", [
    ...failures,
    "Held",
    "DeletionGuarded",
  ]),
  transient: true,
};

const deleting = agent("Deleting", "The resource is being removed; the message lists what remains.", [
  "NotRequested",
  "InProgress",
  "FinalizersRemain",
  "DependentsRemain",
  "Held",
]);

const dataPlane: readonly ConditionKind[] = [
  hub("Connected", "The agent's stream is alive.", [
    "StreamOpen",
    "StreamLost",
    "NeverConnected",
    "NotExpected",
    "Forgotten",
  ]),
  {
    ...hub("IdentityConflict", "Two agents use the identity of this data plane; one of them is refused.", [
      "TwinAgents",
      "ClusterChanged",
    ]),
    transient: true,
  },
  hub("CredentialsValid", "The agent's certificate is valid.", [
    "Valid",
    "Expiring",
    "Expired",
    "Revoked",
    "NotEnrolled",
  ]),
  agent(
    "Ready",
    "The mirror is current, permissions and policy suffice, data-plane applications are ready.",
    ["Ready", "Progressing", "MirrorStale", "PermissionsMissing", "PolicyRejected", "ApplicationsNotReady"],
  ),
  reconciling,
  stalled,
  agent("AgentUpToDate", "The agent runs the wanted version.", [
    "UpToDate",
    "UpdateAvailable",
    "Updating",
    "UpdateFailed",
    "ChartUpgradeRequired",
  ]),
  agent("PolicyAccepted", "The customer's AgentPolicy permits what the hub asks.", [
    "Accepted",
    "Rejected",
    "PolicyMissing",
  ]),
  agent("PermissionsSufficient", "The agent's rights suffice.", ["Sufficient", "Forbidden"]),
  agent("Paused", "Hub or customer paused all writes.", [
    "NotPaused",
    "PausedByHub",
    "PausedByCustomer",
    "PausedByBoth",
  ]),
  agent("DeletionGuarded", "A removal is held until it is authorized.", [
    "NotGuarded",
    "TooManyRemovals",
    "AwaitingAuthorization",
    "UnknownToHub",
  ]),
  agent("ClockSynchronized", "The agent's clock is within 30 s of the hub's.", ["Synchronized", "Skewed"]),
  agent("Draining", "No new tenants; the message lists those left.", [
    "NotDraining",
    "TenantsRemain",
    "Drained",
  ]),
];

const tenant: readonly ConditionKind[] = [
  agent("Ready", "Namespaces, fence, quota and placement hold, and nothing is suspended.", [
    "Ready",
    "Progressing",
    "NamespaceNotReady",
    "IsolationNotEnforced",
    "QuotaNotEnforced",
    "PlacementNotSatisfied",
    "Suspended",
    "Deleting",
    ...failures,
  ]),
  reconciling,
  stalled,
  agent("NamespaceReady", "All namespaces exist and are ours.", [
    "Exists",
    "Missing",
    "Terminating",
    "OwnedByOther",
    "Forbidden",
  ]),
  agent("IsolationEnforced", "The live objects fence the tenant as its spec says.", [
    "Enforced",
    "ForeignAllow",
    "FenceMissing",
    "FenceChanged",
    "PolicyNotEnforced",
    "Unproven",
  ]),
  agent("QuotaEnforced", "Quota and default limits are in place.", [
    "Enforced",
    "NotRequested",
    "Missing",
    "Changed",
  ]),
  agent("PlacementSatisfied", "Pods run where the isolation level says.", [
    "Satisfied",
    "NotRequested",
    "ForeignPods",
    "Misplaced",
    "NoNodes",
  ]),
  agent("TrafficBlocked", "No new connection enters.", ["NotRequested", "Blocked", "Blocking"]),
  agent("ComputeSuspended", "All workloads are at zero.", [
    "NotRequested",
    "Suspended",
    "Suspending",
    "Resuming",
  ]),
  agent("Frozen", "New generations are stored and not applied.", ["NotRequested", "Frozen"]),
  agent("RetentionHold", "A deleted tenant is kept for its grace period.", [
    "NotRequested",
    "InGrace",
    "GraceOver",
  ]),
  deleting,
];

const application: readonly ConditionKind[] = [
  agent("Ready", "This generation is applied and healthy, and not suspended.", [
    "Ready",
    "Progressing",
    "AwaitingApproval",
    "AwaitingWindow",
    "AwaitingDependencies",
    "Suspended",
    "Deleting",
    "Unhealthy",
    ...failures,
  ]),
  reconciling,
  stalled,
  agent("BundleFetched", "The bundle is in the data plane.", [
    "Fetched",
    "NotFound",
    "DigestMismatch",
    "TooLarge",
  ]),
  agent("BundleVerified", "Digest, format and signature were accepted.", [
    "Verified",
    "SignatureMissing",
    "KeyUntrusted",
    "RegistryDenied",
    "Malformed",
    "FormatUnsupported",
  ]),
  agent("ParametersValid", "The parameters fit the bundle's schema.", ["Valid", "SchemaViolation"]),
  agent("DependenciesReady", "All applications it depends on are ready.", [
    "Ready",
    "NoDependencies",
    "AwaitingDependencies",
    "NotFound",
  ]),
  agent("ApprovalGranted", "The change may be made.", [
    "NotRequired",
    "Granted",
    "Awaiting",
    "Expired",
    "DigestChanged",
  ]),
  agent("WindowOpen", "No window forbids the change now.", ["NoWindow", "Open", "AwaitingWindow"]),
  agent("Applied", "The API server answered for every object of this generation.", [
    "Applied",
    "Progressing",
    "Forbidden",
    "Invalid",
    "Immutable",
    "KindNotInstalled",
    "QuotaExceeded",
  ]),
  agent("Healthy", "All objects are healthy.", [
    "Healthy",
    "Progressing",
    "ProgressDeadlineExceeded",
    "HookFailed",
    "Unhealthy",
  ]),
  agent("Drifted", "A live object differs from what was applied.", ["NoDrift", "Drifted", "DetectionOff"]),
  agent("FieldConflict", "A field is managed by another.", ["NoConflict", "Conflict"]),
  agent("PruneHeld", "Removals are held by a guard.", ["NotHeld", "Held"]),
  agent("Suspended", "The tenant's compute is at zero.", ["NotSuspended", "Suspended"]),
  agent("RolledBack", "A former version runs; the message says from, to, why.", [
    "NotRolledBack",
    "RolledBack",
  ]),
  deleting,
];

const theHub: readonly ConditionKind[] = [
  hub("Ready", "The hub serves reads and writes.", ["Serving", "StoreFull"]),
  hub("EpochAccepted", "Nothing is held back: the history is whole, or its loss was accepted.", [
    "HistoryWhole",
    "Accepted",
    "HistoryLost",
  ]),
  hub("StoreWritable", "The newest write found room on the disk.", ["Written", "StoreFull"]),
];

/** The condition types of each entity. */
export const catalogue: Readonly<Record<Entity, readonly ConditionKind[]>> = {
  DataPlane: dataPlane,
  Tenant: tenant,
  Application: application,
  Hub: theHub,
};
