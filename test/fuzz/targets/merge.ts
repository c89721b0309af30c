import { normalise } from "@moorage/agent/apply/normalise";
import { childOf, project, uniteFields, withoutPath } from "@moorage/agent/apply/projection";
import { evaluate } from "@moorage/agent/health/evaluate";
import { DEFAULT_RULES } from "@moorage/agent/health/rules";
import { canonicalJson, cloneJson, equalJson } from "@moorage/agent/kube/json";
import { mergeJson, patchJson } from "@moorage/agent/kube/json-patch";
import { applyFields, decodeFields, encodeFields, leavesOf } from "@moorage/agent/kube/memory-fields";
import type { FieldsV1, KubeObject } from "@moorage/agent/kube/object";
import { filesOf, bundleYaml } from "@moorage/shared/bundle/testing";
import { openBundle } from "@moorage/shared/bundle/manifest";
import { renderBundle } from "@moorage/shared/bundle/render";
import { checkParameters } from "@moorage/shared/bundle/schema";
import { MoorageError } from "@moorage/shared/errors";
import type { JsonObject } from "@moorage/shared/yaml";
import { checkJson } from "@moorage/shared/yaml";
import { Draw, drawJson, drawObject, oddKeys } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";

/** Objects and arrays that are plain, all through: an assignment through `__proto__` would show here. */
function plain(value: unknown, what: string): void {
  if (typeof value !== "object" || value === null) return;
  if (Array.isArray(value)) {
    for (const item of value) plain(item, what);
    return;
  }
  const proto: unknown = Object.getPrototypeOf(value);
  hold(proto === Object.prototype || proto === null, `${what}: an object got another prototype`);
  for (const key of Object.keys(value)) plain((value as Record<string, unknown>)[key], what);
}

/** RFC 7386, on maps, so that no key means anything. */
function reference(target: unknown, patch: unknown): unknown {
  const isObject = (v: unknown): v is Record<string, unknown> =>
    typeof v === "object" && v !== null && !Array.isArray(v);
  if (!isObject(patch)) return patch;
  const out = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) out.delete(key);
    else out.set(key, reference(out.get(key), value));
  }
  return Object.fromEntries(out);
}

function merging(draw: Draw): void {
  const [target, patch] = [drawJson(draw), drawJson(draw)];
  const before = canonicalJson(target);
  const merged = mergeJson(target, patch);
  plain(merged, "merge");
  hold(canonicalJson(target) === before, "merge changed its input");
  hold(
    canonicalJson(merged) === canonicalJson(reference(target, patch)),
    `merge of ${before} and ${canonicalJson(patch)} gives ${canonicalJson(merged)}`,
  );
  hold(equalJson(mergeJson(merged, patch), merged), "merging twice is not merging once");
}

function cloning(draw: Draw): void {
  const [a, b] = [drawJson(draw), drawJson(draw)];
  const copy = cloneJson(a);
  plain(copy, "clone");
  hold(equalJson(a, copy) && canonicalJson(a) === canonicalJson(copy), "a copy differs");
  hold(
    equalJson(a, b) === (canonicalJson(a) === canonicalJson(b)),
    `equality of ${canonicalJson(a)} and ${canonicalJson(b)}`,
  );
}

const kubeObject = (draw: Draw): KubeObject => {
  const drawn = drawObject(draw);
  const metadata = { ...drawObject(draw, 3), name: "x" };
  return {
    ...drawn,
    apiVersion: draw.pick(["v1", "apps/v1"]),
    kind: draw.pick(["ConfigMap", "Deployment", "Secret", "Pod", "Job"]),
    metadata,
  } as KubeObject;
};

const pointer = (draw: Draw): string => {
  const parts = Array.from({ length: 1 + draw.int(4) }, () =>
    draw.pick(["metadata", "labels", "spec", "-", ...oddKeys]),
  );
  return `/${parts.map((p) => p.replaceAll("~", "~0").replaceAll("/", "~1")).join("/")}`;
};

function patching(draw: Draw): void {
  const object = kubeObject(draw);
  const before = canonicalJson(object);
  const operations = Array.from({ length: 1 + draw.int(3) }, () => {
    const op = draw.pick(["add", "replace", "remove", "test", "move", "copy"] as const);
    return { op, path: pointer(draw), from: pointer(draw), value: drawJson(draw, 3) };
  });
  try {
    plain(patchJson(cloneJson(object), operations as never), "patch");
  } catch (thrown) {
    if ((thrown as { status?: number }).status !== 422) throw thrown;
  }
  hold(canonicalJson(object) === before, "a patch reached another object");
}

