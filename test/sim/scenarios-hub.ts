/** Scenarios in which the hub comes back with less than it had, or not for long. */
import { create, toBinary } from "@bufbuild/protobuf";
import { divergencesPrefix, epochKey } from "@moorage/hub/core/keys";
import { key, keyText, prefix } from "@moorage/hub/store/bytes";
import type { Store, TxnRequest } from "@moorage/hub/store/store";
import { StoredEpochSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { liveTexts } from "./at-rest.ts";
import { halfLoaded as halfLoadedView, laggingView, uncleanStart } from "./disks.ts";
import type { Plane } from "./plane.ts";
import type { World } from "./world.ts";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** Kills the hub and notes what lives in the clusters; the check that nothing of it went or went back. */
function lose(world: World): () => void {
  world.killHub();
  world.invariants.hubLost = true;
  const before = world.planes.map(liveTexts);
  return () => {
    for (const [i, plane] of world.planes.entries()) {
      const after = liveTexts(plane);
      for (const [key, text] of before[i] ?? [])
        if (after.get(key) !== text)
          world.invariants.fail(
            "lost-hub",
            `${plane.name}: "${key}" was "${text}", is "${after.get(key) ?? "absent"}"`,
          );
      for (const key of after.keys())
        if (before[i]?.has(key) !== true)
          world.invariants.fail("lost-hub", `${plane.name}: "${key}" came back from the backup`);
    }
  };
}

/** An empty store with the agents' identities alone. */
export async function empty(world: World): Promise<void> {
  world.history.fault("hub-empty");
  const check = lose(world);
  await world.useDisk([], 1);
  for (const plane of world.planes)
    await world.store.txn({ then: [], rows: [{ putDp: { uid: plane.uid } }] });
  world.startHub();
  // Longer than the period of the full comparison and of the compare with the hub.
  await world.sleep(14 * MINUTE_MS);
  check();
}

/** Some resources are missing in the hub's rows for a while. */
export async function halfLoaded(world: World): Promise<void> {
  world.history.fault("hub-half-loaded");
  const check = lose(world);
  const share = 0.3 + 0.7 * world.rng.float();
  const missing = new Set([...world.history.names.keys()].filter(() => world.rng.float() < share));
  world.view = (store) => halfLoadedView(store, ({ uid }) => missing.has(uid));
  world.startHub();
  await world.sleep(14 * MINUTE_MS);
  check();
  world.killHub();
  world.view = undefined;
  world.startHub();
  world.invariants.hubLost = false;
  await world.converge();
}

/** Work that goes on after the backup was taken. */
async function workOn(world: World): Promise<void> {
  const { backend, planes, hub } = world;
  if (hub === undefined) return;
  for (const { dataPlane } of planes) {
    const applications = backend.of("Application", dataPlane);
    for (const name of applications)
      if (world.rng.float() < 0.4) await backend.update(hub.resources, name, true);
    const [tenant] = backend.of("Tenant", dataPlane);
    if (tenant !== undefined) await backend.createApplication(hub.resources, { parent: tenant, dataPlane });
    const gone = world.pick(applications);
    if (gone !== undefined && world.rng.float() < 0.7) await backend.delete(hub.resources, gone);
  }
}

/** Waits until every agent that hears of it has done what was ordered: later it would be done for a lost hub. */
async function settled(world: World): Promise<void> {
  const isolated = (plane: Plane) => plane.agent.path.downUntilMs > world.clock.monotonicMs();
  const heard = world.planes.filter((p) => !isolated(p));
  for (let i = 0; i < 60; i++) {
    await world.sleep(15_000);
    if ((await world.unrest(heard)).length === 0) return;
  }
  throw new Error("the work after the backup does not come to rest");
}

/** An order to remove something that its agent does not hear of before the hub is lost. */
async function unheardRemoval(world: World): Promise<void> {
  const plane = world.pick(world.planes);
  const name = world.pick(world.backend.of("Application", plane.dataPlane));
  if (name === undefined || world.hub === undefined || world.rng.float() < 0.3) return;
  plane.isolate(40 * MINUTE_MS);
  await world.backend.delete(world.hub.resources, name);
}

/** A hub restored from a backup older than its agents, and an operator who accepts that later. */
export async function restored(world: World): Promise<void> {
  await unheardRemoval(world);
  const backup = [...world.history.txns];
  await workOn(world);
  await settled(world);
  const check = lose(world);
  world.history.fault("hub-restored");
  await world.useDisk(backup, 2);
  await world.store.newEpoch();
  await untilAccepted(world, { backup, check });
}

/** The hub comes back without its last commits, and finds out from its agents. */
export async function historyLost(world: World): Promise<void> {
  const left = [...world.history.txns];
  await workOn(world);
  await settled(world);
  // Bookmarks bring every cursor to the head: whoever comes back first proves the loss by it.
  await world.sleep(3 * MINUTE_MS);
  const check = lose(world);
  world.history.fault("history-lost");
  // The same epoch, and at first nobody knows.
  await world.useDisk(left, 0);
  world.view = uncleanUntilEpoch(world.history.epochHex);
  await untilAccepted(world, { backup: left, check });
}

function uncleanUntilEpoch(epochHex: string): (store: Store) => Store {
  return (store) => {
    const unclean = uncleanStart(store);
    return {
      ...store,
      async status() {
        const status = await store.status();
        return Buffer.from(status.epoch).toString("hex") === epochHex ? unclean.status() : status;
      },
    };
  };
}

async function untilAccepted(
  world: World,
  on: { backup: readonly TxnRequest[]; check: () => void },
): Promise<void> {
  world.startHub();
  for (const plane of world.planes) plane.heal();
  await forget(world);
  if (world.options.planted?.acceptsItself === true) await accept(world);
  // Agents back off up to two minutes before they dial again; 60 s after that all is listed.
  await world.sleep(4 * MINUTE_MS);
  await checkListed(world);
  await world.sleep(8 * MINUTE_MS);
  on.check();
  world.history.fault("epoch-accepted");
  await accept(world);
  for (const plane of world.planes) {
    const known = new Set((await world.store.resAll(plane.uid, { limit: 10_000 })).map((r) => r.uid));
    for (const uid of world.history.names.keys()) if (!known.has(uid)) world.tolerated.add(uid);
  }
  world.invariants.hubLost = false;
  await world.converge();
}

/** The backend learns what the hub still has. */
async function forget(world: World): Promise<void> {
  for (const [name, known] of world.backend.known) {
    const row = world.hub === undefined ? undefined : await get(world, name);
    if (row === undefined) world.backend.known.delete(name);
    else known.generation = row.generation;
  }
}

async function get(world: World, name: string) {
  return world.hub?.resources.get(name, 0n).catch(() => undefined);
}

/** Whatever the agents hold that differs from the hub's rows must be listed. */
async function checkListed(world: World): Promise<void> {
  const { kvs } = await world.store.range(prefix(divergencesPrefix()));
  const listed = new Set(kvs.map((kv) => keyText(kv.key).split("/").at(-1) ?? ""));
  for (const plane of world.planes)
    for (const [uid, row] of world.history.rows.get(plane.uid) ?? []) {
      const held = world.invariants.held(plane, uid);
      if (held?.digest === row.digest || listed.has(uid)) continue;
      if (held === undefined && row.del) continue;
      world.invariants.fail("lost-hub", `${plane.name}: "${row.name}" differs and is not listed`);
    }
}

async function accept(world: World): Promise<void> {
  const { epoch } = await world.store.status();
  const value = toBinary(StoredEpochSchema, create(StoredEpochSchema, { acceptedEpoch: epoch }));
  await world.store.txn({ then: [{ put: { key: key(epochKey), value } }] });
}

/** The hub comes back with a view that is behind its agents, and catches up. */
export async function lagging(world: World): Promise<void> {
  const { rev } = await world.store.status();
  await workOn(world);
  await settled(world);
  const check = lose(world);
  world.history.fault("view-lagging");
  const until = world.clock.monotonicMs() + 3_000 + world.rng.float() * 2 * MINUTE_MS;
  world.view = (store) => laggingView(store, { rev, lagging: () => world.clock.monotonicMs() < until });
  world.startHub();
  await world.sleep(until - world.clock.monotonicMs());
  check();
  world.invariants.hubLost = false;
  await world.converge();
}

/** More than a day without a hub: every certificate runs out, and the agents come back by themselves. */
export async function certificates(world: World): Promise<void> {
  world.killHub();
  // Few processes stay up, so that the day is cheap to simulate; one sees its cluster drift.
  const [first] = world.planes;
  for (const plane of world.planes) if (plane !== first) plane.kill();
  await world.sleep(HOUR_MS);
  first?.kill();
  await world.sleep(24 * HOUR_MS);
  for (const plane of world.planes) plane.revive();
  await world.sleep(10 * MINUTE_MS);
  world.startHub();
  await world.converge();
  for (const plane of world.planes)
    if (world.hub?.connected().some((a) => a.dataPlaneUid === plane.uid) !== true)
      world.invariants.fail("converges", `${plane.name}: not back after its certificate ran out`);
}
