/** Scenarios of hosts, networks and API servers that fail. */
import { fromBinary } from "@bufbuild/protobuf";
import { linkKey } from "@moorage/hub/core/keys";
import { key } from "@moorage/hub/store/bytes";
import { StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { NAMESPACE } from "./agent-process.ts";
import { RECORD_API } from "./invariants.ts";
import type { Plane } from "./plane.ts";
import type { World } from "./world.ts";

const MINUTE_MS = 60_000;
const YEAR_MS = 365 * 24 * 60 * MINUTE_MS;

/** A second process of the same install; both are paused and killed again and again. */
export async function twins(world: World): Promise<void> {
  const plane = world.pick(world.planes);
  const twin = plane.addAgent();
  world.history.fault("twin-agent", twin.name);
  twin.start();
  while (world.writing) {
    await world.sleep(5_000 + world.rng.float() * 40_000);
    const agent = world.pick(plane.agents);
    if (!agent.running) {
      agent.start();
      world.invariants.restarted(plane);
    } else if (world.rng.float() < 0.6) {
      world.history.fault("agent-paused", agent.name);
      agent.pause(5_000 + world.rng.float() * 30_000);
    } else {
      world.history.fault("agent-killed", agent.name);
      agent.kill();
    }
  }
}

/** The install is cloned into another cluster: the hub must see by its uid that it is another. */
export async function clone(world: World): Promise<void> {
  const original = world.pick(world.planes);
  await world.sleep(MINUTE_MS);
  while (world.writing && world.hub?.connected().some((a) => a.dataPlaneUid === original.uid) !== true)
    await world.sleep(2_000);
  const { dataPlane, uid } = original;
  const copy = world.addPlane({ dataPlane, uid, name: `${original.name}~`, known: false });
  copyRecords(original, copy);
  world.history.fault("cloned-install", copy.name);
  const { agent } = copy;
  agent.path.onDown = ({ message }) => {
    if (message.case === "changes")
      world.invariants.fail("identity", `${agent.name}: the clone was sent changes`);
  };
  agent.start();
  let alarmed = false;
  for (let i = 0; i < 80; i++) {
    await world.sleep(3_000);
    alarmed ||= await conflicting(world, uid);
  }
  agent.kill();
  if (!alarmed) world.invariants.fail("identity", `${agent.name}: the clone raised no alarm`);
}

/** Whether the hub shows that two clusters claim the identity. */
async function conflicting(world: World, uid: string): Promise<boolean> {
  const [link] = (await world.store.range({ start: key(linkKey(uid)) })).kvs;
  return link !== undefined && fromBinary(StoredLinkSchema, link.value).conflict === "ClusterChanged";
}

function copyRecords(from: Plane, to: Plane): void {
  for (const kind of ["DataPlane", "Tenant", "Application", "SyncState", "Inventory"])
    for (const object of from.cluster.store.list({ apiVersion: RECORD_API, kind }))
      if (object.metadata.namespace === NAMESPACE)
        to.cluster.store.create(
          { ...object, metadata: { name: object.metadata.name, namespace: NAMESPACE } },
          { manager: "restore" },
        );
}

/** One host's clock is wrong: by five minutes, or by ten years and back. */
export async function clocks(world: World): Promise<void> {
  const sign = world.rng.float() < 0.5 ? -1 : 1;
  const ofHub = world.rng.float() < 0.5;
  const decade = world.rng.float() < 0.6;
  const offsetMs = sign * (decade ? 10 * YEAR_MS : 5 * MINUTE_MS);
  const clock = ofHub ? world.hubClock : world.pick(world.planes).agent.clock;
  await world.sleep(MINUTE_MS * (1 + world.rng.float()));
  if (ofHub) world.history.fault(decade ? "hub-clock-decade" : "hub-clock-off");
  else world.history.fault(decade ? "agent-clock-decade" : "agent-clock-off");
  clock.offsetMs += offsetMs;
  await world.sleep(MINUTE_MS * (1 + 2 * world.rng.float()));
  if (decade) clock.offsetMs -= offsetMs;
}

/** The API server of one cluster is down, slow, full of errors, or forgets at once. */
export async function apiServer(world: World): Promise<void> {
  const plane = world.pick(world.planes);
  await world.sleep(MINUTE_MS);
  const now = () => world.clock.monotonicMs();
  world.history.fault("api-down", plane.name);
  plane.downUntilMs = now() + 5_000 + world.rng.float() * 90_000;
  plane.cluster.dropWatches();
  await world.sleep(plane.downUntilMs - now() + 10_000);
  world.history.fault("api-slow", plane.name);
  plane.slowUntilMs = now() + MINUTE_MS;
  await world.sleep(MINUTE_MS);
  plane.trouble = 0.3;
  for (let i = 0; i < 10; i++) {
    await world.sleep(4_000);
    plane.cluster.compact();
    plane.cluster.dropWatches();
    world.history.fault("api-expired", plane.name);
  }
  plane.trouble = world.writing ? 0.01 : 0;
}

/** An agent reads nothing while much changes: afterwards it gets the newest of each, not all. */
export async function stalled(world: World): Promise<void> {
  const plane = world.pick(world.planes);
  const { backend, hub } = world;
  const names = backend.of("Application", plane.dataPlane).slice(0, 3);
  if (hub === undefined || names.length === 0) return;
  world.history.fault("reader-stalled", plane.name);
  const { path } = plane.agent;
  path.stalledUntilMs = world.clock.monotonicMs() + 40_000;
  const updates = new Map<string, number>();
  path.onDown = ({ message }) => {
    if (message.case !== "changes") return;
    for (const { uid } of message.value.updates) updates.set(uid, (updates.get(uid) ?? 0) + 1);
  };
  for (let i = 0; i < 12; i++)
    for (const name of names) {
      await world.sleep(500);
      await backend.update(hub.resources, name, true);
    }
  await world.converge();
  path.onDown = undefined;
  // One that was under way when the reader stopped, and the newest.
  for (const [uid, count] of updates)
    if (count > 2)
      world.invariants.fail("flow", `${plane.name}: "${world.history.names.get(uid)}" came ${count} times`);
}

/** All agents are cut off for an hour; coming back costs what changed. */
export async function partition(world: World): Promise<void> {
  const { backend, hub, planes } = world;
  if (hub === undefined) return;
  world.history.fault("hour-partition");
  for (const plane of planes) plane.isolate(2 * 60 * MINUTE_MS);
  const rowsBefore = planes.map((p) => new Map(world.history.rows.get(p.uid)));
  for (let i = 0; i < 12; i++) {
    await world.sleep(5 * MINUTE_MS);
    const { dataPlane } = world.pick(planes);
    const name = world.pick(backend.of("Application", dataPlane));
    if (name !== undefined) await backend.update(hub.resources, name);
  }
  const bytesBefore = planes.map((p) => p.agent.path.down.bytes);
  for (const plane of planes) plane.heal();
  const back = await Promise.all(planes.map((plane) => backInSync(world, plane)));
  for (const [i, plane] of planes.entries()) {
    let changed = 0;
    for (const [uid, row] of world.history.rows.get(plane.uid) ?? [])
      if (rowsBefore[i]?.get(uid)?.rev !== row.rev) changed += row.bytes;
    const { bytes, tookMs } = back[i] ?? { bytes: 0, tookMs: 0 };
    const got = bytes - (bytesBefore[i] ?? 0);
    if (got > changed + 1_024)
      world.invariants.fail("resume", `${plane.name}: ${got} bytes came, ${changed} had changed`);
    if (tookMs > 10_000) world.invariants.fail("resume", `${plane.name}: in sync after ${tookMs} ms`);
  }
  await world.converge();
}

/** Waits until an agent that is connected again is in sync; how long after its hello, and its bytes. */
async function backInSync(world: World, plane: Plane): Promise<{ bytes: number; tookMs: number }> {
  const now = () => world.clock.monotonicMs();
  const { path } = plane.agent;
  let helloMs: number | undefined;
  path.onDown = ({ message }) => {
    if (message.case === "hello") helloMs = now();
  };
  for (let i = 0; i < 2_400; i++) {
    await world.sleep(500);
    if (helloMs === undefined) continue;
    const left = await world.unrest([plane]);
    if (left.some((d) => d.invariant === "converges")) continue;
    path.onDown = undefined;
    return { bytes: path.down.bytes, tookMs: now() - helloMs };
  }
  throw new Error(`${plane.name} is not back after 20 minutes`);
}
