/** Deletions of local resources that were there before the mirror, on the cluster in memory. */
import { REMOVAL_FINALIZER } from "@moorage/shared/install/crds";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import { ClusterMirror } from "./cluster-mirror.ts";
import { SyncState } from "./sync-state.ts";
import { manualClock, settle } from "./testing.ts";

const namespace = "moorage-system";
const apiVersion = "moorage.dev/v1alpha1";

it("shows no tenant as going before the deletions of its applications are known for orders", async () => {
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const kube = cluster.client();
  const session = kube.asAgent();
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  const finalizers = [REMOVAL_FINALIZER];
  for (const [kind, name] of [
    ["Tenant", "tenants/acme"],
    ["Application", "tenants/acme/applications/web"],
  ] as const) {
    const ref = { apiVersion, kind, namespace, name: name.split("/").at(-1) ?? "" };
    const metadata = { name: ref.name, namespace, finalizers };
    await session.create({ apiVersion, kind, metadata, spec: { origin: "local", name, desired: {} } });
    await session.delete(ref);
  }
  const down = new KubeError("down", { status: 503, reason: "ServiceUnavailable" });
  cluster.faults = {
    before(call) {
      if (call.verb === "get" && call.ref.name === "web") throw down;
    },
  };
  const state = new SyncState({ session, namespace });
  await state.load();
  const mirror = new ClusterMirror({
    kube,
    namespace,
    clock,
    rng: seededRng(2),
    log: memoryLogger(),
    state,
    mayWrite: () => true,
    hasHub: false,
  });
  const stop = new AbortController();
  const ended = mirror.run(stop.signal);
  await mirror.whenSynced(stop.signal);
  await clock.advance(30_000);
  expect([...mirror.list("Tenant"), ...mirror.list("Application")]).toEqual([]);
  cluster.faults = {};
  await clock.advance(30_000);
  expect(mirror.list("Tenant").map((r) => r.removal?.revision)).toEqual([0]);
  expect(mirror.list("Application").map((r) => r.removal?.revision)).toEqual([0]);
  stop.abort(new DOMException("ended", "AbortError"));
  await settle();
  await ended.catch(() => undefined);
});
