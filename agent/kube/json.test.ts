import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalJson, cloneJson, encodeJson, equalJson, parseJson, rawNumber } from "./json.ts";

describe("JSON for the API server", () => {
  it("keeps integers beyond 2^53 exact both ways", () => {
    const text = '{"a":9007199254740993,"b":-12345678901234567890,"c":1.5,"d":"9007199254740993"}';
    expect(encodeJson(parseJson(text))).toBe(text);
    expect(encodeJson({ n: 9007199254740993n })).toBe('{"n":9007199254740993}');
    expect(canonicalJson({ b: rawNumber("9007199254740993"), a: 1 })).toBe('{"a":1,"b":9007199254740993}');
  });

  it("escapes what the server's YAML reader refuses or changes, and nothing else", () => {
    expect(encodeJson("\u007f\u0085\u009f\ufffe\uffff")).toBe('"\\u007f\\u0085\\u009f\\ufffe\\uffff"');
    expect(encodeJson("\ufeff\u00a0\u2028\u2029")).toBe('"\ufeff\u00a0\u2028\u2029"');
  });

  it("reads back whatever it wrote", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(equalJson(parseJson(encodeJson(value)), value)).toBe(true);
        expect(canonicalJson(cloneJson(value))).toBe(canonicalJson(value));
      }),
    );
  });
});
