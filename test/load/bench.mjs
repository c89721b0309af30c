// make bench. Plain JavaScript first: it must say what to do on a Node that is too old.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 14)) {
  console.error(
    `Node ${process.versions.node} is too old: run "make bench", which uses the Node 24 that npm installs`,
  );
  process.exit(2);
}
const { bench } = await import("./bench.ts");
const { ONLY: only = "", OUT: out = "", SCALE: scale = "" } = process.env;
process.exit(await bench({ only, out, scale }));
