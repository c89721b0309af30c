/** data-planes, applications, api-keys, hub and agent. */
import { existsSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { Option } from "commander";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { SaasType } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { installManifest } from "@moorage/shared/install/manifest";
import { stringifyYamlAll } from "@moorage/shared/yaml";
import type { Api } from "./api.ts";
import { apiKeysOf } from "./commands-resources.ts";
import { parseDuration, toDuration } from "./duration.ts";
import { UsageError } from "./exit.ts";
import { age, formatList, table } from "./format.ts";
import type { Io } from "./io.ts";
import { withApi } from "./io.ts";
import { fullName } from "./kinds.ts";

/** Image of the agent that an install file names unless told otherwise. */
const agentImage = "moorage-agent:0.1.0";

interface ManifestOptions {
  tokenLifetime: string;
  image: string;
  namespace: string;
  mode?: "Observe" | "Auto";
}

const manifestOptions = (command: Command): Command =>
  command
    .option("--token-lifetime <duration>", "how long the install file's token can be used, once", "15m")
    .option("--image <reference>", "image of the agent", agentImage)
    .option("--namespace <name>", "namespace of the agent", "moorage-system")
    .addOption(
      new Option(
        "--mode <mode>",
        "what the agent may do, stated by the file with each apply; without it Auto at first, and then what the customer sets",
      ).choices(["Auto", "Observe"]),
    );

/** The labels of KEY=VALUE pairs joined by commas. */
export function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const pair of text.split(",").filter((p) => p !== "")) {
    const at = pair.indexOf("=");
    if (at <= 0)
      throw new UsageError(`Cannot read "${pair}" for --labels: write KEY=VALUE, joined by commas`);
    labels[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return labels;
}

async function printManifest(
  io: Io,
  api: Api,
  what: { name: string; options: ManifestOptions },
): Promise<void> {
  const { name, options } = what;
  const lifetime = toDuration(parseDuration("--token-lifetime", options.tokenLifetime));
  const made = await api.createJoinToken({ parent: name, lifetime });
  const objects = installManifest({
    namespace: options.namespace,
    dataPlane: name.replace(/^dataPlanes\//, ""),
    dataPlaneUid: made.dataPlaneUid,
    joinToken: made.token,
    enrolmentAddress: made.enrolmentAddress,
    agentAddress: made.agentAddress,
    trustBundlePem: new TextDecoder().decode(made.trustBundlePem),
    trustDomain: made.trustDomain,
    image: options.image,
    ...(options.mode === undefined ? {} : { mode: options.mode }),
  });
  io.out(
    `# Install file of "${name}": apply with kubectl. It holds a token that works once within ${options.tokenLifetime}.\n# A cluster that has never seen these kinds needs the command twice: kubectl looks up kinds before it creates any.\n`,
  );
  io.out(stringifyYamlAll(objects));
}

/** Adds the commands. */
export function addAdminCommands(program: Command, io: Io): void {
  addDataPlanes(program, io);
  addApiKeys(program, io);
  for (const [name, entry] of [
    ["hub", "../hub/moorage-hub.mjs"],
    ["agent", "../agent/moorage-agent.mjs"],
  ] as const) {
    program
      .command(`${name} [options...]`)
      .description(`Run the ${name} as a process; "moorage ${name} --help" lists its options`)
      .helpOption(false)
      .allowUnknownOption()
      .passThroughOptions()
      .action(async (args: string[], _options: unknown, command: Command) => {
        const script = fileURLToPath(new URL(entry, import.meta.url));
        if (!existsSync(script))
          throw new UsageError(
            `The ${name} is not part of this installation: no "${script}"`,
            "Run it from the repository, or from its image",
          );
        const code = await io.runNode(script, args);
        if (code !== 0) throw new ChildExit(code, command.name());
      });
  }
}

/** The hub or the agent ended with this code; it has said why itself. */
export class ChildExit extends Error {
  readonly code: number;
  constructor(code: number, name: string) {
    super(`The ${name} ended with ${code}`);
    this.code = code;
  }
}

function addDataPlanes(program: Command, io: Io): void {
  const group = program
    .command("data-planes")
    .alias("dp")
    .description("Create data planes and admit their agents");
  manifestOptions(group.command("create <id>"))
    .description("Create a data plane; with --manifest print the one file that its cluster applies")
    .option("--manifest", "print the install file on standard output")
    .option("--labels <labels>", "labels, KEY=VALUE joined by commas", "")
    .option("--region <name>", "region", "")
    .option("--customer <id>", "customer id of a dedicated or private data plane", "")
    .addOption(
      new Option("--type <type>", "whose it is")
        .choices(["shared", "dedicated", "private"])
        .default("shared"),
    )
    .action(
      async (
        id: string,
        options: ManifestOptions & {
          manifest?: boolean;
          labels: string;
          region: string;
          customer: string;
          type: string;
        },
        command: Command,
      ) => {
        parseDuration("--token-lifetime", options.tokenLifetime);
        const saasType =
          options.type === "private"
            ? SaasType.PRIVATE
            : options.type === "dedicated"
              ? SaasType.DEDICATED
              : SaasType.SHARED;
        await withApi(io, command.optsWithGlobals(), async (api) => {
          const dataPlane = {
            labels: parseLabels(options.labels),
            spec: { region: options.region, customerId: options.customer, saasType },
          };
          const made = await api.dataPlanes.createDataPlane({ dataPlaneId: id, dataPlane }, api.unary);
          io.err(`${made.name} created\n`);
          if (options.manifest === true) await printManifest(io, api, { name: made.name, options });
          else
            io.err(
              `  next: moorage data-planes manifest ${id} > ${id}.yaml, and kubectl apply -f ${id}.yaml in its cluster\n`,
            );
        });
      },
    );
  manifestOptions(group.command("manifest <id>"))
    .description("Print an install file with a new token for a data plane that exists")
    .action(async (id: string, options: ManifestOptions, command: Command) => {
      await withApi(io, command.optsWithGlobals(), (api) =>
        printManifest(io, api, { name: fullName("DataPlane", id), options }),
      );
    });
  group
    .command("token <id>")
    .description("Make a join token and write it to a file of mode 0600")
    .requiredOption("--out <file>", "file for the token, or - for standard output")
    .option("--token-lifetime <duration>", "how long it can be used, once", "15m")
    .action(async (id: string, options: { out: string; tokenLifetime: string }, command: Command) => {
      const lifetime = toDuration(parseDuration("--token-lifetime", options.tokenLifetime));
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const made = await api.createJoinToken({ parent: fullName("DataPlane", id), lifetime });
        writeSecret(io, options.out, made.token);
        io.err(`${made.joinToken?.name ?? "join token"} created, for ${options.tokenLifetime} and one use\n`);
      });
    });
  group
    .command("tokens <id>")
    .description("List the join tokens of a data plane")
    .action(async (id: string, _options: unknown, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const { joinTokens } = await api.joinTokens.listJoinTokens(
          { parent: fullName("DataPlane", id) },
          api.unary,
        );
        const now = io.clock.now();
        io.out(
          table(
            ["NAME", "USED", "AGE"],
            joinTokens.map((t) => [
              t.name,
              t.consumeTime === undefined ? "no" : `${age(t.consumeTime, now)} ago`,
              age(t.createTime, now),
            ]),
          ),
        );
      });
    });
  group
    .command("revoke <id>")
    .description("Revoke the credentials of a data plane's agent; it must enrol again with a new token")
    .requiredOption("--reason <text>", "kept in the audit log")
    .action(async (id: string, options: { reason: string }, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const name = fullName("DataPlane", id);
        const { revokedKeys } = await api.joinTokens.revokeAgentCredentials(
          { name, reason: options.reason },
          api.unary,
        );
        io.out(`${name} ${revokedKeys} keys revoked\n`);
      });
    });
}

