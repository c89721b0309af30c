import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import type { CallContext } from "@moorage/shared/grpc/types";
import { createMetrics } from "@moorage/shared/metrics";
import { expect, test } from "vitest";
import { callStarts } from "./calls.ts";

test("a call counts once as started, and as under way until it ends", async () => {
  const metrics = createMetrics();
  const starts = callStarts(metrics);
  const { getTenant, watchTenants } = TenantService.method;
  const contexts = [1, 2, 3, 4].map((n) => ({ peer: String(n) }) as CallContext);
  const [first, second, third, refused] = contexts as [CallContext, CallContext, CallContext, CallContext];
  for (const ctx of [first, second]) starts.started(ctx, getTenant);
  starts.started(third, watchTenants);
  starts.ended({ ctx: first, method: getTenant });
  starts.ended({ ctx: refused, method: getTenant });
  const text = await metrics.metricsText();
  expect(text).toContain('moorage_hub_requests_in_flight{grpc_type="unary"} 1');
  expect(text).toContain('moorage_hub_requests_in_flight{grpc_type="server_streaming"} 1');
  expect(text).toContain('moorage_hub_requests_in_flight{grpc_type="bidi_streaming"} 0');
  expect(text).toContain(
    'grpc_server_started_total{grpc_type="unary",grpc_service="moorage.hub.v1.TenantService",grpc_method="GetTenant"} 2',
  );
});
