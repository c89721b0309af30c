/** The reference page of the command, from its tree. */
import type { Command } from "commander";
import { exitMeanings } from "./exit.ts";
import { buildProgram } from "./program.ts";

/** Markdown of every command with its options, and the exit codes; without a title. */
export function cliMarkdown(): string {
  const nowhere = new AbortController();
  const program = buildProgram({
    out: () => {},
    err: () => {},
    stdin: () => Promise.resolve(""),
    env: {},
    clock: { now: () => 0, monotonicMs: () => 0, setTimer: () => ({ cancel: () => {} }) },
    signal: nowhere.signal,
    runNode: () => Promise.resolve(0),
  });
  const sections = program.commands.flatMap((c) => section(c, "moorage"));
  const codes = [
    "## Exit codes",
    "",
    "| Code | Meaning |",
    "| --- | --- |",
    ...exitMeanings.map((e) => `| ${e.code} | ${e.meaning} |`),
  ];
  return [...sections, codes.join("\n")].join("\n\n") + "\n";
}

function section(command: Command, path: string): string[] {
  const full = `${path} ${command.name()}`;
  const below = command.commands.flatMap((c) => section(c, full));
  // A command that only groups others does nothing by itself.
  if (below.length > 0 && command.registeredArguments.length === 0) return below;
  const usage = command.usage().replace("[options]", "[OPTIONS]");
  const rows = command.options.map(
    (o) =>
      `| \`${cell(o.flags)}\` | ${cell(o.description)}${o.argChoices === undefined ? "" : ` (${o.argChoices.join(", ")})`} | ${o.mandatory ? "required" : o.defaultValue === undefined || o.defaultValue === "" ? "" : `\`${cell(String(o.defaultValue))}\``} |`,
  );
  const options =
    rows.length === 0 ? [] : ["", "| Option | What | Default |", "| --- | --- | --- |", ...rows];
  return [
    [
      `## ${full}`,
      "",
      `${command.description()}.`,
      "",
      "```text",
      `${full} ${usage}`,
      "```",
      ...options,
    ].join("\n"),
    ...below,
  ];
}

const cell = (text: string): string => text.replaceAll("|", "\\|");
