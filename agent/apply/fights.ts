/**
 * Who keeps undoing our repairs. A controller that writes a field of ours back each time would have
 * the two of us write for ever; a person who edits again and again must not switch a fence off.
 */

/** Memory of corrections; per process, shared by all runs. */
export interface FightLog {
  /** What to do about drift of the object `key` ({@link ./types.ts} idKey). */
  judge(key: string, by: { people: boolean; baseline: boolean }): FightVerdict;
  /** A repair of drift was written. */
  corrected(key: string): void;
}

/**
 * `repair`: write. `later`: contested, the next repair is not due yet. `hold`: a controller insists;
 * stop forcing and show the conflict.
 */
export type FightVerdict = "repair" | "later" | "hold";

/** Corrections of one object within the window before it counts as contested. */
export const FIGHT_CORRECTIONS = 3;
export const FIGHT_WINDOW_MS = 10 * 60_000;
/** A contested baseline object (fence, quota, binding) is repaired at most this often, and always. */
export const BASELINE_REPAIR_MS = 30_000;
/** Against people the repair backs off to the period of the full compare. */
export const PEOPLE_REPAIR_MS = 4 * 60_000;

/** A log on `monotonicMs`. Objects without a correction inside of the window are forgotten. */
export function createFightLog(monotonicMs: () => number): FightLog {
  const corrections = new Map<string, number[]>();
  const recent = (key: string): number[] => {
    const from = monotonicMs() - FIGHT_WINDOW_MS;
    const times = (corrections.get(key) ?? []).filter((at) => at > from);
    if (times.length === 0) corrections.delete(key);
    else corrections.set(key, times);
    return times;
  };
  return {
    judge(key, by) {
      const times = recent(key);
      if (times.length < FIGHT_CORRECTIONS) return "repair";
      const since = monotonicMs() - (times.at(-1) as number);
      if (by.baseline) return since >= BASELINE_REPAIR_MS ? "repair" : "later";
      if (by.people) return since >= PEOPLE_REPAIR_MS ? "repair" : "later";
      return "hold";
    },
    corrected(key) {
      corrections.set(key, [...recent(key), monotonicMs()]);
    },
  };
}
