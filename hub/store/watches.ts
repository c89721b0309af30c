import type { Clock, Timer } from "@moorage/shared/clock";
import { inRange } from "./bytes.ts";
import { checkRev } from "./plan.ts";
import type { Batch, KeyRange, Rev, StoreEvent, WatchRequest } from "./store.ts";

/** The events of one revision; a revision that changed rows alone has none. */
export interface Revision {
  rev: Rev;
  events: StoreEvent[];
}

/** A stretch of the log: whole revisions that match, and where to read on. */
export type LogPage = { revisions: Revision[]; next: Rev } | { compactRev: Rev };

/** Where watches read what they no longer find in the recent revisions. */
export interface LogSource {
  /** The revision up to which history was given up. */
  compactRev(): Rev;
  /** A bounded stretch from `from` on; `next` > `from`, at most the head + 1. */
  readLog(from: Rev, range: KeyRange): LogPage;
  /** Lets other work run between two stretches. */
  pause(): Promise<void>;
}

/** Most memory that recent revisions may take: shared by all watches, behind it they read the log. */
export const RECENT_BYTES = 8 * 1024 * 1024;
/** Most revisions kept as recent. */
export const RECENT_REVISIONS = 4_096;
/** Shortest time between two progress items of a watch. */
export const PROGRESS_MS = 5_000;

/** All watches of one store. A watch is a position; nothing is queued for it. */
export interface Watches {
  /** Adds committed revisions, in order and without gap, and wakes those who wait. */
  publish(revisions: readonly Revision[]): void;
  /** The head moved up to `head` without revisions between, after all that was published. */
  jumped(head: Rev): void;
  watch(w: WatchRequest): AsyncIterable<Batch>;
  /** Ends all watches: they throw `error` once they have delivered nothing more. */
  end(error: Error): void;
}

/** The next revision to look at, and the last one that events or progress told the reader about. */
interface Position {
  pos: Rev;
  reported: Rev;
}

interface Options {
  clock: Clock;
  source: LogSource;
  /** The head when the store was opened. */
  head: Rev;
  progressMs?: number;
  recentRevisions?: number;
}

/** The watches of an engine. */
export function watches(options: Options): Watches {
  const { clock, source, progressMs = PROGRESS_MS, recentRevisions = RECENT_REVISIONS } = options;
  /** recent[i] is revision `first + i`. */
  let recent: (Revision & { bytes: number })[] = [];
  let first = options.head + 1;
  let recentBytes = 0;
  let ended: Error | undefined;
  const waiting = new Set<() => void>();

  const head = () => first + recent.length - 1;

  const trim = (): void => {
    let drop = 0;
    while (
      recent.length - drop > recentRevisions ||
      (recentBytes > RECENT_BYTES && recent.length - drop > 1)
    ) {
      recentBytes -= (recent[drop++] as { bytes: number }).bytes;
    }
    if (drop === 0) return;
    recent = recent.slice(drop);
    first += drop;
  };

  const wakeAll = (): void => {
    for (const wake of [...waiting]) wake();
  };

  /** Whether the reader waits at the head for a progress item that says more than it knows. */
  const unreported = (at: Position, w: WatchRequest): boolean =>
    w.progress === true && at.pos - 1 > at.reported && at.pos - 1 <= head();

  /** Moves `at` to the next matching revision and returns it; undefined when it reached the head. */
  const nextRecent = (at: Position, range: KeyRange): Revision | undefined => {
    while (at.pos <= head()) {
      const revision = recent[at.pos - first] as Revision;
      at.pos++;
      const events = revision.events.filter((e) => inRange(e.kv.key, range));
      if (events.length > 0) return { rev: revision.rev, events };
    }
    return undefined;
  };

  async function* run(w: WatchRequest): AsyncGenerator<Batch> {
    const at: Position = { pos: w.from, reported: 0 };
    let progressAt = -Infinity;
    if (w.from <= source.compactRev()) {
      yield { kind: "compacted", compactRev: source.compactRev() };
      return;
    }
    for (;;) {
      if (w.signal?.aborted) return;
      if (ended !== undefined) throw ended;
      if (at.pos <= head() && at.pos < first) {
        // Behind the recent revisions: one bounded stretch of the log.
        const page = source.readLog(at.pos, w);
        if ("compactRev" in page) {
          yield { kind: "compacted", compactRev: page.compactRev };
          return;
        }
        at.pos = page.next;
        for (const r of page.revisions) {
          if (progressAt !== -Infinity) at.reported = r.rev;
          yield { kind: "events", ...r };
          if (w.signal?.aborted) return;
        }
        await source.pause();
        continue;
      }
      if (at.pos <= head() && at.pos <= source.compactRev()) {
        yield { kind: "compacted", compactRev: source.compactRev() };
        return;
      }
      const revision = nextRecent(at, w);
      if (revision !== undefined) {
        // Before the first progress even the head's own events do not stand for it.
        if (progressAt !== -Infinity) at.reported = revision.rev;
        yield { kind: "events", ...revision };
        continue;
      }
      let progressIn: number | undefined;
      if (unreported(at, w)) {
        progressIn = progressAt + progressMs - clock.monotonicMs();
        if (progressIn <= 0) {
          at.reported = at.pos - 1;
          progressAt = clock.monotonicMs();
          yield { kind: "progress", rev: at.reported };
          continue;
        }
      }
      await wait(at, w, progressIn);
    }
  }

  /** Until a matching revision came, progress is due, or the watch is over. */
  const wait = (at: Position, w: WatchRequest, progressIn: number | undefined): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>();
    let timer: Timer | undefined;
    const done = (): void => {
      timer?.cancel();
      waiting.delete(wake);
      w.signal?.removeEventListener("abort", done);
      resolve();
    };
    const wake = (): void => {
      if (ended !== undefined || at.pos < first) return done();
      // Skip here what does not match, so that a commit elsewhere costs no promise.
      while (
        at.pos <= head() &&
        !(recent[at.pos - first] as Revision).events.some((e) => inRange(e.kv.key, w))
      ) {
        at.pos++;
      }
      if (at.pos <= head()) return done();
      if (timer === undefined && unreported(at, w)) done();
    };
    if (progressIn !== undefined) timer = clock.setTimer(progressIn, done);
    waiting.add(wake);
    w.signal?.addEventListener("abort", done, { once: true });
    return promise;
  };

  return {
    publish(revisions) {
      for (const r of revisions) {
        const bytes = r.events.reduce((n, e) => n + 200 + e.kv.key.length + e.kv.value.length, 100);
        recent.push({ ...r, bytes });
        recentBytes += bytes;
      }
      wakeAll();
      trim();
    },
    jumped(head) {
      recent = [];
      recentBytes = 0;
      first = head + 1;
      wakeAll();
    },
    watch(w) {
      checkRev(w.from, "Watch from revision");
      return run(w);
    },
    end(error) {
      ended ??= error;
      wakeAll();
    },
  };
}
