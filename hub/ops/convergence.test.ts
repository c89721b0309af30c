import { createMetrics } from "@moorage/shared/metrics";
import { expect, test } from "vitest";
import { testApi } from "../api/testing.ts";
import { manualClock } from "../sync/testing.ts";
import { createConvergence } from "./convergence.ts";

const ready = (status: string, observedGeneration: bigint) => [
  { type: "Ready", status, reason: "Observed", observedGeneration },
];

test("a generation counts once, from its commit until it is Ready, and a newer one begins anew", async () => {
  const clock = manualClock();
  const metrics = createMetrics();
  const api = await testApi({ clock });
  const end = new AbortController();
  const convergence = createConvergence({ store: api.store, clock, metrics });
  const running = convergence.run(end.signal);
  const count = async () =>
    /moorage_hub_convergence_seconds_count\{kind="Tenant"\} (\d+)/.exec(await metrics.metricsText())?.[1];
  const sum = async () =>
    /moorage_hub_convergence_seconds_sum\{kind="Tenant"\} ([\d.]+)/.exec(await metrics.metricsText())?.[1];
  const { name: dataPlane } = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "a" });
  const tenant = await api.admin.tenants.createTenant({ tenantId: "t", tenant: { spec: { dataPlane } } });
  convergence.written(tenant);
  await clock.advance(2_000);
  await api.status(tenant, ready("False", 1n));
  const changed = { ...tenant, generation: 2n };
  convergence.written(changed);
  await api.status(tenant, ready("True", 1n));
  await clock.advance(3_000);
  await api.status(changed, ready("True", 2n));
  await expect.poll(count).toBe("1");
  await api.status(changed, ready("True", 2n));
  await clock.advance(1_000);
  expect([await count(), await sum()]).toEqual(["1", "3"]);
  end.abort();
  await running;
  await api.stop();
});
