/** What the engine's tests on the in-memory cluster share. */
import type { Clock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { createMemoryCluster, type MemoryCluster } from "../kube/memory-cluster.ts";
import type { KubeObject } from "../kube/object.ts";
import type { ApplyPolicy, ApplyResult, ApplySetInput } from "./apply-set.ts";
import { PART_OF_LABEL } from "./labels.ts";
import { LiveCache, reduceMember } from "./live.ts";
import { applySet } from "./run.ts";
import type { InventoryEntry } from "./types.ts";

/** A clock that stands still. */
export const fixed: Clock = {
  now: () => Date.UTC(2030, 0, 1),
  monotonicMs: () => 0,
  setTimer: () => ({ cancel: () => {} }),
};
const WRITES = new Set(["create", "update", "apply", "patch", "delete"]);

/** One application on one in-memory cluster; the inventory survives between runs. */
export function application(cluster: MemoryCluster, name = "shop") {
  const client = cluster.client();
  const reduce = { now: fixed.now };
  const live = new LiveCache({ session: client.asAgent(), discovery: client.discovery, reduce });
  const state = { inventory: [] as readonly InventoryEntry[], writes: [] as (readonly InventoryEntry[])[] };
  const input: Omit<ApplySetInput, "desired" | "inventory"> = {
    applier: { scope: "DataPlane", session: client.asAgent() },
    discovery: client.discovery,
    live,
    reduce,
    identity: {
      parent: { name, namespace: "moorage", kind: "Application", group: "moorage.dev" },
      fieldManager: `moorage.${name}`,
      application: name,
      dataPlane: "dp",
    },
    defaultNamespace: "default",
    writeInventory: (entries) => {
      if (entries !== state.inventory) state.writes.push(entries);
      state.inventory = entries;
      return Promise.resolve();
    },
  };
  return {
    state,
    live,
    input,
    /** What a reflector does: takes the cluster's state in. */
    sync() {
      for (const kind of cluster.store.kinds()) {
        for (const version of kind.versions) {
          const apiVersion = kind.group === "" ? version : `${kind.group}/${version}`;
          const seen = cluster.store.list({ apiVersion, kind: kind.kind });
          for (const s of [...live.states()]) {
            if (
              s.id.kind === kind.kind &&
              s.id.group === kind.group &&
              !seen.some((o) => o.metadata.uid === s.uid)
            )
              live.forget(s.id, s.uid);
          }
          for (const o of seen)
            if (o.metadata.labels?.[PART_OF_LABEL] !== undefined) live.observe(reduceMember(o, reduce));
        }
      }
    },
    run(desired: readonly KubeObject[], policy: ApplyPolicy = {}): Promise<ApplyResult> {
      return applySet({ ...input, desired, inventory: state.inventory, policy });
    },
  };
}

/** An empty cluster; the same for each test. */
export const newCluster = () => createMemoryCluster({ clock: fixed, rng: seededRng(7) });
/** A manifest without namespace. */
export const configMap = (
  name: string,
  data: Record<string, string> = { a: "1" },
  metadata: object = {},
): KubeObject => ({ apiVersion: "v1", kind: "ConfigMap", metadata: { name, ...metadata }, data });
/** `name:action` of each desired object. */
export const actions = (result: ApplyResult) => result.objects.map((o) => `${o.id.name}:${o.action}`);
/** Calls that wrote, in order. */
export const writesOf = (cluster: MemoryCluster) =>
  cluster.calls.filter((c) => WRITES.has(c.verb) && !c.dryRun);
/** An object of namespace `default`, straight from the store. */
export const read = (cluster: MemoryCluster, name: string, kind = "ConfigMap") =>
  cluster.store.get({
    apiVersion: "v1",
    kind,
    name,
    ...(kind === "Namespace" ? {} : { namespace: "default" }),
  });
/** Whether a ConfigMap of that name lives. */
export const exists = (cluster: MemoryCluster, name: string) =>
  cluster.store.list({ apiVersion: "v1", kind: "ConfigMap" }).some((o) => o.metadata.name === name);
