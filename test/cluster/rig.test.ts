import { existsSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { until } from "./processes.ts";
import type { Cluster } from "./rig.ts";
import { startCluster } from "./rig.ts";

const started: Cluster[] = [];
afterAll(async () => {
  for (const c of started) await c.stop();
});

describe("the test cluster", () => {
  it("runs a Deployment to Available beside a second cluster, deletes a namespace fully, and leaves no process", async () => {
    const [a, b] = await Promise.all([startCluster(), startCluster()]);
    started.push(a, b);
    expect(a.apiUrl).not.toBe(b.apiUrl);
    await a.kubectl(["create", "namespace", "shop"]);
    await a.kubectl([
      "create",
      "deployment",
      "web",
      "--image=example.invalid/web:1",
      "--replicas=3",
      "-n",
      "shop",
    ]);
    await a.kubectl(["wait", "deployment/web", "-n", "shop", "--for=condition=Available", "--timeout=60s"]);
    expect(await b.kubectl(["get", "namespaces", "-o", "name"])).not.toContain("namespace/shop");
    await a.kubectl(["create", "job", "once", "--image=example.invalid/once:1", "-n", "shop"]);
    await a.kubectl(["wait", "job/once", "-n", "shop", "--for=condition=Complete", "--timeout=60s"]);
    await a.kubectl(["delete", "namespace", "shop", "--timeout=60s"]);
    expect(await a.kubectl(["get", "namespace", "shop", "--ignore-not-found"])).toBe("");

    const pids = [...a.pids(), ...b.pids()];
    expect(pids).toHaveLength(10);
    await Promise.all([a.stop(), b.stop()]);
    started.length = 0;
    await until(
      "all processes have ended",
      async () => pids.every((pid) => !existsSync(`/proc/${pid}`)),
      10_000,
    );
    expect(existsSync(a.dir)).toBe(false);
  });
});
