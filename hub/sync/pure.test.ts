import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { limits } from "@moorage/shared/limits";
import { SyncResponseSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { describe, expect, test } from "vitest";
import { Attempts } from "./attempts.ts";
import { encodeChanges, packFrames } from "./frames.ts";
import type { ResumeFacts } from "./plan-resume.ts";
import { heldProvesLoss, judgeRow, planResume, provesLoss } from "./plan-resume.ts";
import { scaledPolicy, worthTelling } from "./policy.ts";
import { defaultPolicy } from "./sync.ts";
import { manualClock, update } from "./testing.ts";
import { Turns } from "./turns.ts";
import type { Instance } from "./twins.ts";
import { Twins } from "./twins.ts";
import { acked, fits, openWindow, room, sent } from "./window.ts";

const head = { epochHex: "aa", revision: 100 };
const base: ResumeFacts = {
  cursor: { epochHex: "aa", revision: 50 },
  head,
  floor: 10,
  held: "absent",
  unclean: false,
  newlyDeliverable: false,
  compareRequested: false,
};

describe("the resume decision", () => {
  test.each<[string, Partial<ResumeFacts>, string]>([
    ["a cursor within the log", {}, "DELTA"],
    ["a cursor at head", { cursor: head }, "DELTA"],
    ["a cursor at the floor", { floor: 50 }, "DELTA"],
    ["a cursor below the floor", { floor: 51 }, "COMPARE"],
    ["another epoch", { cursor: { epochHex: "bb", revision: 50 } }, "COMPARE"],
    ["a cursor above head", { cursor: { epochHex: "aa", revision: 101 } }, "COMPARE"],
    ["nothing held", { cursor: undefined }, "SNAPSHOT"],
    ["a lost cursor over held resources", { cursor: undefined, held: "differs" }, "COMPARE"],
    ["equal digests", { held: "equal" }, "DELTA"],
    ["different digests", { held: "differs" }, "COMPARE"],
    ["a digest that cannot be judged", { held: "unknown" }, "DELTA"],
    ["a digest that may prove a loss", { held: "unknown", unclean: true }, "COMPARE"],
    ["new abilities", { newlyDeliverable: true }, "COMPARE"],
    ["a compare asked for", { compareRequested: true }, "COMPARE"],
  ])("%s", (_what, facts, mode) => {
    expect(planResume({ ...base, ...facts }).mode).toBe(mode);
  });

  test("a delta never skips a tombstone that was dropped, nor crosses epochs", () => {
    const position = fc.record({ epochHex: fc.constantFrom("aa", "bb"), revision: fc.nat(200) });
    fc.assert(
      fc.property(fc.option(position, { nil: undefined }), fc.nat(200), (cursor, floor) => {
        const plan = planResume({ ...base, cursor, floor });
        if (plan.mode !== "DELTA") expect(plan.after).toBe(0);
        else {
          expect(cursor?.epochHex).toBe("aa");
          expect(plan.after).toBe(cursor?.revision);
          expect(plan.after).toBeGreaterThanOrEqual(floor);
          expect(plan.after).toBeLessThanOrEqual(head.revision);
        }
      }),
    );
  });

  test("only a hub that was not closed in order takes a cursor above its head as proof of a loss", () => {
    const above = { epochHex: "aa", revision: 101 };
    expect(provesLoss(above, head, true)).toBe(true);
    expect(provesLoss(above, head, false)).toBe(false);
    expect(provesLoss({ epochHex: "bb", revision: 101 }, head, true)).toBe(false);
    expect(provesLoss({ epochHex: "aa", revision: 100 }, head, true)).toBe(false);
    expect(provesLoss({ epochHex: "aa", revision: 2 ** 52 }, head, true)).toBe(false);
    const on = { unclean: true, newFrom: 50, head: 90_000_000 };
    expect(heldProvesLoss(90_000_001, 60, on)).toBe(true);
    expect(heldProvesLoss(60, 60, on)).toBe(false);
    expect(heldProvesLoss(50, 40, on)).toBe(false);
    expect(heldProvesLoss(61, 60, { ...on, unclean: false })).toBe(false);
    expect(heldProvesLoss(2 ** 52, 60, on)).toBe(false);
  });
});

describe("a row in a compare", () => {
  const restored = { rev: 100, newFrom: 1_100 };
  const held = (revision: number, digestHex = "01") => ({ name: "n", digestHex, revision });
  const row = (rev: number, digestHex = "02") => ({ rev, del: digestHex === "", digestHex });
  const whole = { cursorRevision: 90, restored: undefined };
  const lost = { cursorRevision: 130, restored };

  test.each([
    ["differs and is newer", row(91), held(50), whole, "send"],
    ["is equal", row(91, "01"), held(50), whole, "skip"],
    ["is not held", row(5), undefined, whole, "send"],
    ["is a tombstone", row(91, ""), held(50), whole, "send"],
    ["differs and is not above what is held", row(40), held(120), whole, "restamp"],
    ["is a tombstone that the agent would ignore", row(40, ""), held(120), whole, "restamp"],
    ["restored: is equal", row(40, "01"), held(120), lost, "skip"],
    ["restored: newer at the agent", row(40), held(120), lost, DivergenceKind.NEWER_AT_AGENT],
    ["restored: written after it over newer", row(1_200), held(120), lost, DivergenceKind.NEWER_AT_AGENT],
    ["restored: written after it over the backup's", row(1_200), held(99), lost, "send"],
    ["restored: over what came after it", row(1_300), held(1_200), lost, "send"],
    ["restored: a tombstone", row(95, ""), held(50), lost, DivergenceKind.TOMBSTONE_WITHHELD],
    ["restored: a new tombstone", row(1_200, ""), held(50), lost, DivergenceKind.TOMBSTONE_WITHHELD],
    ["restored: gone at the agent", row(95), undefined, lost, DivergenceKind.DELETED_AT_AGENT],
    ["restored: never reached the agent", row(95), undefined, { ...lost, cursorRevision: 90 }, "send"],
    ["restored: made after it", row(1_200), undefined, lost, "send"],
    ["restored: no cursor to tell", row(95), undefined, { ...lost, cursorRevision: undefined }, "send"],
  ] as const)("that %s", (_what, r, h, on, expected) => {
    const action = judgeRow(r, h, on);
    expect(action.kind === "withhold" ? action.as : action.kind).toBe(expected);
  });

  test("before an acceptance nothing removes, rolls back or revives what the agent did after the backup", () => {
    const hold = fc.option(fc.record({ revision: fc.nat(2_000), digestHex: fc.constantFrom("01", "02") }), {
      nil: undefined,
    });
    const rows = fc.record({ rev: fc.nat(2_000), digestHex: fc.constantFrom("", "01", "02") });
    fc.assert(
      fc.property(rows, hold, fc.option(fc.nat(1_100), { nil: undefined }), (r, h, cursorRevision) => {
        const sends = judgeRow({ ...r, del: r.digestHex === "" }, h && { ...h, name: "n" }, {
          cursorRevision,
          restored,
        }).kind;
        if (sends !== "send" && sends !== "restamp") return;
        expect(r.digestHex).not.toBe("");
        if (h !== undefined) expect(h.revision > restored.rev && h.revision <= restored.newFrom).toBe(false);
        else if (cursorRevision !== undefined) expect(r.rev).toBeGreaterThan(cursorRevision);
      }),
    );
  });
});

describe("the policy of a fleet", () => {
  const base = { ...defaultPolicy };
  test("keeps heartbeats below what a hub takes, and spreads a return over the time of its admission", () => {
    const of = (connected: number) => scaledPolicy(base, { connected, acceptsPerSecond: 250 });
    expect(of(0)).toMatchObject({ heartbeatIntervalMs: 20_000, reconnectSpreadMs: 1_000 });
    expect(of(1_000)).toMatchObject({ heartbeatIntervalMs: 20_000, reconnectSpreadMs: 4_000 });
    expect(of(10_000)).toMatchObject({ heartbeatIntervalMs: 20_000, reconnectSpreadMs: 40_000 });
    expect([of(1), of(10_000)].map((p) => p.statusMinIntervalMs)).toEqual([20, 5_000]);
    expect(of(50_000)).toMatchObject({ heartbeatIntervalMs: 100_000, reconnectSpreadMs: 200_000 });
    const fixed = scaledPolicy(
      { ...base, reconnectSpreadMs: 7_000 },
      { connected: 9_000, acceptsPerSecond: 250 },
    );
    expect(fixed.reconnectSpreadMs).toBe(7_000);
  });

  test("is told again only when it moved", () => {
    const at = (reconnectSpreadMs: number) => ({ ...base, reconnectSpreadMs });
    expect(worthTelling(at(4_000), at(4_700))).toBe(false);
    expect(worthTelling(at(4_000), at(5_100))).toBe(true);
    expect(worthTelling(at(5_100), at(4_000))).toBe(true);
    expect(worthTelling(base, { ...base, maxRemovalsPerSync: 3 })).toBe(true);
  });
});

test("a window has room for what is not under way, and for one frame of any size when nothing is", () => {
  const limits = { bytes: 100, items: 4 };
  const empty = openWindow(limits, 0);
  expect(room(empty)).toEqual(limits);
  const one = sent(empty, { bytes: 30, items: 3, revision: 5 });
  expect(room(one)).toEqual({ bytes: 70, items: 1 });
  const over = sent(one, { bytes: 90, items: 1, revision: 6 });
  expect(room(over)).toEqual({ bytes: 0, items: 0 });
  expect(room(acked(over, 2) ?? over)).toEqual(limits);
});

describe("twins", () => {
  const by = (instance: string, generation = 5n) => ({ instance, generation });
  /** Whether a stream that finds a live one is refused. */
  const refused = (twins: Twins, dp: string, one: Instance): boolean => {
    const refuses = twins.refuses(dp, one);
    if (!refuses) twins.opened(dp, one);
    return refuses;
  };
  test("an instance that comes back after another of its generation is refused, again and again", () => {
    const twins = new Twins(manualClock());
    twins.opened("dp", by("a"));
    expect(refused(twins, "dp", by("b"))).toBe(false);
    expect(refused(twins, "dp", by("a"))).toBe(true);
    expect(refused(twins, "dp", by("a"))).toBe(true);
    expect(refused(twins, "dp", by("b"))).toBe(false);
    expect(refused(twins, "other", by("a"))).toBe(false);
  });

  test("an agent that redials, restarts or takes turns with a replica is none", () => {
    const twins = new Twins(manualClock());
    twins.opened("dp", by("a"));
    for (let i = 0; i < 10; i++) expect(refused(twins, "dp", by("a"))).toBe(false);
    for (let i = 0; i < 10; i++) expect(refused(twins, "dp", by(`restart-${i}`))).toBe(false);
    const replicas = new Twins(manualClock());
    replicas.opened("dp", by("a", 5n));
    expect(refused(replicas, "dp", by("b", 6n))).toBe(false);
    expect(refused(replicas, "dp", by("a", 7n))).toBe(false);
  });

  test("replicas that outbid each other without end are found out too, and forgotten after a while", async () => {
    const clock = manualClock();
    const twins = new Twins(clock);
    twins.opened("dp", by("a", 1n));
    const turns = [2, 3, 4, 5, 6, 7].map((g) => refused(twins, "dp", by(g % 2 === 0 ? "b" : "a", BigInt(g))));
    expect(turns.slice(0, 3)).toEqual([false, false, false]);
    expect(turns).toContain(true);
    await clock.advance(10 * 60_000);
    expect(refused(twins, "dp", by("a", 9n))).toBe(false);
  });

  test("are remembered no longer than they count", async () => {
    const clock = manualClock();
    const twins = new Twins(clock);
    for (let i = 0; i < 5; i++) twins.opened(`dp-${i}`, by("a"));
    expect(twins.size).toBe(5);
    await clock.advance(4 * 60_000);
    twins.opened("dp-0", by("a"));
    await clock.advance(2 * 60_000);
    twins.opened("dp-9", by("a"));
    expect(twins.size).toBe(2);
    expect(twins.refuses("dp-0", by("a"))).toBe(false);
  });
});

describe("turns", () => {
  test("that follow each other at once leave others a round of the event loop every 10 ms", async () => {
    let nowMs = 0;
    const clock = { ...manualClock(), monotonicMs: () => nowMs };
    const turns = new Turns({ turns: 2, clock });
    const { signal } = new AbortController();
    const order: string[] = [];
    const first = [await turns.take(signal), await turns.take(signal)];
    const all = ["a", "b", "c", "d", "e"].map(async (who) => {
      const release = await turns.take(signal);
      order.push(who);
      nowMs += 6;
      release();
    });
    for (const release of first) release();
    for (let round = 0; round < 4; round++) {
      await new Promise((resolve) => setImmediate(resolve));
      order.push("others");
    }
    await Promise.all(all);
    expect(order).toEqual(["a", "b", "others", "c", "d", "others", "e", "others", "others"]);
  });

  test("go to who waits longest, and not to who went away meanwhile", async () => {
    const clock = manualClock();
    const turns = new Turns({ turns: 1, clock, refused: { waitMs: 1_000, what: "initial sync" } });
    const stays = new AbortController().signal;
    const goes = new AbortController();
    const got: string[] = [];
    const take = async (who: string, signal: AbortSignal) => {
      const release = await turns.take(signal);
      got.push(who);
      return release;
    };
    const release = await take("first", stays);
    const gone = take("gone", goes.signal);
    const second = take("second", stays);
    goes.abort(new Error("went"));
    await expect(gone).rejects.toThrow("went");
    release();
    release();
    (await second)();
    expect(got).toEqual(["first", "second"]);
    await take("third", stays);
    const late = expect(take("late", stays)).rejects.toMatchObject({ reason: "TOO_MANY_INITIAL_SYNCS" });
    await clock.advance(1_000);
    await late;
  });
});

describe("attempts", () => {
  test("are bounded for each data plane and come back with time", async () => {
    const clock = manualClock();
    const attempts = new Attempts(clock);
    for (let i = 0; i < limits.streamAttempts; i++) attempts.take("a");
    expect(() => attempts.take("a")).toThrow(`more than ${limits.streamAttempts} attempts`);
    attempts.take("b");
    await clock.advance(limits.streamAttemptMs);
    attempts.take("a");
    expect(() => attempts.take("a")).toThrow(/attempts/);
  });
});

test("a window never exceeds its limits but for one lone frame, and its sums match its frames", () => {
  const step = fc.oneof(
    fc.record({ bytes: fc.integer({ min: 1, max: 60 }), items: fc.integer({ min: 0, max: 8 }) }),
    fc.record({ ack: fc.nat(30) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      let w = openWindow({ bytes: 100, items: 10 }, 0);
      for (const s of steps) {
        if ("ack" in s) w = acked(w, s.ack) ?? w;
        else if (fits(w, s)) w = sent(w, { ...s, revision: undefined });
        expect(w.bytes).toBe(w.unacked.reduce((sum, f) => sum + f.bytes, 0));
        expect(w.items).toBe(w.unacked.reduce((sum, f) => sum + f.items, 0));
        expect(w.unacked.length <= 1 || (w.bytes <= 100 && w.items <= 10)).toBe(true);
      }
      expect(acked(w, w.lastSeq + 1)).toBeUndefined();
    }),
  );
});

test("frames keep order and limits, and carry a cursor at revision boundaries only", () => {
  const group = fc.record({ n: fc.integer({ min: 1, max: 7 }), size: fc.integer({ min: 1, max: 40 }) });
  fc.assert(
    fc.property(fc.array(group, { maxLength: 12 }), (groups) => {
      const rows = groups.flatMap((g, rev) =>
        Array.from({ length: g.n }, (_, i) => ({
          rev: rev + 1,
          uid: `u${i}`,
          name: "",
          del: false,
          update: new Uint8Array(g.size),
        })),
      );
      const frames = packFrames(rows, { bytes: 150, items: 5 });
      expect(frames.flatMap((f) => f.rows)).toEqual(rows);
      let at = 0;
      for (const frame of frames) {
        at += frame.rows.length;
        const boundary = rows[at]?.rev !== frame.rows.at(-1)?.rev;
        expect(frame.cursor).toBe(boundary ? frame.rows.at(-1)?.rev : undefined);
        expect(frame.rows.length === 1 || (frame.bytes <= 150 && frame.rows.length <= 5)).toBe(true);
      }
    }),
  );
});

test("a frame made of stored bytes decodes to what was stored, with its revision", () => {
  const row = { rev: 2 ** 40, uid: "t1", name: "tenants/t1", del: false, update: update("t1", "body") };
  const data = encodeChanges({
    seq: 3,
    epoch: new Uint8Array(16).fill(7),
    cursor: 2 ** 40,
    rows: [row],
    initialEnd: true,
  });
  const { message } = fromBinary(SyncResponseSchema, data);
  if (message.case !== "changes") throw new Error("not changes");
  expect(message.value.seq).toBe(3n);
  expect(message.value.cursor?.revision).toBe(2n ** 40n);
  expect(message.value.initialEnd).toBe(true);
  expect(message.value.updates.map((u) => [u.uid, u.name, u.revision, u.change.case])).toEqual([
    ["t1", "tenants/t1", 2n ** 40n, "upsert"],
  ]);
});
