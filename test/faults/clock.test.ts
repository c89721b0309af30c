/** R6: wall clocks that step. Time that passes is measured on the monotonic clock, so only dates may look odd. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hubOptions } from "@moorage/hub/config";
import type { Hub } from "@moorage/hub/hub";
import { startHub } from "@moorage/hub/hub";
import { key, prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits, apiLimits } from "@moorage/shared/grpc/options";
import { memoryLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Probe } from "./probe.ts";

const MINUTE_MS = 60_000;
const YEARS_10_MS = 10 * 365 * 86_400_000;

/** The machine's clock, whose wall time is off by `skewMs`. */
class SkewedClock implements Clock {
  skewMs = 0;
  now = (): number => systemClock.now() + this.skewMs;
  monotonicMs = (): number => systemClock.monotonicMs();
  setTimer: Clock["setTimer"] = (ms, fn) => systemClock.setTimer(ms, fn);
}

let dir: string;
let clock: SkewedClock;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "moorage-clock-"));
  clock = new SkewedClock();
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe("R6: a store whose wall clock steps", () => {
  it.each([YEARS_10_MS, -YEARS_10_MS])("by %d ms ends no lease and loses nothing", async (skewMs) => {
    const store = await openSqliteStore({ dir, clock, rng: systemRng });
    try {
      const leases = await Promise.all(Array.from({ length: 100 }, () => store.grant(600_000)));
      for (const { id } of leases)
        await store.txn({ then: [{ put: { key: key(`lease/${id}`), value: key("held"), lease: id } }] });
      clock.skewMs = skewMs;
      await store.txn({ then: [{ put: { key: key("after"), value: key("the step") } }] });
      for (const { id } of leases) await store.keepAlive(id);
      expect((await store.range(prefix("lease/"))).kvs).toHaveLength(leases.length);
      expect((await store.range({ start: key("after") })).kvs).toHaveLength(1);
    } finally {
      await store.close();
    }
  });
});

describe("R6: a hub whose wall clock is off", () => {
  let hub: Hub;
  beforeEach(async () => {
    const argv = [
      ...["--data-dir", join(dir, "hub")],
      ...["api", "agent", "enrolment", "ops"].flatMap((n) => [`--${n}-address`, "127.0.0.1:0"]),
    ];
    const config = parseConfig(hubOptions, { argv, env: {}, readFile: () => ({}) });
    hub = await startHub(config, { clock, rng: systemRng, log: memoryLogger() });
  }, MINUTE_MS);
  afterEach(() => hub.stop(), MINUTE_MS);

  const tls = () => ({ caPem: readFileSync(join(dir, "hub", "ca.pem"), "utf8"), serverName: "localhost" });
  const api = () => {
    const link = connect({
      target: hub.addresses.api,
      tls: tls(),
      limits: apiLimits,
      clock: systemClock,
      headers: () => ({ authorization: `Bearer ${hub.bootstrapSecret}` }),
    });
    return {
      dataPlanes: link.client(DataPlaneService),
      joinTokens: link.client(JoinTokenService),
      tenants: link.client(TenantService),
    };
  };
  const ports = () => ({
    alive: true,
    agentLink: (pair?: { certPem: string; keyPem: string }) =>
      connect({
        target: pair === undefined ? hub.addresses.enrolment : hub.addresses.agent,
        tls: { ...tls(), ...pair },
        limits: agentLimits,
        clock: systemClock,
        ownConnection: {},
      }),
  });

  it.each([5 * MINUTE_MS, -5 * MINUTE_MS])(
    "by %d ms admits agents, renews their certificates and takes them back",
    async (skewMs) => {
      clock.skewMs = skewMs;
      const probe = new Probe(ports(), "skewed");
      await probe.run(api());
      expect(await probe.check()).toEqual([]);
    },
  );

  it.each([YEARS_10_MS, -YEARS_10_MS])(
    "by %d ms from one moment to the next keeps serving",
    async (skewMs) => {
      const { dataPlanes, tenants } = api();
      await dataPlanes.createDataPlane({ dataPlaneId: "main", dataPlane: { spec: {} } });
      const create = (id: string) =>
        tenants.createTenant({
          tenantId: id,
          tenant: { spec: { dataPlane: "dataPlanes/main" } },
          requestId: id,
        });
      const before = await create("before");
      clock.skewMs = skewMs;
      const after = await create("after");
      expect(after.revision).toBeGreaterThan(before.revision);
      const { tenants: all } = await tenants.listTenants({});
      expect(all.map((t) => t.name)).toEqual(["tenants/after", "tenants/before"]);
    },
  );
});
