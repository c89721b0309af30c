import { expect, test } from "vitest";
import { Gate } from "./gate.ts";

/** A promise that the test settles. */
function held(): { done: Promise<void>; release: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { done: promise, release: () => resolve() };
}

test("a loner waits for those inside, and those behind it wait for the loner", async () => {
  const gate = new Gate();
  const seen: string[] = [];
  const first = held();
  const loner = held();
  const a = gate.through(false, async () => {
    seen.push("first in");
    await first.done;
    seen.push("first out");
  });
  const b = gate.through(true, async () => {
    seen.push("loner in");
    await loner.done;
    seen.push("loner out");
  });
  const c = gate.through(false, async () => void seen.push("last in"));
  first.release();
  await a;
  loner.release();
  await Promise.all([b, c]);
  expect(seen).toEqual(["first in", "first out", "loner in", "loner out", "last in"]);
});

test("a failure inside opens the gate again", async () => {
  const gate = new Gate();
  await expect(gate.through(true, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
  await expect(gate.through(true, () => Promise.resolve(7))).resolves.toBe(7);
});
