/**
 * A real Kubernetes API for tests and for people to play with: etcd, kube-apiserver, controller
 * manager and scheduler as loopback processes, with kwok as the stand-in for the kubelet. Nothing in
 * it runs a container or moves a packet between pods.
 */
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { systemRng } from "@moorage/shared/rng";
import type { PemPair } from "./pki.ts";
import { createAuthority, serviceAccountKey } from "./pki.ts";
import type { Running } from "./processes.ts";
import { endStale, freePort, ownDir, start, stop, until } from "./processes.ts";
import { clusterParts, resolveTools } from "./tools.mjs";

/** How a cluster is started; all optional. */
export interface ClusterOptions {
  /** Folder of its state; a temporary one by default, removed by `stop`. */
  dir?: string;
  /** fsync at every write, as in production; off by default, since tests only need the semantics. */
  fsync?: boolean;
  /** Names of nodes to create; one by default. */
  nodes?: readonly string[];
  /** Writes an audit log at level Metadata. */
  audit?: boolean;
  log?: (line: string) => void;
}

/** A running cluster. */
export interface Cluster {
  dir: string;
  apiUrl: string;
  caPem: string;
  admin: PemPair;
  /** kubeconfig file of the administrator. */
  kubeconfig: string;
  auditLogPath: string;
  /** A kubeconfig file for another user, by client certificate. */
  kubeconfigFor(user: string, groups?: readonly string[]): Promise<string>;
  /** A kubeconfig file that carries a bearer token, as a pod's. */
  kubeconfigWithToken(name: string, token: string): string;
  /** Runs kubectl as administrator; rejects with its standard error. `input` goes to standard input. */
  kubectl(args: readonly string[], input?: string): Promise<string>;
  addNode(name: string, over?: { labels?: Record<string, string>; taints?: unknown[] }): Promise<void>;
  /** SIGKILL, and start again on the same port. */
  restartApiServer(): Promise<void>;
  stopApiServer(): Promise<void>;
  startApiServer(): Promise<void>;
  stop(): Promise<void>;
  /** Process ids of everything that runs. */
  pids(): number[];
}

const controllers = [
  "node-lifecycle",
  "namespace",
  "garbage-collector",
  "serviceaccount",
  "serviceaccount-token",
  "root-ca-certificate-publisher",
  "resourcequota",
  "clusterrole-aggregation",
  "deployment",
  "replicaset",
  "statefulset",
  "daemonset",
  "job",
  "cronjob",
  "endpointslice",
  "pod-garbage-collector",
  "ttl-after-finished",
].map((c) => `${c}-controller`);

/** One folder for each user, closed to others: its pid files are believed. */
const clustersRoot = join(tmpdir(), `moorage-clusters-${userInfo().uid}`);

