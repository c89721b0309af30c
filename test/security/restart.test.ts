import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TenantChange } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { systemClock } from "@moorage/shared/clock";
import { connect } from "@moorage/shared/grpc/client";
import { apiLimits } from "@moorage/shared/grpc/options";
import type { Watched } from "@moorage/shared/grpc/resumable-watch";
import { resumableWatch } from "@moorage/shared/grpc/resumable-watch";
import { retryingLink } from "@moorage/shared/grpc/retry";
import { systemRng } from "@moorage/shared/rng";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { HubProcess } from "../world/world.ts";
import { startHubProcess } from "../world/world.ts";

/** A backend goes on while its hub is replaced: nothing that it calls fails, nothing that it watches is lost or doubled. */

const CALLS = 200;
const WATCHES = 5;
const deps = { clock: systemClock, rng: systemRng };
const dir = mkdtempSync(join(tmpdir(), "moorage-restart-"));
let hub: HubProcess;

beforeAll(async () => {
  hub = await startHubProcess(dir, ["--drain-time", "200ms"]);
  await hub.api.dataPlanes.createDataPlane({ dataPlaneId: "eu" });
}, 60_000);
afterAll(async () => {
  hub.link.close();
  await hub.stop();
  rmSync(dir, { recursive: true });
});

/** A client as a backend holds it. */
function backend() {
  const link = retryingLink(
    connect({
      target: { host: "127.0.0.1", port: hub.ports.api },
      tls: { caPem: hub.caPem, serverName: "localhost" },
      limits: apiLimits,
      clock: systemClock,
      headers: () => ({ authorization: `Bearer ${hub.adminKey}` }),
    }),
    deps,
  );
  return { tenants: link.client(TenantService), close: () => link.close() };
}

test.each(["SIGTERM", "SIGKILL"] as const)(
  "a hub that is replaced by %s under 200 calls and 5 watches shows its backend no error, no lost event and no double",
  async (signal) => {
    const prefix = signal.toLowerCase();
    const { tenants, close } = backend();
    const stop = new AbortController();
    const told = Array.from({ length: WATCHES }, (): Watched<Tenant>[] => []);
    const complete = Promise.withResolvers<void>();
    const isNew = (w: Watched<Tenant>) =>
      w.kind !== "synced" && w.resource.name.startsWith(`tenants/${prefix}`);
    const watching = told.map(async (events) => {
      const watch = resumableWatch<TenantChange, Tenant>({
        ...deps,
        open: (cursor, s) => tenants.watchTenants(cursor === undefined ? {} : { cursor }, { signal: s }),
        resource: (change) => change.tenant,
        signal: stop.signal,
      });
      for await (const event of watch) {
        events.push(event);
        if (told.every((t) => t.filter(isNew).length >= CALLS)) complete.resolve();
      }
    });
    let made = 0;
    const replaced = Promise.withResolvers<void>();
    const caller = async () => {
      while (made < CALLS) {
        const n = made++;
        if (n === CALLS / 4) {
          void hub
            .stop(signal)
            .then(() => hub.start())
            .then(replaced.resolve, replaced.reject);
        }
        const tenantId = `${prefix}-${n}`;
        const spec = { dataPlane: "dataPlanes/eu" };
        const created = await tenants.createTenant({ tenantId, tenant: { spec } });
        const read = await tenants.getTenant({ name: created.name, minRevision: created.revision });
        expect(read.uid).toBe(created.uid);
      }
    };
    // Any error of any call or watch ends the test here.
    const callers = Promise.all(Array.from({ length: 4 }, caller));
    await Promise.race([callers, Promise.all(watching)]);
    await replaced.promise;
    await complete.promise;
    stop.abort();
    await Promise.all(watching);
    close();
    const expected = Array.from({ length: CALLS }, (_, n) => `tenants/${prefix}-${n}`).sort();
    for (const events of told) {
      const news = events
        .filter(isNew)
        .map((w) => (w.kind === "synced" ? "" : `${w.kind} ${w.resource.name}`));
      expect(news.toSorted()).toEqual(expected.map((name) => `upserted ${name}`));
      expect(events.filter((w) => w.kind === "synced").length).toBe(1);
    }
    // One history: what several watches were told after their listing, they were told in one order.
    const order = (events: Watched<Tenant>[]) => {
      const revisions = events.slice(events.findIndex((w) => w.kind === "synced") + 1).filter(isNew);
      return revisions.map((w) => (w.kind === "synced" ? 0n : w.resource.revision));
    };
    for (const events of told) expect(order(events)).toEqual(order(events).toSorted((a, b) => Number(a - b)));
  },
);
