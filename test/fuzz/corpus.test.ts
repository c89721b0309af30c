import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { targetNames } from "./facts.ts";

test("every kept input and every seed of every fuzz target holds", () => {
  // In a process of its own: targets change Object.prototype and watch for rejections.
  const run = spawnSync(process.execPath, [join(import.meta.dirname, "replay.ts"), "corpus"], {
    encoding: "utf8",
  });
  expect(run.stderr.replaceAll(/^\(.*\n/gm, "")).toBe("");
  const { counts, failures } = JSON.parse(run.stdout.trim().split("\n").at(-1) ?? "{}") as {
    counts: Record<string, number>;
    failures: unknown[];
  };
  expect(failures).toEqual([]);
  expect(Object.keys(counts)).toEqual(targetNames);
  for (const name of targetNames) expect(counts[name], name).toBeGreaterThan(0);
}, 120_000);
