/** Who acts at random while a world is being written to: the backend, people, and chance. */
import type { Rng } from "@moorage/shared/rng";
import { dig } from "@moorage/agent/kube/object";
import { APPLICATION_LABEL, isRecord, RECORD_API } from "./invariants.ts";
import type { Plane } from "./plane.ts";
import type { World } from "./world.ts";

/** Starts all actors; they end when writing ends. */
export function startActors(world: World): void {
  const plane = (rng: Rng) => world.pick(world.planes, rng);
  for (const p of world.planes) p.trouble = 0.01;
  actor(world, 7_000, 10, async () => {
    const names = world.planes.map((p) => p.dataPlane);
    if (world.hub !== undefined) await world.backend.step(world.hub.resources, names);
  });
  actor(world, 35_000, 11, (rng) => drift(world, plane(rng), rng));
  actor(world, 20_000, 12, (rng) => network(world, plane(rng), rng));
  actor(world, 45_000, 13, (rng) => agents(world, plane(rng), rng));
  actor(world, 80_000, 14, (rng) => {
    const p = plane(rng);
    if (rng.float() < 0.6) p.cluster.compact();
    p.cluster.dropWatches();
    world.history.fault("api-expired", p.name);
  });
  actor(world, 70_000, 15, async (rng) => {
    if (world.hub === undefined) return;
    if (rng.float() < 0.5) {
      world.hubKillChance = 0.01;
      return;
    }
    world.history.fault("hub-killed");
    world.killHub();
    await world.sleep(rng.float() * 15_000);
    await world.restartHub();
  });
  actor(world, 12_000, 16, async () => {
    for (const p of world.planes) revive(world, p);
    if (world.hub === undefined) await world.restartHub();
  });
}

/** Acts, then waits a random while; ends when writing ends. */
function actor(world: World, meanMs: number, n: number, act: (rng: Rng) => Promise<void> | void): void {
  const rng = world.stream(n);
  const run = async () => {
    for (;;) {
      await world.sleep(2 * meanMs * rng.float() + 1);
      if (!world.writing) return;
      await act(rng);
    }
  };
  run().catch((thrown: unknown) => world.broke(thrown));
}

/** Starts what does not run. */
function revive(world: World, plane: Plane): void {
  if (plane.agents.every((a) => a.running)) return;
  world.invariants.restarted(plane);
  plane.revive();
}

function drift(world: World, plane: Plane, rng: Rng): void {
  const { store } = plane.cluster;
  const r = rng.float();
  if (r < 0.2) {
    const records = store.list({ apiVersion: RECORD_API, kind: "Application" }, isRecord);
    const record = world.pick(records, rng);
    // A removal of what nobody remembers is told as done, and leaves the objects.
    if (record === undefined || dig(record, "spec", "removal") !== undefined) return;
    if (world.history.tombstones.has(String(dig(record, "spec", "uid")))) return;
    world.history.fault("record-deleted", record.metadata.name);
    world.invariants.expectMissing(plane, String(dig(record, "spec", "uid")));
    const { name, namespace = "" } = record.metadata;
    store.delete({ apiVersion: RECORD_API, kind: "Application", name, namespace }, {});
    return;
  }
  const kind = { apiVersion: "v1", kind: "ConfigMap" };
  const managed = store.list(kind, (o) => o.metadata.labels?.[APPLICATION_LABEL] !== undefined);
  const object = world.pick(managed, rng);
  if (object === undefined || object.metadata.deletionTimestamp !== undefined) return;
  const { name, namespace = "" } = object.metadata;
  world.history.fault(r < 0.6 ? "object-deleted" : "object-changed", name);
  if (r < 0.6) store.delete({ ...kind, name, namespace }, {});
  else store.update({ ...object, data: { text: "drifted" } }, { manager: "kubectl-edit" });
}

function network(world: World, plane: Plane, rng: Rng): void {
  const now = world.clock.monotonicMs();
  const { path } = world.pick(plane.agents, rng);
  const r = rng.float();
  if (r < 0.3) {
    world.history.fault("connection-cut", plane.name);
    path.cut();
  } else if (r < 0.5) {
    world.history.fault("half-open", plane.name);
    path.heldUntilMs = now + rng.float() * 8_000;
    path.cut(1_000 + rng.float() * 30_000);
  } else if (r < 0.7) {
    world.history.fault("path-down", plane.name);
    plane.isolate(rng.float() * 60_000);
  } else if (r < 0.9) {
    world.history.fault("path-held", plane.name);
    path.heldUntilMs = now + rng.float() * 90_000;
  } else {
    world.history.fault("reader-stalled", plane.name);
    path.stalledUntilMs = now + rng.float() * 90_000;
  }
}

function agents(world: World, plane: Plane, rng: Rng): void {
  const agent = world.pick(plane.agents, rng);
  if (!agent.running) return;
  const r = rng.float();
  if (r < 0.3) {
    world.history.fault("agent-killed", agent.name);
    agent.kill();
  } else if (r < 0.5) {
    world.history.fault("agent-paused", agent.name);
    agent.pause(5_000 + rng.float() * 40_000);
  } else agent.killChance = 0.01;
}
