import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { maxFileLines, offences } from "./rules.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");

/** Every source file of ours that git knows or would add. */
function sources(): string[] {
  const out = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "*.ts"], {
    cwd: root,
    encoding: "utf8",
  });
  return out
    .split("\n")
    .filter(
      (p) =>
        p !== "" &&
        !p.startsWith("proto/gen/") &&
        p !== "test/tidy/tidy.test.ts" &&
        p !== "test/tidy/rules.ts",
    );
}

describe("the source tree", () => {
  it("keeps every rule of test/tidy/rules.ts", () => {
    const files = sources();
    expect(files.length).toBeGreaterThan(50);
    const found = files.flatMap((path) => {
      try {
        return offences({ path, text: readFileSync(join(root, path), "utf8") });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
        throw error;
      }
    });
    expect(found.map((o) => `${o.path}: ${o.rule}: ${o.detail}`)).toEqual([]);
  });

  it("names no path of a machine and no registry host in a tracked file", () => {
    const tracked = execFileSync("git", ["ls-files"], { cwd: root, encoding: "utf8" }).split("\n");
    const text = /\.(ts|mjs|json|md|ya?ml|proto|sh|toml)$|Makefile$|\.ci\/run$/;
    const found: string[] = [];
    for (const path of tracked.filter((p) => text.test(p) && p !== "test/tidy/tidy.test.ts")) {
      let content: string;
      try {
        content = readFileSync(join(root, path), "utf8");
      } catch {
        continue; // deleted in the working tree
      }
      if (/\/(work|root|home)\/[a-z]/.test(content)) found.push(`${path}: a path of a machine`);
      if (path === "package-lock.json") {
        // Without addresses, npm downloads from the registry that the user's machine is set up for.
        if (/"resolved": "https?:/.test(content)) found.push(`${path}: a download address`);
      }
    }
    expect(found).toEqual([]);
  });
});

describe("each rule finds its planted offender", () => {
  const planted: [rule: string, path: string, text: string][] = [
    ["import-direction", "hub/api/a.ts", 'import { x } from "@moorage/agent/link/link";'],
    ["import-direction", "shared/a.ts", 'export * from "@moorage/hub/main";'],
    ["import-across", "hub/api/a.ts", 'import { x } from "../../shared/clock.ts";'],
    ["import-extension", "hub/api/a.ts", 'import { x } from "./b";'],
    ["node-prefix", "hub/api/a.ts", 'import fs from "fs";'],
    ["one-importer", "hub/api/a.ts", 'import Database from "better-sqlite3";'],
    ["one-importer", "agent/link/a.ts", 'const k = await import("@kubernetes/client-node");'],
    ["pure-folder", "hub/core/a.ts", 'import { readFile } from "node:fs/promises";'],
    ["pure-folder", "agent/kinds/tenant/plan.ts", 'import { connect } from "node:net";'],
    ["injected-time-and-chance", "hub/sync/a.ts", "const t = Date.now();"],
    ["injected-time-and-chance", "hub/sync/a.test.ts", "setTimeout(() => {}, 5);"],
    ["injected-time-and-chance", "agent/a.ts", "const x = Math.random();"],
    ["environment", "agent/link/a.ts", 'const h = process.env["HOME"];'],
    ["no-mocks", "hub/a.test.ts", 'vi.mock("./b.ts");'],
    ["no-skips", "hub/a.test.ts", 'it.skip("x", () => {});'],
    ["no-todo", "hub/a.ts", "// TO" + "DO later"],
    ["erasable", "hub/a.ts", "export enum E { A }"],
    ["file-length", "hub/a.ts", "\n".repeat(maxFileLines + 1)],
    ["no-barrels", "hub/api/index.ts", ""],
  ];
  it.each(planted)("%s in %s", (rule, path, text) => {
    expect(offences({ path, text }).map((o) => o.rule)).toContain(rule);
  });

  it("and nothing in a clean file", () => {
    const text =
      'import { sleep } from "@moorage/shared/clock";\nimport { x } from "./b.ts"; // Date.now() in a comment\n';
    expect(offences({ path: "hub/api/a.ts", text })).toEqual([]);
  });
});
