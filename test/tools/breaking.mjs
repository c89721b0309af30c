// Compares the contract with that of the last release: "node test/tools/breaking.mjs [GIT REVISION]". A release is a
// tag v*; before the first one proto/baseline.binpb stands in for it, an image as "buf build" makes it. Exit codes: 0
// compatible; 100 as buf says; 1 or 2 when it cannot tell.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const git = (args) => spawnSync("git", args, { cwd: root, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });

/** The newest release in this history; undefined before the first. */
function release() {
  const tags = git(["tag", "--list", "v*", "--sort=-version:refname", "--merged", "HEAD"]).stdout ?? "";
  return tags.split("\n")[0] || undefined;
}

/** Puts the protos of a revision into `dir`; answers what went wrong. */
function extract(rev, dir) {
  const tar = join(dir, "proto.tar");
  const archive = git(["archive", "--format=tar", "-o", tar, rev, "proto"]);
  if (archive.status !== 0) return archive.stderr.trim();
  const untar = spawnSync("tar", ["-xf", tar, "-C", dir], { encoding: "utf8" });
  return untar.status === 0 ? undefined : untar.stderr.trim();
}

const rev = process.argv[2] ?? release();
const what = rev === undefined ? "proto/baseline.binpb" : `revision "${rev}"`;
const dir = mkdtempSync(join(tmpdir(), "moorage-breaking-"));
try {
  const failure = rev === undefined ? undefined : extract(rev, dir);
  if (failure !== undefined) {
    console.error(`Cannot read the protos of ${what}: ${failure}`);
    process.exitCode = 2;
  } else {
    const against = rev === undefined ? "proto/baseline.binpb" : join(dir, "proto");
    const buf = spawnSync("buf", ["breaking", "proto", "--against", against], {
      cwd: root,
      stdio: "inherit",
    });
    if (buf.error !== undefined) console.error(`Cannot run buf: ${buf.error.message}; run "make tools"`);
    process.exitCode = buf.status ?? 1;
    if (process.exitCode === 0) console.log(`The contract breaks nothing of ${what}`);
    else if (buf.status !== null) console.error(`The contract breaks what clients of ${what} rely on`);
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
