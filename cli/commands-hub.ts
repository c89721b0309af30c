/** hub ca, audit and verify audit: the hub's certificate authority and its audit trail. */
import { closeSync, existsSync, openSync, readSync, writeSync } from "node:fs";
import { open } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { fromJson, toJson } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type {
  AuditRecord,
  AuditSeal,
  CertificateAuthority,
} from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { AuditRecordSchema, AuditSealSchema } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import type { ChainRecord } from "@moorage/shared/audit-chain";
import { chainSeal, ChainVerifier, parseHead, reportLines } from "@moorage/shared/audit-chain";
import type { Command } from "commander";
import type { Api } from "./api.ts";
import { ChildExit } from "./commands-admin.ts";
import { ExitCode, UsageError } from "./exit.ts";
import { table, tableInParts } from "./format.ts";
import type { Io } from "./io.ts";
import { withApi } from "./io.ts";

/** Records asked for at a time. */
const PAGE = 1_000;
const NAME = "hub/auditRecords/";

/** Adds the commands; `hub` must be there already, its subcommands are words before any option. */
export function addHubCommands(program: Command, io: Io): void {
  const hub = program.commands.find((c) => c.name() === "hub");
  if (hub === undefined) throw new Error('Cannot add commands below "hub": it is not there');
  addAuthority(hub, io);
  addAudit(program, io);
  addVerify(program, io);
}

function addAuthority(hub: Command, io: Io): void {
  const ca = hub.command("ca").description("Look at and rotate the hub's certificate authority");
  ca.command("show")
    .description("Show which certificates agents trust, and how far a rotation is")
    .action(async (_options: unknown, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) =>
        io.out(authorityText(await api.hub.getCertificateAuthority({}, api.unary))),
      );
    });
  ca.command("rotate")
    .description(
      "Make a new signing certificate; the former is trusted until every agent has one of the new, a day at most",
    )
    .option("--force", "start another rotation while one is under way")
    .action(async (options: { force?: boolean }, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const force = options.force === true;
        io.out(authorityText(await api.hub.rotateCertificateAuthority({ force }, api.unary)));
        io.err("  next: moorage hub ca show, until no rotation is under way\n");
      });
    });
}

const day = (at: AuditRecord["time"]): string =>
  at === undefined
    ? ""
    : timestampDate(at)
        .toISOString()
        .replace(/\.\d+Z$/, "Z");

/** The authority as a table and a line. */
export function authorityText(ca: CertificateAuthority): string {
  const rows = ca.certificates.map((c) => [
    Buffer.from(c.fingerprint).toString("hex"),
    c.signing ? "yes" : "no",
    day(c.notBefore),
    day(c.notAfter),
    day(c.retireTime),
  ]);
  const state = ca.rotating
    ? `rotation under way: ${ca.dataPlanesRemaining} agents still have a certificate of a former authority`
    : "no rotation under way";
  return `${table(["FINGERPRINT", "SIGNS", "NOT BEFORE", "NOT AFTER", "RETIRES BY"], rows)}${state}\n`;
}

/** The whole trail, page by page. */
async function* trail(
  api: Api,
  afterRevision: bigint,
): AsyncGenerator<{ records: AuditRecord[]; seals: AuditSeal[] }> {
  let pageToken = "";
  do {
    const page = await api.hub.listAuditRecords({ pageSize: PAGE, pageToken, afterRevision }, api.unary);
    yield page;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

function parseRevision(text: string): bigint {
  if (!/^\d{1,15}$/.test(text)) throw new UsageError(`Cannot use "${text}" for --after: it is no revision`);
  return BigInt(text);
}

const auditRow = (r: AuditRecord): string[] => [
  String(r.revision),
  day(r.time),
  r.actor,
  r.method.replace(/^moorage\.\w+\.v1\./, ""),
  r.resource,
  r.outcome,
];

function addAudit(program: Command, io: Io): void {
  const group = program.command("audit").description("Read the audit trail");
  group
    .command("list")
    .description("List audit records, oldest first")
    .option("--after <revision>", "only records above this revision", "0")
    .action(async (options: { after: string }, command: Command) => {
      const after = parseRevision(options.after);
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const rows = tableInParts(["REVISION", "TIME", "ACTOR", "METHOD", "RESOURCE", "OUTCOME"]);
        for await (const { records } of trail(api, after)) io.out(rows(records.map(auditRow)));
      });
    });
  group
    .command("export")
    .description("Write the whole trail with its seals as JSON lines, for verify audit --file")
    .requiredOption("--out <file>", "new file, or - for standard output")
    .action(async (options: { out: string }, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const file = options.out === "-" ? undefined : openSync(options.out, "wx", 0o600);
        const line = (value: unknown) => {
          const text = `${JSON.stringify(value)}\n`;
          if (file === undefined) io.out(text);
          else writeSync(file, text);
        };
        try {
          for await (const { records, seals } of trail(api, 0n)) {
            for (const r of records) line({ record: toJson(AuditRecordSchema, r) });
            for (const s of seals) line({ seal: toJson(AuditSealSchema, s) });
          }
        } finally {
          if (file !== undefined) closeSync(file);
        }
      });
    });
}

