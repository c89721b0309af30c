/** The faults of simulated worlds by name, and how often each was injected. */

/** Every kind of fault and what it does. A run over all seeds fails when one of them never happened. */
export const faultKinds = {
  "connection-cut": "a connection breaks for both ends at once",
  "half-open":
    "a connection breaks for the agent alone; what was under way arrives late, after the next hello",
  "path-down": "connects are refused for a while",
  "path-held": "messages of both directions wait for a while",
  "reader-stalled": "an agent reads nothing for a while",
  "hour-partition": "all agents are cut off for an hour",
  "agent-killed": "an agent's process ends",
  "agent-killed-in-call": "an agent's process ends before or after a call of its API server took effect",
  "agent-killed-at-message": "an agent's process ends when it sends or gets a message",
  "agent-paused": "an agent's process stands still beyond its Lease, then goes on",
  "twin-agent": "a second process of the same install runs beside the first",
  "cloned-install": "an agent of another cluster has the same identity",
  "hub-killed": "the hub's process ends",
  "hub-killed-in-read": "the hub's process ends at a read of its store",
  "hub-killed-in-write": "the hub's process ends before or after a commit",
  "hub-empty": "the hub comes back with an empty store",
  "hub-half-loaded": "the hub comes back with some of its resources missing",
  "hub-restored": "the hub comes back from a backup that is older than its agents",
  "history-lost": "the hub comes back without its last commits",
  "view-lagging": "the hub comes back with a view that is behind its agents",
  "epoch-accepted": "an operator accepts the epoch of a hub that lost history",
  "api-unavailable": "a call is answered 503 and had no effect",
  "api-answer-lost": "a call took effect and is answered 503",
  "api-conflict": "a write is answered 409",
  "api-throttled": "a call is answered 429",
  "api-expired": "the API server's history is compacted and its watches end",
  "api-down": "the API server answers nothing for minutes",
  "api-slow": "the API server takes seconds",
  "object-changed": "somebody changes a managed object",
  "object-deleted": "somebody deletes a managed object",
  "record-deleted": "somebody deletes a custom resource that the hub's orders stand in",
  "application-deleted": "an application is deleted",
  "tenant-deleted": "a tenant is deleted with its applications",
  "data-plane-deleted": "a data plane is deleted",
  "name-reused": "a deleted resource's name is given to a new one",
  "orphan-deleted": "an application is forgotten and its objects stay",
  "removals-guarded": "more removals are ordered than may pass",
  "removals-authorized": "a guarded set of removals is authorized",
  "removal-withdrawn": "a removal is taken back",
  "item-rejected": "a batch holds an item that the agent refuses",
  "policy-observe": "the customer lets the agent observe only",
  "hub-clock-off": "the hub's clock is 5 min off",
  "agent-clock-off": "an agent's clock is 5 min off",
  "hub-clock-decade": "the hub's clock jumps by 10 years",
  "agent-clock-decade": "an agent's clock jumps by 10 years",
  "certificate-expired": "every certificate runs out while the hub is away for more than a day",
} as const;

/** A kind of fault. */
export type FaultKind = keyof typeof faultKinds;

/** Injected faults by kind. */
export type FaultHits = Partial<Record<FaultKind, number>>;

/** Adds `more` to `all`. */
export function addHits(all: FaultHits, more: FaultHits): void {
  for (const [kind, hits] of Object.entries(more) as [FaultKind, number][])
    all[kind] = (all[kind] ?? 0) + hits;
}

/** Kinds that were never injected. */
export function missingKinds(hits: FaultHits): FaultKind[] {
  return (Object.keys(faultKinds) as FaultKind[]).filter((kind) => (hits[kind] ?? 0) === 0);
}

/** One line a kind: hits, name, meaning. */
export function faultTable(hits: FaultHits): string {
  return (Object.entries(faultKinds) as [FaultKind, string][])
    .map(([kind, what]) => `${String(hits[kind] ?? 0).padStart(7)}  ${kind.padEnd(24)} ${what}`)
    .join("\n");
}
