/** bundle.yaml: parse and check; and the check of a whole bundle's files. */
import { Ajv2020 } from "ajv/dist/2020.js";
import { limits } from "../limits.ts";
import { parseYaml } from "../yaml.ts";
import { bundleApiVersion, bundleFile } from "./bundle.ts";
import type { Bundle, BundleFiles, BundleManifest } from "./bundle.ts";
import { pathGuard } from "./paths.ts";
import { refuseBundle } from "./refuse.ts";
import { compileSchema, violations } from "./schema.ts";

const text = { type: "string", minLength: 1, maxLength: 1024 };
const label = { type: "string", pattern: "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" };
const closed = (required: string[], properties: Record<string, unknown>): object => ({
  type: "object",
  additionalProperties: false,
  required,
  properties,
});
const list = (items: object): object => ({ type: "array", maxItems: 100, default: [], items });

/** https://semver.org without build metadata, which has no order. */
const semver = "^(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})(-[0-9A-Za-z.-]{1,64})?$";

/** The shape of bundle.yaml as JSON schema; its defaults are applied. */
const shape = closed(["apiVersion", "kind", "name", "version", "format"], {
  apiVersion: { const: bundleApiVersion },
  kind: { const: "Bundle" },
  name: label,
  version: { type: "string", pattern: semver },
  format: { enum: ["Plain", "Kustomize", "Helm"] },
  parameters: {
    ...closed([], {
      schema: { type: "object", default: { type: "object", additionalProperties: false } },
      defaults: { type: "object", default: {} },
    }),
    default: {},
  },
  health: list(
    closed(["apiVersion", "kind", "healthy"], { apiVersion: text, kind: text, healthy: text, failed: text }),
  ),
  hooks: list(
    closed(["name", "phase", "manifest"], {
      name: label,
      phase: { enum: ["preApply", "postApply", "preDelete"] },
      manifest: text,
      timeoutSeconds: { type: "integer", minimum: 1, maximum: 86_400 },
    }),
  ),
  meters: list(
    closed(["name", "unit", "kind"], {
      name: label,
      unit: text,
      kind: { enum: ["Counter", "Gauge"] },
      port: { type: "integer", minimum: 1, maximum: 65_535 },
      path: text,
      metric: text,
    }),
  ),
  signature: {
    ...closed([], { required: { type: "boolean", default: false }, keyIds: list(text) }),
    default: {},
  },
});

const validate = new Ajv2020({ strict: true, allErrors: true, useDefaults: true }).compile<BundleManifest>(
  shape,
);

/** A file's text; refused unless UTF-8. */
export function textOf(files: BundleFiles, path: string): string {
  const bytes = files.get(path);
  if (bytes === undefined) throw refuseBundle("MALFORMED", `Read "${path}": the bundle has no such file`);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw refuseBundle("MALFORMED", `Read "${path}": not UTF-8`, error);
  }
}

/** The manifest files, sorted: the order of rendering. */
export function manifestPaths(files: BundleFiles): string[] {
  return [...files.keys()].filter((path) => /^manifests\/.+\.ya?ml$/.test(path)).sort();
}

function checkFiles(files: BundleFiles): void {
  const guard = pathGuard();
  let total = 0;
  for (const [path, content] of files) {
    guard(path);
    if (content.length > limits.manifestBytes) {
      throw refuseBundle(
        "TOO_LARGE",
        `Read "${path}": size is ${content.length} bytes, limit ${limits.manifestBytes}`,
      );
    }
    total += content.length;
  }
  if (total > limits.bundleUnpackedBytes) {
    throw refuseBundle(
      "TOO_LARGE",
      `Read bundle: size is ${total} bytes, limit ${limits.bundleUnpackedBytes}`,
    );
  }
}

/**
 * The bundle of a set of files: paths, sizes, bundle.yaml, the parameter schema and hooks' paths.
 * Manifests are parsed by rendering. @throws MoorageError INVALID_ARGUMENT, see refuse.ts.
 */
export function openBundle(files: BundleFiles): Bundle {
  checkFiles(files);
  const manifest: unknown = parseYaml(textOf(files, bundleFile), {
    name: bundleFile,
    maxBytes: limits.bundleFileBytes,
    maxTokens: limits.bundleFileTokens,
  });
  if (!validate(manifest)) throw violations(validate.errors, bundleFile);
  if (manifest.format !== "Plain") {
    throw refuseBundle(
      "FORMAT_UNSUPPORTED",
      `Read "${bundleFile}": format "${manifest.format}" needs a tool this build does not have; use "Plain"`,
    );
  }
  for (const path of files.keys()) {
    const known = [bundleFile, "README.md", "LICENSE"].includes(path) || /^manifests\/.+\.ya?ml$/.test(path);
    if (!known)
      throw refuseBundle(
        "MALFORMED",
        `Read "${path}": a Plain bundle holds ${bundleFile}, manifests/*.yaml, README.md and LICENSE`,
      );
  }
  compileSchema(manifest.parameters.schema);
  for (const hook of manifest.hooks) textOf(files, hook.manifest);
  return { manifest, files };
}
