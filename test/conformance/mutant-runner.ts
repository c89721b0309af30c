/** Runs the suites on copies of the source tree in which one bug is planted each. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Mutation, Suite } from "./mutations.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The packages that a copy needs: the suites, and what they import. */
const PACKAGES = ["proto", "shared", "hub", "agent", "cli", "test"] as const;

/** The test file of each suite, its project, and rounds that suffice to find a bug of its kind. */
const suiteFiles: Readonly<Record<Suite, { project: string; file: string; rounds: number }>> = {
  store: { project: "conformance", file: "test/conformance/store.test.ts", rounds: 0 },
  watch: { project: "conformance", file: "test/conformance/store-watch.test.ts", rounds: 0 },
  rows: { project: "conformance", file: "test/conformance/store-rows.test.ts", rounds: 0 },
  sqlite: { project: "conformance", file: "test/conformance/store-sqlite.test.ts", rounds: 0 },
  model: { project: "conformance", file: "test/conformance/store-model.test.ts", rounds: 0 },
  linearizable: { project: "conformance", file: "test/conformance/linearizable.test.ts", rounds: 3 },
  kill: { project: "conformance", file: "test/conformance/kill.test.ts", rounds: 20 },
  power: { project: "faults", file: "test/faults/power.test.ts", rounds: 100 },
};

/** What became of a run. `test`: the first that failed. */
export interface Verdict {
  caught: boolean;
  test: string;
}

/** A copy of the tree; one mutation at a time. */
export class MutantTree {
  readonly dir = mkdtempSync(join(tmpdir(), "moorage-mutants-"));

  constructor() {
    for (const name of PACKAGES)
      cpSync(join(root, name), join(this.dir, name), {
        recursive: true,
        filter: (path) => !/node_modules|\/dist$/.test(path),
      });
    for (const name of ["package.json", "tsconfig.json", "vitest.config.ts"])
      cpSync(join(root, name), join(this.dir, name));
    const modules = join(this.dir, "node_modules");
    mkdirSync(join(modules, "@moorage"), { recursive: true });
    for (const name of readdirSync(join(root, "node_modules")))
      if (name !== "@moorage") symlinkSync(join(root, "node_modules", name), join(modules, name));
    for (const name of PACKAGES) symlinkSync(join(this.dir, name), join(modules, "@moorage", name));
  }

  /** Plants a mutation, runs `fn`, and takes it out again. Throws when a patch does not match exactly once. */
  async with<T>(mutation: Mutation | undefined, fn: () => Promise<T>): Promise<T> {
    const before = new Map<string, string>();
    try {
      for (const { file, find, replace } of mutation?.patches ?? []) {
        const path = join(this.dir, "hub/store", file);
        const text = readFileSync(path, "utf8");
        if (!before.has(path)) before.set(path, text);
        const times = text.split(find).length - 1;
        if (times !== 1)
          throw new Error(
            `Mutation "${mutation?.name}" matches ${times} times in hub/store/${file}: bring it up to date`,
          );
        writeFileSync(
          path,
          text.replace(find, () => replace),
        );
      }
      return await fn();
    } finally {
      for (const [path, text] of before) writeFileSync(path, text);
    }
  }

  /** Runs one suite on the tree as it is. */
  async run(suite: Suite): Promise<Verdict> {
    const { project, file, rounds } = suiteFiles[suite];
    const report = join(this.dir, "report.json");
    rmSync(report, { force: true });
    const vitest = spawn(
      process.execPath,
      [
        join(root, "node_modules/vitest/vitest.mjs"),
        ...["run", "--root", this.dir, "--project", project, "--bail", "1"],
        ...["--reporter=json", `--outputFile=${report}`, file],
      ],
      { stdio: "ignore", cwd: this.dir, env: { ...process.env, ROUNDS: String(rounds), LONG: "0" } },
    );
    const [code] = (await once(vitest, "close")) as [number | null];
    if (!existsSync(report)) throw new Error(`Suite "${suite}" gave no report`);
    const { testResults } = JSON.parse(readFileSync(report, "utf8")) as {
      testResults: { message?: string; assertionResults: { status: string; fullName: string }[] }[];
    };
    const failed = testResults.flatMap((r) => r.assertionResults).find((a) => a.status === "failed");
    const ran = testResults.some((r) => r.assertionResults.length > 0);
    if (code !== 0 && failed === undefined && ran)
      throw new Error(`Suite "${suite}" failed without a failed test`);
    if (!ran) throw new Error(`Suite "${suite}" did not run: ${testResults[0]?.message ?? "no test"}`);
    return { caught: failed !== undefined, test: failed?.fullName ?? "" };
  }

  /** Runs a mutation's suites until one catches it. */
  judge(mutation: Mutation): Promise<Verdict & { suite: Suite | undefined }> {
    return this.with(mutation, async () => {
      for (const suite of mutation.suites) {
        const verdict = await this.run(suite);
        if (verdict.caught) return { ...verdict, suite };
      }
      return { caught: false, test: "", suite: undefined };
    });
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}
