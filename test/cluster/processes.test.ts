import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { endStale, until } from "./processes.ts";

it("ends what a killed run left, spares what another run owns and a pid that is another program's now", async () => {
  const root = mkdtempSync(join(tmpdir(), "moorage-stale-"));
  const children = [0, 1, 2].map(() => spawn("sleep", ["600"], { detached: true, stdio: "ignore" }));
  const pids = children.map((c) => c.pid as number);
  const cluster = (name: string, owner: string, pid: number, program: string) => {
    mkdirSync(join(root, name));
    writeFileSync(join(root, name, "owner"), owner);
    writeFileSync(join(root, name, "etcd.pid"), JSON.stringify({ pid, program }));
  };
  // 2^22 is above every pid that Linux gives by default: an owner that is gone.
  cluster("dead", "4194305", pids[0] as number, "sleep");
  cluster("owned", String(process.pid), pids[1] as number, "sleep");
  cluster("reused", "4194305", pids[2] as number, "etcd");
  mkdirSync(join(root, "torn"));
  writeFileSync(join(root, "torn", "etcd.pid"), '{"pid": 1');
  try {
    expect(endStale(root)).toBe(1);
    await until(
      "the stale process has ended",
      async () => children[0]?.exitCode !== null || children[0].signalCode !== null,
      5_000,
    );
    expect(["dead", "owned", "reused", "torn"].filter((d) => existsSync(join(root, d)))).toEqual(["owned"]);
    expect(children.slice(1).map((c) => c.signalCode)).toEqual([null, null]);
  } finally {
    for (const c of children) c.kill("SIGKILL");
  }
});
