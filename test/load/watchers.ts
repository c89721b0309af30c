/** Watches that stamp arrivals with the clock of the process that also stamps the writes. */
import type { KubeSession } from "@moorage/agent/kube/client";
import type { Application } from "@moorage/proto/moorage/hub/v1/application_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { HubProcess } from "../world/world.ts";

/** First sight of each key, in monotonic milliseconds. */
export interface Arrivals {
  /** When `key` was first seen; waits for it. Rejects after `timeoutMs`, or when the watch failed. */
  at(key: string, timeoutMs?: number): Promise<number>;
}

/** How long a change may take before the run is given up. */
const PATIENCE_MS = 15_000;
const RETRY_MS = 1_000;

/** Arrivals with the functions that feed them. */
export function createArrivals(
  clock: Clock,
): Arrivals & { seen(key: string, at: number): void; fail(error: unknown): void } {
  const times = new Map<string, number>();
  const waiting = new Map<string, { resolve(at: number): void; reject(error: unknown): void }>();
  let failure: unknown;
  return {
    seen(key, at) {
      if (times.has(key)) return;
      times.set(key, at);
      waiting.get(key)?.resolve(at);
    },
    fail(error) {
      failure = error;
      for (const w of waiting.values()) w.reject(error);
    },
    at(key, timeoutMs = PATIENCE_MS) {
      const known = times.get(key);
      if (known !== undefined) return Promise.resolve(known);
      if (failure !== undefined) return Promise.reject(failure as Error);
      return new Promise((resolve, reject) => {
        const timer = clock.setTimer(timeoutMs, () =>
          settle(() => reject(new Error(`Timed out after ${timeoutMs} ms: "${key}" was not seen`))),
        );
        const settle = (then: () => void): void => {
          timer.cancel();
          waiting.delete(key);
          then();
        };
        waiting.set(key, {
          resolve: (at) => settle(() => resolve(at)),
          reject: (error) => settle(() => reject(error as Error)),
        });
      });
    },
  };
}

/** Watches the ConfigMaps of a namespace; the key is `<name>/<data.marker>`. */
export function watchConfigMaps(
  session: KubeSession,
  what: { namespace: string; clock: Clock; signal: AbortSignal },
): Arrivals {
  const { namespace, clock, signal } = what;
  const arrivals = createArrivals(clock);
  const run = async (): Promise<void> => {
    for await (const line of session.watch(
      { apiVersion: "v1", kind: "ConfigMap" },
      { namespace, signal, timeoutSeconds: 3_600 },
    )) {
      const at = clock.monotonicMs();
      const { object } = JSON.parse(line) as {
        object?: { metadata?: { name?: string }; data?: { marker?: string } };
      };
      arrivals.seen(`${object?.metadata?.name}/${object?.data?.marker}`, at);
    }
    throw new Error("The watch of ConfigMaps ended");
  };
  run().catch((error: unknown) => arrivals.fail(error));
  return arrivals;
}

/** Watches the applications of a tenant at the hub; the key is `<name>@<generation>`, seen once Ready is True for it. */
export function watchReady(
  hub: HubProcess,
  what: { parent: string; clock: Clock; signal: AbortSignal },
): Arrivals {
  const { parent, clock, signal } = what;
  const arrivals = createArrivals(clock);
  let opened = false;
  const run = async (): Promise<void> => {
    const messages = hub.api.applications.watchApplications({ parent }, { signal })[Symbol.asyncIterator]();
    for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
      const message = next.value;
      const at = clock.monotonicMs();
      opened = true;
      if (message.event.case !== "change") continue;
      const application = message.event.value.application;
      const ready = application === undefined ? undefined : readyGeneration(application);
      if (ready !== undefined) arrivals.seen(`${application?.name}@${ready}`, at);
    }
    throw new Error("The watch at the hub ended");
  };
  /** A hub that is busy may refuse to open it; one that stood and broke spoils the figures. */
  const open = async (): Promise<void> => {
    for (;;) {
      const failed = await run().catch((error: unknown) => MoorageError.from(error));
      if (failed === undefined) return;
      if (opened || failed.code !== Code.UNAVAILABLE) throw failed;
      await sleep(clock, failed.retryAfterMs ?? RETRY_MS, signal);
    }
  };
  open().catch((error: unknown) => arrivals.fail(error));
  return arrivals;
}

/** The generation for which an application says Ready; undefined while it does not. */
export function readyGeneration(application: Application): bigint | undefined {
  const ready = application.status?.conditions.find((c) => c.type === "Ready");
  return ready?.status === "True" ? ready.observedGeneration : undefined;
}
