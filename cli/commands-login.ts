/** login and config: which hub, with which key. */
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { openApi } from "./api.ts";
import type { Context } from "./contexts.ts";
import { contextsPath, parseAddress, readContexts, writeContexts } from "./contexts.ts";
import { UsageError } from "./exit.ts";
import { table } from "./format.ts";
import type { Io } from "./io.ts";
import { stringifyYaml } from "@moorage/shared/yaml";

/** Adds the commands. */
export function addLoginCommands(program: Command, io: Io): void {
  program
    .command("login")
    .description("Check a hub and a key, and keep them as the current context")
    .requiredOption("--server <host:port>", "address of the hub's public API")
    .option("--ca <file>", "PEM file of the authority to trust (default: the machine's)")
    .requiredOption("--key-file <file>", "file that holds the API key, or - for standard input")
    .option("--server-name <name>", "name to check the hub's certificate against, when it is not the host")
    .option("--name <context>", "name of the context", "default")
    .action(
      async (options: {
        server: string;
        ca?: string;
        keyFile: string;
        serverName?: string;
        name: string;
      }) => {
        const address = parseAddress(options.server);
        const key = (
          options.keyFile === "-" ? await io.stdin() : readFileSync(options.keyFile, "utf8")
        ).trim();
        if (!/^[\x21-\x7e]+$/.test(key))
          throw new UsageError(
            `Cannot use the key of "${options.keyFile}": it must be one line of printable ASCII`,
          );
        const context: Context = {
          server: options.server,
          key,
          ...(options.ca === undefined ? {} : { caPem: readFileSync(options.ca, "utf8") }),
          ...(options.serverName === undefined ? {} : { serverName: options.serverName }),
        };
        const api = openApi(context, io.clock);
        try {
          await api.tenants.listTenants({ pageSize: 1 }, { timeoutMs: 10_000 });
        } finally {
          api.close();
        }
        const path = contextsPath(io.env);
        const all = readContexts(path);
        writeContexts(path, {
          current: options.name,
          contexts: { ...all.contexts, [options.name]: context },
        });
        io.err(`Logged in to ${address.host}:${address.port} as context "${options.name}"\n`);
      },
    );
  const config = program.command("config").description("Show and choose contexts");
  config
    .command("get-contexts")
    .description("List the contexts")
    .action(() => {
      const all = readContexts(contextsPath(io.env));
      const rows = Object.entries(all.contexts).map(([name, c]) => [
        name === all.current ? "*" : "",
        name,
        c.server,
      ]);
      io.out(table(["CURRENT", "NAME", "SERVER"], rows));
    });
  config
    .command("use-context <name>")
    .description("Make a context the current one")
    .action((name: string) => {
      const path = contextsPath(io.env);
      const all = readContexts(path);
      if (all.contexts[name] === undefined)
        throw new UsageError(`Unknown context "${name}"`, '"moorage config get-contexts" lists them');
      writeContexts(path, { ...all, current: name });
      io.err(`Switched to context "${name}"\n`);
    });
  config
    .command("view")
    .description("Print the stored configuration without keys")
    .action(() => {
      const path = contextsPath(io.env);
      const all = readContexts(path);
      const contexts = Object.fromEntries(
        Object.entries(all.contexts).map(([name, { key: _key, ...shown }]) => [
          name,
          { ...shown, key: "(hidden)" },
        ]),
      );
      io.out(
        stringifyYaml({ path, ...(all.current === undefined ? {} : { current: all.current }), contexts }),
      );
    });
}
