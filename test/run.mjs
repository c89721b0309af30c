// Runs the given vitest projects one after the other and ends with the total, the line that CI reads.
// Plain JavaScript: it must say what to do on a Node that is too old.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 24 || (major === 24 && minor < 14)) {
  console.error(
    `Node ${process.versions.node} is too old: run "make test", which uses the Node 24 that npm installs`,
  );
  process.exit(2);
}

const projects = process.argv.slice(2);
const dir = mkdtempSync(join(tmpdir(), "moorage-test-"));
const total = { passed: 0, failed: 0, skipped: 0 };
/** What failed, told again at the end: thousands of lines may stand between. */
const failures = [];
/** Lines of an error that are told again. */
const TOLD_LINES = 32;
let broken = false;
for (const project of projects) {
  const report = join(dir, `${project}.json`);
  console.log(`\n== ${project}`);
  const started = Date.now();
  const order = `--sequence.seed=${started}`;
  const run = spawnSync(
    "vitest",
    [
      ...["run", "--project", project, order],
      ...["--reporter=default", "--reporter=json", `--outputFile.json=${report}`],
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  try {
    const r = JSON.parse(readFileSync(report, "utf8"));
    total.passed += r.numPassedTests;
    total.failed += r.numFailedTests;
    total.skipped += r.numPendingTests + r.numTodoTests;
    failures.push(...r.testResults.flatMap((file) => failuresOf(project, file, order)));
    if (r.numTotalTests === 0) throw new Error("no test ran");
  } catch (error) {
    console.error(`Project ${project} gave no report: ${error.message}`);
    broken = true;
  }
  if (run.status !== 0) broken = true;
  console.log(`== ${project}: ${((Date.now() - started) / 1000).toFixed(1)} s`);
}
rmSync(dir, { recursive: true, force: true });

/** The failures of one file of a report: each test's, or the file's own when it could not be loaded. */
function failuresOf(project, file, order) {
  const path = relative(process.cwd(), file.name);
  const again = `vitest run --project ${project} ${order} ${path}`;
  const told = (name, text) => ({
    name: `${project}: ${path}: ${name}`,
    text: String(text)
      .split("\n")
      .filter((line) => !line.includes("node_modules"))
      .slice(0, TOLD_LINES),
    again,
  });
  const tests = file.assertionResults
    .filter((test) => test.status === "failed")
    .map((test) => told(test.fullName, test.failureMessages.join("\n")));
  if (tests.length === 0 && file.status === "failed") return [told("the file", file.message)];
  return tests;
}

for (const { name, text, again } of failures)
  console.log(`\nFAILED ${name}\n${text.map((line) => `    ${line}`).join("\n")}\n    again: ${again}`);
// Once more in short: of a long output the last lines are what is kept.
if (failures.length > 0) console.log(`\nFailed:\n${failures.map(({ name }) => `  ${name}`).join("\n")}`);
if (broken && total.failed === 0) total.failed = 1;
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(broken || total.failed > 0 ? 1 : 0);
