/** R5: a disk that is full, fails or is slow, under a hub process; the shim stands between it and its files. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep, systemClock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { resourceKey } from "@moorage/hub/core/keys";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ApiClients } from "../world/world.ts";
import { HubRig } from "./hub-rig.ts";
import { Ledger } from "./ledger.ts";
import { PlaneRig } from "./plane-rig.ts";
import { Shim } from "./shim/shim.ts";

/** A refusal must not make callers wait. */
const REFUSED_MS = 50;
/** Writes go on this long after space returned. */
const NORMAL_MS = 5_000;

/** How long hub and agent may take to agree. */
const CONVERGE_MS = 60_000;
/** A stream that ends on what the disk refuses would have ended several times by then. */
const FLAPPING_MS = 3_000;

/** Time for a hub to start on a busy machine. */
const START_MS = 60_000;

let work: string;
let hub: HubRig;
let shim: Shim;
let ledger: Ledger;
let api: ApiClients;

beforeEach(async () => {
  work = mkdtempSync(join(tmpdir(), "moorage-disk-"));
  const dir = join(work, "world");
  mkdirSync(dir);
  hub = await HubRig.create(dir);
  shim = new Shim({ dir: hub.dataDir, work });
  ledger = new Ledger();
  await hub.start({ env: { ...shim.env, MOORAGE_HEARTBEAT_INTERVAL: "1s" } });
  shim.demandLoaded();
  api = hub.api();
  await api.dataPlanes.createDataPlane({ dataPlaneId: "main", dataPlane: { spec: {} } });
}, START_MS);
afterEach(async () => {
  await hub.kill();
  rmSync(work, { recursive: true, force: true });
}, START_MS);

let last = 0;
async function createTenant(): Promise<string> {
  const id = `t${++last}`;
  const made = await api.tenants.createTenant({
    tenantId: id,
    tenant: { spec: { dataPlane: "dataPlanes/main" }, annotations: { padding: "x".repeat(8_000) } },
  });
  ledger.ack(resourceKey("Tenant", `tenants/${id}`), made.revision);
  return id;
}

/** A call that must not fail, whatever the disk does. */
async function served<T>(what: string, call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (cause) {
    throw new Error(`A ${what} was not served: ${String(cause)}`, { cause });
  }
}

async function refusal(call: Promise<unknown>): Promise<{ code: Code; ms: number }> {
  const started = systemClock.monotonicMs();
  try {
    await call;
  } catch (thrown) {
    return { code: MoorageError.from(thrown).code, ms: systemClock.monotonicMs() - started };
  }
  throw new Error("The write was accepted");
}

describe("R5: a hub whose disk is full", () => {
  it("serves every read and stream, refuses writes at once, and goes on when space returns", async () => {
    const first = `tenants/${await createTenant()}`;
    for (let i = 1; i < 20; i++) await createTenant();
    const watch = new AbortController();
    const seen = new Set<string>();
    const watching = (async () => {
      for await (const { event } of api.tenants.watchTenants({}, { signal: watch.signal }))
        if (event.case === "change" && event.value.tenant !== undefined) seen.add(event.value.tenant.name);
    })();
    const watched = served("watch", watching).catch((thrown: unknown) =>
      watch.signal.aborted ? "ended" : thrown,
    );

    shim.set("space", 0);
    let refused = 0;
    let slowest = 0;
    let reads = 0;
    // What the log holds in space that it has already is taken; then nothing is.
    const accepted: string[] = [];
    for (let i = 0; i < 60; i++) {
      const outcome = await refusal(createTenant().then((id) => accepted.push(id))).catch(() => undefined);
      if (outcome !== undefined) {
        expect(outcome.code).toBe(Code.RESOURCE_EXHAUSTED);
        refused++;
        slowest = Math.max(slowest, outcome.ms);
      }
      const listed = await served("list", api.tenants.listTenants({ pageSize: 1_000 }));
      expect(listed.tenants).toHaveLength(20 + accepted.length);
      expect((await served("get", api.tenants.getTenant({ name: first }))).name).toBe(first);
      reads += 2;
    }
    expect(refused).toBeGreaterThan(30);
    const refusals = await Promise.all(Array.from({ length: 16 }, () => refusal(createTenant())));
    expect(new Set(refusals.map((r) => r.code))).toEqual(new Set([Code.RESOURCE_EXHAUSTED]));

    shim.set("space", -1);
    const back = systemClock.monotonicMs();
    let after: string | undefined;
    while (after === undefined && systemClock.monotonicMs() - back < NORMAL_MS)
      after = await createTenant().catch(() => undefined);
    const normalMs = systemClock.monotonicMs() - back;
    expect(after).toBeDefined();
    for (let i = 0; i < 100 && !seen.has(`tenants/${after}`); i++) await sleep(systemClock, 50);
    expect(seen.has(`tenants/${after}`), "the watch went on").toBe(true);
    watch.abort(new DOMException("seen", "AbortError"));
    expect(await watched).toBe("ended");
    console.log(
      `disk full: ${refused} writes refused, slowest ${slowest.toFixed(1)} ms (bar ${REFUSED_MS}), ${reads} reads of ${reads} served, normal after ${normalMs.toFixed(0)} ms`,
    );
    expect(slowest).toBeLessThan(REFUSED_MS * 10);
    await hub.kill();
    expect(await ledger.auditFiles(hub.dataDir)).toEqual([]);
  });
});

