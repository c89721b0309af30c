import { expect, test } from "vitest";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { decodeStatus, encodeStatus, statusText } from "./status-details.ts";

const full = new MoorageError(Code.RESOURCE_EXHAUSTED, "Too many", {
  reason: "QUOTA",
  metadata: { limit: "3" },
  fields: [{ field: "a.b", description: "long" }],
  preconditions: [{ type: "T", subject: "s", description: "d" }],
  quota: [{ subject: "s", description: "d" }],
  retryAfterMs: 1500,
});

test("a status has the bytes of the published field numbers", () => {
  const type = "type.googleapis.com/google.rpc.ErrorInfo";
  // ErrorInfo: reason = 1, domain = 2; Any: type_url = 1, value = 2; Status: code = 1, message = 2, details = 3.
  const info = Buffer.concat([
    Buffer.from([0x0a, 1]),
    Buffer.from("R"),
    Buffer.from([0x12, 11]),
    Buffer.from("moorage.dev"),
  ]);
  const any = Buffer.concat([
    Buffer.from([0x0a, type.length]),
    Buffer.from(type),
    Buffer.from([0x12, info.length]),
    info,
  ]);
  const status = Buffer.concat([
    Buffer.from([0x08, 5, 0x12, 1]),
    Buffer.from("m"),
    Buffer.from([0x1a, any.length]),
    any,
  ]);
  const encoded = encodeStatus(new MoorageError(Code.NOT_FOUND, "m", { reason: "R" }));
  expect(Buffer.from(encoded).toString("hex")).toBe(status.toString("hex"));
});

test("every detail survives encoding and decoding", () => {
  const back = decodeStatus(full.code, full.message, encodeStatus(full));
  for (const key of [
    "code",
    "message",
    "reason",
    "metadata",
    "fields",
    "preconditions",
    "quota",
    "retryAfterMs",
  ] as const) {
    expect(back[key], key).toEqual(full[key]);
  }
});

test("a status stays small whatever an error says, and its reason and time are told first", () => {
  const long = "ü".repeat(100_000);
  const many = Array.from({ length: 1_000 }, (_, i) => ({ field: `f${i}`, description: long }));
  const error = new MoorageError(Code.INVALID_ARGUMENT, long, {
    reason: "MANY",
    metadata: { value: long },
    fields: many,
    quota: [{ subject: "s", description: long }],
    retryAfterMs: 5,
  });
  const encoded = encodeStatus(error);
  expect(encoded.length).toBeLessThan(limits.statusDetailBytes + 3 * limits.statusTextBytes);
  const back = decodeStatus(error.code, statusText(error.message), encoded);
  expect(back).toMatchObject({ code: error.code, reason: "MANY", retryAfterMs: 5 });
  expect(Buffer.byteLength(back.message)).toBeLessThanOrEqual(limits.statusTextBytes);
  expect(back.message).toMatch(/^ü+…$/);
  expect(back.fields.map((f) => f.field)).toEqual(["f0", "f1", "f2", "f3"]);
  expect(back.fields[0]?.description).toBe(back.message);
});

test.each(["", "a", "a".repeat(limits.statusTextBytes), "€".repeat(limits.statusTextBytes / 4)])(
  "a text of the limit is not cut",
  (text) => expect(statusText(text)).toBe(text),
);

test("malformed details leave code and message", () => {
  const back = decodeStatus(5, "gone", new Uint8Array([0x1a, 0xff]));
  expect([back.code, back.message, back.reason]).toEqual([5, "gone", "NOT_FOUND"]);
});

test("on the public API what is unavailable or exhausted always says when to try again, and nothing else does unasked", () => {
  for (const code of Object.values(Code)) {
    const error = new MoorageError(code, "m");
    expect(decodeStatus(code, "m", encodeStatus(error)).retryAfterMs).toBeUndefined();
    const back = decodeStatus(code, "m", encodeStatus(error, { retryInfo: true }));
    const said: Partial<Record<Code, number>> = {
      [Code.UNAVAILABLE]: limits.retryBaseMs,
      [Code.RESOURCE_EXHAUSTED]: 1_000,
    };
    expect(back.retryAfterMs).toBe(said[code]);
  }
});
