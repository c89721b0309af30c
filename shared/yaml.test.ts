import fc from "fast-check";
import { expect, test, vi } from "vitest";
import { MoorageError } from "./errors.ts";
import { limits } from "./limits.ts";
import { checkJson, parseJsonBounded, parseYaml, parseYamlAll, stringifyYaml } from "./yaml.ts";

/** The reason an action was refused with. */
function reasonOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof MoorageError) return error.reason;
    throw error;
  }
  return "accepted";
}

const at = { name: "t.yaml" };

test("documents come out as plain JSON and empty ones are left out", () => {
  expect(parseYamlAll("a: 1\n---\n---\n- x\n- null\n", at)).toEqual([{ a: 1 }, ["x", null]]);
});

test("an error names document, line and rule", () => {
  expect(() => parseYamlAll("a: 1\n---\nb: 1\nb: 2\n", at)).toThrow(/"t.yaml": document 2, line 4/);
});

test("a text that is nothing but mistakes ends at the first one, and other errors keep their stacks", () => {
  const before = Error.stackTraceLimit;
  expect(() => parseYamlAll(`a: 1\n${"}\n".repeat(10_000)}`, at)).toThrow(/"t.yaml": line 2: Unexpected/);
  expect(() => parseYamlAll(`[${",".repeat(10_000)}`, at)).toThrow(
    /"t.yaml": document 1, line 1: Unexpected ,/,
  );
  expect(Error.stackTraceLimit).toBe(before);
});

test("billion laughs are refused fast", () => {
  const levels = ["a: &a [x,x,x,x,x,x,x,x,x]"];
  for (let i = 1; i < 9; i++) {
    const [from, to] = [String.fromCharCode(96 + i), String.fromCharCode(97 + i)];
    levels.push(`${to}: &${to} [${Array(9).fill(`*${from}`).join(",")}]`);
  }
  expect(reasonOf(() => parseYamlAll(levels.join("\n"), at))).toBe("TOO_MANY_ALIASES");
});

test.each([
  ["__proto__: {a: 1}", "FORBIDDEN_KEY"],
  ["x: {constructor: 1}", "FORBIDDEN_KEY"],
  ['"prototype": 1', "FORBIDDEN_KEY"],
  ["a: 1\na: 2", "DUPLICATE_KEY"],
  ["a: .inf", "NOT_JSON"],
  ["? [a]\n: 1", "NOT_JSON"],
  ["a: [", "MALFORMED"],
  ["a: !!js/function x", "MALFORMED"],
  [`a: ${"[".repeat(5000)}${"]".repeat(5000)}`, "TOO_DEEP"],
  [`${"[".repeat(65)}${"]".repeat(65)}`, "TOO_DEEP"],
  [`${"[".repeat(64)}${"]".repeat(64)}`, "accepted"],
  [`a: ${"x".repeat(limits.manifestBytes)}`, "TOO_LARGE"],
])("case %#: %.20s is answered", (text, reason) => {
  expect(reasonOf(() => parseYamlAll(text, at))).toBe(reason);
});

test.each([
  ['{"__proto__": 1}', "FORBIDDEN_KEY"],
  [`${"[".repeat(100_000)}`, "TOO_DEEP"],
  [`"${"[".repeat(100)}"`, "accepted"],
  ["{", "MALFORMED"],
])("JSON case %# is answered", (text, reason) => {
  expect(reasonOf(() => parseJsonBounded(text, at))).toBe(reason);
});

const beyond = "9007199254740993";

test.each([
  [`a: ${beyond}`, `{"a": ${beyond}}`],
  [`a: [1, -${beyond}]`, `{"a": [1, -${beyond}]}`],
  ["a: 9007199254740992", '{"a": 9007199254740992}'],
  [`a: 1${"0".repeat(400)}`, `{"a": 1${"0".repeat(400)}}`],
  [`a: +${beyond}`],
  ["a: 0x20000000000001"],
  ["a: 0o400000000000000001"],
  [`a: !!int "${beyond}"`],
  [`${beyond}: a`],
  [`a: &a ${beyond}\nb: *a`],
])(
  "a whole number that a number cannot hold is refused, not changed: case %#",
  (yaml: string, json?: string) => {
    const rule = /"t.yaml": .*[0-9] is beyond what a number holds exactly: quote it or use a smaller number$/;
    expect(reasonOf(() => parseYaml(`# one\n${yaml}`, at))).toBe("NOT_JSON");
    expect(() => parseYaml(`# one\n${yaml}`, at)).toThrow(rule);
    expect(() => parseYaml(`# one\n${yaml}`, at)).toThrow(/document 1, line 2: /);
    if (json === undefined) return;
    expect(reasonOf(() => parseJsonBounded(json, at))).toBe("NOT_JSON");
    expect(() => parseJsonBounded(json, at)).toThrow(rule);
  },
);

