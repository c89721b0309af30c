import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { contains, metadataRanges, overlaps, parseCidr } from "./cidr.ts";

const range = (text: string) => {
  const c = parseCidr(text);
  if (c === undefined) throw new Error(`not a range: ${text}`);
  return c;
};

describe("parseCidr", () => {
  it.each([
    "10.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "fd00:ec2::254/128",
    "2001:db8::/32",
    "::ffff:10.0.0.0/104",
    ...metadataRanges,
  ])("reads %s", (text) => expect(parseCidr(text)).toBeDefined());
  it.each([
    "10.0.0.1/8",
    "10.0.0.0",
    "10.0.0/8",
    "010.0.0.0/8",
    "10.0.0.0/33",
    "1::2::3/64",
    "::1/129",
    "2001:db8::1/32",
    "",
    "a/b",
    "1:2:3:4:5:6:7:8:9/64",
  ])("refuses %s", (text) => expect(parseCidr(text)).toBeUndefined());
});

describe("contains", () => {
  it("holds for a range inside another and not the other way round", () => {
    expect(contains(range("10.0.0.0/8"), range("10.2.0.0/16"))).toBe(true);
    expect(contains(range("10.2.0.0/16"), range("10.0.0.0/8"))).toBe(false);
    expect(contains(range("0.0.0.0/0"), range("::/0"))).toBe(false);
  });

  it("agrees with the address by address definition on short IPv4 ranges", () => {
    const short = fc
      .record({ last: fc.nat(255), prefix: fc.integer({ min: 24, max: 32 }) })
      .map(({ last, prefix }) => {
        const size = 2 ** (32 - prefix);
        return {
          first: Math.floor(last / size) * size,
          size,
          text: `192.0.2.${Math.floor(last / size) * size}/${prefix}`,
        };
      });
    fc.assert(
      fc.property(short, short, (a, b) => {
        const inside = b.first >= a.first && b.first + b.size <= a.first + a.size;
        expect(contains(range(a.text), range(b.text))).toBe(inside);
        const shared = a.first < b.first + b.size && b.first < a.first + a.size;
        expect(overlaps(range(a.text), range(b.text))).toBe(shared);
      }),
    );
  });
});
