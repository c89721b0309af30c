import { sleep } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { describe, expect, it } from "vitest";
import { VirtualClock } from "./virtual-clock.ts";

describe("the virtual clock", () => {
  it("fires timers by due time, and equal ones in the order of setting", async () => {
    const clock = new VirtualClock();
    const order: string[] = [];
    clock.setTimer(20, () => order.push("c"));
    clock.setTimer(10, () => order.push("a"));
    clock.setTimer(10, () => order.push("b"));
    clock.setTimer(30, () => order.push("late"));
    await clock.advance(20);
    expect(order).toEqual(["a", "b", "c"]);
    expect(clock.monotonicMs()).toBe(20);
  });

  it("never fires a cancelled timer", async () => {
    const clock = new VirtualClock();
    let fired = false;
    clock.setTimer(1, () => (fired = true)).cancel();
    await clock.advance(10);
    expect(fired).toBe(false);
  });

  it("lets chains of awaits run before time moves on", async () => {
    const clock = new VirtualClock();
    const stamps: number[] = [];
    const worker = async () => {
      for (let i = 0; i < 5; i++) {
        await sleep(clock, 100);
        await Promise.resolve().then(() => Promise.resolve());
        stamps.push(clock.monotonicMs());
      }
    };
    void worker();
    await clock.advance(1_000);
    expect(stamps).toEqual([100, 200, 300, 400, 500]);
  });

  it("runs equal worlds equally", async () => {
    const world = async (seed: number): Promise<string> => {
      const clock = new VirtualClock();
      const rng = seededRng(seed);
      const log: string[] = [];
      const actor = async (name: string) => {
        while (clock.monotonicMs() < 5_000) {
          await sleep(clock, Math.floor(rng.float() * 100));
          log.push(`${clock.monotonicMs()} ${name}`);
        }
      };
      for (const name of ["a", "b", "c"]) void actor(name);
      await clock.advance(6_000);
      return log.join("\n");
    };
    expect(await world(7)).toBe(await world(7));
    expect(await world(7)).not.toBe(await world(8));
  });
});
