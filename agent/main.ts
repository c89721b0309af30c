/** The agent's process: configuration, cluster, hub, operations port, signals. */
import { hostname } from "node:os";
import { systemClock } from "@moorage/shared/clock";
import { ConfigError } from "@moorage/shared/config";
import { startOpsServer } from "@moorage/shared/http-ops";
import { MoorageError } from "@moorage/shared/errors";
import { armFailpoint } from "@moorage/shared/failpoint";
import { createLogger } from "@moorage/shared/log";
import { createMetrics } from "@moorage/shared/metrics";
import { systemRng } from "@moorage/shared/rng";
import type { AgentConfig } from "./config.ts";
import { agentHelp, readAgentConfig } from "./config.ts";
import { createAgent } from "./create-agent.ts";
import { createHubAccess } from "./hub-access.ts";
import type { Credentials } from "./kube/credentials.ts";
import { inClusterCredentials } from "./kube/credentials.ts";
import { createHttpClient } from "./kube/http-client.ts";
import { kubeconfigCredentials } from "./kube/kubeconfig.ts";
import { VERSION } from "./version.ts";

/** Runs the command; answers the exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  if (argv.includes("--help")) {
    process.stdout.write(`${agentHelp()}\n`);
    return 0;
  }
  if (argv.includes("--version")) {
    process.stdout.write(`${VERSION}\n`);
    return 0;
  }
  let config: AgentConfig;
  try {
    config = readAgentConfig(argv, process.env);
    armFailpoint(config.failpoint);
  } catch (thrown) {
    if (!(thrown instanceof ConfigError || thrown instanceof MoorageError)) throw thrown;
    process.stderr.write(`${thrown.message}\n`);
    return 2;
  }
  const log = createLogger({ level: config.logLevel, format: config.logFormat });
  try {
    await serve(config, log);
    return 0;
  } catch (error) {
    log.error("the agent ended", { error });
    return 1;
  }
}

async function serve(config: AgentConfig, log: ReturnType<typeof createLogger>): Promise<void> {
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.once(name, () => {
      log.info("the agent stops", { signal: name });
      stop.abort(new DOMException(`The process got ${name}`, "AbortError"));
    });
  }
  const kube = createHttpClient({ credentials: await clusterCredentials(config), clock: systemClock });
  const metrics = createMetrics({ processMetrics: true });
  const hub = createHubAccess(config, { kube, clock: systemClock, rng: systemRng, log });
  const agent = createAgent({
    kube,
    namespace: config.namespace,
    ...(hub === undefined ? {} : { hub }),
    ...(config.dataPlane === undefined ? {} : { dataPlane: config.dataPlane }),
    holder: config.podUid ?? hostname(),
    version: VERSION,
    clock: systemClock,
    rng: systemRng,
    log,
    metrics,
  });
  const ops = await startOpsServer({
    address: config.opsAddress,
    option: "--ops-address",
    metrics,
    ready: [{ name: "agent", check: () => agent.ready() }],
  });
  log.info("the agent starts", {
    version: VERSION,
    opsAddress: `${ops.address.host}:${ops.address.port}`,
    hub: config.hubAddress !== undefined,
  });
  try {
    await agent.run(stop.signal);
  } finally {
    await ops.close();
    await kube.close();
  }
}

async function clusterCredentials(config: AgentConfig): Promise<Credentials> {
  if (config.kubeconfig !== undefined) {
    return kubeconfigCredentials(
      config.kubeconfig,
      config.kubeContext === undefined ? {} : { context: config.kubeContext },
    );
  }
  if (config.inCluster === undefined) {
    throw new Error("Cannot reach a cluster: this is no pod and --kubeconfig is not given");
  }
  const { inCluster, kubeTokenFile: tokenFile, kubeCaFile: caFile } = config;
  return inClusterCredentials({
    ...inCluster,
    ...(tokenFile === undefined ? {} : { tokenFile }),
    ...(caFile === undefined ? {} : { caFile }),
  });
}
