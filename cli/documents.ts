/** Files for `apply`: YAML streams of resources in proto3 JSON with a `kind`. Pure. */
import { fromJson } from "@bufbuild/protobuf";
import type { JsonValue } from "@bufbuild/protobuf";
import { ApplicationSchema } from "@moorage/proto/moorage/hub/v1/application_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import type { Json, JsonObject } from "@moorage/shared/yaml";
import { parseYamlAll } from "@moorage/shared/yaml";
import { UsageError } from "./exit.ts";
import type { Resource } from "./format.ts";
import { fullName, kindOfName, nearest } from "./kinds.ts";
import type { ResourceKind } from "./kinds.ts";

const schemas = { DataPlane: DataPlaneSchema, Tenant: TenantSchema, Application: ApplicationSchema } as const;

/** The resources of a file, in its order; throws UsageError or MoorageError with file, document and line. */
export function readDocuments(text: string, file: string): Resource[] {
  const values = parseYamlAll(text, { name: file, maxTokens: Number.POSITIVE_INFINITY });
  if (values.length === 0) throw new UsageError(`Cannot apply "${file}": it holds no document`);
  const starts = documentStarts(text);
  return values.map((value, i) =>
    readDocument(value, {
      file,
      lines: text.split("\n"),
      from: starts[i] ?? 0,
      to: starts[i + 1] ?? Number.MAX_SAFE_INTEGER,
      index: i,
    }),
  );
}

interface Place {
  file: string;
  lines: readonly string[];
  from: number;
  to: number;
  index: number;
}

/** First line of every document that is not empty. */
function documentStarts(text: string): number[] {
  const starts: number[] = [];
  let open = false;
  text.split("\n").forEach((line, i) => {
    if (/^---(\s|$)/.test(line)) open = false;
    else if (!open && line.trim() !== "" && !line.trimStart().startsWith("#") && !line.startsWith("%")) {
      open = true;
      starts.push(i);
    }
  });
  return starts;
}

function readDocument(value: Json, at: Place): Resource {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw refuse(at, undefined, "a resource must be a mapping");
  const { kind, ...body } = value as JsonObject;
  if (typeof kind !== "string")
    throw refuse(at, undefined, "kind is missing; use DataPlane, Tenant or Application");
  if (!(kind in schemas)) {
    const near = nearest(kind, Object.keys(schemas));
    throw refuse(
      at,
      "kind",
      `unknown kind "${kind}"; ${near === undefined ? "use DataPlane, Tenant or Application" : `did you mean "${near}"?`}`,
    );
  }
  const known = kind as ResourceKind;
  const { name } = body;
  if (typeof name !== "string" || name === "") throw refuse(at, "name", "name is missing");
  if (kindOfName(fullName(known, name)) !== known)
    throw refuse(at, "name", `"${name}" is no name of a ${kind}`);
  body["name"] = fullName(known, name);
  try {
    return fromJson(schemas[known], body as JsonValue) as Resource;
  } catch (thrown) {
    if (!(thrown instanceof Error)) throw thrown;
    const { message } = thrown;
    const key = /key "([^"]+)" is unknown/.exec(message)?.[1] ?? /field \S+\.(\w+)/.exec(message)?.[1];
    // An enum's error names the value alone.
    const value = /cannot decode enum \S+ from JSON: "(.+)"$/.exec(message)?.[1];
    const line =
      value === undefined ? undefined : find(at, new RegExp(`:\\s*["']?${escaped(value)}["']?\\s*($|[#,}])`));
    throw refuse(at, key, plain(message), line);
  }
}

/** The library's message in the words of a person who wrote YAML. */
function plain(message: string): string {
  const unknown = /cannot decode message (\S+) from JSON: key "([^"]+)" is unknown/.exec(message);
  if (unknown !== null) return `unknown field "${unknown[2]}" in ${unknown[1]?.split(".").at(-1)}`;
  return message.replace(/moorage\.hub\.v1\./g, "");
}

function refuse(at: Place, key: string | undefined, why: string, known?: number): UsageError {
  const line = known ?? (key === undefined ? undefined : lineOf(at, key));
  const where =
    line === undefined ? `document ${at.index + 1}, from line ${at.from + 1}` : `line ${line + 1}`;
  return new UsageError(
    `Cannot apply "${at.file}": ${where}: ${why}`,
    'See "moorage get KIND NAME -o yaml" for the form, and deploy/examples',
  );
}

/** The first line of the document that holds the key, in either spelling. */
function lineOf(at: Place, key: string): number | undefined {
  const camel = key.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());
  return find(at, new RegExp(`(^|[\\s{,"'-])(${escaped(key)}|${escaped(camel)})["']?\\s*:`));
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

function find(at: Place, pattern: RegExp): number | undefined {
  for (let i = at.from; i < Math.min(at.to, at.lines.length); i++)
    if (pattern.test(at.lines[i] ?? "")) return i;
  return undefined;
}
