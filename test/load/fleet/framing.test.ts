import fc from "fast-check";
import { expect, test } from "vitest";
import { Deframer, frame } from "./framing.ts";

test("messages come out whole and in order, however the stream is cut", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 10 }),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 50 }),
      (messages, cuts) => {
        const wire = Buffer.concat(messages.map((m) => frame(m)));
        const deframer = new Deframer();
        const out: Buffer[] = [];
        for (let at = 0, i = 0; at < wire.length; i++) {
          const size = cuts[i % cuts.length] as number;
          out.push(...deframer.push(Buffer.from(wire.subarray(at, at + size))));
          at += size;
        }
        expect(out.map((m) => m.toString("hex"))).toEqual(
          messages.map((m) => Buffer.from(m).toString("hex")),
        );
      },
    ),
  );
});

test("a compressed message and one above the limit are refused", () => {
  const compressed = frame(new Uint8Array(3));
  compressed[0] = 1;
  expect(() => new Deframer().push(compressed)).toThrow(/compressed/);
  const huge = Buffer.from([0, 0x7f, 0xff, 0xff, 0xff]);
  expect(() => new Deframer().push(huge)).toThrow(/above the limit/);
});
