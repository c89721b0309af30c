import { gzipSync } from "node:zlib";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import { packBundle } from "@moorage/shared/bundle/pack";
import { renderBundle } from "@moorage/shared/bundle/render";
import { writeTar } from "@moorage/shared/bundle/tar";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { unpackBundle } from "@moorage/shared/bundle/unpack";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import type { JsonObject } from "@moorage/shared/yaml";
import { checkJson } from "@moorage/shared/yaml";
import { Draw, drawObject } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";

const builtIns = { application: "web", tenant: "acme", namespace: "acme-web", dataPlane: "eu" };

function refused(thrown: unknown): undefined {
  const coded =
    thrown instanceof MoorageError && thrown.code === Code.INVALID_ARGUMENT && thrown.reason !== "";
  if (!coded) throw thrown;
  return undefined;
}

/** What was taken: plain relative paths, none equal to another on any file system, within the bounds. */
function checkBundle(bundle: Bundle): void {
  let total = 0;
  const lower = new Set<string>();
  for (const [path, content] of bundle.files) {
    hold(!/(^|\/)\.{1,2}(\/|$)|^\/|\\|\0|:/.test(path), `path ${JSON.stringify(path)} was taken`);
    hold(!lower.has(path.toLowerCase()), `path ${JSON.stringify(path)} was taken twice`);
    lower.add(path.toLowerCase());
    total += content.length;
  }
  hold(total <= limits.bundleUnpackedBytes, `${total} bytes were taken`);
  checkJson(bundle.manifest as unknown as JsonObject, "manifest");
}

function render(bundle: Bundle, parameters: JsonObject): void {
  try {
    for (const object of renderBundle(bundle, parameters, builtIns)) checkJson(object, "rendered");
  } catch (thrown) {
    refused(thrown);
  }
}

async function unpack(packed: Uint8Array, parameters: JsonObject = {}): Promise<void> {
  const chunks = [packed.subarray(0, 100), packed.subarray(100)];
  const [whole, parts] = await Promise.all([
    unpackBundle(packed).catch(refused),
    unpackBundle(chunks).catch(refused),
  ]);
  hold(whole?.digest === parts?.digest, "the size of chunks decides");
  if (whole === undefined) return;
  checkBundle(whole);
  hold(packBundle(whole.files).manifest.name === whole.manifest.name, "it does not pack again");
  render(whole, parameters);
}

const zip = (tar: Uint8Array) => gzipSync(tar, { level: 1 });

/** An archive of drawn entries: any path, type, size field and checksum. */
function entries(draw: Draw): Uint8Array {
  const blocks: Buffer[] = [];
  for (let n = 1 + draw.int(5); n > 0; n--) {
    const path = draw.pick([
      "bundle.yaml",
      "manifests/a.yaml",
      "manifests/A.yaml",
      "manifests/a.yaml/b.yaml",
      "README.md",
      "../x",
      "/etc/x",
      draw.text(),
    ]);
    const content =
      path === "bundle.yaml" && draw.int(3) > 0 ? Buffer.from(bundleYaml()) : Buffer.from(draw.text());
    const tar = Buffer.from(writeTar(new Map([[path.slice(0, 90).replaceAll("\0", "") || "x", content]])));
    const header = tar.subarray(0, 512);
    if (draw.chance(4))
      header.write(draw.pick(["0", "1", "2", "3", "5", "6", "7", "g", "x", "L", "K", "S"]), 156, "latin1");
    if (draw.chance(6))
      header.write(draw.pick(["77777777777", "00000000000", "-0000000001", "00010000000"]), 124, "latin1");
    if (draw.chance(6)) header.set(draw.bytes(8), draw.int(500));
    header.fill(" ", 148, 156);
    const sum = header.reduce((a, b) => a + b, 0) + (draw.chance(20) ? 1 : 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    blocks.push(tar.subarray(0, tar.length - 1_024));
  }
  const ends = draw.pick([1_024, 1_024, 1_024, 512, 0, 10_240]);
  return Buffer.concat([...blocks, Buffer.alloc(ends)]);
}

/** A whole bundle around drawn texts, up to a NUL each: bundle.yaml and one manifest. */
function around(draw: Draw): Uint8Array {
  const [manifest = "", file = ""] = Buffer.from(draw.rest()).toString("utf8").split("\0");
  return writeTar(filesOf({ "bundle.yaml": manifest, "manifests/a.yaml": file }));
}

const schema =
  "parameters:\n  schema:\n    type: object\n    properties: {a: {type: string, pattern: '^[a-z]+$'}, n: {type: integer}}\n  defaults: {a: b}\n";
const manifest =
  'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: "${{ parameters.a }}", b: "$${{ no }}", c: "x${{ builtin.tenant }}"}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\n';
const whole = filesOf({
  "bundle.yaml": bundleYaml(schema),
  "manifests/a.yaml": manifest,
  "README.md": "#\n",
});
const hooks =
  "hooks: [{name: a, phase: preApply, manifest: manifests/a.yaml}]\nhealth: [{apiVersion: v1, kind: X, healthy: self.a}]\nmeters: [{name: m, unit: u, kind: Gauge, port: 1}]\nsignature: {required: true, keyIds: [k]}\n";

/** The first byte chooses how the archive is made. */
const target: Target = {
  seeds: () => [
    Buffer.concat([Buffer.from([0]), packBundle(whole).bytes]),
    Buffer.concat([Buffer.from([0]), gzipSync(Buffer.alloc(4 * 1024 * 1024))]),
    Buffer.concat([Buffer.from([1]), Buffer.from(writeTar(whole)).subarray(0, 6_000)]),
    Buffer.from([2, 0, 0, 1, 2, 0]),
    Buffer.from([2, 2, 0, 1, 2, 1, 3, 97, 58, 49, 2, 2, 2, 2, 2, 7, 3, 46, 46, 47, 0, 0, 0]),
    Buffer.from(`\u0003${bundleYaml(schema)}\0${manifest}`),
    Buffer.from(`\u0003${bundleYaml(schema + hooks)}\0${manifest}`),
    Buffer.from(`\u0004\u0002\u0002\u0019\0\u0001${bundleYaml(schema)}\0${manifest}`),
  ],
  async run(data) {
    const draw = new Draw(data);
    const kind = draw.int(5);
    if (kind === 0) await unpack(draw.rest());
    else if (kind === 1) await unpack(zip(draw.rest()));
    else if (kind === 2) await unpack(zip(entries(draw)));
    else if (kind === 3) await unpack(zip(around(draw)));
    else {
      const parameters = drawObject(draw, 3) as JsonObject;
      await unpack(zip(around(draw)), parameters);
    }
  },
};

export default target;
