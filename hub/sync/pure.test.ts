import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { SyncResponseSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { describe, expect, test } from "vitest";
import { encodeChanges, packFrames } from "./frames.ts";
import type { ResumeFacts } from "./plan-resume.ts";
import { compareSends, planResume } from "./plan-resume.ts";
import { update } from "./testing.ts";
import { acked, fits, openWindow, sent } from "./window.ts";

const head = { epochHex: "aa", revision: 100 };
const base: ResumeFacts = {
  cursor: { epochHex: "aa", revision: 50 },
  head,
  floor: 10,
  held: "absent",
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
    ["a digest that cannot be judged", { held: "unknown" }, "COMPARE"],
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

  test("under a foreign epoch nothing at or below the held revision is sent", () => {
    const held = { name: "n", digestHex: "01", revision: 9 };
    expect(compareSends({ rev: 9, del: true, digestHex: "" }, held, true)).toBe(false);
    expect(compareSends({ rev: 10, del: true, digestHex: "" }, held, true)).toBe(true);
    expect(compareSends({ rev: 8, del: false, digestHex: "02" }, held, true)).toBe(false);
    expect(compareSends({ rev: 8, del: false, digestHex: "02" }, held, false)).toBe(true);
    expect(compareSends({ rev: 8, del: false, digestHex: "01" }, held, false)).toBe(false);
    expect(compareSends({ rev: 1, del: false, digestHex: "01" }, undefined, true)).toBe(true);
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
