import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";

const dir = mkdtempSync(join(tmpdir(), "moorage-agent-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const run = promisify(execFile);

describe("the bundled agent", () => {
  it("is one file that starts outside the repository", async () => {
    const { bundleAgent } = (await import(new URL("./bundle.mjs", import.meta.url).href)) as {
      bundleAgent(out: string): Promise<number>;
    };
    const file = join(dir, "agent.mjs");
    expect(await bundleAgent(file)).toBeLessThan(4 * 1024 * 1024);
    const { stdout } = await run(process.execPath, [file, "--help"], { cwd: dir });
    expect(stdout).toContain("--hub-address");
    const refused = await run(process.execPath, [file, "--hub-adress", "x"], { cwd: dir }).catch(
      (e: { code: number; stderr: string }) => e,
    );
    expect(refused).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('did you mean "--hub-address"?') as unknown,
    });
  });
});
