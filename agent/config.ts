/** The agent's options: flags, `MOORAGE_*` variables and a file, from one table. */
import { readFileSync } from "node:fs";
import type { ConfigOf, OptionSpec } from "@moorage/shared/config";
import { address, choice, configHelp, optionalText, parseConfig, text } from "@moorage/shared/config";
import { LOG_LEVELS } from "@moorage/shared/log";
import { parseYaml } from "@moorage/shared/yaml";

type Address = { host: string; port: number };

function optionalAddress(help: string): OptionSpec<Address | undefined> {
  return { ...address({ help }), default: undefined, hasDefault: true };
}

/** Every option. */
export const agentOptions = {
  namespace: text({ help: "Namespace of the agent's own resources", default: "moorage-system" }),
  hubAddress: optionalAddress(
    "Agent port of the hub; without it the agent works from local custom resources alone",
  ),
  enrolmentAddress: optionalAddress("Enrolment port of the hub"),
  hubServerName: optionalText({
    help: "Name to check the hub's certificate against, when it is not the host of the address",
  }),
  hubCaFile: optionalText({ help: "PEM file of the authority to trust for the first connection" }),
  hubCaFingerprint: optionalText({
    help: "sha256:HEX of the authority to trust for the first connection, instead of a file",
  }),
  joinTokenFile: optionalText({ help: "File that holds the join token" }),
  joinTokenSecret: optionalText({
    help: "Secret of the agent's namespace whose key `token` is the join token",
  }),
  identitySecret: text({
    help: "Secret that holds the agent's key and certificate",
    default: "moorage-agent-identity",
  }),
  dataPlane: optionalText({ help: "Id of the data plane where no record of it exists" }),
  kubeconfig: optionalText({ help: "kubeconfig file; without it the pod's ServiceAccount is used" }),
  kubeContext: optionalText({ help: "Context of the kubeconfig file" }),
  kubeTokenFile: optionalText({
    help: "File of the token for the API server, without a kubeconfig; default: the pod's ServiceAccount token",
  }),
  kubeCaFile: optionalText({
    help: "PEM file of the API server's authority, without a kubeconfig; default: the pod's ServiceAccount CA",
  }),
  podUid: optionalText({ help: "uid of the agent's pod, for the Lease" }),
  opsAddress: address({
    help: "Address of /metrics, /healthz and /readyz",
    default: { host: "0.0.0.0", port: 8081 },
  }),
  failpoint: optionalText({
    help: "For tests alone: NAME:kill|error|sleep[@N], what to do at the N-th time that a step of shared/failpoint.ts is reached",
  }),
  logLevel: choice(LOG_LEVELS, { help: "Least severe level that is logged", default: "info" }),
  logFormat: choice(["json", "text"], { help: "Format of the log", default: "json" }),
} as const;

/** The agent's configuration, with the API server's address as Kubernetes gives it to a pod. */
export type AgentConfig = ConfigOf<typeof agentOptions> & {
  inCluster: { host: string; port: number } | undefined;
};

/** Help text of the command. */
export function agentHelp(): string {
  return `Usage: moorage-agent [options]\n\nReconciles a data plane: connects to the hub, or works from local custom resources.\n\n${configHelp(agentOptions)}\n  --help\n      Print this text\n  --version\n      Print the version`;
}

/** Reads the configuration of this process; throws ConfigError. */
export function readAgentConfig(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): AgentConfig {
  const config = parseConfig(agentOptions, {
    argv,
    env,
    readFile: (path) => parseYaml(readFileSync(path, "utf8"), { name: path }),
  });
  const host = env["KUBERNETES_SERVICE_HOST"];
  const port = Number(env["KUBERNETES_SERVICE_PORT"] ?? 443);
  return { ...config, inCluster: host === undefined || host === "" ? undefined : { host, port } };
}
