/**
 * The queues and loops of the tenant and application controllers, and what brings a key into them:
 *
 * | event                                   | keys                                             |
 * | --------------------------------------- | ------------------------------------------------ |
 * | a record changes in spec or removal     | itself; its tenant when it goes                  |
 * | a record's conditions change            | what waits for it: a tenant's applications, dependents |
 * | a live object of ours changes           | its owner, by the label that carries the uid     |
 * | a NetworkPolicy in a tenant's namespace | the tenant                                       |
 * | every four minutes, or the gate changes | everything                                       |
 *
 * A key is a uid; the controller reads all else itself.
 */
import type { Clock } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import type { ApplyResult } from "../apply/apply-set.ts";
import { createFightLog } from "../apply/fights.ts";
import { APPLICATION_LABEL } from "../apply/labels.ts";
import { createLoop } from "../control/loop.ts";
import type { LoopMetrics } from "../control/loop.ts";
import { Priority, createQueue } from "../control/queue.ts";
import type { WorkQueue } from "../control/queue.ts";
import { isKubeError } from "../kube/errors.ts";
import type { Mirror, MirrorRecord } from "../mirror/mirror.ts";
import type { BundleStore } from "./application/bundle-store.ts";
import { applicationController } from "./application/controller.ts";
import type { KindContext, KindController } from "./context.ts";
import type { LiveChange } from "./live-objects.ts";
import { matters } from "./live-objects.ts";
import { tenantController } from "./tenant/controller.ts";
import { namespaceName } from "./tenant/plan.ts";

/** The period of the full comparison and its jitter (reconcile-engine.md section 11). */
export const fullCompareMs = 4 * 60_000;
export const fullCompareJitterMs = 30_000;

/** Reconciles under way at a time, by kind. */
const workers = { Tenant: 4, Application: 8 } as const;

/** What the wiring needs beside the kinds' own context. */
export interface ControllersDeps {
  /** The context without what is made here. */
  context: Omit<KindContext, "mirror" | "fights" | "applied">;
  /** Told of every run of the apply engine. */
  applied?: (result: ApplyResult) => void;
  mirror: Mirror;
  bundles: BundleStore;
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Called with each full compare: what is to be looked at beside the records. */
  onFullCompare?: () => void;
  metrics?: (kind: "Tenant" | "Application") => LoopMetrics;
}

