/** hub show, epoch, backup and restore: what an operator does around a lost or copied history. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { Condition } from "@moorage/proto/moorage/common/v1/condition_pb";
import type { Divergence, Hub } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { DivergenceKind } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { Command } from "commander";
import type { Api } from "./api.ts";
import { ChildExit } from "./commands-admin.ts";
import { UsageError } from "./exit.ts";
import { printable, table } from "./format.ts";
import type { Io } from "./io.ts";
import { withApi } from "./io.ts";

/** Divergences asked for at a time. */
const PAGE = 1_000;
/** Time for a whole backup. */
const BACKUP_MS = 3_600_000;

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/** Adds the commands; `hub` must be there already, its subcommands are words before any option. */
export function addBackupCommands(program: Command, io: Io): void {
  const hub = program.commands.find((c) => c.name() === "hub");
  if (hub === undefined) throw new Error('Cannot add commands below "hub": it is not there');
  addEpoch(hub, io);
  hub
    .command("backup <file>")
    .description("Write a consistent copy of the running hub's store to a new file, checked by its digest")
    .option("--overwrite", "replace the file if it exists")
    .action(async (file: string, options: { overwrite?: boolean }, command: Command) => {
      if (existsSync(file) && options.overwrite !== true)
        throw new UsageError(
          `Cannot write the backup to "${file}": the file exists`,
          "Name a new file, or use --overwrite",
        );
      await withApi(io, command.optsWithGlobals(), (api) => backup(io, api, file));
    });
  hub
    .command("restore <file>")
    .description(
      "Make a data directory from a backup; no hub may run on it. The hub then comes up in a new epoch",
    )
    .requiredOption("--data-dir <dir>", "data directory to make; it holds no store yet")
    .option("--force", "move a store that is there aside, and keep it")
    .action(async (file: string, options: { dataDir: string; force?: boolean }) => {
      const script = fileURLToPath(new URL("../hub/moorage-hub.mjs", import.meta.url));
      if (!existsSync(script))
        throw new UsageError(
          "Cannot restore: the hub is not part of this installation",
          "Run it from the repository, or from the hub's image",
        );
      const code = await io.runNode(script, [
        "restore",
        file,
        "--data-dir",
        options.dataDir,
        ...(options.force === true ? ["--force"] : []),
      ]);
      if (code !== 0) throw new ChildExit(code, "restore");
    });
}

async function backup(io: Io, api: Api, file: string): Promise<void> {
  const aside = `${file}.part`;
  const hash = createHash("sha256");
  let size = 0;
  let facts: { sha256: Uint8Array; sizeBytes: bigint; revision: bigint } | undefined;
  const handle = await open(aside, "w", 0o600);
  try {
    for await (const part of api.hub.createBackup({}, { timeoutMs: BACKUP_MS, signal: io.signal })) {
      if (part.sha256.length > 0) facts = part;
      if (part.data.length === 0) continue;
      hash.update(part.data);
      size += part.data.length;
      await handle.writeFile(part.data);
    }
    await handle.sync();
    await handle.close();
    const digest = hash.digest();
    if (facts === undefined || !digest.equals(facts.sha256) || BigInt(size) !== facts.sizeBytes)
      throw new Error(
        `Cannot use the backup: ${size} bytes came, and their digest is not the one that was sent`,
      );
    await rename(aside, file);
  } catch (thrown) {
    await handle.close().catch(() => {});
    await rm(aside, { force: true });
    throw thrown;
  }
  io.out(
    `${table(["FILE", "BYTES", "REVISION", "SHA256"], [[file, String(size), String(facts.revision), hex(facts.sha256)]])}`,
  );
}

function addEpoch(hub: Command, io: Io): void {
  const epoch = hub
    .command("epoch")
    .description("Look at and accept the hub's epoch, after a restore or a lost history");
  epoch
    .command("show")
    .description("Show the hub's epoch, revision and conditions")
    .action(async (_options: unknown, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) =>
        io.out(hubText(await api.hub.getHub({}, api.unary))),
      );
    });
  epoch
    .command("divergences")
    .description("List the resources in which agents and the hub differ since its history was lost")
    .option("--data-plane <name>", "one data plane alone")
    .action(async (options: { dataPlane?: string }, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) =>
        io.out(divergencesText(await divergences(api, options.dataPlane))),
      );
    });
  epoch
    .command("accept")
    .description("Let a restored hub send what it held back: deletions, and older content than agents have")
    .option("--epoch <hex>", "the epoch as show printed it, so that no other is accepted")
    .action(async (options: { epoch?: string }, command: Command) => {
      if (options.epoch !== undefined && !/^[0-9a-f]{32}$/.test(options.epoch))
        throw new UsageError(`Cannot use "${options.epoch}" for --epoch: write 32 hexadecimal digits`);
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const seen =
          options.epoch === undefined
            ? (await api.hub.getHub({}, api.unary)).epoch
            : Buffer.from(options.epoch, "hex");
        io.out(hubText(await api.hub.acceptEpoch({ epoch: seen }, api.unary)));
      });
    });
}

async function divergences(api: Api, dataPlane: string | undefined): Promise<Divergence[]> {
  const parent =
    dataPlane === undefined
      ? "dataPlanes/-"
      : dataPlane.startsWith("dataPlanes/")
        ? dataPlane
        : `dataPlanes/${dataPlane}`;
  const all: Divergence[] = [];
  let pageToken = "";
  do {
    const page = await api.hub.listDivergences({ parent, pageSize: PAGE, pageToken }, api.unary);
    all.push(...page.divergences);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return all;
}

/** What each kind means, in a word. */
const kinds: Readonly<Record<DivergenceKind, string>> = {
  [DivergenceKind.UNSPECIFIED]: "Unspecified",
  [DivergenceKind.UNKNOWN_TO_HUB]: "UnknownToHub",
  [DivergenceKind.NEWER_AT_AGENT]: "NewerAtAgent",
  [DivergenceKind.DELETED_AT_AGENT]: "DeletedAtAgent",
  [DivergenceKind.TOMBSTONE_WITHHELD]: "TombstoneWithheld",
};

/** Divergences as a table. */
export function divergencesText(all: readonly Divergence[]): string {
  if (all.length === 0) return "no divergences\n";
  return table(
    ["DATA PLANE", "RESOURCE", "KIND", "AGENT HAS", "HUB HAS"],
    all.map((d) => [
      printable(d.dataPlane),
      printable(d.resource),
      kinds[d.kind] ?? String(d.kind),
      d.agentRevision === 0n ? "nothing" : String(d.agentRevision),
      d.hubRevision === 0n ? "nothing" : String(d.hubRevision),
    ]),
  );
}

const conditionRow = (c: Condition): string[] => [c.type, c.status, c.reason, printable(c.message)];

/** The hub as lines. */
export function hubText(hub: Hub): string {
  const facts = [
    ["version", hub.version],
    ["epoch", hex(hub.epoch)],
    ["revision", String(hub.headRevision)],
    ["compacted up to", String(hub.compactRevision)],
    ["store bytes", String(hub.storeBytes)],
    ...(hub.restoredRevision === 0n ? [] : [["restored at", String(hub.restoredRevision)]]),
    ["divergences", String(hub.divergences)],
  ].map(([name, value]) => `${name}: ${value}\n`);
  const conditions = table(["CONDITION", "STATUS", "REASON", "MESSAGE"], hub.conditions.map(conditionRow));
  return `${facts.join("")}\n${conditions}`;
}
