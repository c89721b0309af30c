/** Removals that are complete: when that is told, and how it ends. */
import { describe, expect, it } from "vitest";
import { dig } from "../kube/object.ts";
import { apiVersion, mirrorRig, namespace } from "./mirror.fixture.ts";
import { cursorAt, settle, tombstone, upsert } from "./testing.ts";

const uidA = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const uidB = "22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
type Mirror = Awaited<ReturnType<Awaited<ReturnType<typeof mirrorRig>>["start"]>>["mirror"];
const signal = () => new AbortController().signal;
const take = (
  mirror: Mirror,
  revision: number,
  ...updates: Parameters<Mirror["apply"]>[0]["updates"][number][]
) => mirror.apply({ updates, cursor: cursorAt(revision) }, signal());

describe("a removal", () => {
  it("is told of a completed removal across a restart, and the record forgotten once the hub has it", async () => {
    const { start, tenants } = await mirrorRig();
    const first = await start();
    await take(first.mirror, 7, upsert("tenants/acme", { uid: uidA, revision: 7 }));
    await take(first.mirror, 8, tombstone("tenants/acme", { uid: uidA, revision: 8 }));
    await first.mirror.finishRemoval(uidA);
    first.stop.abort(new DOMException("ended", "AbortError"));
    const { mirror } = await start();
    expect(mirror.get(uidA)).toBeUndefined();
    const status = mirror.status(uidA);
    expect(status?.gone).toBe(true);
    mirror.acknowledged(status as NonNullable<typeof status>);
    await settle();
    expect(await tenants()).toEqual([]);
  });

  it("that is taken back after it was told stays taken back, also across a restart", async () => {
    const { clock, start, tenants } = await mirrorRig();
    const first = await start();
    await take(first.mirror, 1, upsert("tenants/acme", { uid: uidA, revision: 1 }));
    await take(first.mirror, 2, tombstone("tenants/acme", { uid: uidA, revision: 2 }));
    await first.mirror.finishRemoval(uidA);
    expect(dig((await tenants())[0], "status", "gone")).toBe(true);
    await take(first.mirror, 3, upsert("tenants/acme", { uid: uidA, revision: 3, label: "2" }));
    expect(dig((await tenants())[0], "status", "gone")).toBeUndefined();
    await clock.advance(1_000);
    first.stop.abort(new DOMException("ended", "AbortError"));
    const { mirror } = await start();
    expect(mirror.status(uidA)?.gone).toBe(false);
    expect(mirror.get(uidA)?.body.value.labels).toEqual({ release: "2" });
  });

  it.each(["patch", "update"])(
    "that is taken back is either there or wanted when the agent dies before its %s is answered",
    async (verb) => {
      const { cluster, start, tenants } = await mirrorRig();
      const first = await start();
      await take(first.mirror, 1, upsert("tenants/acme", { uid: uidA, revision: 1 }));
      await take(first.mirror, 2, tombstone("tenants/acme", { uid: uidA, revision: 2 }));
      await first.mirror.finishRemoval(uidA);
      const answered = Promise.withResolvers<void>();
      cluster.faults = {
        after(call) {
          if (call.verb !== verb || call.ref.kind !== "Tenant") return;
          first.stop.abort(new DOMException("ended", "AbortError"));
          answered.resolve();
        },
      };
      const lost = take(first.mirror, 3, upsert("tenants/acme", { uid: uidA, revision: 3, label: "2" }));
      lost.catch(() => undefined);
      await answered.promise;
      await settle();
      cluster.faults = {};
      expect(dig((await tenants())[0], "status", "gone")).toBeUndefined();
      const { mirror } = await start();
      expect(mirror.status(uidA)?.gone).toBe(false);
      expect(mirror.get(uidA)).toBeDefined();
    },
  );

  it("that ends while the hub takes it back is not told", async () => {
    const { cluster, start, tenants } = await mirrorRig();
    const { mirror } = await start();
    await take(mirror, 1, upsert("tenants/acme", { uid: uidA, revision: 1 }));
    await take(mirror, 2, tombstone("tenants/acme", { uid: uidA, revision: 2 }));
    const go = Promise.withResolvers<void>();
    cluster.faults = {
      before: (call) => (call.verb === "update" && call.ref.kind === "Tenant" ? go.promise : undefined),
    };
    const taken = take(mirror, 3, upsert("tenants/acme", { uid: uidA, revision: 3, label: "2" }));
    await settle();
    const finished = mirror.finishRemoval(uidA);
    await settle();
    go.resolve();
    await Promise.all([taken, finished]);
    expect(mirror.status(uidA)?.gone).toBe(false);
    expect(dig((await tenants())[0], "status", "gone")).toBeUndefined();
    expect(mirror.get(uidA)?.removal).toBeUndefined();
  });

  it("is not read from the status of a record that is wanted", async () => {
    const { cluster, start, tenants } = await mirrorRig();
    const { mirror } = await start();
    await take(mirror, 1, upsert("tenants/acme", { uid: uidA, revision: 1 }));
    const [object] = await tenants();
    await cluster
      .client()
      .asAgent()
      .mergePatch(
        { apiVersion, kind: "Tenant", namespace, name: object?.metadata.name ?? "" },
        { status: { gone: true } },
        { subresource: "status" },
      );
    await settle(40);
    expect(mirror.get(uidA)).toBeDefined();
    expect(mirror.status(uidA)?.gone).toBe(false);
  });

  it("of what is not held is answered at once, and remembered with the position", async () => {
    const { start } = await mirrorRig();
    const first = await start();
    await take(first.mirror, 8, tombstone("tenants/acme", { uid: uidA, revision: 8 }));
    first.stop.abort(new DOMException("ended", "AbortError"));
    const { mirror } = await start();
    expect(mirror.statuses().map((s) => [s.uid, s.gone])).toEqual([[uidA, true]]);
  });

  it("of what has an inventory here is carried out, although the record was lost", async () => {
    const { start } = await mirrorRig({ inventories: new Set([uidB]) });
    const { mirror } = await start();
    await take(mirror, 7, upsert("tenants/acme", { uid: uidA, revision: 7 }));
    const order = tombstone("tenants/acme/applications/web", { uid: uidB, revision: 8 });
    await take(mirror, 8, order);
    expect(mirror.status(uidB)?.gone).toBe(false);
    const record = mirror.get(uidB);
    expect(record).toMatchObject({ objectName: "acme.web.22222222", removal: { revision: 8 } });
    expect(record?.body.kind === "Application" && record.body.value.tenantUid).toBe(uidA);
    expect(mirror.held().find((h) => h.uid === uidB)).toMatchObject({ revision: 8, removing: true });
    await mirror.finishRemoval(uidB);
    expect(mirror.status(uidB)?.gone).toBe(true);
  });

  it("of what has an inventory here is carried out, although its newest body was never accepted", async () => {
    const { start } = await mirrorRig({ inventories: new Set([uidA]) });
    const first = await start();
    const bad = upsert("tenants/acme", { uid: uidA, revision: 7, body: Uint8Array.of(0x0a, 0xff) });
    await take(first.mirror, 7, bad);
    expect(first.mirror.get(uidA)).toBeUndefined();
    await take(first.mirror, 8, tombstone("tenants/acme", { uid: uidA, revision: 8 }));
    expect(first.mirror.status(uidA)?.gone).toBe(false);
    first.stop.abort(new DOMException("ended", "AbortError"));
    const { mirror } = await start();
    expect(mirror.get(uidA)?.removal?.revision).toBe(8);
  });
});