/** Starts a cluster; ready when the API server, the controllers and the default ServiceAccount are. */
export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const tools = await resolveTools(clusterParts, options.log === undefined ? {} : { log: options.log });
  const tool = (name: string): string => tools[name] as string;
  mkdirSync(clustersRoot, { recursive: true, mode: 0o700 });
  endStale(clustersRoot);
  const dir = options.dir ?? join(clustersRoot, Buffer.from(systemRng.bytes(6)).toString("hex"));
  ownDir(dir);
  const [etcdPort, peerPort, apiPort, kcmPort, schedulerPort, kwokPort] = await Promise.all(
    Array.from({ length: 6 }, () => freePort()),
  );
  const pki = await createAuthority();
  const file = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text, { mode: 0o600 });
    return join(dir, name);
  };
  const server = await pki.server({
    dns: ["localhost", "kubernetes", "kubernetes.default.svc"],
    ips: ["127.0.0.1", "10.0.0.1"],
  });
  const sa = serviceAccountKey();
  const caFile = file("ca.pem", pki.caPem);
  const apiUrl = `https://127.0.0.1:${apiPort}`;
  const kubeconfigFile = (name: string, user: Record<string, string>): string =>
    file(
      `${name.replace(/[^a-zA-Z0-9.-]/g, "_")}.kubeconfig`,
      JSON.stringify({
        apiVersion: "v1",
        kind: "Config",
        "current-context": "moorage",
        clusters: [
          { name: "moorage", cluster: { server: apiUrl, "certificate-authority-data": b64(pki.caPem) } },
        ],
        contexts: [{ name: "moorage", context: { cluster: "moorage", user: "moorage" } }],
        users: [{ name: "moorage", user }],
      }),
    );
  const certUser = (pair: PemPair) => ({
    "client-certificate-data": b64(pair.cert),
    "client-key-data": b64(pair.key),
  });
  const admin = await pki.user("admin", ["system:masters"]);
  const kubeconfig = kubeconfigFile("admin", certUser(admin));
  const auditPolicy = file(
    "audit-policy.yaml",
    JSON.stringify({
      apiVersion: "audit.k8s.io/v1",
      kind: "Policy",
      omitStages: ["RequestReceived"],
      rules: [{ level: "Metadata" }],
    }),
  );
  const auditLogPath = join(dir, "audit.log");
  const running = new Map<string, Running>();
  const run = (name: string, args: string[]) =>
    running.set(name, start(dir, { name, program: tool(name), args }));

  const startApi = async (): Promise<void> => {
    run("kube-apiserver", [
      `--etcd-servers=http://127.0.0.1:${etcdPort}`,
      "--bind-address=127.0.0.1",
      // Without it the server looks for a default route; a loopback address is no valid endpoint, hence none.
      "--advertise-address=127.0.0.1",
      "--endpoint-reconciler-type=none",
      `--secure-port=${apiPort}`,
      "--service-cluster-ip-range=10.0.0.0/24",
      `--tls-cert-file=${file("server.pem", server.cert)}`,
      `--tls-private-key-file=${file("server.key", server.key)}`,
      `--client-ca-file=${caFile}`,
      `--service-account-issuer=${apiUrl}`,
      `--service-account-key-file=${file("sa.pub", sa.public)}`,
      `--service-account-signing-key-file=${file("sa.key", sa.private)}`,
      "--authorization-mode=RBAC",
      "--allow-privileged=true",
      ...(options.audit === true
        ? [`--audit-policy-file=${auditPolicy}`, `--audit-log-path=${auditLogPath}`]
        : []),
    ]);
    await waitFor("kube-apiserver", () => httpsOk(`${apiUrl}/readyz`, { ca: pki.caPem, ...admin }));
  };
  const waitFor = async (name: string, check: () => Promise<boolean>): Promise<void> => {
    const process = running.get(name);
    await until(`${name} is not ready; its log is ${process?.logPath}`, async () => {
      if (process?.alive() === false)
        throw new Error(`Cannot start ${name}: it ended at once\n${tail(process.logPath)}`);
      return check();
    });
  };

  const stopAll = async (): Promise<void> => {
    const order = ["kwok", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"];
    // Nothing of it is used again: a graceful end would wait for every open watch.
    for (const name of order) await stopOne(name, true);
    rmSync(dir, { recursive: true, force: true });
  };
  const stopOne = async (name: string, kill = false): Promise<void> => {
    const r = running.get(name);
    if (r !== undefined) await stop(r, kill);
    running.delete(name);
  };
  const kubectl = (args: readonly string[], input?: string): Promise<string> =>
    runKubectl(tool("kubectl"), { kubeconfig, args, input });

  try {
    run("etcd", [
      `--data-dir=${join(dir, "etcd")}`,
      `--listen-client-urls=http://127.0.0.1:${etcdPort}`,
      `--advertise-client-urls=http://127.0.0.1:${etcdPort}`,
      `--listen-peer-urls=http://127.0.0.1:${peerPort}`,
      `--initial-advertise-peer-urls=http://127.0.0.1:${peerPort}`,
      `--initial-cluster=default=http://127.0.0.1:${peerPort}`,
      "--log-level=warn",
      ...(options.fsync === true ? [] : ["--unsafe-no-fsync"]),
    ]);
    await startApi();
    const [kcm, scheduler] = await Promise.all([
      pki.user("system:kube-controller-manager"),
      pki.user("system:kube-scheduler"),
    ]);
    run("kube-controller-manager", [
      `--kubeconfig=${kubeconfigFile("kcm", certUser(kcm))}`,
      "--leader-elect=false",
      "--use-service-account-credentials=true",
      `--service-account-private-key-file=${join(dir, "sa.key")}`,
      `--root-ca-file=${caFile}`,
      "--bind-address=127.0.0.1",
      `--secure-port=${kcmPort}`,
      "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics",
      `--controllers=${controllers.join(",")}`,
    ]);
    run("kube-scheduler", [
      `--kubeconfig=${kubeconfigFile("scheduler", certUser(scheduler))}`,
      "--leader-elect=false",
      "--bind-address=127.0.0.1",
      `--secure-port=${schedulerPort}`,
    ]);
    run("kwok", [
      `--kubeconfig=${kubeconfig}`,
      "--manage-all-nodes=true",
      `--config=${fileURLToPath(new URL("./kwok/stages.yaml", import.meta.url))}`,
      "--node-lease-duration-seconds=40",
      `--server-address=127.0.0.1:${kwokPort}`,
    ]);
    for (const name of options.nodes ?? ["node-1"]) await addNode(kubectl, name);
    await until(
      "the default ServiceAccount",
      async () =>
        (await kubectl(["get", "serviceaccount", "default", "--ignore-not-found", "-o", "name"])) !== "",
    );
    await until("a node is ready", async () => (await kubectl(["get", "nodes"])).includes(" Ready "));
  } catch (error) {
    for (const name of [...running.keys()].reverse()) await stopOne(name, true);
    throw error;
  }

  return {
    dir,
    apiUrl,
    caPem: pki.caPem,
    admin,
    kubeconfig,
    auditLogPath,
    kubeconfigFor: async (user, groups) => kubeconfigFile(user, certUser(await pki.user(user, groups))),
    kubeconfigWithToken: (name, token) => kubeconfigFile(name, { token }),
    kubectl,
    addNode: (name, over) => addNode(kubectl, name, over),
    stopApiServer: () => stopOne("kube-apiserver", true),
    startApiServer: startApi,
    restartApiServer: async () => {
      await stopOne("kube-apiserver", true);
      await startApi();
    },
    stop: stopAll,
    pids: () => [...running.values()].map((r) => r.pid),
  };
}

