import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallReport } from "@moorage/shared/grpc/server";
import { memoryLogger } from "@moorage/shared/log";
import { createMetrics } from "@moorage/shared/metrics";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { expect, test } from "vitest";
import { Reader } from "../api/reader.ts";
import { testApi } from "../api/testing.ts";
import { manualClock } from "../sync/testing.ts";
import { callMetrics, hubMetrics } from "./metrics.ts";

/** The samples of a metric, as lines. */
const samples = (text: string, name: string) =>
  text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));

test("a scrape counts resources as their views show them, and anew when the store has changed", async () => {
  const api = await testApi();
  const metrics = createMetrics();
  hubMetrics(metrics, { store: api.store, reader: new Reader(api.store), clock: manualClock() });
  const dataPlane = await api.admin.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
  const spec = { dataPlane: dataPlane.name };
  for (const tenantId of ["a", "b"]) {
    const tenant = await api.admin.tenants.createTenant({ tenantId, tenant: { spec } });
    await api.status(tenant, [{ type: "Ready", status: "True", reason: "Ready", observedGeneration: 1n }]);
  }
  const name = "moorage_hub_entities";
  const ready = (status: string, n: number) =>
    `${name}{kind="Tenant",condition="Ready",status="${status}"} ${n}`;
  const first = await metrics.metricsText();
  expect(samples(first, name)).toContain(ready("True", 2));
  expect(samples(first, "moorage_hub_store_revision")).toEqual([
    `moorage_hub_store_revision ${(await api.store.status()).rev}`,
  ]);
  expect(samples(first, "moorage_hub_data_planes_stale")).toEqual(["moorage_hub_data_planes_stale 0"]);
  await api.link(dataPlane.uid, LinkState.SILENT);
  const second = await metrics.metricsText();
  expect(samples(second, name)).toContain(ready("Unknown", 2));
  expect(samples(second, name)).not.toContain(ready("True", 2));
  expect(samples(second, "moorage_hub_data_planes_stale")).toEqual(["moorage_hub_data_planes_stale 1"]);
  await api.stop();
});

test("calls are counted by status; only what went wrong inside is logged, with its cause", async () => {
  const metrics = createMetrics();
  const log = memoryLogger();
  const report = callMetrics(metrics, log);
  const call = (error?: MoorageError) =>
    report({
      method: TenantService.method.getTenant,
      ctx: { method: "/m", peer: "p" },
      durationMs: 3,
      ...(error === undefined ? {} : { error }),
    } as unknown as CallReport);
  call();
  call(new MoorageError(Code.NOT_FOUND, "no"));
  call(MoorageError.from(new TypeError("broken")));
  const at = 'grpc_type="unary",grpc_service="moorage.hub.v1.TenantService",grpc_method="GetTenant"';
  const text = await metrics.metricsText();
  for (const code of ["OK", "NOT_FOUND"])
    expect(samples(text, "grpc_server_handled_total")).toContain(
      `grpc_server_handled_total{${at},grpc_code="${code}"} 1`,
    );
  expect(samples(text, "grpc_server_handling_seconds_count")).toEqual([
    `grpc_server_handling_seconds_count{${at}} 3`,
  ]);
  expect(log.records.map((r) => r.message)).toEqual(["call failed"]);
});
