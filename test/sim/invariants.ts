/** What must hold in every simulated world at every moment; at-rest.ts has what must hold at rest. */
import { windowMs } from "@moorage/agent/kinds/removal-guard";
import type { MemoryCall } from "@moorage/agent/kube/memory-cluster";
import type { Change } from "@moorage/agent/kube/memory-store";
import type { KubeObject } from "@moorage/agent/kube/object";
import { dig } from "@moorage/agent/kube/object";
import type { SyncRequest } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { NAMESPACE } from "./agent-process.ts";
import type { History, KnownRow } from "./history.ts";
import type { Plane } from "./plane.ts";

/** The invariants; they stand in messages. */
export const invariantNames = {
  converges: "at rest every agent holds exactly the hub's set, and its cluster is what that renders",
  "no-deletion": "nothing goes without a tombstone or a newer revision",
  "no-rollback": "no older revision replaces a newer one that the agent's cursor covers",
  durable: "what was acknowledged outlives the hub",
  "lost-hub": "a hub that lost history removes and rolls back nothing before its epoch is accepted",
  guard: "no more than max(5, 20 %) go within 10 minutes unless the exact set was authorized",
  "single-writer": "no process writes after another took its Lease",
  cursor: "no cursor is stored before the resources that it covers",
  ack: "nothing is acknowledged before it is stored",
  status: "at rest the hub shows what the agents computed",
  orphan: "what was forgotten stays",
  identity: "a clone gets nothing from the hub",
  flow: "a slow reader gets the newest state of each resource, not every state",
  resume: "coming back costs what changed",
  policy: "an agent that may only observe changes nothing",
} as const;

/** An invariant. */
export type Invariant = keyof typeof invariantNames;

/** A broken invariant. */
export interface Violation {
  invariant: Invariant;
  message: string;
}

export const RECORD_API = "moorage.dev/v1alpha1";
export const RECORD_KINDS = ["DataPlane", "Tenant", "Application"];
export const APPLICATION_LABEL = "moorage.dev/application";
const TENANT_LABEL = "moorage.dev/tenant-uid";
const MUTATING = ["create", "update", "apply", "patch", "delete"];

/** What is known of the records in one cluster. */
interface Seen {
  /** By uid: newest revision of any order, and the digest held. */
  held: Map<string, { newest: number; digest: string; removing: boolean }>;
  /** By uid: revisions that its record had, the newest last. */
  had: Map<string, number[]>;
  /** Revision of the stored cursor: what it covers, the agent knows to be stored. */
  covered: number;
  /** uids whose record somebody deleted by hand and that was not written anew yet. */
  missing: Set<string>;
  /** First destructive call for a resource, by uid, since the agent started; `root`: what it counts as. */
  removed: Map<string, { atMs: number; root: string }>;
  /** Most resources held at once. */
  most: number;
}

/** Watches clusters and the hub's history. */
export class Invariants {
  readonly violations: Violation[] = [];
  readonly #history: History;
  readonly #nowMs: () => number;
  readonly #seen = new Map<Plane, Seen>();
  /** Names of applications that were ever ordered to render fewer objects. */
  readonly shrunk = new Set<string>();
  /** uids whose removal an operator authorized. */
  readonly authorized = new Set<string>();
  /** Set while a hub that lost history waits for its acceptance: nothing may be deleted. */
  hubLost = false;
  deletions = 0;

  constructor(deps: { history: History; nowMs: () => number }) {
    this.#history = deps.history;
    this.#nowMs = deps.nowMs;
  }

  /** Notes a violation. */
  fail(invariant: Invariant, message: string): void {
    this.#history.event(`VIOLATION ${invariant} ${message}`);
    this.violations.push({ invariant, message });
  }

