// make cluster-up and make cluster-down: a cluster that stays until it is taken down.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 14)) {
  console.error(
    `Node ${process.versions.node} is too old: run "make cluster-up", which uses the Node 24 that npm installs`,
  );
  process.exit(2);
}
const { up, down } = await import("./up.ts");
await (process.argv[2] === "down" ? down() : up());
