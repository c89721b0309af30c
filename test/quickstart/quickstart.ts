/**
 * From nothing to two applications, and what makes Moorage worth it: a change that arrives, a drift
 * that is repaired, with the hub and without it. All state lies in one folder of the repository; a
 * second run, also after a kill -9, ends what the first one left and starts anew.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { systemClock } from "@moorage/shared/clock";
import { parseYaml } from "@moorage/shared/yaml";
import { endStale, ownDir, until } from "../cluster/processes.ts";
import { runKubectl, startCluster } from "../cluster/rig.ts";
import { resolveTools } from "../cluster/tools.mjs";
import { root } from "../world/process.ts";
import type { AgentProcess, HubProcess, WorldCluster } from "../world/world.ts";
import { agentNamespace, httpText, installAgent, startHubProcess } from "../world/world.ts";
import { heading, say, shown, step } from "./screen.ts";

const run = promisify(execFile);
const state = join(root, ".moorage", "quickstart");
const tenant = "tenants/acme";
const applications = [`${tenant}/applications/web`, `${tenant}/applications/report`];

type Env = Readonly<Record<string, string | undefined>>;

interface Place extends WorldCluster {
  kubeconfig: string;
  context: string | undefined;
  /** Where the hub of this cluster keeps its data: a cluster that outlives a run needs the same hub again. */
  hubDir: string;
  stop(): Promise<void>;
}

/** Runs the quickstart; answers the exit code. With ONCE set it ends after success. */
export async function quickstart(env: Env): Promise<number> {
  const started = systemClock.monotonicMs();
  const cleanup: (() => Promise<unknown>)[] = [];
  const stopAll = async () => {
    for (const end of cleanup.splice(0).reverse()) await end().catch(() => {});
  };
  let interrupted: () => void = () => {};
  const signal = new Promise<void>((resolve) => (interrupted = resolve));
  process.once("SIGINT", () => interrupted());
  process.once("SIGTERM", () => interrupted());
  try {
    endOld();
    ownDir(state);
    const done = demo(env, cleanup);
    await Promise.race([done, signal.then(() => Promise.reject(new Error("interrupted")))]);
    console.log(`\nSuccess after ${((systemClock.monotonicMs() - started) / 1_000).toFixed(0)} s.`);
    if (env["ONCE"] === undefined || env["ONCE"] === "") {
      console.log("Everything stays up until Ctrl-C.");
      await signal;
    }
    return 0;
  } catch (error) {
    console.error(`\nThe quickstart failed: ${error instanceof Error ? error.message : String(error)}`);
    console.error(`Logs: ${state}`);
    return 1;
  } finally {
    await stopAll();
  }
}

/** Ends what an earlier run left: its processes by pid, when they still are what they were. */
function endOld(): void {
  const file = join(state, "pids.json");
  if (existsSync(file)) {
    for (const { pid, script } of JSON.parse(readFileSync(file, "utf8")) as {
      pid: number;
      script: string;
    }[]) {
      try {
        if (readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(script)) process.kill(pid, "SIGKILL");
      } catch {
        // Gone already.
      }
    }
  }
  endStale(join(state, "cluster"));
  rmSync(state, { recursive: true, force: true });
  mkdirSync(state, { recursive: true });
}

function remember(hub: HubProcess, agent: AgentProcess | undefined): void {
  const pids = [
    { pid: hub.child.pid, script: "moorage-hub.mjs" },
    ...(agent === undefined ? [] : [{ pid: agent.child.pid, script: "agent.mjs" }]),
  ];
  writeFileSync(join(state, "pids.json"), JSON.stringify(pids));
}

