/** apply, get, describe, delete, watch, wait: the standard verbs over the three kinds. */
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { Option } from "commander";
import type { Api } from "./api.ts";
import { readDocuments } from "./documents.ts";
import { parseTimeout, toDuration } from "./duration.ts";
import { UsageError } from "./exit.ts";
import type { Output, Printable } from "./format.ts";
import { cells, describe, formatList, heads, outputs, table } from "./format.ts";
import type { Common, Io } from "./io.ts";
import { withApi } from "./io.ts";
import type { ResourceKind, Scope } from "./kinds.ts";
import {
  fullName,
  kindOfName,
  kindWords,
  parentOf,
  parseKind,
  parseKindName,
  parseResourceKind,
} from "./kinds.ts";

interface GetOptions extends Common, Scope {
  output: Output;
  filter?: string;
  selector?: string;
  watch?: boolean;
}

/** The filter of --filter and -l together. */
export function filterOf(options: { filter?: string; selector?: string }): string {
  const parts = options.filter === undefined ? [] : [options.filter];
  for (const term of (options.selector ?? "").split(",").filter((t) => t !== "")) {
    const m = /^([^=!]+?)(!=|==?)(.*)$/.exec(term);
    if (m === null)
      throw new UsageError(`Cannot read "${term}" for -l: write KEY=VALUE or KEY!=VALUE, joined by commas`);
    parts.push(`labels.${m[1]} ${m[2] === "!=" ? "!=" : "="} ${JSON.stringify(m[3])}`);
  }
  return parts.join(" AND ");
}

const scoped = (command: Command): Command =>
  command
    .option("-t, --tenant <id>", "tenant of the application")
    .option("-d, --data-plane <id>", "data plane of the application");

/** Adds the commands. */
export function addResourceCommands(program: Command, io: Io): void {
  addApply(program, io);
  addGet(program, io);
  scoped(program.command("describe <kind> <name>"))
    .description("Show one resource with its conditions")
    .action(async (word: string, text: string, options: Scope, command: Command) => {
      const kind = parseResourceKind(word);
      await withApi(io, command.optsWithGlobals(), async (api) =>
        io.out(describe(await api.get(kind, fullName(kind, text, options)), io.clock.now())),
      );
    });
  addDelete(program, io);
  scoped(program.command("watch <kind>"))
    .description("Print the resources of a kind and every change, until interrupted")
    .option("--filter <expression>", 'filter, e.g. spec.region = "eu"')
    .option("-l, --selector <labels>", "labels, KEY=VALUE joined by commas")
    .addOption(new Option("-o, --output <form>", "form of the output").choices(outputs).default("table"))
    .action(async (word: string, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GetOptions>();
      await withApi(io, options, (api) => follow(io, api, { kind: parseResourceKind(word), options }));
    });
  scoped(program.command("wait <kind/name>"))
    .description("Wait until a condition holds, or a resource is gone")
    .option("--for <what>", "condition=TYPE, condition=TYPE=STATUS, or delete", "condition=Ready")
    .option("--generation <number>", "at least this generation must be observed (default: the current one)")
    .option("--timeout <duration>", "give up after this time", "5m")
    .action(
      async (
        text: string,
        options: Scope & { for: string; generation?: string; timeout: string },
        command: Command,
      ) => {
        const { name } = parseKindName(text, options);
        const timeoutMs = parseTimeout(options.timeout);
        const goal = parseGoal(options.for);
        const generation = options.generation === undefined ? 0n : parseGeneration(options.generation);
        await withApi(io, command.optsWithGlobals(), async (api) => {
          await waitFor(api, { name, ...goal, generation, timeoutMs });
          io.out(
            goal.deleted ? `${name} deleted\n` : `${name} condition ${goal.condition}=${goal.status} met\n`,
          );
        });
      },
    );
}

function parseGeneration(text: string): bigint {
  if (!/^\d{1,18}$/.test(text))
    throw new UsageError(`Cannot read "${text}" for --generation: write a whole number`);
  return BigInt(text);
}

