/** The agent as a process of its own, on a cluster that its parent serves. Arguments: those of the agent. */
import { readAgentConfig } from "@moorage/agent/config";
import { createAgent } from "@moorage/agent/create-agent";
import { createHubAccess } from "@moorage/agent/hub-access";
import { systemClock } from "@moorage/shared/clock";
import { armFailpoint } from "@moorage/shared/failpoint";
import { createLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { ipcKube } from "./kube-over-ipc.ts";

const config = readAgentConfig(process.argv.slice(2), process.env);
armFailpoint(config.failpoint);
const log = createLogger({ level: config.logLevel, format: config.logFormat });
const kube = ipcKube();
// Waits between dials are drawn from here: short ones.
const rng = { ...systemRng, float: () => systemRng.float() * 0.02 };
const hub = createHubAccess(config, { kube, clock: systemClock, rng, log });
if (hub === undefined) throw new Error("The agent of this test needs --hub-address");
const agent = createAgent({
  kube,
  namespace: config.namespace,
  hub,
  holder: `child-${process.pid}`,
  version: "0.1.0",
  clock: systemClock,
  rng,
  log,
});
process.once("disconnect", () => process.exit(0));
await agent.run(new AbortController().signal);
