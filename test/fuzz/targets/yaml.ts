import { Code, MoorageError } from "@moorage/shared/errors";
import { checkJson, parseJsonBounded, parseYamlAll, stringifyYamlAll } from "@moorage/shared/yaml";
import type { Json } from "@moorage/shared/yaml";
import { Draw } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";

const at = { name: "fuzz.yaml" };
/** Bytes of a text that is a few bytes repeated. */
const SWOLLEN = 32 * 1024;

/** What `read` gives; undefined when it refuses as it should. */
export function refusable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (thrown) {
    if (thrown instanceof MoorageError && thrown.code === Code.INVALID_ARGUMENT && thrown.reason !== "")
      return undefined;
    throw thrown;
  }
}

function checkPlain(value: Json): void {
  checkJson(value, "parsed");
  const text = JSON.stringify(value);
  hold(JSON.stringify(JSON.parse(text)) === text, `a parsed value is not plain JSON: ${text.slice(0, 200)}`);
}

const texts = [
  "a: 1\nb: [x, {y: z}]\nc: |\n  text\n  more\nd: >-\n  folded\n",
  "%YAML 1.2\n---\na: &a {b: 1}\nc: *a\n...\n---\n- 'it''s'\n- \"\\u0041\\n\"\n- 0x1f\n- 1e3\n- ~\n",
  "? key\n: value\n? !!str 12\n: !!int '3'\n",
  '{"a": [1, 2.5, -0, null, true, "x\\u0000"], "": {}}',
  "a: {b: {c: {d: {e: [[[[1]]]]}}}}\n# comment\n\tb: 2\n",
  "- - - 1\n  - 2\n-\n  - 3\n",
  "- 1e20\n- 9007199254740991\n",
  "- 0x20000000000001\n",
  "x: !custom y\n<<: {a: 1}\n__proto__: 1\n",
];

/** The first byte chooses the parser and whether the rest is the text or what the text repeats. */
const target: Target = {
  seeds: () => [
    ...texts.flatMap((text) => [0, 1].map((kind) => Buffer.from([kind, ...Buffer.from(text)]))),
    ...["[", "{a: ", "- ", "a: 1\n", "&a *a ", "? ", "'", "\n ", "!", "---\n", "|\n a\n", ": ", "a,"].flatMap(
      (unit) => [2, 3].map((kind) => Buffer.from([kind, unit.length - 1, ...Buffer.from(unit), 14])),
    ),
  ],
  run(data) {
    const kind = (data[0] ?? 0) % 4;
    const bytes = kind < 2 ? data.subarray(1) : new Draw(data.subarray(1)).swollen(SWOLLEN);
    const text = Buffer.from(bytes).toString("utf8");
    if (kind % 2 === 1) {
      const value = refusable(() => parseJsonBounded(text, at));
      if (value !== undefined) checkPlain(value);
      return;
    }
    const values = refusable(() => parseYamlAll(text, at));
    if (values === undefined) return;
    values.forEach(checkPlain);
    if (values.length === 0) return;
    const again = parseYamlAll(stringifyYamlAll(values), {
      name: "written again",
      maxBytes: 16 * 1024 * 1024,
    });
    hold(JSON.stringify(again) === JSON.stringify(values), "what was written does not read back the same");
  },
};

export default target;
