import { afterEach, expect, test } from "vitest";
import { type OpsServer, startOpsServer } from "./http-ops.ts";
import { createMetrics } from "./metrics.ts";

let server: OpsServer | undefined;
afterEach(() => server?.close());

test("readiness names the check that fails and why, and follows it", async () => {
  let reason: string | undefined = "no lease";
  const metrics = createMetrics();
  const address = { host: "127.0.0.1", port: 0 };
  server = await startOpsServer({ address, metrics, ready: [{ name: "leader", check: () => reason }] });
  const get = (path: string) => fetch(`http://127.0.0.1:${server?.address.port}${path}`);
  const notReady = await get("/readyz");
  expect([notReady.status, await notReady.text()]).toEqual([503, "[-] leader failed: no lease\nnot ready\n"]);
  reason = undefined;
  expect((await get("/readyz")).status).toBe(200);
  expect((await get("/healthz")).status).toBe(200);
  expect(await (await get("/metrics")).text()).toContain("moorage_metrics_series_dropped_total");
  expect((await get("/else")).status).toBe(404);
  await expect(
    startOpsServer({ address: server.address, option: "--ops-address", metrics, ready: [] }),
  ).rejects.toThrow(/address already in use \(option --ops-address\)$/);
});
