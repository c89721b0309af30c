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

type EventsBatch = Extract<Batch, { kind: "events" }>;

const eventsOf = (batches: readonly Batch[]) => batches.filter((b) => b.kind === "events");

const indices = new WeakMap<
  readonly Batch[],
  { list: readonly EventsBatch[]; byRev: ReadonlyMap<Rev, EventsBatch> }
>();

/** The history's batches in order and by revision, made once for all watches that are judged against it. */
function indexOf(all: readonly Batch[]) {
  let index = indices.get(all);
  if (index === undefined) {
    const list = eventsOf(all);
    index = { list, byRev: new Map(list.map((b) => [b.rev, b])) };
    indices.set(all, index);
  }
  return index;
}

const concerns = (b: EventsBatch, range: KeyRange): boolean => b.events.some((e) => inRange(e.kv.key, range));

export const validators: Readonly<Record<string, Validator>> = {
  /** Revisions only rise. */
  Ordered: ({ batches }) =>
    eventsOf(batches).flatMap((b, i, list) =>
      i > 0 && b.rev < list[i - 1]!.rev ? [`${b.rev} after ${list[i - 1]!.rev}`] : [],
    ),

  /** No revision comes twice. */
  Unique: ({ batches }) => {
    const revs = eventsOf(batches).map((b) => b.rev);
    const seen = new Set<Rev>();
    return revs.filter((r) => seen.size === seen.add(r).size).map((r) => `${r} twice`);
  },

  /** A revision comes whole: all its matching events, in one batch, in the txn's order. */
  Atomic: ({ batches, range }, all) =>
    eventsOf(batches).flatMap((b) => {
      const whole = indexOf(all).byRev.get(b.rev);
      const expected = whole?.events.filter((e) => inRange(e.kv.key, range));
      return JSON.stringify(b.events) === JSON.stringify(expected) ? [] : [`${b.rev} differs from the log`];
    }),

  /** Between `from` and the last item nothing is missing. */
  Reliable: ({ from, batches, range }, all) => {
    const seen = new Set(eventsOf(batches).map((b) => b.rev));
    const last = batches.at(-1)?.kind === "events" ? (eventsOf(batches).at(-1)?.rev ?? 0) : 0;
    return indexOf(all)
      .list.filter((h) => h.rev >= from && h.rev <= last && !seen.has(h.rev) && concerns(h, range))
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
    const { list } = indexOf(all);
    let at = 0;
    for (const b of batches) {
      if (b.kind === "events") {
        seen.add(b.rev);
        if (b.rev <= progress) offences.push(`${b.rev} after progress ${progress}`);
      } else if (b.kind === "progress") {
        if (b.rev <= progress) offences.push(`progress ${b.rev} after ${progress}`);
        progress = b.rev;
        // What an earlier progress stood for was looked at then.
        for (; at < list.length; at++) {
          const h = list[at] as EventsBatch;
          if (h.rev > b.rev) break;
          if (h.rev >= from && !seen.has(h.rev) && concerns(h, range))
            offences.push(`progress ${b.rev} before ${h.rev}`);
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
