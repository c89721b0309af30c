import { memoryLogger } from "@moorage/shared/log";
import { expect, test } from "vitest";
import { Silence, silenceDeadlines } from "./silence.ts";
import { hubWith } from "./testing.ts";

test("a live stream is judged by what it was told, also when a newcomer was not admitted in its place", async () => {
  const { store, clock } = await hubWith("a");
  const dead: string[] = [];
  const silence = new Silence({
    store,
    clock,
    log: memoryLogger(),
    deadlines: silenceDeadlines(20_000),
    graceMs: 30_000,
    onDisconnected: (uid) => dead.push(uid),
  });
  await silence.up("a");
  silence.told("a", 60_000);
  await silence.up("a");
  await clock.advance(124_000);
  expect(dead).toEqual([]);
  await clock.advance(1_000);
  expect(dead).toEqual(["a"]);
  silence.stop();
});
