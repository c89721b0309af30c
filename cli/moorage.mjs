#!/usr/bin/env node
// No static imports: on a Node that is too old this must still run and say what to do.
import { existsSync } from "node:fs";
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
const recent = major > 24 || (major === 24 && minor >= 14);
// npm installs a Node of its own beside the sources; use it where the system's is too old.
const own = fileURLToPath(new URL("../node_modules/node/bin/node", import.meta.url));
if (recent) {
  const { main } = await import("./main.ts");
  process.exitCode = await main(process.argv.slice(2));
} else if (existsSync(own)) {
  const child = spawn(own, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
  child.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGINT" ? 130 : 143)));
} else {
  console.error(
    `Cannot run moorage on Node ${process.versions.node}: install Node 24.14 or later, or run "npm install" in the repository, which brings one`,
  );
  process.exitCode = 2;
}
