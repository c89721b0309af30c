/** Bugs planted around the product: a simulation that cannot find them proves nothing. */
import type { LeadingParts } from "@moorage/agent/create-agent";
import type { Store } from "@moorage/hub/store/store";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Service } from "@moorage/shared/service";
import { expect, it } from "vitest";
import { unpacked } from "./bundles.ts";
import type { Invariant } from "./invariants.ts";
import type { Ending, Planted } from "./world.ts";
import { runWorld } from "./world.ts";

const bundles = await unpacked();
const SEEDS = [4, 7, 14, 15];
const API = "moorage.dev/v1alpha1";

/** Invariants that any of a few seeds breaks with the bug. */
async function found(planted: Planted, ending: Ending = "steady"): Promise<Set<Invariant>> {
  const out = new Set<Invariant>();
  for (const seed of SEEDS)
    for (const v of (await runWorld({ seed, bundles, ending, planted })).violations) out.add(v.invariant);
  return out;
}

/** An agent that does something wrong to an application's record every 90 s. */
const rogue =
  (act: (parts: LeadingParts, record: { name: string; uid: string; revision: number }) => Promise<unknown>) =>
  (parts: LeadingParts, clock: Clock): readonly Service[] => [
    {
      name: "rogue",
      async run(signal) {
        for (;;) {
          await sleep(clock, 90_000, signal);
          const [record] = parts.mirror.list("Application");
          if (record === undefined || record.removal !== undefined) continue;
          const { objectName: name, uid, revision } = record;
          await act(parts, { name, uid, revision }).catch(() => undefined);
        }
      },
    },
  ];

it("finds nothing where nothing is planted", async () => {
  expect(await found({})).toEqual(new Set());
  expect(await found({}, "empty")).toEqual(new Set());
});

it("finds a hub that hides a row from its agents", async () => {
  const store = (s: Store): Store => ({
    ...s,
    changes: async (q) => {
      const result = await s.changes(q);
      return { ...result, rows: result.rows.filter((r) => r.del || !r.name.includes("/applications/")) };
    },
  });
  expect(await found({ store })).toContain("converges");
});

it("finds an agent that deletes a record without an order", async () => {
  const leading = rogue((parts, { name }) =>
    parts.kube.asAgent().delete({ apiVersion: API, kind: "Application", namespace: parts.namespace, name }),
  );
  expect(await found({ leading })).toContain("no-deletion");
});

it("finds an agent that puts an older revision over a newer one", async () => {
  const leading = rogue((parts, { name, revision }) =>
    parts.kube
      .asAgent()
      .mergePatch(
        { apiVersion: API, kind: "Application", namespace: parts.namespace, name },
        { spec: { revision: revision - 1 } },
      ),
  );
  expect(await found({ leading })).toContain("no-rollback");
});

it("finds a hub whose acknowledged writes do not outlive it", async () => {
  expect(await found({ lostAtRestart: 4 })).toContain("durable");
});

it("finds an agent that deletes what an empty hub does not name", async () => {
  const leading = rogue((parts, { name }) =>
    parts.kube.asAgent().delete({ apiVersion: API, kind: "Application", namespace: parts.namespace, name }),
  );
  expect(await found({ leading }, "empty")).toContain("lost-hub");
});
