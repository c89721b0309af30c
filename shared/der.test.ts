import { expect, test } from "vitest";
import { elements, inside, tags, timeMs } from "./der.ts";

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");

test("elements fill what holds them, each with a definite length in its shortest form", () => {
  const whole = hex("01 01 ff 04 02 aa bb 30 00");
  expect(elements(whole).map((e) => [e.tag, Buffer.from(e.content).toString("hex")])).toEqual([
    [tags.boolean, "ff"],
    [tags.octetString, "aabb"],
    [tags.sequence, ""],
  ]);
  expect(elements(hex(""))).toEqual([]);
  const long = Buffer.concat([hex("04 82 01 00"), Buffer.alloc(256)]);
  expect(elements(long)[0]).toMatchObject({ content: Buffer.alloc(256), whole: long });
  for (const bad of [
    "04",
    "04 02 aa",
    "04 01 aa 00",
    "30 80 00 00",
    "04 81 01 aa",
    "04 82 00 81",
    "04 81",
    "04 82 01",
    "04 85 00 00 00 00 01 aa",
    "04 84 ff ff ff ff",
    "1f 81 01 00",
  ])
    expect(() => elements(hex(bad)), bad).toThrow(/length|longer|tag/);
});

test("what is inside an element is read only of the one element that is expected", () => {
  expect(inside(hex("30 03 01 01 ff"), tags.sequence)).toHaveLength(1);
  for (const bad of ["", "31 00", "30 00 30 00", "30 02 01 01"])
    expect(() => inside(hex(bad), tags.sequence), bad).toThrow(/element/);
});

test("a time has the one form that certificates have, and exists", () => {
  const time = (tag: number, text: string) =>
    timeMs(elements(Buffer.concat([Buffer.from([tag, text.length]), Buffer.from(text)]))[0] as never);
  const { utcTime, generalizedTime } = tags;
  expect(time(utcTime, "491231235959Z")).toBe(Date.UTC(2049, 11, 31, 23, 59, 59));
  expect(time(utcTime, "500101000000Z")).toBe(Date.UTC(1950, 0, 1));
  expect(time(generalizedTime, "99991231235959Z")).toBe(Date.UTC(9999, 11, 31, 23, 59, 59));
  for (const bad of ["260230000000Z", "261301000000Z", "260101000060Z", "260101240000Z", "2601010000Z"])
    expect(() => time(utcTime, bad), bad).toThrow(/time/);
  for (const bad of ["260101000000+0100", "20260101000000Z", "aa0101000000Z", ""])
    expect(() => time(utcTime, bad), bad).toThrow(/time/);
  for (const bad of ["260101000000Z", "20260101000000.5Z", "20260101000000"])
    expect(() => time(generalizedTime, bad), bad).toThrow(/time/);
});
