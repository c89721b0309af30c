import { expect, test } from "vitest";
import { limits } from "../limits.ts";
import type { JsonObject } from "../yaml.ts";
import { checkParameters, compileSchema } from "./schema.ts";

const object = (properties: JsonObject, more: JsonObject = {}): JsonObject => ({
  type: "object",
  properties,
  ...more,
});
const many = (count: number, of: (i: number) => JsonObject): JsonObject =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, of(i)]));

test("a schema may have as many elements as the limit says, and not one more; notes and data do not count", () => {
  // The schema, its type and its properties are three; each empty schema is one.
  const empty = limits.parameterSchemaElements - 3;
  const noted = { title: "t", description: "d", default: { a: [1, 2, 3] }, examples: [1], enum: [1, 2] };
  compileSchema(object(many(empty, (i) => (i < 100 ? noted : {}))));
  expect(() => compileSchema(object(many(empty + 1, () => ({}))))).toThrow(
    `it has ${limits.parameterSchemaElements + 1} elements`,
  );
});

test("a reference counts as what it refers to, however often and through however many others", () => {
  const string = { type: "string", maxLength: 5 };
  const wide = { part: object(many(100, () => string)) };
  const refer = (name: string) => ({ $ref: `#/$defs/${name}` });
  expect(() =>
    compileSchema(
      object(
        many(50, () => refer("part")),
        { $defs: wide },
      ),
    ),
  ).toThrow("each reference counted");
  const doubled = Object.fromEntries(
    Array.from({ length: 40 }, (_, i) => [
      `d${i}`,
      i === 0 ? string : { allOf: [refer(`d${i - 1}`), refer(`d${i - 1}`)] },
    ]),
  );
  expect(() => compileSchema(object({ a: refer("d39") }, { $defs: doubled }))).toThrow(
    "each reference counted",
  );
});

test.each([
  ["itself", { $ref: "#/properties/a" }, "refers to itself"],
  ["what it is a part of", { items: { $ref: "#/properties/a" } }, "refers to itself"],
  [
    "what refers to it",
    { not: { $ref: "#/properties/a/then" }, then: { $ref: "#/properties/a" } },
    "refers to itself",
  ],
  ["nothing", { $ref: "#/$defs/none" }, "leads nowhere"],
  ["what cannot be read", { $ref: "#/%zz" }, "leads nowhere"],
  ["an anchor", { $ref: "#port" }, "references by path"],
])("a reference to %s is refused", (_, a, why) => {
  expect(() => compileSchema(object({ a }))).toThrow(why);
});

test("a reference is checked as what it refers to, at each place", () => {
  const $defs = { port: { type: "integer", minimum: 1 }, "a/b": { type: "string" } };
  const schema = object(
    { http: { $ref: "#/$defs/port" }, grpc: { $ref: "#/$defs/port" }, name: { $ref: "#/$defs/a~1b" } },
    { $defs },
  );
  const check = (values: JsonObject) => checkParameters({ schema, defaults: {} }, values);
  expect(check({ http: 80, grpc: 90, name: "n" })).toEqual({ http: 80, grpc: 90, name: "n" });
  expect(() => check({ http: 80, grpc: 0 })).toThrow('"parameters/grpc" must be >= 1');
  expect(() => check({ name: 1 })).toThrow('"parameters/name" must be string');
});

test("validators of several hundred small schemas are kept", () => {
  const schema = (i: number) => object({ [`only${i}`]: { type: "string" } });
  const first = compileSchema(schema(0));
  for (let i = 1; i < 300; i++) compileSchema(schema(i));
  expect(compileSchema(schema(0))).toBe(first);
});

test("validators of large schemas give way to newer ones", () => {
  const schema = (i: number) => object(many(900, (p) => (p === 0 ? { const: i } : {})));
  const first = compileSchema(schema(0));
  const second = compileSchema(schema(1));
  for (let i = 2; i < 112; i++) {
    compileSchema(schema(i));
    expect(compileSchema(schema(1))).toBe(second);
  }
  expect(compileSchema(schema(0))).not.toBe(first);
});