async function place(env: Env): Promise<Place> {
  const { KUBECONFIG: kubeconfig, CONTEXT: context } = env;
  if (kubeconfig === undefined && context === undefined) {
    const cluster = await step("Kubernetes API on this machine (a stand-in plays the kubelet)", () =>
      startCluster({ dir: join(state, "cluster", "main"), fsync: true }),
    );
    return { ...cluster, context: undefined, hubDir: state };
  }
  // A cluster that was named: by file, by context, or both.
  const tools = await resolveTools(["kubectl"]);
  const file = kubeconfig ?? join(env["HOME"] ?? "", ".kube", "config");
  const args = context === undefined ? [] : ["--context", context];
  const kubectl: Place["kubectl"] = (a, input) =>
    runKubectl(tools["kubectl"] as string, { kubeconfig: file, args: [...args, ...a], input });
  const view = parseYaml(await kubectl(["config", "view", "--minify", "--raw", "--flatten"]), {
    name: file,
  }) as { clusters: { cluster: Record<string, string> }[] };
  const cluster = view.clusters[0]?.cluster ?? {};
  return {
    apiUrl: cluster["server"] ?? "",
    kubeconfig: file,
    context,
    hubDir: join(
      root,
      ".moorage",
      `hub-${createHash("sha256")
        .update(cluster["server"] ?? "")
        .digest("hex")
        .slice(0, 12)}`,
    ),
    kubectl,
    kubeconfigWithToken(name, token) {
      const path = join(state, `${name}.kubeconfig`);
      const config = {
        apiVersion: "v1",
        kind: "Config",
        "current-context": "c",
        clusters: [{ name: "c", cluster }],
        contexts: [{ name: "c", context: { cluster: "c", user: "c" } }],
        users: [{ name: "c", user: { token } }],
      };
      writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
      return path;
    },
    stop: async () => {},
  };
}

async function demo(env: Env, cleanup: (() => Promise<unknown>)[]): Promise<void> {
  heading("1. A cluster, a hub, an agent");
  const cluster = await place(env);
  cleanup.push(() => cluster.stop());
  const hub = await step("Hub on its embedded store", () =>
    startHubProcess(cluster.hubDir, [
      "--heartbeat-interval",
      "5s",
      "--reconnect-spread",
      "1s",
      "--log-format",
      "text",
    ]),
  );
  remember(hub, undefined);
  cleanup.push(async () => {
    hub.link.close();
    await hub.stop();
  });
  const home = join(state, "home");
  const cli = (args: readonly string[]) => moorage(args, home);
  await step("Log in with the first API key", () =>
    cli([
      "login",
      "--server",
      `127.0.0.1:${hub.ports.api}`,
      "--ca",
      join(hub.dataDir, "ca.pem"),
      "--key-file",
      join(hub.dataDir, "admin.key"),
    ]),
  );
  const agent = await step("Data plane, install file and agent (enrols with a one-time token)", () =>
    installAgent({ hub, cluster, dir: state, dataPlane: "local" }),
  );
  remember(hub, agent);
  cleanup.push(() => agent.stop());

  heading("2. A tenant and two applications");
  for (const bundle of ["web", "report"]) {
    await step(`moorage bundle push deploy/examples/bundles/${bundle}`, () =>
      cli(["bundle", "push", join(root, "deploy/examples/bundles", bundle)]),
    );
  }
  for (const file of ["tenant.yaml", "applications.yaml"]) {
    await step(`moorage apply -f deploy/examples/${file}`, () =>
      cli(["apply", "-f", join(root, "deploy/examples", file)]),
    );
  }
  await step("All Ready", async (progress) => {
    await until(
      "not everything became Ready within 2 minutes",
      async () => {
        const states = await Promise.all([tenant, ...applications].map((name) => readyOf(hub, name)));
        progress(states.map((s) => `${s.name.split("/").at(-1)}: ${s.text}`).join("   "));
        return states.every((s) => s.ready);
      },
      120_000,
    );
  });

  heading("3. What there is");
  const kubectlLine = (args: string) =>
    `kubectl ${cluster.context === undefined ? "" : `--context ${cluster.context} `}${args}`;
  const showKubectl = async (args: string) =>
    shown(kubectlLine(args), await cluster.kubectl(args.split(" ")));
  const showCli = async (args: string) => shown(`moorage ${args}`, await cli(args.split(" ")));
  await showKubectl("get deployment,service,configmap,networkpolicy,resourcequota -n tenant-acme");
  await showKubectl(`get applications.moorage.dev -n ${agentNamespace}`);
  await showCli("get applications");
  await showCli(`describe application ${applications[0]}`);

  heading("4. A parameter edited, and its change arriving");
  const edited = join(state, "edited.yaml");
  const yaml = readFileSync(join(root, "deploy/examples/applications.yaml"), "utf8").split(
    "---",
  )[0] as string;
  writeFileSync(edited, yaml.replace("message: hello", "message: hello from a changed parameter"));
  const t0 = systemClock.monotonicMs();
  await cli(["apply", "-f", edited]);
  await until("the change did not arrive", async () =>
    (
      await cluster.kubectl(["get", "configmap", "-n", "tenant-acme", "-o", "jsonpath={.items[*].data}"])
    ).includes("changed parameter"),
  );
  const took = systemClock.monotonicMs() - t0;
  shown(
    `moorage apply -f ${edited}`,
    `visible in the cluster after ${took.toFixed(0)} ms, the start of both commands included`,
  );
  await cli(["wait", `application/${applications[0]}`, "--for=condition=Ready", "--timeout=60s"]);

  heading("5. An object deleted behind the agent's back");
  await driftRepaired(cluster, kubectlLine);

  heading("6. The same with the hub stopped");
  await step("Stop the hub", () => hub.stop());
  await driftRepaired(cluster, kubectlLine);
  await step("Start the hub again", () => hub.start());
  remember(hub, agent);
  await step("The agent is connected", () =>
    until(
      "the agent did not come back",
      async () => / 1$/m.test(metricLine(await hubMetrics(hub), "moorage_hub_streams_connected")),
      60_000,
    ),
  );
  // Ready for the newest generation is stored; what counts is that the agent needed nothing to confirm it.
  await cli(["wait", `application/${applications[0]}`, "--for=condition=Ready", "--timeout=60s"]);
  const resent = metricLine(await hubMetrics(hub), "moorage_hub_sync_updates_sent_total");
  shown(`curl -s http://127.0.0.1:${hub.ports.ops}/metrics | grep updates_sent`, resent);
  if (!resent.endsWith(" 0")) throw new Error(`the hub resent something after its restart: ${resent}`);

  heading("Look around");
  say(`export KUBECONFIG=${cluster.kubeconfig}`);
  say(`export MOORAGE_HOME=${home}   # the context that moorage uses`);
  say(`npx moorage get tenants; npx moorage watch applications`);
  say(
    `Metrics: http://127.0.0.1:${hub.ports.ops}/metrics (hub), http://127.0.0.1:${agent.opsPort}/metrics (agent)`,
  );
  say(`Logs and state: ${state}`);
}