const chainRecord = (r: AuditRecord): ChainRecord => ({
  name: r.name.startsWith(NAME) ? r.name.slice(NAME.length) : r.name,
  revision: Number(r.revision),
  encoded: r.encoded,
  method: r.method,
  resource: r.resource,
});

/** Feeds the lines of an export to a verifier; one that is neither record nor seal is wrong usage. */
export async function addExport(
  verifier: ChainVerifier,
  lines: Iterable<string> | AsyncIterable<string>,
  path: string,
): Promise<void> {
  let number = 0;
  for await (const line of lines) {
    number += 1;
    if (line.trim() === "") continue;
    try {
      const { record, seal } = JSON.parse(line) as { record?: never; seal?: never };
      if (record !== undefined) verifier.add([chainRecord(fromJson(AuditRecordSchema, record))], []);
      else if (seal !== undefined) verifier.add([], [chainSeal(fromJson(AuditSealSchema, seal))]);
      else throw new Error("neither record nor seal");
    } catch {
      throw new UsageError(`Cannot read line ${number} of "${path}": it is neither a record nor a seal`);
    }
  }
}

function isDatabase(path: string): boolean {
  const head = Buffer.alloc(15);
  const file = openSync(path, "r");
  try {
    readSync(file, head, 0, head.length, 0);
  } finally {
    closeSync(file);
  }
  return head.toString("latin1") === "SQLite format 3";
}

function addVerify(program: Command, io: Io): void {
  const found = program.commands.find((c) => c.name() === "verify");
  const group = found ?? program.command("verify").description("Verify what can be verified without trust");
  group
    .command("audit")
    .description("Verify the hash chain of the audit trail, and name what is not as it was sealed")
    .option("--file <file>", "a backup of the store, or an export, instead of the hub")
    .option("--head <seal>", "a seal kept outside the hub, SEQUENCE:DIGEST, that must be in the chain")
    .action(async (options: { file?: string; head?: string }, command: Command) => {
      let head: ReturnType<typeof parseHead> | undefined;
      try {
        head = options.head === undefined ? undefined : parseHead(options.head);
      } catch (thrown) {
        throw new UsageError(`Cannot use "${options.head}" for --head: ${(thrown as Error).message}`);
      }
      if (options.file !== undefined && isDatabase(options.file)) {
        await verifyBackup(io, options.file, options.head);
        return;
      }
      const verifier = new ChainVerifier(head);
      if (options.file !== undefined) {
        // A line at a time: a trail of years is longer than a string can be.
        const file = await open(options.file);
        await addExport(verifier, file.readLines(), options.file);
      } else
        await withApi(io, command.optsWithGlobals(), async (api) => {
          for await (const { records, seals } of trail(api, 0n))
            verifier.add(records.map(chainRecord), seals.map(chainSeal));
        });
      const report = verifier.finish();
      io.out(`${reportLines(report).join("\n")}\n`);
      if (!report.intact) throw new ChildExit(ExitCode.failed, "verification");
    });
}

async function verifyBackup(io: Io, file: string, head: string | undefined): Promise<void> {
  const script = fileURLToPath(new URL("../hub/verify-audit.mjs", import.meta.url));
  if (!existsSync(script))
    throw new UsageError(
      `Cannot read the backup "${file}": the hub is not part of this installation`,
      "Run it from the repository or the hub's image, or verify an export",
    );
  const args = ["--file", file, ...(head === undefined ? [] : ["--head", head])];
  const code = await io.runNode(script, args);
  if (code !== 0) throw new ChildExit(code, "verification");
}
