/** The command tree. */
import { Command, CommanderError } from "commander";
import { ChildExit, addAdminCommands } from "./commands-admin.ts";
import { addBackupCommands } from "./commands-backup.ts";
import { addBundleCommands } from "./commands-bundle.ts";
import { addHubCommands } from "./commands-hub.ts";
import { addLoginCommands } from "./commands-login.ts";
import { addApply, addResourceCommands } from "./commands-resources.ts";
import { ExitCode, errorLines, exitCodeOf, exitMeanings } from "./exit.ts";
import type { Io } from "./io.ts";

/** Version of the command. */
export const version = "0.1.0";

/** The whole tree over an outside; nothing runs before it is parsed. */
export function buildProgram(io: Io): Command {
  const program = new Command("moorage")
    .description("Work with a Moorage hub: data planes, tenants and applications")
    .version(version)
    .option("--context <name>", "context to use instead of the current one")
    .enablePositionalOptions()
    .showHelpAfterError('See "moorage --help"')
    .addHelpText(
      "after",
      `\nExit codes:\n${exitMeanings.map((e) => `  ${e.code}  ${e.meaning}`).join("\n")}`,
    );
  addLoginCommands(program, io);
  addResourceCommands(program, io);
  addApply(program.command("applications").description("The verb apply, in the words of applications"), io);
  addBundleCommands(program, io);
  addAdminCommands(program, io);
  addHubCommands(program, io);
  addBackupCommands(program, io);
  settle(program, io);
  return program;
}

/** Makes every command throw instead of ending the process, and write through `io`. */
function settle(command: Command, io: Io): void {
  command
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.out(text), writeErr: (text) => io.err(text) });
  for (const child of command.commands) settle(child, io);
}

/** Runs one command line; answers the exit code and never throws. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  const program = buildProgram(io);
  try {
    await program.parseAsync(argv, { from: "user" });
    return ExitCode.ok;
  } catch (thrown) {
    if (thrown instanceof ChildExit) return thrown.code;
    if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
    io.err(`${errorLines(thrown).join("\n")}\n`);
    return exitCodeOf(thrown);
  }
}
