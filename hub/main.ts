/** The hub as a process: configuration, start, signals, exit codes. */
import { readFileSync } from "node:fs";
import { systemClock } from "@moorage/shared/clock";
import { ConfigError, configHelp, parseConfig } from "@moorage/shared/config";
import { MoorageError } from "@moorage/shared/errors";
import { armFailpoint } from "@moorage/shared/failpoint";
import { createLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { parseYaml } from "@moorage/shared/yaml";
import { hubOptions } from "./config.ts";
import type { HubConfig } from "./config.ts";
import { startHub } from "./hub.ts";
import { restore } from "./restore.ts";

/** Exit codes: 0 after a signal, 1 after a failure, 2 for wrong configuration. */
export async function main(argv: readonly string[]): Promise<number> {
  if (argv[0] === "restore") {
    return restore(argv.slice(1), {
      clock: systemClock,
      rng: systemRng,
      out: (text) => void process.stdout.write(text),
      err: (text) => void process.stderr.write(text),
    });
  }
  if (argv.includes("--help") || argv.includes("-h")) {
    process.stdout.write(
      `Usage: moorage hub [OPTIONS]\n\nRuns the hub. Options, from flag, MOORAGE_* variable or the file named by --config:\n\n${configHelp(hubOptions)}\n`,
    );
    return 0;
  }
  let config: HubConfig;
  try {
    config = parseConfig(hubOptions, {
      argv,
      env: process.env,
      readFile: (path) => parseYaml(readFileSync(path, "utf8"), { name: path }),
    });
    armFailpoint(config.failpoint);
  } catch (thrown) {
    if (!(thrown instanceof ConfigError || thrown instanceof MoorageError)) throw thrown;
    process.stderr.write(`${thrown.message}\nSee "moorage hub --help"\n`);
    return 2;
  }
  const log = createLogger({ level: config.logLevel, format: config.logFormat });
  // Before anything says that the hub is ready: whoever reads that may stop it at once. A second signal kills.
  const signalled = new Promise<"signal">((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve("signal"));
  });
  let hub;
  try {
    hub = await startHub(config, { clock: systemClock, rng: systemRng, log });
  } catch (thrown) {
    const known = thrown instanceof MoorageError;
    process.stderr.write(
      `Cannot start the hub: ${thrown instanceof Error ? thrown.message : String(thrown)}\n`,
    );
    if (!known) log.error("start failed", { error: thrown });
    return 1;
  }
  const at = (a: { host: string; port: number }) => `${a.host}:${a.port}`;
  log.info("hub is ready", {
    api: at(hub.addresses.api),
    agent: at(hub.addresses.agent),
    enrolment: at(hub.addresses.enrolment),
    ops: at(hub.addresses.ops),
    ...(hub.addresses.apiClientCert === undefined ? {} : { apiClientCert: at(hub.addresses.apiClientCert) }),
    dataDir: config.dataDir,
    firstKey: hub.bootstrapSecret === undefined ? undefined : `${config.dataDir}/admin.key`,
  });
  const failed = hub.failed.catch((error: unknown) => {
    log.error("hub failed", { error });
    return "failure" as const;
  });
  const ended = await Promise.race([signalled, failed]);
  log.info("hub stops", { because: ended });
  await hub.stop();
  return ended === "signal" ? 0 : 1;
}
