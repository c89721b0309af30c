import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { Judgement } from "./survey.ts";

/**
 * The decisions of a stream's beginning: how it resumes, and what becomes of each row in a compare.
 * Pure, from what the agent claims and what the hub holds.
 */

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
  /** The agent's digest of all it holds against the hub's rows. */
  held: Judgement;
  /** The hub may have lost the end of its history, and what the agent holds may prove it. */
  unclean: boolean;
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
  /** The agent's cursor names a revision that this epoch does not have. */
  aboveHead: boolean;
  /** The agent's cursor is of another history: revisions of what it holds may lie above the rows'. */
  foreign: boolean;
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
    aboveHead: false,
    foreign: false,
    ...more,
  });
  if (cursor === undefined) {
    // An agent without a cursor may still hold resources: its SyncState can be lost alone.
    if (facts.held === "differs" || facts.held === "unknown")
      return compare("no cursor, but resources are held", { foreign: true });
    return { mode: "SNAPSHOT", after: 0, reason: "no cursor", aboveHead: false, foreign: false };
  }
  if (cursor.epochHex !== head.epochHex) return compare("another epoch", { foreign: true });
  if (cursor.revision > head.revision)
    return compare("cursor above head", { aboveHead: true, foreign: true });
  if (cursor.revision < facts.floor) return compare("cursor below the tombstone floor");
  if (facts.compareRequested) return compare("asked for by the hub");
  if (facts.newlyDeliverable) return compare("capabilities changed");
  if (facts.held === "differs") return compare("held digest differs");
  // Else the agent sends its digest again once it has what changed, and that one can be judged.
  if (facts.held === "unknown" && facts.unclean) return compare("held digest cannot be judged");
  return { mode: "DELTA", after: cursor.revision, reason: "cursor", aboveHead: false, foreign: false };
}

/**
 * How far above the head a cursor, or what is held, may lie to count as proof of a lost history. A stolen
 * agent may claim any number; beyond this one is a lie or a fault of its own.
 */
const PLAUSIBLE_LOSS = 10_000_000;

/**
 * Whether a cursor above the head proves that this hub lost the end of its history. Only a store that
 * was not closed in order can have lost it: without that the claim is the agent's alone, and concerns
 * it alone. Whoever proves it makes all others compare, so one agent must not be able to at will.
 */
export function provesLoss(cursor: Position, head: Position, uncleanStart: boolean): boolean {
  const above = cursor.revision - head.revision;
  return uncleanStart && cursor.epochHex === head.epochHex && above > 0 && above <= PLAUSIBLE_LOSS;
}

/** Whether what an agent holds may prove that this hub lost the end of its history. */
export interface LossFacts {
  /** The store was not closed in order, and the agent's cursor is of this epoch. */
  unclean: boolean;
  /** Revisions up to it are of a former epoch. */
  newFrom: number;
  /** The hub's head. */
  head: number;
}

/**
 * Whether a resource held under this epoch proves the same: its revision lies above the row's, or above
 * the head where there is no row, although revisions of a row only rise. The head itself may have gone on
 * meanwhile, so that no cursor shows the loss.
 */
export function heldProvesLoss(heldRevision: number, known: number, on: LossFacts): boolean {
  const plausible = heldRevision <= Math.max(known, on.head) + PLAUSIBLE_LOSS;
  return on.unclean && plausible && heldRevision > on.newFrom && heldRevision > known;
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

/** A hub whose history was lost and whose new epoch no operator has accepted. */
export interface Restored {
  /** Head of the backup, or of what was left. */
  rev: number;
  /** Revisions of the new epoch begin above this one. */
  newFrom: number;
}

/** The circumstances of a compare. */
export interface CompareFacts {
  /** Revision of the agent's cursor; undefined without one. */
  cursorRevision: number | undefined;
  /** Set while the epoch waits for its acceptance. */
  restored: Restored | undefined;
}

/**
 * What becomes of a row in a compare.
 * - `restamp`: the agent would ignore the row, since its revision is not above the one held; the row is
 *   written anew, at a revision of today, and goes out as that.
 * - `withhold`: it could undo what happened after the backup; it waits for an operator and is listed.
 */
export type RowAction =
  { kind: "send" } | { kind: "skip" } | { kind: "restamp" } | { kind: "withhold"; as: DivergenceKind };

/**
 * The action for one row. Without a lost history: what differs is sent. Before a new epoch is accepted
 * (sync-and-store.md 1.2): no tombstone, nothing over what was received after the backup, nothing that
 * the agent was rid of since.
 */
export function judgeRow(row: ComparedRow, held: HeldResource | undefined, on: CompareFacts): RowAction {
  if (on.restored !== undefined) {
    const kind = divergence(row, held, { ...on, restored: on.restored });
    if (kind !== undefined) return { kind: "withhold", as: kind };
  }
  if (held === undefined) return { kind: "send" };
  if (!row.del && row.digestHex === held.digestHex) return { kind: "skip" };
  return { kind: row.rev > held.revision ? "send" : "restamp" };
}

function divergence(
  row: ComparedRow,
  held: HeldResource | undefined,
  on: { cursorRevision: number | undefined; restored: Restored },
): DivergenceKind | undefined {
  const { rev, newFrom } = on.restored;
  if (row.del) return DivergenceKind.TOMBSTONE_WITHHELD;
  if (held === undefined) {
    const covered = on.cursorRevision !== undefined && row.rev <= Math.min(on.cursorRevision, newFrom);
    return covered ? DivergenceKind.DELETED_AT_AGENT : undefined;
  }
  if (row.digestHex === held.digestHex) return undefined;
  return held.revision > rev && held.revision <= newFrom ? DivergenceKind.NEWER_AT_AGENT : undefined;
}