/** Starts the controllers as one Service; `wakeAll` is for a changed gate or a regained Lease. */
export function createControllers(
  deps: ControllersDeps,
): Service & { wakeAll(): void; readonly pending: number } {
  const queues: Record<"Tenant" | "Application", WorkQueue> = {
    Tenant: createQueue({ clock: deps.clock, rng: deps.rng }),
    Application: createQueue({ clock: deps.clock, rng: deps.rng }),
  };
  const mirror = announcing(deps.mirror, (record) => wakeWaiting(record));
  const context: KindContext = {
    ...deps.context,
    mirror,
    fights: createFightLog(() => deps.clock.monotonicMs()),
    applied: (result) => deps.applied?.(result),
  };

  const add = (record: MirrorRecord, priority: Priority): void => {
    if (record.kind === "DataPlane") return;
    queues[record.kind].add(record.uid, { priority, tenant: tenantUid(record) });
  };

  /** After a condition change: whoever may have waited for it. */
  function wakeWaiting(record: MirrorRecord): void {
    for (const app of deps.mirror.list("Application")) {
      if (app.body.kind !== "Application" || app.uid === record.uid) continue;
      const waits =
        record.kind === "Tenant"
          ? app.body.value.tenantUid === record.uid
          : app.body.value.spec?.dependsOn.includes(record.name) === true;
      if (waits) add(app, Priority.health);
    }
  }

  function onRecord(uid: string): void {
    const record = deps.mirror.get(uid);
    if (record === undefined) {
      // Gone: tenants wait for their applications, dependencies for their dependents.
      for (const r of [...deps.mirror.list("Tenant"), ...deps.mirror.list("Application")])
        if (r.removal !== undefined) add(r, Priority.command);
      return;
    }
    if (record.kind === "DataPlane") {
      wakeAll();
      return;
    }
    queues[record.kind].forget(uid);
    add(record, record.removal === undefined ? Priority.spec : Priority.command);
    if (record.kind === "Tenant") {
      wakeWaiting(record);
      // A peer that arrives or goes changes what other tenants can be granted.
      for (const t of deps.mirror.list("Tenant")) if (t.uid !== uid) add(t, Priority.resync);
    }
  }

  function onLive(change: LiveChange): void {
    if (!matters(change)) return;
    const owner = change.labels[APPLICATION_LABEL];
    const record = owner === undefined ? undefined : deps.mirror.get(owner);
    if (record !== undefined) add(record, Priority.drift);
    if (change.id.kind !== "NetworkPolicy") return;
    for (const t of deps.mirror.list("Tenant")) {
      if (t.uid !== owner && namespaceName(t.name.replace(/^tenants\//, "")) === change.id.namespace)
        add(t, Priority.drift);
    }
  }

  function wakeAll(): void {
    for (const r of [...deps.mirror.list("Tenant"), ...deps.mirror.list("Application")])
      add(r, Priority.resync);
  }

  const controllers: KindController[] = [
    tenantController(context),
    applicationController(context, deps.bundles),
  ];
  const loops = controllers.map((c) =>
    createLoop({
      name: `${c.kind.toLowerCase()} controller`,
      queue: queues[c.kind],
      workers: workers[c.kind],
      monotonicMs: () => deps.clock.monotonicMs(),
      tenantOf: (uid) => tenantUid(deps.mirror.get(uid)),
      reconcile: async (uid, turn) => {
        try {
          return await c.reconcile(uid, turn.signal);
        } catch (error) {
          // A lost compare-and-set, or an inventory that was deleted: read them anew before the next try.
          if (isKubeError(error, 409) || isKubeError(error, 404)) await context.inventory.load();
          throw error;
        }
      },
      onError: (uid, error) =>
        deps.log.warn("reconcile failed, it is tried again", {
          kind: c.kind,
          name: deps.mirror.get(uid)?.name,
          error,
        }),
      ...(deps.metrics === undefined ? {} : { metrics: deps.metrics(c.kind) }),
    }),
  );

  async function run(signal: AbortSignal): Promise<void> {
    await context.inventory.load();
    const leave = [deps.mirror.subscribe(onRecord), context.live.subscribe(onLive)];
    let timer = schedule();
    function schedule() {
      return deps.clock.setTimer(fullCompareMs + deps.rng.float() * fullCompareJitterMs, () => {
        context.live.relist();
        deps.onFullCompare?.();
        wakeAll();
        timer = schedule();
      });
    }
    wakeAll();
    try {
      await Promise.all(loops.map((l) => l.run(signal)));
    } finally {
      timer.cancel();
      for (const end of leave) end();
    }
  }

  return {
    name: "controllers",
    run,
    drain: async () => {
      await Promise.all(loops.map((l) => l.drain?.() ?? Promise.resolve()));
    },
    wakeAll,
    get pending() {
      return queues.Tenant.depth + queues.Application.depth;
    },
  };
}

/** The mirror, telling of each status that was written: nothing polls for readiness. */
function announcing(mirror: Mirror, onStatus: (record: MirrorRecord) => void): Mirror {
  return {
    list: (kind) => mirror.list(kind),
    get: (uid) => mirror.get(uid),
    byName: (name) => mirror.byName(name),
    subscribe: (fn) => mirror.subscribe(fn),
    get synced() {
      return mirror.synced;
    },
    async setStatus(uid, status, options) {
      const before = mirror.get(uid)?.status;
      await mirror.setStatus(uid, status, options);
      const record = mirror.get(uid);
      if (record !== undefined && gatesDiffer(before?.conditions, record.status?.conditions))
        onStatus(record);
    },
    finishRemoval: (uid) => mirror.finishRemoval(uid),
  };
}

/** The conditions that other records wait for. */
const awaited = ["Ready", "NamespaceReady", "IsolationEnforced", "Frozen"];

type Conditions = readonly { type: string; status: string; observedGeneration: number }[] | undefined;

function gatesDiffer(a: Conditions, b: Conditions): boolean {
  const state = (list: Conditions) =>
    awaited.map((type) => {
      const c = list?.find((x) => x.type === type);
      return `${c?.status}/${c?.observedGeneration}`;
    });
  return state(a).join() !== state(b).join();
}

function tenantUid(record: MirrorRecord | undefined): string {
  if (record === undefined) return "";
  return record.body.kind === "Application" ? record.body.value.tenantUid : record.uid;
}