/** What --for asks. */
export function parseGoal(text: string): { condition: string; status: string; deleted: boolean } {
  if (text === "delete") return { condition: "", status: "", deleted: true };
  const m = /^condition=([A-Za-z]+)(?:=(True|False|Unknown))?$/.exec(text);
  if (m === null)
    throw new UsageError(
      `Cannot read "${text}" for --for: write condition=Ready, condition=Connected=False, or delete`,
    );
  return { condition: m[1] ?? "", status: m[2] ?? "True", deleted: false };
}

/** Waits at the hub; the call outlives the hub's own timeout by a little, so that the hub's words arrive. */
export async function waitFor(
  api: Api,
  goal: {
    name: string;
    condition: string;
    status: string;
    deleted: boolean;
    generation: bigint;
    timeoutMs: number;
  },
): Promise<void> {
  const { timeoutMs, ...request } = goal;
  await api.wait.waitFor({ ...request, timeout: toDuration(timeoutMs) }, { timeoutMs: timeoutMs + 5_000 });
}

/** Adds the verb apply to a command. */
export function addApply(program: Command, io: Io): void {
  program
    .command("apply")
    .description("Create or update the resources of a file, one after the other")
    .requiredOption("-f, --file <path>", "YAML file, or - for standard input")
    .option("--wait", "wait until every one is Ready at its generation")
    .option("--timeout <duration>", "give up waiting after this time", "5m")
    .option("--dry-run", "check at the hub, change nothing")
    .action(
      async (
        options: { file: string; wait?: boolean; timeout: string; dryRun?: boolean },
        command: Command,
      ) => {
        const text = options.file === "-" ? await io.stdin() : readFileSync(options.file, "utf8");
        const resources = readDocuments(text, options.file === "-" ? "standard input" : options.file);
        const timeoutMs = parseTimeout(options.timeout);
        await withApi(io, command.optsWithGlobals(), async (api) => {
          const applied: { name: string; generation: bigint }[] = [];
          for (const resource of resources) {
            const kind = kindOfName(resource.name) as ResourceKind;
            const before = await api.find(kind, resource.name);
            const after = await api.apply(resource, options.dryRun === true);
            const verb =
              before === undefined ? "created" : before.etag === after.etag ? "unchanged" : "configured";
            io.out(`${after.name} ${verb}${options.dryRun === true ? " (dry run)" : ""}\n`);
            applied.push({ name: after.name, generation: after.generation });
          }
          if (options.wait !== true || options.dryRun === true) return;
          const deadline = io.clock.monotonicMs() + timeoutMs;
          for (const { name, generation } of applied) {
            const left = Math.max(1, Math.round(deadline - io.clock.monotonicMs()));
            await waitFor(api, {
              name,
              generation,
              condition: "Ready",
              status: "True",
              deleted: false,
              timeoutMs: left,
            });
            io.out(`${name} ready\n`);
          }
        });
      },
    );
}

function addGet(program: Command, io: Io): void {
  scoped(program.command("get <kind> [name]"))
    .description(`List resources, or show one. Kinds: ${kindWords}, bundles, api-keys`)
    .addOption(new Option("-o, --output <form>", "form of the output").choices(outputs).default("table"))
    .option("--filter <expression>", 'filter, e.g. spec.region = "eu"')
    .option("-l, --selector <labels>", "labels, KEY=VALUE joined by commas")
    .option("-w, --watch", "print changes too, until interrupted")
    .action(async (word: string, text: string | undefined, _options: unknown, command: Command) => {
      const options = command.optsWithGlobals<GetOptions>();
      const kind = parseKind(word);
      await withApi(io, options, async (api) => {
        if (kind === "DataPlane" || kind === "Tenant" || kind === "Application") {
          if (options.watch === true)
            return follow(io, api, {
              kind,
              options,
              ...(text === undefined ? {} : { name: fullName(kind, text, options) }),
            });
          if (text !== undefined) {
            const resource = await api.get(kind, fullName(kind, text, options));
            return io.out(
              formatList([resource], { output: options.output, nowMs: io.clock.now(), single: true }),
            );
          }
          return show(io, await api.list(kind, { parent: parentOf(options), filter: filterOf(options) }), {
            word,
            output: options.output,
          });
        }
        if (kind === "BundleVersion")
          return show(io, await bundlesOf(api, text), { word, output: options.output });
        if (kind === "ApiKey") return show(io, await apiKeysOf(api), { word, output: options.output });
        throw new UsageError("Join tokens belong to a data plane", 'Use "moorage data-planes tokens ID"');
      });
    });
}