test("the largest safe whole numbers, those in quotes and all floats are read as before", () => {
  const max = Number.MAX_SAFE_INTEGER;
  const value = { a: max, b: -max, c: beyond, d: 1e20, e: Number(`${beyond}.5`), f: 0.1 };
  const text = `{"a": ${max}, "b": -${max}, "c": "${beyond}", "d": 1e20, "e": ${beyond}.5, "f": 0.10000000000000000000}`;
  expect(parseJsonBounded(text, at)).toEqual(value);
  expect(parseYaml(text, at)).toEqual(value);
  expect(parseYaml(`a: 0x1fffffffffffff\nb: !!str ${beyond}\nc: |\n  ${beyond}\nd: x${beyond}`, at)).toEqual({
    a: max,
    b: beyond,
    c: `${beyond}\n`,
    d: `x${beyond}`,
  });
  // What was read as a float is written as one.
  for (const float of [1e20, -1e20, 2 ** 53, 2 ** 60]) {
    expect(parseYaml(stringifyYaml({ a: [float] }), at)).toEqual({ a: [float] });
    expect(parseYaml(stringifyYaml(float), at)).toBe(float);
  }
});

test("parsing never pollutes a prototype", () => {
  expect(reasonOf(() => checkJson(JSON.parse('{"a":{"__proto__":{"polluted":1}}}'), "x"))).toBe(
    "FORBIDDEN_KEY",
  );
  expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
});

test("what is written reads back the same", () => {
  const plain = fc
    .jsonValue({ maxDepth: 5 })
    .filter((v) => v !== null && reasonOf(() => checkJson(v, "x")) === "accepted");
  fc.assert(
    fc.property(plain, (value) => {
      const expected: unknown = JSON.parse(JSON.stringify(value));
      expect(parseYaml(stringifyYaml(value), at)).toEqual(expected);
    }),
    { numRuns: 200 },
  );
});

test("aliases of a long text are refused", () => {
  const aliases = Array(99).fill("*a").join(",");
  const copied = vi.spyOn(JSON, "stringify");
  for (const long of [`${"x".repeat(900_000)}`, `[${Array(10_000).fill("1").join(",")}]`]) {
    copied.mockClear();
    expect(reasonOf(() => parseYamlAll(`a: &a ${long}\nb: [${aliases}]`, at))).toBe("TOO_MANY_ALIASES");
    // Told from the lengths: nothing was written out.
    expect(copied).not.toHaveBeenCalled();
  }
  expect(parseYamlAll(`a: &a ${"x".repeat(30_000)}\nb: [${aliases}]`, at)).toHaveLength(1);
  copied.mockRestore();
});

test("many keys are read in linear time, and too many are refused before they are read", () => {
  const keys = (n: number) => Array.from({ length: n }, (_, i) => `k${i}: 1`).join("\n");
  const cpu = (fn: () => unknown) => {
    const before = process.cpuUsage();
    fn();
    return process.cpuUsage(before).user / 1e6;
  };
  // The quadratic check took minutes; the bounds leave room for a busy machine.
  expect(cpu(() => expect(parseYamlAll(keys(20_000), at)).toHaveLength(1))).toBeLessThan(3);
  expect(cpu(() => expect(reasonOf(() => parseYamlAll(keys(80_000), at))).toBe("TOO_LARGE"))).toBeLessThan(2);
  expect(parseYamlAll(keys(30_000), { ...at, maxTokens: 300_000 })).toHaveLength(1);
});

test.each([
  ["openers apart", "[ ".repeat(100_000)],
  ["maps in flow", "{a: ".repeat(50_000)],
  ["sequences in a line", "- ".repeat(100_000)],
  ["keys in a line", "? ".repeat(100_000)],
  ["ever deeper lines", Array.from({ length: 1_000 }, (_, i) => `${" ".repeat(i)}a:`).join("\n")],
])("deep nesting by %s is refused in little time", (_, text) => {
  const before = process.cpuUsage();
  expect(reasonOf(() => parseYamlAll(text, at))).toBe("TOO_DEEP");
  expect(process.cpuUsage(before).user / 1e6).toBeLessThan(1);
});
