import { rmSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { rounds as scaled, seed } from "../faults/scale.ts";
import { audit, storm } from "./storm.ts";
import { tempDir } from "./support.ts";

/** R1, G12: kills of a real process in a write storm with watchers. `ROUNDS` sets how many; `SEED` replays their moments. */
const rounds = scaled(50, 1_000);
/** A line of progress each so many rounds. */
const PROGRESS = 50;

/** Rounds of storm, kill and audit on one directory, until the first offence. */
async function campaign(
  count: number,
): Promise<{ rounds: number; acked: number; watched: number; offences: string[]; slowestOpenMs: number }> {
  const rng = seededRng(seed);
  const dir = tempDir();
  const total = { rounds: 0, acked: 0, watched: 0, offences: [] as string[], slowestOpenMs: 0 };
  let head = 1;
  try {
    for (let round = 1; round <= count && total.offences.length === 0; round++) {
      total.rounds = round;
      const at = round % 2 === 0 ? 0 : 1 + Math.floor(rng.float() * 1_500);
      // Each fifth dies between the last write of a group and its commit, with time to tell of it too early.
      const failpoint =
        round % 5 === 3
          ? { at: 0, failpoint: `store/before-commit:sleep@${3 + Math.floor(rng.float() * 20)}` }
          : {};
      const end = await storm({ dir, run: round, at, afterBytes: rng.float() * 500_000, ...failpoint });
      total.acked += end.acked.length;
      for (const revs of end.watched.values()) total.watched += revs.length;
      const started = systemClock.monotonicMs();
      const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
      total.slowestOpenMs = Math.max(total.slowestOpenMs, systemClock.monotonicMs() - started);
      try {
        total.offences.push(...(await audit(store, head, end)));
        const status = await store.status();
        if (!status.uncleanStart) total.offences.push("the start after a kill is taken for a clean one");
        head = status.rev;
      } finally {
        await store.close();
      }
      if (round % PROGRESS === 0)
        console.log(
          `kill -9: round ${round} of ${count}, ${total.acked} acknowledged, head ${head}, seed ${seed}`,
        );
    }
    return total;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

describe("A process killed in a write storm", () => {
  it("R1: has lost no acknowledged write, reuses no revision and leaves no gap for a watcher", async () => {
    const result = await campaign(rounds);
    console.log(
      `kill -9: ${result.rounds} rounds, ${result.acked} acknowledged writes, ${result.watched} revisions watched, slowest open ${Math.round(result.slowestOpenMs)} ms, seed ${seed}`,
    );
    expect(result.offences).toEqual([]);
    expect(result.rounds).toBe(rounds);
    expect(result.acked).toBeGreaterThan(rounds * 50);
    expect(result.watched).toBeGreaterThan(rounds * 50);
  }, 3_600_000);
});
