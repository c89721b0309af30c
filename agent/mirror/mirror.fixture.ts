/** The mirror of a test on the cluster in memory, which may be started again and again. */
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { onTestFinished } from "vitest";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import type { KubeObject } from "../kube/object.ts";
import { ClusterMirror } from "./cluster-mirror.ts";
import { SyncState } from "./sync-state.ts";
import { manualClock } from "./testing.ts";

export const apiVersion = "moorage.dev/v1alpha1";
export const namespace = "moorage-system";

/** `inventories`: the uids that have one. All that was started stops with the test. */
export async function mirrorRig(options: { hasHub?: boolean; inventories?: ReadonlySet<string> } = {}) {
  const { hasHub = true, inventories } = options;
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const kube = cluster.client();
  const session = kube.asAgent();
  const lease = { held: true };
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  const start = async () => {
    const stop = new AbortController();
    onTestFinished(() => stop.abort(new DOMException("ended", "AbortError")));
    const state = new SyncState({ session, namespace });
    await state.load();
    const mirror = new ClusterMirror({
      kube,
      namespace,
      clock,
      rng: seededRng(2),
      log: memoryLogger(),
      state,
      mayWrite: () => lease.held && !stop.signal.aborted,
      hasHub,
      ...(inventories === undefined ? {} : { hasInventory: (uid: string) => inventories.has(uid) }),
    });
    void mirror.run(stop.signal);
    await mirror.whenSynced(stop.signal);
    return { mirror, stop, state };
  };
  const get = (kind: string, name: string): Promise<KubeObject> =>
    session.get({ apiVersion, kind, namespace, name });
  const tenants = async () => (await session.list({ apiVersion, kind: "Tenant" }, { namespace })).items;
  return { clock, cluster, session, start, get, tenants, lease };
}
