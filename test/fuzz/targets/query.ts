import { compileFilter } from "@moorage/hub/core/filter";
import { created, updated } from "@moorage/hub/core/lifecycle";
import { parseName, requireBundleVersion, requireName, requireParent } from "@moorage/hub/core/names";
import { pageSize, pageToken, readPageToken } from "@moorage/hub/core/pages";
import type { Resource } from "@moorage/hub/core/resources";
import { asJson, ofJson } from "@moorage/hub/core/resources";
import { Code, MoorageError } from "@moorage/shared/errors";
import { Draw, drawObject } from "../draw.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";

const resources: readonly Resource[] = [
  ofJson("DataPlane", { name: "dataPlanes/eu", spec: {}, labels: { region: "eu" } }),
  ofJson("Tenant", { name: "tenants/acme", spec: { dataPlane: "dataPlanes/eu" }, labels: { "a.b/c": "d" } }),
  ofJson("Application", {
    name: "tenants/acme/applications/web",
    spec: { bundle: "bundles/small", version: "1.0.0", parameters: { a: { b: [1] } } },
  }),
];

/** What `read` gives; undefined for a refusal that names its field. */
function byField<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (thrown) {
    const coded =
      thrown instanceof MoorageError &&
      (thrown.code === Code.INVALID_ARGUMENT || thrown.code === Code.ABORTED);
    if (coded && (thrown.fields[0]?.field ?? "") !== "") return undefined;
    throw thrown;
  }
}

function filter(draw: Draw): void {
  const text = Buffer.from(draw.rest()).toString("utf8");
  const compiled = byField(() => compileFilter(text));
  for (const r of compiled === undefined ? [] : resources)
    hold(typeof compiled?.(r) === "boolean", "a filter gave no boolean");
}

function token(draw: Draw): void {
  const query = draw.pick(["", "q", "tenants"]);
  const text = Buffer.from(draw.rest()).toString("utf8");
  const position = byField(() => readPageToken(text, query));
  // Only who has the digest's input can make one, so whatever is taken must be ours.
  if (position !== undefined)
    hold(readPageToken(pageToken(position, query), query).after === position.after, "a token changed");
  const own = pageToken({ revision: 1 + text.length, after: text }, query);
  if (own.length <= 1_024) {
    const back = readPageToken(own, query);
    // What UTF-8 cannot hold comes back as the replacement character, and then the digest fails instead.
    hold(back.after === text && back.revision === 1 + text.length, "a token does not read back the same");
    hold(byField(() => readPageToken(own, `${query}!`)) === undefined, "a token fits another query");
  }
}

function names(draw: Draw): void {
  const text = draw.text();
  const parsed = parseName(text);
  if (parsed !== undefined)
    hold(byField(() => requireName(parsed.kind, "name", text)) !== undefined, "a parsed name is refused");
  byField(() => requireParent("parent", text));
  const version = byField(() => requireBundleVersion("name", text));
  if (version !== undefined)
    hold(
      `bundles/${version.bundle}/versions/${version.version}` === text,
      "a bundle version's name has two readings",
    );
  const size = byField(() => pageSize(Number(draw.int64())));
  if (size !== undefined) hold(size > 0 && size <= 1_000, `a page has ${size} items`);
}

/** Updates by drawn masks and etags over drawn JSON: refused by field, or only the three writable parts change. */
function update(draw: Draw): void {
  const old = resources[draw.int(3)] as Resource;
  const kind = (["DataPlane", "Tenant", "Application"] as const)[resources.indexOf(old)] as "Tenant";
  const record = created(kind, old, { name: old.name, uid: "u", nowMs: 1 });
  const paths = Array.from({ length: draw.int(4) }, () => draw.text());
  const etag = draw.pick(["", record.etag, "x"]);
  let input: Resource;
  try {
    input = ofJson(kind, {
      ...asJson(old),
      labels: drawObject(draw, 1),
      spec: { parameters: drawObject(draw, 4) },
    } as never);
  } catch {
    return;
  }
  const named = { ...input, name: "tenants/other", uid: "other", generation: 99n, etag };
  const after = byField(() => updated(record, named, { paths, nowMs: 2 }));
  if (after === undefined) return;
  hold(after.name === record.name && after.uid === record.uid, "an update changed what it must not");
  hold(after.generation === 1n || after.generation === 2n, `an update made generation ${after.generation}`);
}

/** The first byte chooses what is read. */
const target: Target = {
  seeds: () => [
    ...[
      'spec.data_plane = "dataPlanes/eu" AND labels.a.b/c != x',
      'labels.region="e\\"u"',
      "a=b AND",
      "name=true AND uid!=1",
    ].map((t) => Buffer.from(`\0${t}`)),
    Buffer.from(`\u0001\0${pageToken({ revision: 7, after: "tenants/a" }, "")}`),
    ...["tenants/acme", "dataPlanes/eu/applications/web", "bundles/small/versions/1.0.0-rc.1"].map((t) =>
      Buffer.from([2, t.length, ...Buffer.from(t), 1]),
    ),
    ...["spec.parameters.a.b", "labels.__proto__", "spec", "*", "annotations.x"].map((t) =>
      Buffer.from([3, 2, 1, t.length, ...Buffer.from(t), 0, 1, 25, 0, 1, 2, 3, 4, 25, 2, 6]),
    ),
  ],
  run(data) {
    const draw = new Draw(data);
    [filter, token, names, update][draw.int(4)]?.(draw);
  },
};

export default target;
