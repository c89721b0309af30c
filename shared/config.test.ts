import { expect, test } from "vitest";
import {
  address,
  bool,
  choice,
  configHelp,
  configMarkdown,
  duration,
  integer,
  optionalText,
  parseConfig,
  text,
} from "./config.ts";

const table = {
  apiAddress: address({ help: "Where the API listens", default: { host: "127.0.0.1", port: 7443 } }),
  logLevel: choice(["debug", "info"], { help: "Least severe level", default: "info" }),
  grace: duration({ help: "How long to drain", default: 30_000 }),
  workers: integer({ min: 1, max: 8 }, { help: "Workers", default: 2 }),
  leader: bool({ help: "Elect a leader", default: false }),
  dataDir: text({ help: "Where data is kept" }),
  proxy: optionalText({ help: "Proxy" }),
};

const parse = (argv: string[], env: Record<string, string> = {}, file: unknown = {}) =>
  parseConfig(table, { argv, env, readFile: () => file });

test("a flag beats the environment, which beats the file, which beats the default", () => {
  const file = { workers: 3, grace: "1m", logLevel: "debug", dataDir: "/f" };
  const config = parse(
    ["--workers", "5", "--config=c", "--leader"],
    { MOORAGE_WORKERS: "4", MOORAGE_GRACE: "2h" },
    file,
  );
  expect(config).toEqual({
    apiAddress: { host: "127.0.0.1", port: 7443 },
    logLevel: "debug",
    grace: 7_200_000,
    workers: 5,
    leader: true,
    dataDir: "/f",
    proxy: undefined,
  });
});

test("errors name option and rule, all at once", () => {
  expect(() => parse(["--workers=9", "--log-level", "loud"], { MOORAGE_GRACE: "soon" })).toThrow(
    [
      'Cannot use "loud" for --log-level: must be one of debug, info',
      'Cannot use "soon" for MOORAGE_GRACE: must be a duration such as 500ms, 30s, 15m or 24h',
      'Cannot use "9" for --workers: must be an integer from 1 to 8',
      "Missing --data-dir (or MOORAGE_DATA_DIR): it is required",
    ].join("\n"),
  );
});

test("unknown flags and file keys are refused with a suggestion", () => {
  const run = () => parse(["--worker=1", "--data-dir=x", "--config", "c"], {}, { logLevle: "info" });
  expect(run).toThrow('Unknown flag "--worker"; did you mean "--workers"?');
  expect(run).toThrow('Unknown key "logLevle" in c; did you mean "logLevel"?');
});

test("help and reference show every option with its default", () => {
  expect(configHelp(table)).toContain(
    "--grace DURATION\n      How long to drain (MOORAGE_GRACE; default: 30s)",
  );
  expect(configMarkdown(table)).toContain(
    "| `--api-address` | `MOORAGE_API_ADDRESS` | `apiAddress` | HOST:PORT | 127.0.0.1:7443 | Where the API listens |",
  );
});
