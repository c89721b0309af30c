#!/usr/bin/env node
// No static imports: on a Node that is too old this must still run and say what to do.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 14)) {
  console.error(`Node ${process.versions.node} is too old for the hub: use Node 24.14 or later`);
  process.exit(2);
}
const { main } = await import("./identity/verify-backup.ts");
process.exitCode = await main(process.argv.slice(2));
