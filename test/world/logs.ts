/** What the processes of a world logged last, in the message of a test that failed: nothing else is kept of a run. */
import { onTestFailed } from "vitest";
import type { Child } from "./process.ts";

/** Lines told of each process. */
const LINES = 12;

/** To be called in `beforeEach`: should the test fail, its error ends with the last lines of each child's log. */
export function tellLogs(children: () => readonly Child[]): void {
  onTestFailed(({ task }) => {
    const told = children().map((child) => {
      const lines = child.log().trimEnd().split("\n").slice(-LINES);
      return `${child.logPath.replace(/^.*\//, "")}${child.alive() ? "" : " (ended)"}:\n${lines.join("\n")}`;
    });
    for (const error of task.result?.errors ?? []) {
      const text = `\n${told.join("\n")}`;
      error.message += text;
      if (error.stack !== undefined)
        error.stack = error.message + error.stack.slice(error.stack.indexOf("\n    at "));
    }
  });
}