function show(io: Io, resources: readonly Printable[], how: { word: string; output: Output }): void {
  io.out(formatList(resources, { output: how.output, nowMs: io.clock.now() }));
  if (resources.length === 0 && (how.output === "table" || how.output === "wide"))
    io.err(`No ${how.word} found\n`);
}

async function bundlesOf(api: Api, text: string | undefined): Promise<Printable[]> {
  const parent = text === undefined ? "" : text.includes("/") ? text : `bundles/${text}`;
  if (parent.includes("/versions/")) return [await api.bundles.getBundleVersion({ name: parent }, api.unary)];
  const all: Printable[] = [];
  let pageToken = "";
  do {
    const answer = await api.bundles.listBundleVersions({ parent, pageToken }, api.unary);
    all.push(...answer.bundleVersions);
    pageToken = answer.nextPageToken;
  } while (pageToken !== "");
  return all;
}

/** Every API key, without secrets. */
export async function apiKeysOf(api: Api): Promise<Printable[]> {
  const all: Printable[] = [];
  let pageToken = "";
  do {
    const answer = await api.apiKeys.listApiKeys({ pageToken }, api.unary);
    all.push(...answer.apiKeys);
    pageToken = answer.nextPageToken;
  } while (pageToken !== "");
  return all;
}

/** Prints a watch until the user interrupts. Columns keep the widths of the first state where they can. */
async function follow(
  io: Io,
  api: Api,
  what: { kind: ResourceKind; options: GetOptions; name?: string },
): Promise<void> {
  const { output } = what.options;
  const wide = output === "wide";
  let headed = false;
  try {
    for await (const event of api.watch(
      what.kind,
      { parent: parentOf(what.options), filter: filterOf(what.options) },
      io.signal,
    )) {
      if (event.type === "synced" || (what.name !== undefined && event.resource.name !== what.name)) continue;
      if (output !== "table" && !wide) {
        io.out(
          output === "yaml"
            ? `---\n${formatList([event.resource], { output, nowMs: io.clock.now() })}`
            : formatList([event.resource], { output, nowMs: io.clock.now(), single: true }),
        );
        continue;
      }
      const row = [
        event.type === "removed" ? "REMOVED" : "CURRENT",
        ...cells(event.resource, { nowMs: io.clock.now(), wide }),
      ];
      const text = table(["EVENT", ...heads(event.resource.$typeName, wide)], [row]);
      io.out(headed ? text.slice(text.indexOf("\n") + 1) : text);
      headed = true;
    }
  } catch (thrown) {
    if (!io.signal.aborted) throw thrown;
  }
}

function addDelete(program: Command, io: Io): void {
  scoped(program.command("delete <kind> <name>"))
    .description("Delete a resource; its agent removes what it applied first")
    .option("--wait", "wait until it is gone")
    .option("--timeout <duration>", "give up waiting after this time", "5m")
    .option("--orphan", "leave what was applied in the cluster")
    .option("--force", "drop the record now, though its agent may never confirm")
    .option("--authorization <hex>", "removal authorization that the agent asked for in a condition", "")
    .action(
      async (
        word: string,
        text: string,
        options: Scope & {
          wait?: boolean;
          timeout: string;
          orphan?: boolean;
          force?: boolean;
          authorization: string;
        },
        command: Command,
      ) => {
        const kind = parseResourceKind(word);
        const name = fullName(kind, text, options);
        if (!/^([0-9a-fA-F]{2})*$/.test(options.authorization))
          throw new UsageError(
            "Cannot read --authorization: write hexadecimal digits, as the condition shows them",
          );
        const timeoutMs = parseTimeout(options.timeout);
        await withApi(io, command.optsWithGlobals(), async (api) => {
          await api.delete(kind, name, {
            orphan: options.orphan === true,
            force: options.force === true,
            removalAuthorization: Buffer.from(options.authorization, "hex"),
          });
          if (options.wait === true)
            await waitFor(api, { name, condition: "", status: "", deleted: true, generation: 0n, timeoutMs });
          io.out(
            `${name} ${options.wait === true || options.force === true ? "deleted" : "is being deleted"}\n`,
          );
        });
      },
    );
}