  /** Follows a cluster: its deletions and its records. */
  follow(plane: Plane): void {
    const { store } = plane.cluster;
    const seen: Seen = {
      held: new Map(),
      had: new Map(),
      covered: 0,
      missing: new Set(),
      removed: new Map(),
      most: 0,
    };
    this.#seen.set(plane, seen);
    const told = store.onChange;
    store.onChange = (change) => {
      told?.(change);
      const object = change.after ?? change.before;
      if (object === undefined) return;
      const gone = change.after === undefined ? "-" : "+";
      this.#history.event(
        `${plane.name} ${gone}${change.kindKey} ${object.metadata.name} ${change.resourceVersion}`,
      );
      if (isRecord(object)) this.#record(plane, seen, change);
      else if (object.kind === "SyncState" && change.after !== undefined) this.#position(plane, change.after);
    };
  }

  /** Somebody deletes a record by hand: that is no order, and the agent writes it anew. */
  expectMissing(plane: Plane, uid: string): void {
    this.#seen.get(plane)?.missing.add(uid);
  }

  /** What the cluster holds of a resource. */
  held(plane: Plane, uid: string): { newest: number; digest: string; removing: boolean } | undefined {
    return this.#seen.get(plane)?.held.get(uid);
  }

  /** The record of `uid` was deleted by hand and never written anew: nobody knows of its objects any more. */
  forgotten(plane: Plane, uid: string): boolean {
    return this.#seen.get(plane)?.missing.has(uid) === true;
  }

  /** The same in any cluster. */
  forgottenAnywhere(uid: string): boolean {
    return [...this.#seen.values()].some((s) => s.missing.has(uid));
  }

  /** The agent's memory of the guard's window is gone. */
  restarted(plane: Plane): void {
    this.#seen.get(plane)?.removed.clear();
  }

  #record(plane: Plane, seen: Seen, change: Change): void {
    const record = change.after ?? (change.before as KubeObject);
    const uid = String(dig(record, "spec", "uid"));
    if (change.after === undefined) {
      seen.held.delete(uid);
      // A removal that was carried out ends the uid's history: a restored hub orders it anew.
      if (!seen.missing.has(uid)) seen.had.delete(uid);
      return;
    }
    const revision = Number(dig(record, "spec", "revision"));
    const newest = Math.max(
      revision,
      Number(dig(record, "spec", "removal", "revision") ?? 0),
      Number(dig(record, "spec", "rejected", "revision") ?? 0),
    );
    seen.missing.delete(uid);
    // What is written anew replaces nothing: it only must not forget the newest order.
    const now = seen.held.has(uid) ? revision : newest;
    const digest = String(dig(record, "spec", "digest"));
    seen.held.set(uid, { newest, digest, removing: dig(record, "spec", "removal") !== undefined });
    seen.most = Math.max(seen.most, seen.held.size);
    const had = seen.had.get(uid) ?? [];
    // A write whose answer was lost may be undone: the agent does not know of it, and the hub sends it again.
    const before = had.findLast((rev) => rev <= seen.covered) ?? 0;
    if (now < before)
      this.fail("no-rollback", `${plane.name}: "${record.metadata.name}" went from ${before} to ${revision}`);
    seen.had.set(uid, [...had.filter((rev) => rev < revision), revision]);
  }

  #position(plane: Plane, state: KubeObject): void {
    const epoch = dig(state, "spec", "epoch");
    if (typeof epoch !== "string") return;
    const cursor = {
      epochHex: Buffer.from(epoch, "base64").toString("hex"),
      revision: Number(dig(state, "spec", "revision")),
    };
    const seen = this.#seen.get(plane);
    if (seen !== undefined) seen.covered = cursor.revision;
    for (const what of this.#uncovered(plane, cursor))
      this.fail("cursor", `${plane.name}: the cursor ${cursor.revision} is stored, but ${what}`);
  }

  /** A message as the agent hands it over. */
  sent(plane: Plane, { message }: SyncRequest): void {
    if (message.case !== "ack" || message.value.cursor === undefined) return;
    const { epoch, revision } = message.value.cursor;
    const cursor = { epochHex: Buffer.from(epoch).toString("hex"), revision: Number(revision) };
    for (const what of this.#uncovered(plane, cursor))
      this.fail("ack", `${plane.name}: ${cursor.revision} is acknowledged, but ${what}`);
  }

  /** What a cursor covers and the cluster does not hold. */
  *#uncovered(plane: Plane, cursor: { epochHex: string; revision: number }): Generator<string> {
    const seen = this.#seen.get(plane);
    if (seen === undefined || this.hubLost || cursor.epochHex !== this.#history.epochHex) return;
    for (const [uid, row] of this.#history.rows.get(plane.uid) ?? [])
      if (row.rev <= cursor.revision && !covers(seen, uid, row))
        yield `"${row.name}" of ${row.rev} is not (held: ${seen.held.get(uid)?.newest ?? "none"})`;
  }

  /** Judges a call of an agent right before it takes effect. */
  judge(plane: Plane, call: MemoryCall): void {
    if (call.dryRun || !MUTATING.includes(call.verb)) return;
    this.#judgeWriter(plane, call);
    if (plane.observesSinceMs !== undefined && this.#nowMs() - plane.observesSinceMs > 5_000)
      if (["ConfigMap", "Namespace"].includes(call.ref.kind))
        this.fail("policy", `${plane.name}: ${call.verb} of ${call.ref.kind} "${call.ref.name ?? ""}"`);
    if (call.verb === "delete" && call.ref.name !== undefined) this.#judgeDelete(plane, call);
  }

  #judgeWriter(plane: Plane, call: MemoryCall): void {
    if (call.ref.kind === "Lease" || call.ref.kind.endsWith("Review")) return;
    const lease = find(plane, {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      name: "moorage-agent",
      namespace: NAMESPACE,
    });
    const holder = String(dig(lease, "spec", "holderIdentity") ?? "");
    const by = holder.slice(0, holder.lastIndexOf("-"));
    if (holder === "" || by === call.process) return;
    this.fail(
      "single-writer",
      `${call.process}: ${call.verb} of ${call.ref.kind} "${call.ref.name ?? ""}" while ${holder} leads`,
    );
  }

  #judgeDelete(plane: Plane, call: MemoryCall): void {
    const live = find(plane, call.ref);
    const owner = live === undefined ? undefined : ownerOf(live);
    if (live === undefined || owner === undefined) return;
    const what = `${plane.name}: ${call.ref.kind} "${call.ref.name ?? ""}"`;
    this.deletions++;
    if (this.hubLost) this.fail("lost-hub", `${what} was deleted`);
    if (this.#history.tombstones.has(owner)) {
      if (!isRecord(live)) this.#judgeGuard(plane, owner);
      return;
    }
    if (isRecord(live) || live.kind === "Namespace") {
      this.fail("no-deletion", `${what} was deleted without a tombstone`);
      return;
    }
    if (live.kind !== "ConfigMap") return;
    const application = this.#history.names.get(owner) ?? "";
    if (live.metadata.name.endsWith("-two") && this.shrunk.has(application)) return;
    this.fail(
      "no-deletion",
      `${what} of "${application}" was deleted without a tombstone or a newer revision`,
    );
  }

  /** Counts the resources whose removal began; what goes with its tenant counts as the tenant. */
  #judgeGuard(plane: Plane, owner: string): void {
    const seen = this.#seen.get(plane);
    if (seen === undefined || seen.removed.has(owner)) return;
    const now = this.#nowMs();
    for (const [uid, { atMs }] of seen.removed) if (now - atMs >= windowMs) seen.removed.delete(uid);
    seen.removed.set(owner, { atMs: now, root: this.#rootOf(plane, owner) });
    const roots = new Set([...seen.removed.values()].map((r) => r.root));
    for (const uid of this.authorized) roots.delete(uid);
    const allowed = Math.max(5, Math.floor((seen.most + seen.removed.size) * 0.2));
    if (roots.size > allowed)
      this.fail("guard", `${plane.name}: ${roots.size} removals began within 10 minutes, ${allowed} may`);
  }

  #rootOf(plane: Plane, uid: string): string {
    const [tenants, id, inside] = (this.#history.names.get(uid) ?? "").split("/");
    if (inside === undefined) return uid;
    for (const [other, row] of this.#history.rows.get(plane.uid) ?? [])
      if (row.del && row.name === `${tenants ?? ""}/${id ?? ""}`) return other;
    return uid;
  }
}

function covers(seen: Seen, uid: string, row: KnownRow): boolean {
  const held = seen.held.get(uid);
  if (row.del) return held === undefined || held.newest >= row.rev || held.removing;
  if (held === undefined) return seen.missing.has(uid);
  // A compare leaves out what is held already, at whatever revision.
  return held.newest >= row.rev || held.digest === row.digest;
}

/** A custom resource that carries an order of the hub. */
export function isRecord(object: KubeObject): boolean {
  return (
    object.apiVersion === RECORD_API &&
    RECORD_KINDS.includes(object.kind) &&
    dig(object, "spec", "origin") === "hub"
  );
}

/** The hub's uid of the resource that an object belongs to. */
function ownerOf(object: KubeObject): string | undefined {
  if (isRecord(object)) return String(dig(object, "spec", "uid"));
  const labels = object.metadata.labels ?? {};
  if (object.kind === "Namespace") return labels[TENANT_LABEL];
  return labels[APPLICATION_LABEL];
}

function find(plane: Plane, ref: MemoryCall["ref"]): KubeObject | undefined {
  const { name } = ref;
  if (name === undefined) return undefined;
  return plane.cluster.store.peek({ ...ref, name });
}
