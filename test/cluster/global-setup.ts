/** One cluster for all files of the project "cluster"; each test makes namespaces of its own. */
import type { TestProject } from "vitest/node";
import { startCluster } from "./rig.ts";

export interface SharedCluster {
  kubeconfig: string;
  apiUrl: string;
  dir: string;
}

declare module "vitest" {
  interface ProvidedContext {
    cluster: SharedCluster;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const cluster = await startCluster({ audit: true, log: (line) => process.stdout.write(`${line}\n`) });
  project.provide("cluster", { kubeconfig: cluster.kubeconfig, apiUrl: cluster.apiUrl, dir: cluster.dir });
  return () => cluster.stop();
}
