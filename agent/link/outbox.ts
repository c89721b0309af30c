/**
 * What status the hub lacks: the newest of each resource, never a queue. One report is under way at a
 * time; settled outcomes go at once and take along what waits, all others keep a distance.
 */
import { create, equals, toBinary } from "@bufbuild/protobuf";
import { ResourceStatusSchema, StatusReportSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { ResourceStatus, StatusReport } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import { statusDigest } from "@moorage/shared/sync-digest";
import type { StatusChange, SyncStore } from "../mirror/store.ts";

/** Room for the report's own fields. */
const OVERHEAD_BYTES = 256;

/** See the module's text. Lives as long as the process; streams come and go. */
export class Outbox {
  readonly #store: SyncStore;
  /** What the hub is believed to hold. */
  #reported: Map<string, ResourceStatus> | undefined;
  /** uid to whether it is settled. */
  readonly #dirty = new Map<string, boolean>();
  #inFlight: { seq: bigint; statuses: readonly ResourceStatus[] } | undefined;
  #seq = 0n;
  #full = false;

  constructor(store: SyncStore) {
    this.#store = store;
  }

  /** Notes a change. */
  changed(change: StatusChange): void {
    this.#dirty.set(change.uid, change.settled || this.#dirty.get(change.uid) === true);
  }

  /** A stream begins: the digest for its hello. */
  open(): Uint8Array {
    this.#seq = 0n;
    this.#full = false;
    // What was under way may have been stored or not: it is sent again.
    for (const s of this.#inFlight?.statuses ?? []) this.#forget(s.uid);
    this.#inFlight = undefined;
    const all = this.#store.statuses();
    // A new process believes that the hub has what the cluster has; the digest tells whether that is so.
    this.#reported ??= new Map(all.filter((s) => !s.gone).map((s) => [s.uid, s]));
    for (const s of all) if (s.gone) this.#dirty.set(s.uid, true);
    return statusDigest(this.#reported.values());
  }

  /** The hub lacks everything. */
  reportAll(): void {
    this.#full = true;
    this.#reported = new Map();
    for (const s of this.#store.statuses()) this.#dirty.set(s.uid, true);
  }

  /** The hub lacks these; empty means everything. */
  request(names: readonly string[]): void {
    if (names.length === 0) return this.reportAll();
    const wanted = new Set(names);
    for (const s of this.#store.statuses()) if (wanted.has(s.name)) this.#forget(s.uid);
  }

  /** `now` when something settled waits, `later` when only intermediate states do. */
  get due(): "no" | "later" | "now" {
    if (this.#inFlight !== undefined || (this.#dirty.size === 0 && !this.#full)) return "no";
    return this.#full || [...this.#dirty.values()].includes(true) ? "now" : "later";
  }

  /** The next report; undefined when nothing differs from what the hub has. */
  take(): StatusReport | undefined {
    if (this.#inFlight !== undefined) return undefined;
    const reported = this.#reported ?? new Map<string, ResourceStatus>();
    const statuses: ResourceStatus[] = [];
    let bytes = OVERHEAD_BYTES;
    for (const uid of [...this.#dirty.keys()].sort(
      (a, b) => Number(this.#dirty.get(b)) - Number(this.#dirty.get(a)),
    )) {
      const status = this.#store.status(uid);
      const known = reported.get(uid);
      if (status === undefined || (known !== undefined && equals(ResourceStatusSchema, known, status))) {
        this.#dirty.delete(uid);
        continue;
      }
      const size = toBinary(ResourceStatusSchema, status).length + 8;
      if (statuses.length > 0 && bytes + size > limits.statusReportBytes) break;
      bytes += size;
      statuses.push(status);
      this.#dirty.delete(uid);
    }
    const full = this.#full;
    if (statuses.length === 0 && !full) return undefined;
    const last = full && this.#dirty.size === 0;
    const after = new Map([...reported, ...statuses.map((s) => [s.uid, s] as const)]);
    this.#inFlight = { seq: ++this.#seq, statuses };
    failpoint("agent/before-status");
    if (last) this.#full = false;
    return create(StatusReportSchema, {
      seq: this.#seq,
      statuses,
      full,
      digest: last ? statusDigest(after.values()) : new Uint8Array(),
    });
  }

  /** The hub stored the report `seq`. */
  acknowledge(seq: bigint): void {
    if (this.#inFlight === undefined || this.#inFlight.seq !== seq) return;
    const { statuses } = this.#inFlight;
    this.#inFlight = undefined;
    for (const s of statuses) {
      if (s.gone) this.#reported?.delete(s.uid);
      else this.#reported?.set(s.uid, s);
      this.#store.acknowledged(s);
    }
  }

  #forget(uid: string): void {
    this.#reported?.delete(uid);
    this.#dirty.set(uid, true);
  }
}
