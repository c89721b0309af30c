/** R3: the files of the certificate authority, whose loss no backup of the store mends. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { Shim } from "./shim/shim.ts";
import { records } from "./trace.ts";

it("brings each name of the authority's files to the disk before the next one changes", async () => {
  const work = mkdtempSync(join(tmpdir(), "moorage-authority-"));
  onTestFinished(() => rmSync(work, { recursive: true, force: true }));
  const dir = join(work, "data");
  const shim = new Shim({ dir, work, trace: true });
  const ca = new URL("../../hub/identity/ca.ts", import.meta.url).href;
  const script = `
    const { fileKeyProvider } = await import(${JSON.stringify(ca)});
    await fileKeyProvider(${JSON.stringify(dir)}).save({
      ca: { certPem: "certificate", keyPem: "key" }, bundlePem: "bundle", crossPem: "" });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, ...shim.env },
  });
  expect(await once(child, "close")).toEqual([0, null]);
  shim.demandLoaded();
  const seen: string[] = [];
  const folders = new Set<string>();
  for (const r of records(readFileSync(shim.trace as string))) {
    if (r.op === "open" && r.folder) folders.add(r.inode);
    if (r.op === "rename") seen.push("rename");
    if (r.op === "sync") seen.push(folders.has(r.inode) ? "sync of the folder" : "sync of a file");
  }
  const each = ["sync of a file", "rename", "sync of the folder"];
  expect(seen).toEqual([...each, ...each, ...each]);
});