const hubMetrics = (hub: HubProcess): Promise<string> =>
  httpText(`http://127.0.0.1:${hub.ports.ops}/metrics`);

const metricLine = (text: string, name: string): string =>
  text.split("\n").find((l) => l.startsWith(`${name} `)) ?? `${name} 0`;

async function driftRepaired(cluster: Place, line: (args: string) => string): Promise<void> {
  const uid = () =>
    cluster.kubectl([
      "get",
      "service",
      "web",
      "-n",
      "tenant-acme",
      "--ignore-not-found",
      "-o",
      "jsonpath={.metadata.uid}",
    ]);
  const before = await uid();
  const output = await cluster.kubectl(["delete", "service", "web", "-n", "tenant-acme", "--wait=false"]);
  const t0 = systemClock.monotonicMs();
  await until("the Service did not come back", async () => {
    const now = await uid();
    return now !== "" && now !== before;
  });
  shown(
    line("delete service web -n tenant-acme"),
    `${output.trim()}\nback after ${(systemClock.monotonicMs() - t0).toFixed(0)} ms`,
  );
}

async function readyOf(
  hub: HubProcess,
  name: string,
): Promise<{ name: string; ready: boolean; text: string }> {
  const r = name.includes("/applications/")
    ? await hub.api.applications.getApplication({ name })
    : await hub.api.tenants.getTenant({ name });
  const ready = r.status?.conditions.find((c) => c.type === "Ready");
  return {
    name,
    ready: ready?.status === "True",
    text: ready === undefined ? "Unknown" : ready.status === "True" ? "Ready" : `${ready.reason}`,
  };
}

async function moorage(args: readonly string[], home: string): Promise<string> {
  try {
    const { stdout } = await run(process.execPath, [join(root, "cli/moorage.mjs"), ...args], {
      encoding: "utf8",
      env: { ...process.env, MOORAGE_HOME: home },
      timeout: 120_000,
    });
    return stdout;
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(`moorage ${args.join(" ")}: ${stderr?.trim() ?? String(error)}`, { cause: error });
  }
}
