import { join } from "node:path";
import { expect, test } from "vitest";
import type { JsonObject } from "../yaml.ts";
import { loadBundle } from "./load.ts";
import { openBundle } from "./manifest.ts";
import { packBundle } from "./pack.ts";
import { renderBundle } from "./render.ts";
import { bundleYaml, diskFolder, filesOf } from "./testing.ts";
import { unpackBundle } from "./unpack.ts";

const builtIns = { application: "web", tenant: "acme", namespace: "acme-main", dataPlane: "eu-1" };
const examples = join(import.meta.dirname, "../../deploy/examples/bundles");
const open = (manifest: string, more = "") =>
  openBundle(filesOf({ "bundle.yaml": bundleYaml(more), "manifests/a.yaml": manifest }));
const anyParameters = "parameters: {schema: {type: object}}\n";
const configMap = (data: string): string =>
  `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: ${data}}`;
const dataOf = (data: string, parameters: JsonObject): unknown =>
  renderBundle(open(configMap(data), anyParameters), parameters, builtIns)[0]?.["data"];

test.each([
  ["web", ["ConfigMap", "Deployment", "Service"]],
  ["report", ["ConfigMap", "Deployment"]],
])("the example %s loads, packs, unpacks and renders the same", async (name, kinds) => {
  const bundle = await loadBundle(diskFolder(join(examples, name)));
  const packed = packBundle(bundle.files);
  const objects = renderBundle(await unpackBundle(packed.bytes, packed.digest), {}, builtIns);
  expect(objects).toEqual(renderBundle(bundle, {}, builtIns));
  expect(objects.map((object) => object.kind)).toEqual(kinds);
  expect(JSON.stringify(objects)).not.toContain("${{");
});

test("a whole value keeps its type, a part is interpolated, an escape stays", () => {
  const data = `{n: "\${{ parameters.n }}", o: "\${{parameters.o}}", s: "x-\${{ parameters.o.0 }}-\${{ builtin.tenant }}", e: "$\${{ x }}"}`;
  expect(dataOf(data, { n: 3, o: ["q"] })).toEqual({ n: 3, o: ["q"], s: "x-q-acme", e: "${{ x }}" });
});

test("a bound value is not read again for bindings", () => {
  expect(dataOf(`{a: "\${{ parameters.a }}"}`, { a: "${{ builtin.tenant }}" })).toEqual({
    a: "${{ builtin.tenant }}",
  });
});

test.each(["parameters.b", "builtin.toString", "parameters.a.length", "process.env", "parameters.__proto__"])(
  "the unknown name %s is an error that names file and path",
  (name) => {
    expect(() => dataOf(`{k: "\${{ ${name} }}"}`, { a: [1] })).toThrow(
      /Render "manifests\/a.yaml" at "\/data\/k".*unknown/,
    );
  },
);

test("bindings cannot grow a bundle beyond its limit", () => {
  const data = `[${Array(20_000).fill('"${{ parameters.a }}"').join(",")}]`;
  expect(() => dataOf(data, { a: "x".repeat(40_000) })).toThrow(/above/);
});

test("a parameter outside the schema is refused with path and rule", () => {
  const bundle = open(
    configMap("{}"),
    "parameters: {schema: {type: object, properties: {n: {type: integer, minimum: 1}}}}",
  );
  expect(() => renderBundle(bundle, { n: 0 }, builtIns)).toThrow(/"parameters\/n" must be >= 1 \(minimum\)/);
});

test.each([
  ["{$ref: 'https://example.org/s'}", /references/],
  ["{type: object, properties: {p: {type: string, sensitive: true}}}", /secret reference/],
  ["{type: object, properties: {p: {type: string, pattern: '^((a+)a*)+$'}}}", /may take long/],
  ["{type: object, properties: {p: {type: string, pattern: '^a*a*a*a*b'}}}", /may take long/],
  ["{type: object, propertees: {}}", /strict mode/],
])("the parameter schema %s is refused", (schema, why) => {
  expect(() => open(configMap("{}"), `parameters: {schema: ${schema}}`)).toThrow(why);
});

test("a pattern is tried on short text only", () => {
  const bundle = open(
    configMap("{}"),
    "parameters: {schema: {type: object, properties: {p: {type: string, pattern: '^a*b?$'}}}}",
  );
  expect(renderBundle(bundle, { p: "aab" }, builtIns)).toHaveLength(1);
  expect(() => renderBundle(bundle, { p: "a".repeat(513) }, builtIns)).toThrow(/\(pattern\)/);
});

test("the same object twice is refused", () => {
  expect(() => renderBundle(open(`${configMap("{}")}\n---\n${configMap("{}")}`), {}, builtIns)).toThrow(
    /stands twice/,
  );
});

test("a format without its tool is refused with the reason", () => {
  const text = bundleYaml().replace("Plain", "Helm");
  expect(() => openBundle(filesOf({ "bundle.yaml": text }))).toThrow(/format "Helm" needs a tool/);
});
