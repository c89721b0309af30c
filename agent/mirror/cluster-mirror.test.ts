import { Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { rawNumber } from "../kube/json.ts";
import { dig } from "../kube/object.ts";
import { apiVersion, mirrorRig, namespace } from "./mirror.fixture.ts";
import { SyncState } from "./sync-state.ts";
import { cursorAt, settle, tombstone, upsert } from "./testing.ts";

const uidA = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const uidB = "22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const signal = () => new AbortController().signal;

describe("ClusterMirror", () => {
  it("writes the records before the position, and both before it acknowledges", async () => {
    const { cluster, start, get } = await mirrorRig();
    const { mirror } = await start();
    cluster.forgetCalls();
    await mirror.apply(
      {
        updates: [
          upsert("tenants/acme", { uid: uidA, revision: 7 }),
          upsert("tenants/acme/applications/web", { uid: uidB, revision: 8, tenantUid: uidA }),
        ],
        cursor: cursorAt(8),
      },
      signal(),
    );
    const writes = cluster.calls.filter((c) => c.verb === "create").map((c) => c.ref.kind);
    expect(writes).toEqual(["Tenant", "Application", "SyncState"]);
    expect((await get("Tenant", "acme.11111111")).metadata.finalizers).toBeUndefined();
    expect(mirror.get(uidB)?.objectName).toBe("acme.web.22222222");
    expect(mirror.cursor()?.revision).toBe(8n);
  });

  it("holds after a restart what it held before", async () => {
    const { start } = await mirrorRig();
    const first = await start();
    await first.mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    first.stop.abort(new DOMException("ended", "AbortError"));
    const second = await start();
    expect(second.mirror.held()).toEqual(first.mirror.held());
    expect(second.mirror.get(uidA)?.body.value.labels).toEqual({ release: "1" });
    expect(second.mirror.cursor()?.revision).toBe(7n);
  });

  it("ignores an update that is not newer", async () => {
    const { start } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7, label: "new" })], cursor: cursorAt(7) },
      signal(),
    );
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 6, label: "old" })], cursor: undefined },
      signal(),
    );
    expect(mirror.get(uidA)?.body.value.labels).toEqual({ release: "new" });
  });

  it("does not bring back a record that it removed when the watch tells the past once more", async () => {
    const { start, session, cluster, clock } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    await settle();
    // The watch is between two connections: all that happens now comes later, as a story of the past.
    cluster.dropWatches();
    await settle();
    await mirror.apply(
      { updates: [tombstone("tenants/acme", { uid: uidA, revision: 9 })], cursor: cursorAt(9) },
      signal(),
    );
    await mirror.finishRemoval(uidA);
    const gone = mirror.statuses().find((s) => s.uid === uidA);
    if (gone === undefined) throw new Error("nothing was reported");
    mirror.acknowledged(gone);
    await settle();
    await clock.advance(60_000);
    expect(mirror.held()).toEqual([]);
    expect(mirror.list("Tenant")).toEqual([]);
    expect((await session.list({ apiVersion, kind: "Tenant" }, { namespace })).items).toEqual([]);
  });

  it("tries a delete again that was refused for another reason than its uid", async () => {
    const { start, session, cluster, clock } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    await mirror.apply(
      { updates: [tombstone("tenants/acme", { uid: uidA, revision: 9 })], cursor: cursorAt(9) },
      signal(),
    );
    await mirror.finishRemoval(uidA);
    const gone = mirror.statuses().find((s) => s.uid === uidA);
    if (gone === undefined) throw new Error("nothing was reported");
    let refusals = 1;
    cluster.faults.before = (call) => {
      if (call.verb === "delete" && refusals-- > 0)
        throw new KubeError("the object was modified", { status: 409, reason: "Conflict" });
    };
    mirror.acknowledged(gone);
    await settle();
    await clock.advance(60_000);
    expect((await session.list({ apiVersion, kind: "Tenant" }, { namespace })).items).toEqual([]);
  });

  it("R15: a write that waits for its next try is not made once the Lease is lost", async () => {
    const { start, session, cluster, clock, lease } = await mirrorRig();
    const { mirror, state } = await start();
    await state.write({ ...state.position, term: 4 });
    cluster.faults.before = (call) => {
      if (call.verb === "create" || call.verb === "update")
        throw new KubeError("not now", { status: 503, reason: "ServiceUnavailable" });
    };
    const writing = mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    writing.catch(() => undefined);
    await settle();
    cluster.faults = {};
    lease.held = false;
    // The newer holder took its term.
    const newer = new SyncState({ session, namespace });
    await newer.load();
    await newer.write({ ...newer.position, term: 5 });
    cluster.forgetCalls();
    await clock.advance(600_000);
    await expect(writing).rejects.toThrow("The Lease is not held");
    expect(cluster.calls.filter((c) => !["get", "list", "watch"].includes(c.verb))).toEqual([]);
    await expect(state.write({ ...state.position, term: 4, highestRevision: 9 })).rejects.toThrow();
    await newer.load();
    expect(newer.position.term).toBe(5);
  });

  it("writes a status again that the API server refused, though nothing changed since", async () => {
    const { start, cluster, get } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    const status = { observedGeneration: 1, conditions: [] };
    cluster.faults.before = (call) => {
      if (call.verb === "patch")
        throw new KubeError("not now", { status: 503, reason: "ServiceUnavailable" });
    };
    await expect(mirror.setStatus(uidA, status, { settled: true })).rejects.toThrow("not now");
    cluster.faults = {};
    expect(dig(await get("Tenant", "acme.11111111"), "status")).toBeUndefined();
    await mirror.setStatus(uidA, status, { settled: true });
    expect(dig(await get("Tenant", "acme.11111111"), "status", "observedGeneration")).toBe(1);
    cluster.forgetCalls();
    await mirror.setStatus(uidA, status, { settled: true });
    expect(cluster.calls.filter((c) => c.verb === "patch")).toEqual([]);
  });

  it("writes a record anew that was deleted by hand", async () => {
    const { start, session, get } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    const before = await get("Tenant", "acme.11111111");
    await session.delete({ apiVersion, kind: "Tenant", namespace, name: "acme.11111111" });
    await settle(40);
    const after = await get("Tenant", "acme.11111111");
    expect(after.metadata.uid).not.toBe(before.metadata.uid);
    expect(after["spec"]).toEqual(before["spec"]);
    expect(mirror.get(uidA)?.removal).toBeUndefined();
  });

  it("restores a record that was edited by hand", async () => {
    const { start, session, get } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    await session.mergePatch(
      { apiVersion, kind: "Tenant", namespace, name: "acme.11111111" },
      { spec: { removal: { revision: 99, orphan: false } } },
    );
    await settle(40);
    expect(dig(await get("Tenant", "acme.11111111"), "spec", "removal")).toBeUndefined();
    expect(mirror.get(uidA)?.removal).toBeUndefined();
  });

  it.each(["revision", "generation", "rejected"])(
    "reads on past a record whose %s is beyond 2^53, and has it written anew by the hub",
    async (field) => {
      const { start, session, get } = await mirrorRig();
      const first = await start();
      await first.mirror.apply(
        { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
        signal(),
      );
      const huge = rawNumber("18446744073709551615");
      const value =
        field === "rejected" ? { revision: huge, digest: "", reason: "Malformed", message: "" } : huge;
      first.stop.abort(new DOMException("ended", "AbortError"));
      await session.mergePatch(
        { apiVersion, kind: "Tenant", namespace, name: "acme.11111111" },
        { spec: { [field]: value } },
      );
      const second = await start();
      await second.mirror.apply(
        {
          updates: [
            upsert("tenants/acme", { uid: uidA, revision: 8, label: "2" }),
            upsert("tenants/blue", { uid: uidB, revision: 9 }),
          ],
          cursor: cursorAt(9),
        },
        signal(),
      );
      await settle(40);
      expect(second.mirror.list("Tenant").map((r) => [r.name, r.revision])).toEqual([
        ["tenants/acme", 8],
        ["tenants/blue", 9],
      ]);
      expect(dig(await get("Tenant", "acme.11111111"), "spec", field)).toEqual(
        { revision: 8, generation: 1, rejected: undefined }[field],
      );
    },
  );

  it("waits for an object that is being deleted without holding up another resource", async () => {
    const { start, session, get, clock } = await mirrorRig();
    const name = "acme.11111111";
    await session.create({
      apiVersion,
      kind: "Tenant",
      metadata: { name, namespace, finalizers: ["example.com/hold"] },
      spec: { origin: "hub", name: "tenants/acme", uid: "11111111-old", revision: 1 },
    });
    await session.delete({ apiVersion, kind: "Tenant", namespace, name });
    const { mirror } = await start();
    let acked = false;
    const batch = mirror
      .apply(
        {
          updates: [
            upsert("tenants/acme", { uid: uidA, revision: 7 }),
            upsert("tenants/globex", { uid: uidB, revision: 8 }),
          ],
          cursor: cursorAt(8),
        },
        signal(),
      )
      .then(() => (acked = true));
    await settle(40);
    expect(mirror.get(uidB)?.name).toBe("tenants/globex");
    expect(acked).toBe(false);
    await session.jsonPatch({ apiVersion, kind: "Tenant", namespace, name }, [
      { op: "remove", path: "/metadata/finalizers" },
    ]);
    await clock.advance(1_000);
    await batch;
    expect(dig(await get("Tenant", name), "spec", "uid")).toBe(uidA);
  });

  it("keeps the last accepted body when a newer one cannot be decoded, and says so after a restart too", async () => {
    const { start } = await mirrorRig();
    const first = await start();
    await first.mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    const bad = upsert("tenants/acme", { uid: uidA, revision: 9, body: Uint8Array.of(0x0a, 0xff) });
    await first.mirror.apply({ updates: [bad], cursor: cursorAt(9) }, signal());
    first.stop.abort(new DOMException("ended", "AbortError"));
    const { mirror } = await start();
    expect(mirror.get(uidA)?.body.value.labels).toEqual({ release: "1" });
    const verdict = mirror.status(uidA)?.verdict;
    expect(verdict).toMatchObject({ state: Verdict_State.REJECTED, reason: "Malformed", revision: 9n });
    expect(mirror.held()[0]?.revision).toBe(9);
  });

  it("never shows the kinds a resource whose first body was refused", async () => {
    const { start } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      {
        updates: [upsert("tenants/acme", { uid: uidA, revision: 7, body: Uint8Array.of(0x0a, 0xff) })],
        cursor: cursorAt(7),
      },
      signal(),
    );
    expect(mirror.list("Tenant")).toEqual([]);
    expect(mirror.held()).toHaveLength(1);
  });

  it("withdraws a removal on a newer update", async () => {
    const { start } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    await mirror.apply(
      { updates: [tombstone("tenants/acme", { uid: uidA, revision: 8 })], cursor: cursorAt(8) },
      signal(),
    );
    expect(mirror.get(uidA)?.removal?.revision).toBe(8);
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 9 })], cursor: cursorAt(9) },
      signal(),
    );
    expect(mirror.get(uidA)?.removal).toBeUndefined();
  });

  it("writes status on change alone and tells the link before the write is answered", async () => {
    const { start, cluster, get } = await mirrorRig();
    const { mirror } = await start();
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    const told: unknown[] = [];
    mirror.onStatus((c) => told.push(c));
    const condition = {
      type: "Ready",
      status: "True" as const,
      reason: "Ready",
      message: "",
      lastTransitionTime: "2030-01-01T00:00:00.000Z",
      observedGeneration: 1,
    };
    const written = mirror.setStatus(
      uidA,
      { observedGeneration: 1, conditions: [condition] },
      { settled: true },
    );
    expect(told).toEqual([{ uid: uidA, settled: true }]);
    await written;
    cluster.forgetCalls();
    await mirror.setStatus(uidA, { observedGeneration: 1, conditions: [condition] }, { settled: true });
    expect(cluster.calls).toEqual([]);
    expect(dig(await get("Tenant", "acme.11111111"), "status", "observedGeneration")).toBe(1);
  });

  it("takes the deletion of a local resource as the order to remove it", async () => {
    const { start, session, clock } = await mirrorRig({ hasHub: false });
    const { mirror } = await start();
    await session.create({
      apiVersion,
      kind: "Tenant",
      metadata: { name: "acme", namespace },
      spec: { origin: "local", name: "tenants/acme", desired: { labels: { a: "b" }, spec: {} } },
    });
    await session.create({
      apiVersion,
      kind: "Application",
      metadata: { name: "web", namespace },
      spec: { origin: "local", name: "tenants/acme/applications/web", desired: { spec: {} } },
    });
    await settle(60);
    const [tenant] = mirror.list("Tenant");
    const [application] = mirror.list("Application");
    expect(tenant?.body.value.labels).toEqual({ a: "b" });
    expect(application?.body.kind === "Application" && application.body.value.tenantUid).toBe(tenant?.uid);
    await session.delete({ apiVersion, kind: "Tenant", namespace, name: "acme" });
    await settle(40);
    expect(mirror.list("Tenant")[0]?.removal).toEqual({
      revision: 0,
      orphan: false,
      authorization: new Uint8Array(),
    });
    await mirror.finishRemoval(tenant?.uid ?? "");
    await clock.advance(100);
    expect(mirror.list("Tenant")).toEqual([]);
  });

  it("refuses an update for a name that a local resource bears", async () => {
    const { start, session } = await mirrorRig();
    const { mirror } = await start();
    await session.create({
      apiVersion,
      kind: "Tenant",
      metadata: { name: "acme", namespace },
      spec: { origin: "local", name: "tenants/acme", desired: { spec: {} } },
    });
    await settle(40);
    await mirror.apply(
      { updates: [upsert("tenants/acme", { uid: uidA, revision: 7 })], cursor: cursorAt(7) },
      signal(),
    );
    expect(mirror.status(uidA)?.verdict?.reason).toBe("OriginMismatch");
    expect(mirror.byName("tenants/acme").map((r) => r.origin)).toEqual(["local"]);
  });

  it("says on a local resource why it cannot be read", async () => {
    const { start, session, get } = await mirrorRig();
    const { mirror } = await start();
    await session.create({
      apiVersion,
      kind: "Tenant",
      metadata: { name: "acme", namespace },
      spec: { origin: "local", name: "tenants/acme", desired: { spec: { isolation: "NO_SUCH_LEVEL" } } },
    });
    await settle(40);
    expect(mirror.list("Tenant")).toEqual([]);
    expect(dig(await get("Tenant", "acme"), "status", "conditions")).toMatchObject([
      { type: "Ready", status: "False", reason: "Malformed" },
    ]);
  });
});
