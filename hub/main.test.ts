import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

const entry = join(import.meta.dirname, "moorage-hub.mjs");

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "moorage-hub-"));
});
afterEach(() => rm(dir, { recursive: true }));

/** Runs the hub as a process; `onOutput` sees what it has written so far, and may end it. */
function run(
  argv: string[],
  options: { nodeOptions?: string[]; onOutput?: (text: string, kill: () => void) => void } = {},
): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, [...(options.nodeOptions ?? []), entry, ...argv]);
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (data: Buffer) => {
      output += data.toString();
      if (!child.killed) options.onOutput?.(output, () => child.kill("SIGTERM"));
    });
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, output })));
}

const anyPort = ["api", "agent", "enrolment", "ops"].flatMap((name) => [`--${name}-address`, "127.0.0.1:0"]);

test("on Node 20 the hub says which Node it needs, and nothing else", async () => {
  const older = 'data:text/javascript,Object.defineProperty(process,"versions",{value:{node:"20.19.4"}})';
  expect(await run([], { nodeOptions: ["--import", older] })).toEqual({
    code: 2,
    output: expect.stringMatching(
      /^Node 20\.19\.4 is too old for the hub: use Node 24\.14 or later[^\n]*\n$/,
    ) as string,
  });
});

test("an unknown option is refused by name, with the nearest one", async () => {
  const { code, output } = await run(["--api-adress", "127.0.0.1:1"]);
  expect(code).toBe(2);
  expect(output).toContain('Unknown flag "--api-adress"; did you mean "--api-address"?');
  expect(output).toContain('See "moorage hub --help"');
});

test("an unknown key of the configuration file is refused by name, and so is a file that is not there", async () => {
  const file = join(dir, "hub.yaml");
  await writeFile(file, "apiAdress: 127.0.0.1:1\n");
  const unknown = await run(["--config", file]);
  expect(unknown).toMatchObject({
    code: 2,
    output: expect.stringContaining('Unknown key "apiAdress"') as string,
  });
  const none = await run(["--config", join(dir, "none.yaml")]);
  expect(none).toMatchObject({ code: 2, output: expect.stringContaining("none.yaml") as string });
});

test("the hub makes its folder, says where it listens, and ends with 0 on SIGTERM", async () => {
  const data = join(dir, "not", "yet");
  const { code, output } = await run(["--data-dir", data, ...anyPort], {
    onOutput: (text, kill) => {
      if (text.includes("hub is ready")) kill();
    },
  });
  expect(code).toBe(0);
  const secret = (await readFile(join(data, "admin.key"), "utf8")).trim();
  expect(output).toMatch(/"api":"127\.0\.0\.1:\d+"/);
  expect(output).not.toContain(secret);
});

test("a hub that cannot start says why in one line and ends with 1", async () => {
  await writeFile(join(dir, "file"), "");
  const { code, output } = await run(["--data-dir", join(dir, "file"), ...anyPort]);
  expect(code).toBe(1);
  expect(output).toMatch(/^Cannot start the hub: /);
});

test("the help names every option", async () => {
  const { code, output } = await run(["--help"]);
  expect(code).toBe(0);
  for (const option of ["--data-dir", "--api-address", "--log-format", "MOORAGE_API_ADDRESS"])
    expect(output).toContain(option);
});
