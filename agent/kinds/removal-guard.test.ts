import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Guarded } from "./removal-guard.ts";
import { RemovalGuard, freeRemovals, removalDigest, windowMs } from "./removal-guard.ts";

const none = new Uint8Array();
const thing = (uid: string, over: Partial<Guarded> = {}): Guarded => ({
  uid,
  name: `tenants/${uid}`,
  parentUid: undefined,
  removal: undefined,
  ...over,
});
const many = (n: number, removed: number, authorization: Uint8Array = none): Guarded[] =>
  Array.from({ length: n }, (_, i) => thing(`u${i}`, i < removed ? { removal: { authorization } } : {}));
const at = (monotonicMs: number, maxRemovals = 0) => ({ monotonicMs, maxRemovals });

describe("the removal guard", () => {
  it.each([
    [6, 5, false],
    [6, 6, true],
    [100, 20, false],
    [100, 21, true],
    [1, 1, false],
  ])("of %i held and %i ordered to go, guarded is %s", (held, removed, guarded) => {
    expect(new RemovalGuard().decide(many(held, removed), at(0)).guarded).toBe(guarded);
  });

  it("counts orders that were carried out one at a time", () => {
    const guard = new RemovalGuard();
    let all = many(20, 0);
    let went = 0;
    for (let i = 0; i < 20; i++) {
      const next = all.map((g, j) => (j === 0 ? { ...g, removal: { authorization: none } } : g));
      if (guard.decide(next, at(i * 1_000)).guarded) break;
      all = next.slice(1);
      went++;
    }
    expect(went).toBe(freeRemovals);
  });

  it("forgets orders that were carried out before the window", () => {
    const guard = new RemovalGuard();
    guard.decide(many(6, 5), at(0));
    const left = [thing("u5", { removal: { authorization: none } })];
    expect(guard.decide(left, at(windowMs - 1)).guarded).toBe(true);
    expect(guard.decide(left, at(windowMs)).guarded).toBe(false);
  });

  it("counts what goes with its parent as one", () => {
    const order = { authorization: none };
    const tenant = thing("t", { removal: order });
    const apps = Array.from({ length: 40 }, (_, i) => thing(`a${i}`, { parentUid: "t", removal: order }));
    const d = new RemovalGuard().decide([tenant, ...apps], at(0));
    expect(d).toMatchObject({ guarded: false, count: 1 });
  });

  it("lets exactly the authorized set pass", () => {
    const uids = many(10, 8)
      .slice(0, 8)
      .map((g) => g.uid);
    expect(new RemovalGuard().decide(many(10, 8, removalDigest(uids)), at(0)).guarded).toBe(false);
    expect(new RemovalGuard().decide(many(10, 9, removalDigest(uids)), at(0)).guarded).toBe(true);
  });

  it("lets an authorized set pass to its end, one at a time, though its first orders came alone", () => {
    const all = many(10, 0);
    const authorization = removalDigest(all.slice(0, 8).map((g) => g.uid));
    const order = (g: Guarded) => ({ ...g, removal: { authorization } });
    const guard = new RemovalGuard();
    expect(guard.decide([...all.slice(0, 2).map(order), ...all.slice(2)], at(0)).guarded).toBe(false);
    for (let gone = 2; gone < 8; gone++) {
      const left = [...all.slice(gone, 8).map(order), ...all.slice(8)];
      expect(guard.decide(left, at(gone)).guarded).toBe(false);
    }
    const more = all.slice(8).map((g) => ({ ...g, removal: { authorization: none } }));
    expect(guard.decide(more, at(9)).guarded).toBe(true);
  });

  it("is only tightened by the hub's policy", () => {
    expect(new RemovalGuard().decide(many(100, 3), at(0, 2)).guarded).toBe(true);
    expect(new RemovalGuard().decide(many(100, 30), at(0, 1_000)).guarded).toBe(true);
  });

  it("holds every order or none, and never more than were given", () => {
    fc.assert(
      fc.property(fc.nat(60), fc.nat(60), (held, ordered) => {
        const all = many(held, Math.min(held, ordered));
        const d = new RemovalGuard().decide(all, at(0));
        const orders = all.filter((g) => g.removal !== undefined).length;
        expect(d.held.size).toBe(d.guarded ? orders : 0);
        if (!d.guarded) expect(orders).toBeLessThanOrEqual(Math.max(freeRemovals, Math.floor(held * 0.2)));
      }),
    );
  });
});
