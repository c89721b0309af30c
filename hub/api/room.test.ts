import { systemClock } from "@moorage/shared/clock";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { openMemoryStore } from "../store/memory/memory.ts";
import { Room } from "./room.ts";

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

test("a data plane takes resources up to the limit, and again after one has gone", async () => {
  const { store, drop } = await holding(1_202);
  const room = new Room(store, 1_204);
  await room.take(dataPlane);
  await room.take(dataPlane);
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
  await expect(room.take(dataPlane)).rejects.toMatchObject(full);
  await drop("u00000");
  // Room was taken twice and never used: counted anew, three are free.
  await room.take(dataPlane);
  await room.take(dataPlane);
  await room.take(dataPlane);
  await expect(room.take(dataPlane)).rejects.toMatchObject(full);
});

test("other data planes have room of their own", async () => {
  const { store } = await holding(2);
  await store.txn({ then: [], rows: [{ putDp: { uid: "other" } }] });
  const room = new Room(store, 2);
  await expect(room.take(dataPlane)).rejects.toMatchObject({ reason: "DATA_PLANE_FULL" });
  await room.take({ name: "dataPlanes/us", uid: "other" });
});