describe("An agent of a hub whose disk is full", () => {
  let plane: PlaneRig;
  beforeEach(async () => {
    plane = new PlaneRig(hub, work);
    await plane.token(api, "main");
    plane.start();
  });
  afterEach(() => plane.stop());

  const within = async (what: string, ms: number, done: () => Promise<boolean>): Promise<void> => {
    const end = systemClock.monotonicMs() + ms;
    while (!(await done())) {
      if (systemClock.monotonicMs() > end) throw new Error(`${what}: not so\n${plane.recentLog()}`);
      await sleep(systemClock, 50);
    }
  };
  const condition = async (type: string): Promise<string> => {
    const { status } = await api.dataPlanes.getDataPlane({ name: "dataPlanes/main" });
    return status?.conditions.find((c) => c.type === type)?.status ?? "";
  };
  const ready = (name: string) => async (): Promise<boolean> => {
    const { status } = await api.tenants.getTenant({ name });
    return status?.conditions.some((c) => c.type === "Ready" && c.status === "True") === true;
  };
  const gone = (name: string) => async (): Promise<boolean> =>
    (await refusal(api.tenants.getTenant({ name })).catch(() => undefined))?.code === Code.NOT_FOUND;
  /** Takes all space: what the log holds in space that it has already goes as well. */
  const fill = async (): Promise<void> => {
    shim.set("space", 0);
    for (let refused = 0; refused < 20;)
      if ((await refusal(createTenant()).catch(() => undefined)) !== undefined) refused++;
  };

  it("keeps its one stream, and what it reported is stored once there is space", async () => {
    const going = `tenants/${await createTenant()}`;
    await within("The tenant is ready", CONVERGE_MS, ready(going));
    plane.stop();
    await api.tenants.deleteTenant({ name: going });
    const coming = `tenants/${await createTenant()}`;
    await fill();
    const streams = plane.logged("connected to the hub");
    const lost = plane.logged("not connected to the hub, it is dialled again");
    plane.start();
    const namespaces = () =>
      plane.cluster.store.list({ apiVersion: "v1", kind: "Namespace" }).map((n) => n.metadata.name);
    await within("The order is carried out", CONVERGE_MS, () =>
      Promise.resolve(
        namespaces().some((n) => n.includes(coming.slice(8))) &&
          !namespaces().some((n) => n.includes(going.slice(8))),
      ),
    );
    const since = systemClock.monotonicMs();
    while (systemClock.monotonicMs() - since < FLAPPING_MS)
      await served("get", api.tenants.getTenant({ name: coming }));
    expect(plane.logged("connected to the hub") - streams).toBe(1);
    expect(plane.logged("not connected to the hub, it is dialled again") - lost).toBe(0);
    shim.set("space", -1);
    await within("The status is stored", CONVERGE_MS, ready(coming));
    await within("The removal is stored", CONVERGE_MS, gone(going));
    expect(plane.logged("connected to the hub") - streams).toBe(1);
  });

  it("falls silent visibly, at the latest once there is space", async () => {
    await within(
      "The agent is connected",
      CONVERGE_MS,
      async () => (await condition("Connected")) === "True",
    );
    await fill();
    plane.stop();
    // Both of its transitions: nothing else is due after the second.
    await within("The hub cannot store the silence", CONVERGE_MS, () =>
      Promise.resolve(hub.log().split("Cannot store the silence of an agent").length > 2),
    );
    expect(await condition("Connected")).toBe("True");
    shim.set("space", -1);
    await within("The silence is stored", CONVERGE_MS, async () => (await condition("Connected")) !== "True");
  });
});

describe("A hub whose disk fails", () => {
  it.each([
    ["writes", 1],
    ["syncs", 2],
  ])("on %s with EIO accepts nothing more and has lost nothing that it acknowledged", async (_, errors) => {
    for (let i = 0; i < 10; i++) await createTenant();
    shim.set("errors", errors);
    const outcomes = await Promise.all(Array.from({ length: 8 }, () => refusal(createTenant())));
    for (const { code } of outcomes) expect([Code.UNAVAILABLE, Code.INTERNAL]).toContain(code);
    shim.set("errors", 0);
    await hub.kill();
    expect(await ledger.auditFiles(hub.dataDir)).toEqual([]);
    expect(await hub.start()).toBe(true);
    api = hub.api();
    expect((await api.tenants.getTenant({ name: `tenants/t${last - 8}` })).name).toBe(`tenants/t${last - 8}`);
    await createTenant();
  });
});

describe("A hub whose disk is slow", () => {
  it("answers a write only after its sync, and writes that wait share one", async () => {
    const syncMs = 60;
    shim.set("syncUs", syncMs * 1_000);
    const alone = systemClock.monotonicMs();
    await createTenant();
    expect(systemClock.monotonicMs() - alone).toBeGreaterThanOrEqual(syncMs);
    const syncs = shim.syncs();
    const started = systemClock.monotonicMs();
    await Promise.all(Array.from({ length: 64 }, () => createTenant()));
    const tookMs = systemClock.monotonicMs() - started;
    const used = shim.syncs() - syncs;
    console.log(`slow disk: 64 writes at ${syncMs} ms a sync took ${tookMs.toFixed(0)} ms and ${used} syncs`);
    expect(used).toBeGreaterThan(0);
    expect(used).toBeLessThan(40);
  });
});

describe("D1: each group commit", () => {
  it("is synced before its answers: no write costs less than one sync when made alone", async () => {
    const syncs = shim.syncs();
    for (let i = 0; i < 50; i++) await createTenant();
    const used = shim.syncs() - syncs;
    console.log(`syncs: ${used} for 50 writes made one after the other`);
    expect(used).toBeGreaterThanOrEqual(50);
  });
});