/** Room for the pods of any test. */
const capacity = { cpu: "64", memory: "256Gi", pods: "500" };

async function addNode(
  kubectl: Cluster["kubectl"],
  name: string,
  over: { labels?: Record<string, string>; taints?: unknown[] } = {},
): Promise<void> {
  const node = {
    apiVersion: "v1",
    kind: "Node",
    metadata: {
      name,
      labels: { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", ...over.labels },
    },
    ...(over.taints === undefined ? {} : { spec: { taints: over.taints } }),
    status: { allocatable: capacity, capacity },
  };
  await kubectl(["apply", "-f", "-"], JSON.stringify(node));
  await kubectl([
    "patch",
    "node",
    name,
    "--subresource=status",
    "--type=merge",
    "-p",
    JSON.stringify({ status: node.status }),
  ]);
}

const execFileAsync = promisify(execFile);

/** Runs kubectl under a kubeconfig; rejects with its standard error. */
export async function runKubectl(
  program: string,
  what: { kubeconfig: string; args: readonly string[]; input?: string | undefined },
): Promise<string> {
  const promise = execFileAsync(program, ["--kubeconfig", what.kubeconfig, ...what.args], {
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
    timeout: 60_000,
  });
  promise.child.stdin?.on("error", () => {});
  promise.child.stdin?.end(what.input ?? "");
  try {
    return (await promise).stdout;
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(`kubectl ${what.args.join(" ")}: ${stderr?.trim() ?? String(error)}`, { cause: error });
  }
}

function httpsOk(url: string, tls: { ca: string; cert: string; key: string }): Promise<boolean> {
  return new Promise((resolve) => {
    const r = request(url, { ...tls, timeout: 2_000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    r.on("error", () => resolve(false));
    r.on("timeout", () => r.destroy());
    r.end();
  });
}

const b64 = (text: string): string => Buffer.from(text).toString("base64");

/** The end of a log, for an error message. */
export function tail(path: string, lines = 15): string {
  try {
    return readFileSync(path, "utf8").split("\n").slice(-lines).join("\n");
  } catch {
    return "";
  }
}
