import type { Clock } from "@moorage/shared/clock";
import { limits } from "@moorage/shared/limits";
import { Pace } from "@moorage/shared/pace";
import type { HeldItem } from "@moorage/shared/sync-digest";
import { encodedDigest, encodedStatusDigest, heldDigest } from "@moorage/shared/sync-digest";
import { statusKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import type { Abilities } from "./rows.ts";
import { cannotTake, rowFacts, rowPages, statusParts } from "./rows.ts";

/** What the hub's rows and statuses say about an agent's state, held against the digests it sends. */

/** What {@link survey} finds. */
export interface Survey {
  /** Of all that the agent can take. */
  heldDigest: Uint8Array;
  /** Some rows are withheld: whether the agent holds an older state of them cannot be told. */
  withholds: boolean;
  /** A row was written after the cursor. */
  changedSince: boolean;
  /** Uids of what was withheld before and can be delivered now. */
  deliverable: ReadonlySet<string>;
  /** Of what agents reported; the hub's own verdicts are no part of it. */
  statusDigest: Uint8Array;
}

/** For whom, and from where on. */
export interface SurveyOf {
  dataPlaneUid: string;
  abilities: Abilities;
  cursorRevision: number;
  /** Aborts when nobody waits for it any more. */
  signal?: AbortSignal;
}

/** Reads all rows and statuses of a data plane once, in slices, and keeps digests alone. */
export async function survey(deps: { store: Store; clock: Clock }, of: SurveyOf): Promise<Survey> {
  const { store, clock } = deps;
  const pace = new Pace(clock, of.signal);
  const held: HeldItem[] = [];
  const statuses: { uid: string; digestHex: string }[] = [];
  const deliverable = new Set<string>();
  const out = { withholds: false, changedSince: false };
  for await (const page of rowPages(store, of.dataPlaneUid)) {
    const stored = await store.getMany(page.map((row) => key(statusKey(row.uid))));
    page.forEach((row, i) => {
      const value = stored[i]?.value;
      const status = value === undefined ? undefined : statusParts(value);
      if (status?.encoded !== undefined)
        statuses.push({ uid: row.uid, digestHex: encodedDigest(status.encoded) });
      if (row.rev > of.cursorRevision) out.changedSince = true;
      const facts = row.del ? undefined : rowFacts(row);
      if (facts === undefined) return;
      if (cannotTake(facts, of.abilities) !== undefined) {
        out.withholds = true;
        return;
      }
      if (status?.withheld === true) deliverable.add(row.uid);
      // A copy: what is read shares the memory of the whole row.
      held.push({ name: row.name, uid: row.uid, digest: new Uint8Array(facts.digest) });
    });
    await pace.step();
  }
  return { ...out, deliverable, heldDigest: heldDigest(held), statusDigest: encodedStatusDigest(statuses) };
}

/**
 * An agent's digest of all it holds against the rows: `absent` when it sent none, `unknown` when rows
 * changed since its cursor or are withheld from it, so that they cannot tell what it should be.
 */
export type Judgement = "absent" | "equal" | "differs" | "unknown";

/** Judges the digest of an agent that has a cursor. */
export function judgeHeld(digest: Uint8Array, found: Survey): Judgement {
  if (digest.length === 0) return "absent";
  if (found.changedSince) return "unknown";
  if (Buffer.compare(digest, found.heldDigest) === 0) return "equal";
  return found.withholds ? "unknown" : "differs";
}

/** Surveys for the digests that come on one stream, each kind at most once in `limits.digestJudgedMs`. */
export class Surveys {
  readonly #deps: { store: Store; clock: Clock };
  readonly #of: Omit<SurveyOf, "cursorRevision">;
  readonly #judgedMs = { status: -Infinity, held: -Infinity };

  constructor(deps: { store: Store; clock: Clock }, of: Omit<SurveyOf, "cursorRevision">) {
    this.#deps = deps;
    this.#of = of;
  }

  /** What there is to judge a digest by; undefined when one of that kind was judged just now. */
  async take(kind: "status" | "held", cursorRevision: number): Promise<Survey | undefined> {
    const nowMs = this.#deps.clock.monotonicMs();
    if (nowMs - this.#judgedMs[kind] < limits.digestJudgedMs) return undefined;
    this.#judgedMs[kind] = nowMs;
    return survey(this.#deps, { ...this.#of, cursorRevision });
  }
}
