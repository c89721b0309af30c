import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { kindOf } from "../core/resources.ts";
import type { Resource } from "../core/resources.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { Reader } from "./reader.ts";
import { Resources } from "./resources.ts";
import { Room } from "./room.ts";
import { Writer } from "./writer.ts";

const dataPlane = { name: "dataPlanes/eu", uid: "dp" };

/** A store with a data plane of `count` resources. */
async function holding(count: number) {
  const store = openMemoryStore({ clock: systemClock, rng: seededRng(1) });
  const row = (uid: string) => ({
    upsertRes: { dp: "dp", uid, name: `tenants/${uid}`, del: false, update: new Uint8Array() },
  });
  await store.txn({ then: [], rows: [{ putDp: { uid: "dp" } }] });
  for (let i = 0; i < count; i += 100)
    await store.txn({
      then: [],
      rows: Array.from({ length: Math.min(100, count - i) }, (_, j) =>
        row(`u${String(i + j).padStart(5, "0")}`),
      ),
    });
  return { store, drop: (uid: string) => store.txn({ then: [], rows: [{ dropRes: { dp: "dp", uid } }] }) };
}

/** Takes room as a create that is committed. */
async function take(room: Room, of = dataPlane) {
  await room.check(of);
  room.took(of.uid);
}

test("a data plane takes resources up to the limit, and again after one has gone", async () => {
  const { store, drop } = await holding(1_202);
  const room = new Room(store, 1_204);
  await take(room);
  await take(room);
  const full = {
    code: Code.RESOURCE_EXHAUSTED,
    reason: "DATA_PLANE_FULL",
    quota: [
      {
        subject: dataPlane.name,
        description: expect.stringContaining("resourcesPerDataPlane is 1204") as string,
      },
    ],
  };
  await expect(take(room)).rejects.toMatchObject(full);
  await drop("u00000");
  // Room was taken twice and never used: counted anew, three are free.
  await take(room);
  await take(room);
  await take(room);
  await expect(take(room)).rejects.toMatchObject(full);
});

test("other data planes have room of their own", async () => {
  const { store } = await holding(2);
  await store.txn({ then: [], rows: [{ putDp: { uid: "other" } }] });
  const room = new Room(store, 2);
  await expect(take(room)).rejects.toMatchObject({ reason: "DATA_PLANE_FULL" });
  await take(room, { name: "dataPlanes/us", uid: "other" });
});

test("creates that are only validated, or refused, take no room", async () => {
  const rng = seededRng(1);
  const store = openMemoryStore({ clock: systemClock, rng });
  const on = { clock: systemClock, rng, reader: new Reader(store) };
  // The data plane's own row is one of them.
  const room = new Room(store, 3);
  const resources = new Resources({ ...on, writer: new Writer({ store, ...on }), room });
  const make = (name: string, input: Resource, validateOnly = false) =>
    resources.create(
      {
        principal: { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] },
        method: "m",
        request: { schema: TenantSchema, message: create(TenantSchema) },
        requestId: "",
        validateOnly,
      },
      kindOf(input),
      { name, input },
    );
  const tenant = create(TenantSchema, { spec: { dataPlane: dataPlane.name } });
  await make(dataPlane.name, create(DataPlaneSchema));
  await make("tenants/a", tenant);
  for (let i = 0; i < 5; i++) {
    await make("tenants/b", tenant, true);
    await expect(make("tenants/a", tenant)).rejects.toMatchObject({ reason: "ALREADY_EXISTS" });
  }
  await make("tenants/b", tenant);
  await expect(make("tenants/c", tenant, true)).rejects.toMatchObject({ reason: "DATA_PLANE_FULL" });
});
