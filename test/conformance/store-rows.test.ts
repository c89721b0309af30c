import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { RowOp, Store } from "@moorage/hub/store/store";
import { limits } from "@moorage/shared/limits";
import { bytes, engines, manualClock, putOp, text } from "./support.ts";

/** The read model that the sync protocol is served from. */

const put = (dp: string, uid: string, body: string, del = false): RowOp => ({
  upsertRes: { dp, uid, name: `tenants/${uid}`, del, update: bytes(body) },
});
const drop = (dp: string, uid: string): RowOp => ({ dropRes: { dp, uid } });

describe.each(engines)("The read model of the $name store", (engine) => {
  let store: Store;
  let dispose: () => Promise<void>;
  beforeEach(async () => {
    ({ store, dispose } = await engine.open({ clock: manualClock() }));
    await write({ putDp: { uid: "dp" } }, { putDp: { uid: "other" } });
  });
  afterEach(() => dispose());

  const write = async (...rows: RowOp[]): Promise<number> => (await store.txn({ then: [], rows })).rev;
  const changes = (after: number, limit = 100, maxBytes = 1_000_000, dp = "dp") =>
    store.changes({ dp, after, limit, maxBytes });
  const shown = async (...args: Parameters<typeof changes>): Promise<string[]> =>
    (await changes(...args)).rows.map((r) => `${r.rev} ${r.uid} ${r.del ? "removed" : text(r.update)}`);

  it("keeps each resource once, at its last revision", async () => {
    await write(put("dp", "a", "1"), put("dp", "b", "1"));
    await write(put("dp", "c", "1"));
    await write(put("dp", "a", "2"));
    expect(await shown(0)).toEqual(["3 b 1", "4 c 1", "5 a 2"]);
    expect(await shown(4)).toEqual(["5 a 2"]);
    expect(await changes(5)).toEqual({ rows: [], head: 5, floor: 0, more: false });
  });

  it("stands at the txn's revision, with the keys of the same txn", async () => {
    const { rev } = await store.txn({ then: [putOp("tenants/a")], rows: [put("dp", "a", "1")] });
    expect(await store.resByUid("dp", "a")).toEqual({
      rev,
      uid: "a",
      name: "tenants/a",
      del: false,
      update: bytes("1"),
    });
  });

  it("writes no row when a compare fails, nor when the txn is refused", async () => {
    const key = bytes("k");
    await store.txn({
      if: [{ key, target: "version", op: ">", to: 0 }],
      then: [],
      else: [putOp("k")],
      rows: [put("dp", "a", "1")],
    });
    await expect(
      store.txn({ then: [putOp("k", "2")], rows: [put("dp", "a", "1"), put("unknown", "a", "1")] }),
    ).rejects.toMatchObject({ reason: "DATA_PLANE_UNKNOWN" });
    expect(await changes(0)).toEqual({ rows: [], head: 3, floor: 0, more: false });
  });

  it("bumps for a change of rows alone, and not for one without effect", async () => {
    expect(await write(put("dp", "a", "1"))).toBe(3);
    expect(await write(drop("dp", "none"), { putDp: { uid: "dp" } }, { dropDp: { uid: "none" } })).toBe(3);
    expect(await write(drop("dp", "a"))).toBe(4);
  });

  it("raises the floor to the revision of the tombstone it drops, never lower", async () => {
    await write(put("dp", "a", "", true));
    await write(put("dp", "b", "", true));
    expect(await store.floor("dp")).toBe(0);
    await write(drop("dp", "b"));
    expect(await store.floor("dp")).toBe(4);
    await write(drop("dp", "a"));
    expect(await changes(0)).toEqual({ rows: [], head: 6, floor: 4, more: false });
    expect(await store.floor("other")).toBe(0);
  });

  it("serves tombstones among the rows", async () => {
    await write(put("dp", "a", "1"));
    await write(put("dp", "a", "", true));
    expect(await shown(0)).toEqual(["4 a removed"]);
  });

  it("lets one name be borne by an old tombstone and a new resource", async () => {
    const named = (uid: string, del: boolean): RowOp => ({
      upsertRes: { dp: "dp", uid, name: "tenants/acme", del, update: bytes(uid) },
    });
    await write(named("old", true));
    await write(named("new", false));
    expect(await shown(0)).toEqual(["3 old removed", "4 new new"]);
  });

  it("never splits a revision, but for one that alone exceeds the limits comes whole", async () => {
    await write(put("dp", "a", "xxxx"), put("dp", "b", "xxxx"), put("dp", "c", "xxxx"));
    await write(put("dp", "d", "xxxx"));
    await write(put("dp", "e", "xxxx"), put("dp", "f", "xxxx"));
    const revs = async (...args: Parameters<typeof changes>) => {
      const { rows, more } = await changes(...args);
      return [rows.map((r) => r.rev), more];
    };
    expect(await revs(0, 2)).toEqual([[3, 3, 3], true]);
    expect(await revs(3, 2)).toEqual([[4], true]);
    expect(await revs(4, 2)).toEqual([[5, 5], false]);
    expect(await revs(0, 5)).toEqual([[3, 3, 3, 4], true]);
    expect(await revs(0, 6)).toEqual([[3, 3, 3, 4, 5, 5], false]);
    expect(await revs(0, 100, 1)).toEqual([[3, 3, 3], true]);
    expect(await revs(0, 100, 16)).toEqual([[3, 3, 3, 4], true]);
    expect(await revs(3, 100, 11)).toEqual([[4], true]);
  });

  it("reaches every row by pages of changes while rows move", async () => {
    for (let i = 0; i < 30; i++) await write(put("dp", `r${i}`, `${i}`));
    const held = new Map<string, string>();
    let after = 0;
    for (let page = 0; ; page++) {
      const { rows, more } = await changes(after, 4);
      for (const r of rows) held.set(r.uid, text(r.update));
      after = rows.at(-1)?.rev ?? after;
      if (!more) break;
      if (page < 5) await write(put("dp", `r${page * 3}`, "moved"));
    }
    const all = await store.resAll("dp", { limit: 100 });
    expect(Object.fromEntries(held)).toEqual(Object.fromEntries(all.map((r) => [r.uid, text(r.update)])));
    expect(held.size).toBe(30);
  });

  it("pages all rows in order of uid", async () => {
    await write(put("dp", "c", "1"), put("dp", "a", "1"), put("other", "z", "1"));
    await write(put("dp", "b", "1", true));
    const uids = async (q: { afterUid?: string; limit: number }) =>
      (await store.resAll("dp", q)).map((r) => r.uid);
    expect(await uids({ limit: 2 })).toEqual(["a", "b"]);
    expect(await uids({ limit: 2, afterUid: "b" })).toEqual(["c"]);
    expect(await uids({ limit: 2, afterUid: "c" })).toEqual([]);
  });

  it("keeps data planes apart, and forgets one with all its rows", async () => {
    await write(put("dp", "a", "1"), put("other", "a", "2"));
    await write({ dropDp: { uid: "dp" } });
    expect(await shown(0, 10, 10, "other")).toEqual(["3 a 2"]);
    expect(await store.resByUid("dp", "a")).toBeUndefined();
    await expect(changes(0)).rejects.toMatchObject({ reason: "DATA_PLANE_UNKNOWN" });
    await expect(store.floor("dp")).rejects.toMatchObject({ reason: "DATA_PLANE_UNKNOWN" });
    await expect(store.resAll("dp", { limit: 1 })).rejects.toMatchObject({ reason: "DATA_PLANE_UNKNOWN" });
    await write({ putDp: { uid: "dp" } });
    expect(await changes(0)).toEqual({ rows: [], head: 5, floor: 0, more: false });
  });

  it("moves a resource between data planes in one revision", async () => {
    await write(put("dp", "a", "1"));
    const rev = await write(put("dp", "a", "", true), put("other", "a", "1"));
    expect(await shown(3)).toEqual([`${rev} a removed`]);
    expect(await shown(3, 10, 10, "other")).toEqual([`${rev} a 1`]);
  });

  it("refuses too many rows and too large ones", async () => {
    const many = Array.from({ length: limits.storeTxnOps + 1 }, (_, i) => put("dp", `${i}`, ""));
    await expect(write(...many)).rejects.toMatchObject({ reason: "TOO_MANY_OPS" });
    const large = put("dp", "a", "x".repeat(limits.storeValueBytes + 1));
    await expect(write(large)).rejects.toMatchObject({ reason: "VALUE_TOO_LARGE" });
    const half = "x".repeat(700_000);
    await expect(write(put("dp", "a", half), put("dp", "b", half))).rejects.toMatchObject({
      reason: "TXN_TOO_LARGE",
    });
  });
});