const bundle = openBundle(
  filesOf({
    "bundle.yaml": bundleYaml(
      "parameters:\n  schema: {type: object}\n  defaults: {a: {b: 1}, c: [1], d: text}\n",
    ),
    "manifests/a.yaml":
      'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "${{ parameters.d }}"}\ndata: {a: "${{ parameters.a }}", b: "x ${{ builtin.tenant }}"}\n',
  }),
);
const builtIns = { application: "web", tenant: "acme", namespace: "acme-web", dataPlane: "eu" };

function parameters(draw: Draw): void {
  const values = drawObject(draw) as JsonObject;
  try {
    plain(checkParameters(bundle.manifest.parameters, values), "parameters");
    for (const object of renderBundle(bundle, values, builtIns)) {
      plain(object, "rendered");
      checkJson(object, "rendered");
    }
  } catch (thrown) {
    if (!(thrown instanceof MoorageError)) throw thrown;
  }
}

const drawFields = (draw: Draw, depth = 4): FieldsV1 => {
  const out: FieldsV1 = {};
  const elements = [
    ...oddKeys.map((k) => `f:${k}`),
    'k:{"name":"a"}',
    'v:"a"',
    "i:0",
    ".",
    "f:metadata",
    "f:spec",
  ];
  for (let n = depth <= 0 ? 0 : draw.int(4); n > 0; n--)
    out[draw.pick(elements)] = drawFields(draw, depth - 1);
  return out;
};

function fields(draw: Draw): void {
  const value = drawJson(draw);
  const [a, b] = [drawFields(draw), drawFields(draw)];
  const united = uniteFields(a, b);
  plain(united, "united fields");
  hold(project(united, value) === project(uniteFields(b, a), value), "the union of fields has a direction");
  for (const element of Object.keys(united)) childOf(value, element);
  const path = Array.from({ length: 1 + draw.int(3) }, () =>
    draw.pick(Object.keys(united).concat("f:__proto__")),
  );
  const left = withoutPath(united, path);
  if (left !== undefined) plain(left, "fields left");
  const set = decodeFields(a);
  if (Object.keys(a).length > 0)
    hold(decodeFields(encodeFields(set)).size === set.size, "field sets do not read back the same");
}

function applying(draw: Draw): void {
  const live = draw.chance(3) ? undefined : kubeObject(draw);
  if (live !== undefined) live.metadata.managedFields = [];
  const applied = kubeObject(draw);
  const manager = { name: "m", operation: "Apply", apiVersion: "v1", subresource: "", time: "" };
  const first = applyFields(live, cloneJson(applied), { manager, force: true });
  hold("object" in first, "a forced apply met a conflict");
  plain(first.object, "applied");
  const second = applyFields(first.object, cloneJson(applied), { manager, force: true });
  hold("object" in second, "a forced apply met a conflict");
  const bare = (o: KubeObject) => canonicalJson({ ...o, metadata: { ...o.metadata, managedFields: [] } });
  hold(bare(second.object) === bare(first.object), "applying twice is not applying once");
  hold(leavesOf(applied).size >= 0, "leaves");
}

function judging(draw: Draw): void {
  const object = kubeObject(draw);
  const verdict = evaluate(
    { ...object, status: drawJson(draw) },
    { now: 1_700_000_000_000, rules: DEFAULT_RULES },
  );
  hold(typeof verdict.status === "string" && typeof verdict.message === "string", "a verdict without status");
  const set = normalise([object, kubeObject(draw)], {
    scopeOf: (_v, kind) => (kind === "Secret" ? "Cluster" : "Namespaced"),
    labels: { a: "b" },
    namespaces: ["n"],
    defaultNamespace: "n",
  });
  if (Array.isArray(set)) for (const one of set) plain(one.object, "normalised");
}

const parts = [merging, cloning, patching, parameters, fields, applying, judging];

// Nothing can be added from now on; what stands there is compared after each case. Frozen outright, no
// object could have an own key like "toString" by assignment, which parsers and JSON have a right to.
Object.seal(Object.prototype);
const builtIn = Object.entries(Object.getOwnPropertyDescriptors(Object.prototype));

/** Object.prototype is what it was. */
function unpolluted(): boolean {
  return builtIn.every(([key, was]) => {
    const is = Object.getOwnPropertyDescriptor(Object.prototype, key);
    return is?.value === was.value && is?.get === was.get && is?.set === was.set;
  });
}

/** The first byte chooses what is tried. */
const target: Target = {
  seeds: () =>
    parts.map((_, i) => Buffer.from([i, ...Array.from({ length: 60 }, (__, n) => (n * 37 + i) % 251)])),
  run(data) {
    const draw = new Draw(data);
    parts[draw.int(parts.length)]?.(draw);
    hold(unpolluted(), "Object.prototype changed");
  },
};

export default target;
