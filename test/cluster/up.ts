/** A cluster to play with: `up` leaves its processes running, `down` ends them by their pid files. */
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startCluster } from "./rig.ts";
import { endStale } from "./processes.ts";

const root = join(process.env["MOORAGE_STATE_DIR"] ?? join(process.cwd(), ".moorage"), "cluster");
const dir = join(root, "main");

/** Starts the cluster unless it runs, and prints the line that makes kubectl use it. */
export async function up(): Promise<void> {
  const kubeconfig = join(dir, "admin.kubeconfig");
  if (runningPids().length > 0) {
    console.log(`The cluster runs already.\nexport KUBECONFIG=${kubeconfig}`);
    return;
  }
  rmSync(dir, { recursive: true, force: true });
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

function runningPids(): number[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((f) => f.endsWith(".pid"))
    .map((f) => (JSON.parse(readFileSync(join(dir, f), "utf8")) as { pid: number }).pid)
    .filter((pid) => existsSync(`/proc/${pid}`));
}
