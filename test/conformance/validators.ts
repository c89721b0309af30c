import { inRange } from "@moorage/hub/store/bytes";
import type { Batch, KeyRange, Rev } from "@moorage/hub/store/store";

/**
 * What must hold of every watch, under etcd's names (tests/robustness/validate/watch.go), against the
 * whole history of the store. Each returns the offences it finds.
 */

/** A watch as it was read: its request and all it yielded. */
export interface Watched {
  from: Rev;
  range: KeyRange;
  batches: readonly Batch[];
}

type Validator = (w: Watched, all: readonly Batch[]) => string[];

const eventsOf = (batches: readonly Batch[]) => batches.filter((b) => b.kind === "events");

export const validators: Readonly<Record<string, Validator>> = {
  /** Revisions only rise. */
  Ordered: ({ batches }) =>
    eventsOf(batches).flatMap((b, i, list) =>
      i > 0 && b.rev < list[i - 1]!.rev ? [`${b.rev} after ${list[i - 1]!.rev}`] : [],
    ),

  /** No revision comes twice. */
  Unique: ({ batches }) => {
    const revs = eventsOf(batches).map((b) => b.rev);
    return revs.filter((r, i) => revs.indexOf(r) !== i).map((r) => `${r} twice`);
  },

  /** A revision comes whole: all its matching events, in one batch, in the txn's order. */
  Atomic: ({ batches, range }, all) =>
    eventsOf(batches).flatMap((b) => {
      const whole = eventsOf(all).find((h) => h.rev === b.rev);
      const expected = whole?.events.filter((e) => inRange(e.kv.key, range));
      return JSON.stringify(b.events) === JSON.stringify(expected) ? [] : [`${b.rev} differs from the log`];
    }),

  /** Between `from` and the last item nothing is missing. */
  Reliable: ({ from, batches, range }, all) => {
    const seen = new Set(eventsOf(batches).map((b) => b.rev));
    const last = batches.at(-1)?.kind === "events" ? (eventsOf(batches).at(-1)?.rev ?? 0) : 0;
    return eventsOf(all)
      .filter((h) => h.rev >= from && h.rev <= last && h.events.some((e) => inRange(e.kv.key, range)))
      .filter((h) => !seen.has(h.rev))
      .map((h) => `${h.rev} is missing`);
  },

  /** Nothing below the revision asked for. */
  Resumable: ({ from, batches }) =>
    eventsOf(batches)
      .filter((b) => b.rev < from)
      .map((b) => `${b.rev} is below ${from}`),

  /** Nothing outside the range asked for. */
  Filter: ({ batches, range }) =>
    eventsOf(batches)
      .filter((b) => b.events.length === 0 || !b.events.every((e) => inRange(e.kv.key, range)))
      .map((b) => `${b.rev} holds what was not asked for`),

  /** Progress(R) comes after every matching event up to R, and only rises. */
  Bookmarkable: ({ batches, from, range }, all) => {
    const offences: string[] = [];
    const seen = new Set<Rev>();
    let progress = 0;
    for (const b of batches) {
      if (b.kind === "events") {
        seen.add(b.rev);
        if (b.rev <= progress) offences.push(`${b.rev} after progress ${progress}`);
      } else if (b.kind === "progress") {
        if (b.rev <= progress) offences.push(`progress ${b.rev} after ${progress}`);
        progress = b.rev;
        for (const h of eventsOf(all)) {
          const due = h.rev >= from && h.rev <= b.rev && h.events.some((e) => inRange(e.kv.key, range));
          if (due && !seen.has(h.rev)) offences.push(`progress ${b.rev} before ${h.rev}`);
        }
      }
    }
    return offences;
  },

  /** A put without an earlier value has version 1, and one with has not. */
  IsCreate: ({ batches }) =>
    eventsOf(batches).flatMap((b) =>
      b.events
        .filter(
          (e) => e.type === "put" && ((e.prevRev === 0) !== (e.kv.version === 1) || e.kv.modRev !== b.rev),
        )
        .map(() => `${b.rev}: prevRev disagrees with version`),
    ),
};

/** All offences of a watch, each with the validator's name. */
export function offencesOf(watched: Watched, all: readonly Batch[]): string[] {
  return Object.entries(validators).flatMap(([name, check]) =>
    check(watched, all).map((o) => `${name}: ${o}`),
  );
}
