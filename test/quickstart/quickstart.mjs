// make quickstart. Plain JavaScript first: it must say what to do on a Node that is too old.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 14)) {
  console.error(
    `Node ${process.versions.node} is too old: run "make quickstart", which uses the Node 24 that npm installs`,
  );
  process.exit(2);
}
const { quickstart } = await import("./quickstart.ts");
process.exit(await quickstart(process.env));
