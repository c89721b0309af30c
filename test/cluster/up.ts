/** A cluster to play with: `up` leaves its processes running, `down` ends them by their pid files. */
import { existsSync, readFileSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { startCluster } from "./rig.ts";
import { endStale, readPid } from "./processes.ts";

const root = join(resolve(process.env["MOORAGE_STATE_DIR"] || ".moorage"), "cluster");
const dir = join(root, "main");
/** etcd, API server, controller manager, scheduler, kwok. */
const PROGRAMS = 5;

/** Starts the cluster unless it runs, and prints the line that makes kubectl use it. */
export async function up(): Promise<void> {
  const kubeconfig = join(dir, "admin.kubeconfig");
  if (runningPids().length === PROGRAMS) {
    console.log(`The cluster runs already.\nexport KUBECONFIG=${kubeconfig}`);
    return;
  }
  // A part of one, after a crash or a reboot: ended, and started anew.
  endStale(root);
  mkdirSync(root, { recursive: true });
  const cluster = await startCluster({ dir, fsync: true, log: (line) => console.log(line) });
  // Nobody owns it any more: only cluster-down ends it.
  writeFileSync(join(dir, "owner"), "0");
  console.log(
    `A Kubernetes API is up at ${cluster.apiUrl}; a stand-in plays the kubelet, no container runs.`,
  );
  console.log(`export KUBECONFIG=${cluster.kubeconfig}`);
  process.exit(0);
}

/** Ends the cluster. */
export async function down(): Promise<void> {
  const ended = endStale(root);
  console.log(ended === 0 ? "No cluster is running." : "The cluster is down.");
}

/** Programs of the cluster that run as their pid files say. */
function runningPids(): number[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((f) => f.endsWith(".pid"))
    .map((f) => readPid(join(dir, f)))
    .filter((p) => p !== undefined)
    .filter((p) => existsSync(`/proc/${p.pid}`))
    .filter((p) => readFileSync(`/proc/${p.pid}/cmdline`, "utf8").split("\0")[0] === p.program)
    .map((p) => p.pid);
}
