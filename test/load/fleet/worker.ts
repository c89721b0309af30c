/** A driver process: serves a Driver to its parent over IPC. Started by fleet.ts. */
import { Driver } from "./driver.ts";
import type { Answered, Asked, Command } from "./protocol.ts";

let driver: Driver | undefined;

async function run(command: Command): Promise<unknown> {
  if (command.do === "configure") {
    const { target, reports, record } = command;
    driver = new Driver({ target, reports, record });
    return undefined;
  }
  if (driver === undefined) throw new Error("The driver is not configured");
  switch (command.do) {
    case "enrol":
      return driver.enrol(command.seeds, command.atATime);
    case "connect":
      return driver.connect(command.indices, command);
    case "disconnect":
      return driver.disconnect(command.indices);
    case "mark":
      return driver.mark();
    case "stats":
      return driver.stats();
    case "awaitSync":
      return driver.awaitSync(command.indices, command.timeoutMs);
    case "awaitReported":
      return driver.awaitReported(command.indices, command.timeoutMs);
    case "expect":
      return driver.expect(command.indices, command.revision);
    case "acked":
      return driver.acked(command.timeoutMs);
    case "received":
      return driver.received(command.index);
    case "stop":
      process.disconnect();
      return process.exit(0);
  }
}

process.on("message", (asked: Asked) => {
  const answer = (a: Answered): void => void process.send?.(a);
  run(asked.command).then(
    (value) => answer({ id: asked.id, value }),
    (error: unknown) =>
      answer({ id: asked.id, error: error instanceof Error ? error.message : String(error) }),
  );
});
// A parent that died leaves no driver behind.
process.on("disconnect", () => process.exit(0));
