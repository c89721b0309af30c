/** What a world goes through beside or after its writing: one of these, which the seed chooses. */
import * as hub from "./scenarios-hub.ts";
import * as life from "./scenarios-life.ts";
import * as faults from "./scenarios-faults.ts";
import type { World } from "./world.ts";

/** A scenario; both parts are optional, `after` begins at rest. */
export interface Scenario {
  /** Runs while the world is written to. */
  beside?: (world: World) => Promise<void>;
  /** Runs when the world has come to rest. */
  after?: (world: World) => Promise<void>;
}

/** All scenarios. */
export const scenarios = {
  steady: {},
  empty: { after: hub.empty },
  halfLoaded: { after: hub.halfLoaded },
  restored: { after: hub.restored },
  historyLost: { after: hub.historyLost },
  lagging: { after: hub.lagging },
  certificates: { after: hub.certificates },
  twins: { beside: faults.twins },
  clone: { beside: faults.clone },
  clocks: { beside: faults.clocks },
  stalled: { after: faults.stalled },
  partition: { after: faults.partition },
  apiServer: { beside: faults.apiServer },
  rejected: { beside: life.rejected },
  observe: { beside: life.observe },
  guarded: { after: life.guarded },
  withdrawn: { after: life.withdrawn },
  orphaned: { after: life.orphaned },
  reused: { after: life.reused },
} satisfies Record<string, Scenario>;

/** Name of a scenario. */
export type ScenarioName = keyof typeof scenarios;

/** The turns of the scenarios over the seeds; the day without a hub is dear and comes less often. */
const turns: readonly ScenarioName[] = [
  ...(Object.keys(scenarios) as ScenarioName[]),
  ...(Object.keys(scenarios) as ScenarioName[]).filter((n) => n !== "certificates"),
  "restored",
];

/** The scenario of a seed. */
export function scenarioOf(seed: number): ScenarioName {
  return turns[seed % turns.length] as ScenarioName;
}
