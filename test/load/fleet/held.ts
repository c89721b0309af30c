/** What a protocol-only agent holds, in memory where the real one has custom resources. */
import { create } from "@bufbuild/protobuf";
import type { ResourceStatus, Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ResourceStatusSchema, Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { heldDigest, statusDigest } from "@moorage/shared/sync-digest";

/** One resource; `removing` once its tombstone came. */
export interface HeldEntry {
  name: string;
  uid: string;
  digest: Uint8Array;
  revision: bigint;
  generation: bigint;
  removing: boolean;
  /** Revision of the status that the hub acknowledged; undefined: none. */
  reported: bigint | undefined;
}

/** What {@link HeldSet.apply} made of an update. */
export type Applied = "new" | "changed" | "unchanged" | "stale" | "removed";

/** The set with its two digests, which are computed once for each change. */
export class HeldSet {
  readonly #entries = new Map<string, HeldEntry>();
  #held: Uint8Array | undefined;
  #status: Uint8Array | undefined;

  /** Number of resources held, those under removal included. */
  get size(): number {
    return this.#entries.size;
  }

  /** All entries. */
  entries(): IterableIterator<HeldEntry> {
    return this.#entries.values();
  }

  /** One entry. */
  get(uid: string): HeldEntry | undefined {
    return this.#entries.get(uid);
  }

  /** Takes an update; one whose revision is not above the one held is ignored. `unchanged`: the same content again. */
  apply(update: Update): Applied {
    const { uid, revision } = update;
    const known = this.#entries.get(uid);
    if (known !== undefined && revision <= known.revision) return "stale";
    this.#held = undefined;
    if (update.change.case === "removed") {
      const base = known ?? { digest: new Uint8Array(), generation: 0n, reported: undefined };
      this.#entries.set(uid, { ...base, name: update.name, uid, revision, removing: true });
      return "removed";
    }
    if (update.change.case !== "upsert") return "stale";
    const { digest, generation } = update.change.value;
    const same = known !== undefined && !known.removing && Buffer.from(known.digest).equals(digest);
    this.#entries.set(uid, {
      name: update.name,
      uid,
      // A copy: what was decoded shares the memory of its whole frame.
      digest: new Uint8Array(digest),
      revision,
      generation,
      removing: false,
      reported: known?.reported,
    });
    if (known === undefined) return "new";
    return same ? "unchanged" : "changed";
  }

  /** The hub stored the status of `uid` as of `revision`; a removal that was reported is over. */
  acknowledged(uid: string, revision: bigint): void {
    const entry = this.#entries.get(uid);
    if (entry === undefined) return;
    this.#status = undefined;
    if (entry.removing && entry.revision === revision) this.#entries.delete(uid);
    else entry.reported = revision;
  }

  /** The hub lacks all status. */
  forgetReported(): void {
    this.#status = undefined;
    for (const entry of this.#entries.values()) entry.reported = undefined;
  }

  /** `ClientHello.held_digest`. */
  heldDigest(): Uint8Array {
    return (this.#held ??= heldDigest([...this.#entries.values()].filter((e) => !e.removing)));
  }

  /** `ClientHello.status_digest`: of what the hub acknowledged. */
  statusDigest(): Uint8Array {
    return (this.#status ??= statusDigest(
      [...this.#entries.values()].flatMap((e) => (e.reported === undefined ? [] : [statusOf(e, e.reported)])),
    ));
  }
}

/** A fixed time, so that the status of one revision is always the same bytes. */
const TRANSITION_SECONDS = 1_767_225_600n;

/** The status that is reported for an entry as of a revision: accepted, and Ready. */
export function statusOf(entry: HeldEntry, revision: bigint = entry.revision): ResourceStatus {
  return create(ResourceStatusSchema, {
    name: entry.name,
    uid: entry.uid,
    observedRevision: revision,
    observedGeneration: entry.generation,
    verdict: { state: Verdict_State.ACCEPTED, revision },
    gone: entry.removing,
    conditions: entry.removing
      ? []
      : [
          {
            type: "Ready",
            status: "True",
            reason: "Ready",
            message: "",
            lastTransitionTime: { seconds: TRANSITION_SECONDS, nanos: 0 },
            observedGeneration: entry.generation,
          },
        ],
  });
}
