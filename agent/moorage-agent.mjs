#!/usr/bin/env node
// Checks the version of Node before anything that an older one cannot read is loaded.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 14)) {
  process.stderr.write(
    `Cannot run moorage-agent on Node.js ${process.versions.node}: install Node.js 24.14 or newer\n`,
  );
  process.exit(1);
}
const { main } = await import("./main.ts");
process.exitCode = await main(process.argv.slice(2));
