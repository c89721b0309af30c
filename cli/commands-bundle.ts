/** bundle push, render and verify: the same checks and the same rendering as hub and agent. */
import { readFileSync, statSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import type { Command } from "commander";
import type { Bundle } from "@moorage/shared/bundle/bundle";
import type { FolderReader } from "@moorage/shared/bundle/load";
import { loadBundle } from "@moorage/shared/bundle/load";
import { packBundle } from "@moorage/shared/bundle/pack";
import { renderBundle } from "@moorage/shared/bundle/render";
import { unpackBundle } from "@moorage/shared/bundle/unpack";
import type { JsonObject } from "@moorage/shared/yaml";
import { parseYaml, stringifyYamlAll } from "@moorage/shared/yaml";
import { UsageError } from "./exit.ts";
import type { Io } from "./io.ts";
import { withApi } from "./io.ts";

/** Bytes of content a message of an upload. */
const PART = 512 * 1024;
/** Time for an upload. */
const UPLOAD_MS = 300_000;

/** A folder on disk, its regular files alone. */
function folderReader(root: string): FolderReader {
  return {
    async list() {
      const entries = await readdir(root, { recursive: true, withFileTypes: true });
      return entries
        .filter((e) => e.isFile())
        .map((e) => relative(root, join(e.parentPath, e.name)).split(sep).join("/"));
    },
    read: (path) => readFile(join(root, path)),
  };
}

async function open(path: string): Promise<Bundle> {
  return statSync(path).isDirectory() ? loadBundle(folderReader(path)) : unpackBundle(readFileSync(path));
}

async function* parts(packed: { bytes: Uint8Array; digest: string }) {
  yield {
    part: {
      case: "metadata" as const,
      value: { digest: packed.digest, sizeBytes: BigInt(packed.bytes.length) },
    },
  };
  for (let i = 0; i < packed.bytes.length; i += PART)
    yield { part: { case: "content" as const, value: packed.bytes.subarray(i, i + PART) } };
}

/** Adds the commands. */
export function addBundleCommands(program: Command, io: Io): void {
  const bundle = program.command("bundle").description("Publish, render and check bundles");
  bundle
    .command("push <folder>")
    .description("Check, pack and publish a bundle; the same content again changes nothing")
    .action(async (folder: string, _options: unknown, command: Command) => {
      const packed = packBundle((await open(folder)).files);
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const version = await api.bundles.createBundleVersion(parts(packed), { timeoutMs: UPLOAD_MS });
        io.out(`${version.name} ${version.digest} pushed\n`);
      });
    });
  bundle
    .command("render <folder>")
    .description("Print the objects that an agent would apply, without a hub or a cluster")
    .option("--parameters <file>", "YAML file of parameters")
    .option("--application <id>", "built-in value application", "example")
    .option("--tenant <id>", "built-in value tenant", "example")
    .option("--namespace <name>", "built-in value namespace", "tenant-example")
    .option("--data-plane <id>", "built-in value dataPlane", "example")
    .action(
      async (
        folder: string,
        options: {
          parameters?: string;
          application: string;
          tenant: string;
          namespace: string;
          dataPlane: string;
        },
      ) => {
        const parameters =
          options.parameters === undefined
            ? {}
            : parseYaml(readFileSync(options.parameters, "utf8"), { name: options.parameters });
        if (parameters === null || typeof parameters !== "object" || Array.isArray(parameters))
          throw new UsageError(`Cannot read "${options.parameters}": parameters must be a mapping`);
        const { application, tenant, namespace, dataPlane } = options;
        io.out(
          stringifyYamlAll(
            renderBundle(await open(folder), parameters as JsonObject, {
              application,
              tenant,
              namespace,
              dataPlane,
            }),
          ),
        );
      },
    );
  bundle
    .command("verify <path>")
    .description("Check a bundle folder or packed file and print its digest")
    .action(async (path: string) => {
      const opened = await open(path);
      const digest = packBundle(opened.files).digest;
      io.out(`bundles/${opened.manifest.name}/versions/${opened.manifest.version} ${digest} valid\n`);
    });
}
