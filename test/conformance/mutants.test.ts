/** The quick half of `make mutants`, so that neither the suites nor the mutations go blind. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "../world/process.ts";
import { MutantTree } from "./mutant-runner.ts";
import { mutations } from "./mutations.ts";

/** One of each kind of bug, of those that a quick suite catches. */
const QUICK = [
  "watch resumes off by one",
  "changes resume off by one",
  "resources unique by name",
  "batch split in a watch",
];

describe("A mutated store", () => {
  let tree: MutantTree;
  beforeAll(() => {
    tree = new MutantTree();
  });
  afterAll(() => tree.remove());

  it.each(mutations.filter((m) => QUICK.includes(m.name)))("is caught: $name", async (mutation) => {
    const verdict = await tree.judge(mutation);
    console.log(`${mutation.name}: ${verdict.suite}: ${verdict.test}`);
    expect(verdict).toMatchObject({ caught: true });
  });

  it.each(mutations)("is still the store but for one place: $name", ({ patches }) => {
    for (const { file, find } of patches) {
      const text = readFileSync(join(root, "hub/store", file), "utf8");
      expect(text.split(find).length - 1, `hub/store/${file}: ${find}`).toBe(1);
    }
  });
});
