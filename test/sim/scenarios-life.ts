/** Scenarios of resources' lives: refused, guarded, withdrawn, forgotten, and named anew. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { removalDigest } from "@moorage/agent/kinds/removal-guard";
import { dig } from "@moorage/agent/kube/object";
import { resourceKey, uidKey } from "@moorage/hub/core/keys";
import { key } from "@moorage/hub/store/bytes";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { HubProcess } from "./hub-process.ts";
import { APPLICATION_LABEL, RECORD_API } from "./invariants.ts";
import type { Plane } from "./plane.ts";
import type { World } from "./world.ts";

const MINUTE_MS = 60_000;

/** A batch holds an item whose body is damaged: the agent keeps what it had, until a sound one comes. */
export async function rejected(world: World): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await world.sleep(MINUTE_MS * (0.3 + world.rng.float()));
    const plane = world.pick(world.planes);
    const name = world.pick(world.backend.of("Application", plane.dataPlane));
    if (name === undefined || !(await damage(world, plane, name))) continue;
    world.history.fault("item-rejected", name);
    await world.sleep(30_000);
    await heal(world, name);
  }
}

/** Writes the row of an application anew with a digest that is not its body's. */
async function damage(world: World, plane: Plane, name: string): Promise<boolean> {
  const uid = world.backend.known.get(name)?.uid ?? "";
  const row = await world.store.resByUid(plane.uid, uid);
  const at = key(resourceKey("Application", name));
  const [record] = (await world.store.range({ start: at })).kvs;
  if (row === undefined || row.del || record === undefined) return false;
  const update = fromBinary(UpdateSchema, row.update);
  if (update.change.case !== "upsert") return false;
  update.change.value.digest = new Uint8Array(32).fill(7);
  const { ok } = await world.store.txn({
    if: [{ key: at, target: "modRev", op: "=", to: record.modRev }],
    then: [{ put: { key: at, value: record.value } }],
    rows: [{ upsertRes: { dp: plane.uid, uid, name, del: false, update: toBinary(UpdateSchema, update) } }],
  });
  return ok;
}

/** Updates until that is acknowledged, or the application is being deleted. */
async function heal(world: World, name: string): Promise<void> {
  const known = world.backend.known.get(name);
  const before = known?.generation ?? 0n;
  while (known !== undefined && !known.deleting && known.generation === before) {
    if (world.hub !== undefined) await world.backend.update(world.hub.resources, name, true);
    if (known.generation === before) await world.sleep(5_000);
  }
}

/** The customer lets the agent only observe for a while. */
export async function observe(world: World): Promise<void> {
  const plane = world.pick(world.planes);
  await world.sleep(MINUTE_MS * (0.5 + world.rng.float()));
  world.history.fault("policy-observe", plane.name);
  plane.setMode("Observe");
  await world.sleep(MINUTE_MS * (1 + world.rng.float()));
  plane.setMode("Auto");
}

/** More removals than may pass: none passes, until their set is authorized or most are taken back. */
export async function guarded(world: World): Promise<void> {
  const plane = world.pick(world.planes);
  const hub = world.hub as HubProcess;
  const { backend } = world;
  const tenant = await backend.createTenant(hub.resources, plane.dataPlane);
  const names: string[] = [];
  const count = 8 + Math.floor(world.rng.float() * 4);
  for (let i = 0; i < count; i++)
    names.push(
      await backend.createApplication(hub.resources, { parent: tenant, dataPlane: plane.dataPlane }),
    );
  // Removals of the writing time leave the guard's window.
  await world.sleep(11 * MINUTE_MS);
  await world.converge();
  const orders = new Map(
    await Promise.all(names.map(async (n) => [n, await orderOf(world, plane, n)] as const)),
  );
  // In one breath, before the agent begins with the first.
  plane.isolate(20 * MINUTE_MS);
  for (const name of names) await backend.delete(hub.resources, name);
  plane.heal();
  await world.sleep(4 * MINUTE_MS);
  if (guardedNow(plane)) world.history.fault("removals-guarded", plane.name);
  const { authorizesItself = false } = world.options.planted ?? {};
  if (authorizesItself || world.rng.float() < 0.5) {
    await authorizeLeft(world, plane, { kind: "Application", asOperator: !authorizesItself });
    world.history.fault("removals-authorized", plane.name);
  } else {
    for (const name of names)
      if ((await orders.get(name)?.withdraw()) === true) world.history.fault("removal-withdrawn", name);
  }
  await world.converge();
}

/** The first few passed; what is left is what the condition asks an authorization for. */
async function authorizeLeft(
  world: World,
  plane: Plane,
  of: { kind: "Application" | "Tenant"; asOperator: boolean },
): Promise<void> {
  const hub = world.hub as HubProcess;
  const left = (plane.agent.leading?.mirror.list(of.kind) ?? []).filter((r) => r.removal !== undefined);
  const authorization = removalDigest(left.map((r) => r.uid));
  if (of.asOperator) for (const { uid } of left) world.invariants.authorized.add(uid);
  for (const { name } of left) await world.backend.delete(hub.resources, name, { authorization });
}

function guardedNow(plane: Plane): boolean {
  for (const record of plane.cluster.store.peekAll({ apiVersion: RECORD_API, kind: "DataPlane" })) {
    const conditions = dig(record, "status", "conditions");
    if (Array.isArray(conditions))
      return conditions.some((c) => dig(c, "type") === "DeletionGuarded" && dig(c, "status") === "True");
  }
  return false;
}