function writeSecret(io: Io, path: string, secret: string): void {
  if (path === "-") io.out(`${secret}\n`);
  else writeFileSync(path, `${secret}\n`, { mode: 0o600, flag: "wx" });
}

const roles: Readonly<Record<string, Role>> = {
  admin: Role.ADMIN,
  operator: Role.OPERATOR,
  viewer: Role.VIEWER,
  billing: Role.BILLING,
};

function addApiKeys(program: Command, io: Io): void {
  const group = program.command("api-keys").description("Create, list and delete API keys");
  group
    .command("create <id>")
    .description("Create a key and write its secret, shown this once, to a new file")
    .addOption(
      new Option("--role <role>", "what it may do").choices(Object.keys(roles)).makeOptionMandatory(),
    )
    .requiredOption("--out <file>", "file for the secret, or - for standard output")
    .option(
      "--scope <name...>",
      "resources it is limited to, e.g. tenants/acme; dataPlanes/{id}/tenants lets it place tenants there",
    )
    .option("--display-name <text>", "name for people", "")
    .option("--expires-in <duration>", "end of its life from now (default: none)")
    .action(
      async (
        id: string,
        options: { role: string; out: string; scope?: string[]; displayName: string; expiresIn?: string },
        command: Command,
      ) => {
        const lifetimeMs =
          options.expiresIn === undefined ? undefined : parseDuration("--expires-in", options.expiresIn);
        if (options.out !== "-" && existsSync(options.out))
          throw new UsageError(`Cannot write "${options.out}": it exists already`);
        await withApi(io, command.optsWithGlobals(), async (api) => {
          const apiKey = {
            displayName: options.displayName,
            role: roles[options.role] ?? Role.UNSPECIFIED,
            scopes: options.scope ?? [],
            ...(lifetimeMs === undefined ? {} : { expireTime: timestampFromMs(io.clock.now() + lifetimeMs) }),
          };
          const made = await api.createApiKey({ apiKeyId: id, apiKey });
          writeSecret(io, options.out, made.secret);
          io.err(`${made.apiKey?.name ?? id} created\n`);
        });
      },
    );
  group
    .command("list")
    .description("List the keys, without secrets")
    .action(async (_options: unknown, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) =>
        io.out(formatList(await apiKeysOf(api), { output: "table", nowMs: io.clock.now() })),
      );
    });
  group
    .command("delete <id>")
    .description("Delete a key; calls with it fail at once")
    .action(async (id: string, _options: unknown, command: Command) => {
      await withApi(io, command.optsWithGlobals(), async (api) => {
        const name = id.includes("/") ? id : `apiKeys/${id}`;
        await api.apiKeys.deleteApiKey({ name }, api.unary);
        io.out(`${name} deleted\n`);
      });
    });
}
