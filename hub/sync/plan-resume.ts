/** The decision how a stream begins: pure, from what the agent claims and what the hub holds. */

/** A position: epoch in hex, revision. */
export interface Position {
  epochHex: string;
  revision: number;
}

/** What the decision rests on. */
export interface ResumeFacts {
  /** The agent's last durable position; undefined when it holds nothing. */
  cursor: Position | undefined;
  /** The hub's head. */
  head: Position;
  /** Revision below which tombstones of this data plane were dropped. */
  floor: number;
  /**
   * The agent's digest of all it holds against the hub's rows: `absent` when it sent none,
   * `unknown` when rows changed since the cursor, so that the rows cannot tell what it should be.
   */
  held: "absent" | "equal" | "differs" | "unknown";
  /** A resource withheld from the agent before can be delivered now: its row may lie below the cursor. */
  newlyDeliverable: boolean;
  /** The hub asked for a compare when it ended the last stream. */
  compareRequested: boolean;
}

/** `after`: rows above this revision are read; `reason` is for the log. */
export interface ResumePlan {
  mode: "DELTA" | "COMPARE" | "SNAPSHOT";
  after: number;
  reason: string;
  /** The agent's cursor names a revision that this epoch does not have: history was lost. */
  historyLost: boolean;
  /** The agent's cursor is of another epoch: revisions of what it holds may lie above the rows'. */
  foreignEpoch: boolean;
}

/**
 * DELTA when the cursor is of this epoch, within `[floor, head]` and nothing speaks against it;
 * SNAPSHOT without a cursor; COMPARE in every other case. COMPARE is never wrong, only dearer.
 */
export function planResume(facts: ResumeFacts): ResumePlan {
  const { cursor, head } = facts;
  const compare = (reason: string, more: Partial<ResumePlan> = {}): ResumePlan => ({
    mode: "COMPARE",
    after: 0,
    reason,
    historyLost: false,
    foreignEpoch: false,
    ...more,
  });
  if (cursor === undefined) {
    // An agent without a cursor may still hold resources: its SyncState can be lost alone.
    if (facts.held === "differs" || facts.held === "unknown")
      return compare("no cursor, but resources are held");
    return { mode: "SNAPSHOT", after: 0, reason: "no cursor", historyLost: false, foreignEpoch: false };
  }
  if (cursor.epochHex !== head.epochHex) return compare("another epoch", { foreignEpoch: true });
  if (cursor.revision > head.revision)
    return compare("cursor above head", { historyLost: true, foreignEpoch: true });
  if (cursor.revision < facts.floor) return compare("cursor below the tombstone floor");
  if (facts.compareRequested) return compare("asked for by the hub");
  if (facts.newlyDeliverable) return compare("capabilities changed");
  if (facts.held === "differs") return compare("held digest differs");
  if (facts.held === "unknown") return compare("held digest cannot be judged");
  return { mode: "DELTA", after: cursor.revision, reason: "cursor", historyLost: false, foreignEpoch: false };
}

/** What the agent said it holds of one resource. */
export interface HeldResource {
  name: string;
  digestHex: string;
  revision: number;
}

/** A row as the compare sees it; `digestHex` is empty for a tombstone. */
export interface ComparedRow {
  rev: number;
  del: boolean;
  digestHex: string;
}

/**
 * Whether a compare sends a row. Tombstones always go, since they are explicit orders and only the
 * agent's confirmation ends them. Under a foreign epoch nothing at or below the revision held is
 * sent: what the agent holds may be newer than a restored hub's rows.
 */
export function compareSends(
  row: ComparedRow,
  held: HeldResource | undefined,
  foreignEpoch: boolean,
): boolean {
  if (held === undefined) return true;
  if (foreignEpoch && row.rev <= held.revision) return false;
  return row.del || row.digestHex !== held.digestHex;
}
