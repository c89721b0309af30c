/** The data plane's own record: its conditions, its gate for all writes, and its end. */
import type { Clock, Timer } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Service } from "@moorage/shared/service";
import { statusOf } from "@moorage/shared/conditions/conditions";
import type { AgentSession } from "../../kube/client.ts";
import type { Mirror, MirrorRecord } from "../../mirror/mirror.ts";
import type { WriteGate } from "../context.ts";
import type { Removals } from "../removals.ts";
import type { Fact } from "../status.ts";
import { conditionsWith } from "../status.ts";
import { reviewAccess } from "./access.ts";
import { dataPlaneConditions, dataPlaneTypes, pauses } from "./plan.ts";
import type { PolicyWatch } from "./policy.ts";

/** Rights are reviewed this often: they change without an event. */
const REVIEW_MS = 10 * 60_000;
/** Times in specs (the end of a pause) pass without an event. */
const LOOK_MS = 60_000;

/** What the controller needs. */
export interface DataPlaneDeps {
  session: AgentSession;
  namespace: string;
  mirror: Mirror;
  policy: PolicyWatch;
  removals: Removals;
  clockOffsetMs(): number | undefined;
  leaseHeld(): boolean;
  version: string;
  clock: Clock;
  log: Logger;
  /** The gate changed: everything is to be looked at again. */
  onGate(): void;
}

/** The controller as a Service. */
export interface DataPlaneController extends Service {
  /** What may be written now. */
  gate(): WriteGate;
  /** Something that the conditions speak of changed. */
  wake(): void;
}

/** A controller; nothing happens before `run`. */
export function createDataPlaneController(deps: DataPlaneDeps): DataPlaneController {
  let permissions: Fact | undefined;
  let wake: () => void = () => undefined;
  let dirty = true;
  let lastGate = "";

  const current = (): MirrorRecord | undefined => {
    const records = deps.mirror.list("DataPlane");
    return records.find((r) => r.removal === undefined) ?? records[0];
  };

  function gate(): WriteGate {
    const record = current();
    const spec = record?.body.kind === "DataPlane" ? record.body.value.spec : undefined;
    const state = deps.policy.current();
    const paused = pauses(spec, state, deps.clock.now());
    return { mode: state.policy.mode, paused: paused.by.length === 0 ? undefined : paused.message };
  }

  async function reconcile(): Promise<void> {
    const now = JSON.stringify(gate());
    if (now !== lastGate) {
      lastGate = now;
      deps.onGate();
    }
    if (!deps.leaseHeld()) return;
    const guard = deps.removals.decide();
    for (const record of deps.mirror.list("DataPlane")) {
      if (record.body.kind !== "DataPlane") continue;
      const left = deps.mirror.list("Tenant").length + deps.mirror.list("Application").length;
      const facts = dataPlaneConditions({
        policy: deps.policy.current(),
        spec: record.body.value.spec,
        permissions,
        guard,
        clockOffsetMs: deps.clockOffsetMs(),
        version: deps.version,
        mirrorSynced: deps.mirror.synced,
        notReady: deps.mirror
          .list("Application")
          .filter(
            (a) =>
              a.name.startsWith("dataPlanes/") &&
              a.removal === undefined &&
              statusOf(a.status?.conditions ?? [], "Ready") !== "True",
          )
          .map((a) => a.name),
        removing: record.removal === undefined ? undefined : { left },
        nowMs: deps.clock.now(),
      });
      const conditions = conditionsWith(record, facts, { all: dataPlaneTypes, now: deps.clock.now() });
      await deps.mirror.setStatus(
        record.uid,
        { observedGeneration: record.generation, conditions },
        { settled: true },
      );
      if (record.removal !== undefined && left === 0 && deps.removals.mayRemove(record.uid).allowed)
        await deps.mirror.finishRemoval(record.uid);
    }
  }

  async function run(signal: AbortSignal): Promise<void> {
    const note = () => {
      dirty = true;
      wake();
    };
    const leave = [deps.mirror.subscribe(note), deps.policy.onChange(note)];
    let reviewed = -Infinity;
    let timer: Timer | undefined;
    signal.addEventListener("abort", note, { once: true });
    try {
      while (!signal.aborted) {
        dirty = false;
        try {
          if (deps.clock.monotonicMs() - reviewed >= REVIEW_MS) {
            permissions = await reviewAccess(deps.session, deps.namespace, signal);
            reviewed = deps.clock.monotonicMs();
          }
          await reconcile();
        } catch (error) {
          if (signal.aborted) return;
          deps.log.warn("data plane could not be reconciled, it is tried again", { error });
        }
        if (dirty) continue;
        await new Promise<void>((resolve) => {
          wake = resolve;
          timer = deps.clock.setTimer(LOOK_MS, resolve);
          if (dirty || signal.aborted) resolve();
        });
        timer?.cancel();
      }
    } finally {
      signal.removeEventListener("abort", note);
      for (const end of leave) end();
    }
  }

  return {
    name: "data plane controller",
    run,
    gate,
    wake: () => {
      dirty = true;
      wake();
    },
  };
}