/** What stands of an application now, and the way back to it after its deletion was ordered. */
async function orderOf(world: World, plane: Plane, name: string) {
  const uid = world.backend.known.get(name)?.uid ?? "";
  const at = key(resourceKey("Application", name));
  const row = await world.store.resByUid(plane.uid, uid);
  const [before] = (await world.store.range({ start: at })).kvs;
  return {
    uid,
    /** A newer record of the uid takes the removal back; false when it is too late. */
    async withdraw(): Promise<boolean> {
      const [now] = (await world.store.range({ start: at })).kvs;
      const [known] = (await world.store.range({ start: key(uidKey(uid)) })).kvs;
      if (row === undefined || before === undefined || now === undefined || known === undefined) return false;
      const { ok } = await world.store.txn({
        if: [{ key: at, target: "modRev", op: "=", to: now.modRev }],
        then: [{ put: { key: at, value: before.value } }],
        rows: [{ upsertRes: { dp: plane.uid, uid, name, del: false, update: row.update } }],
      });
      const resource = world.backend.known.get(name);
      if (ok && resource !== undefined) resource.deleting = false;
      return ok;
    },
  };
}

/** A removal is ordered and taken back while the agent is away: nothing of it must be done. */
export async function withdrawn(world: World): Promise<void> {
  const hub = world.hub as HubProcess;
  const plane = world.pick(world.planes);
  const name = world.pick(world.backend.of("Application", plane.dataPlane));
  if (name === undefined) return;
  const order = await orderOf(world, plane, name);
  if (world.rng.float() < 0.5) plane.kill();
  plane.isolate(60 * MINUTE_MS);
  await world.backend.delete(hub.resources, name);
  await world.sleep(MINUTE_MS * (1 + 4 * world.rng.float()));
  if (await order.withdraw()) world.history.fault("removal-withdrawn", name);
  plane.revive();
  plane.heal();
  await world.converge();
}

/** An application is forgotten: its objects stay as they are. */
export async function orphaned(world: World): Promise<void> {
  const hub = world.hub as HubProcess;
  const plane = world.pick(world.planes);
  const name = world.pick(world.backend.of("Application", plane.dataPlane));
  const uid = world.backend.known.get(name ?? "")?.uid;
  if (name === undefined || uid === undefined) return;
  const kind = { apiVersion: "v1", kind: "ConfigMap" };
  const objects = plane.cluster.store.list(kind, (o) => o.metadata.labels?.[APPLICATION_LABEL] === uid);
  world.history.fault("orphan-deleted", name);
  await world.backend.delete(hub.resources, name, { orphan: true });
  await world.converge();
  for (const { metadata, ...object } of objects) {
    const live = plane.cluster.store.peek({
      ...kind,
      name: metadata.name,
      namespace: metadata.namespace ?? "",
    });
    if (live === undefined || dig(live, "data", "text") !== dig(object, "data", "text"))
      world.invariants.fail("orphan", `${plane.name}: "${metadata.name}" of "${name}" did not stay`);
  }
}

/** A data plane goes with all that is in it, and another one gets its name. */
export async function reused(world: World): Promise<void> {
  const hub = world.hub as HubProcess;
  const { backend } = world;
  const plane = world.planes.at(-1) as Plane;
  // What the hub has, acknowledged or not.
  const tenants = [...(world.history.rows.get(plane.uid) ?? [])].filter(([, row]) =>
    /^tenants\/[^/]+$/.test(row.name),
  );
  const authorization = removalDigest(tenants.map(([uid]) => uid));
  for (const [uid] of tenants) world.invariants.authorized.add(uid);
  for (const [, { name }] of tenants) await backend.delete(hub.resources, name, { authorization });
  // An agent that starts again midway has forgotten what went: the operator authorizes what is left.
  for (let i = 0; i < 5; i++) {
    await world.sleep(4 * MINUTE_MS);
    if (guardedNow(plane)) await authorizeLeft(world, plane, { kind: "Tenant", asOperator: true });
  }
  await world.converge();
  // The guard counts what went before, authorized or not.
  const own = removalDigest([plane.uid]);
  await until(world, () => backend.delete(hub.resources, plane.dataPlane, { authorization: own }));
  await until(
    world,
    async () => (await hub.resources.get(plane.dataPlane, 0n).catch(() => undefined)) === undefined,
  );
  plane.kill();
  for (const object of plane.cluster.store.peekAll({ apiVersion: "v1", kind: "ConfigMap" }))
    if (object.metadata.labels?.[APPLICATION_LABEL] !== undefined)
      world.invariants.fail("converges", `${plane.name}: "${object.metadata.name}" is left`);
  for (const [name, known] of backend.known)
    if (known.dataPlane === plane.dataPlane) backend.known.delete(name);
  world.planes.pop();
  const { dataPlane } = plane;
  const uid = await backend.createDataPlane(hub.resources, dataPlane);
  if (uid === undefined) throw new Error(`the name "${dataPlane}" is not free`);
  world.history.fault("name-reused", dataPlane);
  const next = world.addPlane({ dataPlane, uid, name: `${plane.name}b` });
  world.planes.push(next);
  next.revive();
  for (let i = 0; i < 8; i++) await backend.step(hub.resources, [dataPlane]);
  await world.converge();
}

async function until(world: World, done: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 60; i++) {
    if (await done()) return;
    await world.sleep(10_000);
  }
  throw new Error("what was waited for did not come");
}
