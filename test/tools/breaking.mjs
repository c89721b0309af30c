// Compares the contract with that of the last release: "node test/tools/breaking.mjs [GIT REVISION]". A release is a
// tag v*; before the first there is nothing to break, and the newest commit that the file proto/BASELINE names, if it
// is there, stands in for one. Exit codes: 0 compatible, or nothing to compare; 100 as buf says; 1 or 2 when it cannot.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const git = (args) => spawnSync("git", args, { cwd: root, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });

/** The revision to compare with, and what it is; undefined when there is none. */
function against() {
  if (process.argv[2] !== undefined) return { rev: process.argv[2], what: `revision "${process.argv[2]}"` };
  const tag = git(["tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD"]).stdout.split(
    "\n",
  )[0];
  if (tag !== undefined && tag !== "") return { rev: tag, what: `tag "${tag}"` };
  const file = join(root, "proto/BASELINE");
  if (!existsSync(file)) return undefined;
  const rev = readFileSync(file, "utf8").trim();
  return { rev, what: `baseline "${rev}" of proto/BASELINE` };
}

const base = against();
if (base === undefined) {
  console.log("No release is tagged yet: there is no contract to break");
  process.exit(0);
}
const dir = mkdtempSync(join(tmpdir(), "moorage-breaking-"));
try {
  const archive = spawnSync(
    "git",
    ["archive", "--format=tar", "-o", join(dir, "proto.tar"), base.rev, "proto"],
    {
      cwd: root,
      encoding: "utf8",
    },
  );
  if (archive.status !== 0) {
    console.error(`Cannot read the protos of ${base.what}: ${archive.stderr.trim()}`);
    process.exitCode = 2;
  } else {
    spawnSync("tar", ["-xf", join(dir, "proto.tar"), "-C", dir]);
    const buf = spawnSync("buf", ["breaking", "proto", "--against", join(dir, "proto")], {
      cwd: root,
      stdio: "inherit",
    });
    if (buf.error !== undefined) console.error(`Cannot run buf: ${buf.error.message}; run "make tools"`);
    process.exitCode = buf.status ?? 1;
    if (process.exitCode === 0) console.log(`The contract breaks nothing of ${base.what}`);
    else if (buf.status !== null) console.error(`The contract breaks what clients of ${base.what} rely on`);
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
