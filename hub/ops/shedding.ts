/**
 * The load shedder: a hub that cannot keep up serves those it has and refuses newcomers. New Sync
 * streams and new Watch calls are refused while the event loop is late or memory runs out; whatever
 * is open goes on. A sampler is passed in, the decision is pure.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { RefusedReason } from "@moorage/shared/grpc/listener";
import { refusedReasons } from "@moorage/shared/grpc/listener";
import { limits } from "@moorage/shared/limits";
import type { Metrics } from "@moorage/shared/metrics";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";

/** How the process did since the sample before. */
export interface LoadSample {
  /** 99th percentile of the event loop's delay, milliseconds. */
  loopDelayP99Ms: number;
  /** Resident memory of the process, bytes. */
  rssBytes: number;
}

/** Takes one sample; each covers the time since the one before. */
export type Sampler = () => LoadSample;

/** Why newcomers are refused. */
export type ShedReason = "event_loop_delay" | "memory";

/** Where shedding begins. It ends at `limits.shedEndRatio` of both, for `limits.shedCalmSamples`. */
export interface ShedThresholds {
  loopDelayMs: number;
  rssBytes: number;
}

/** State of the decision. */
export interface ShedState {
  /** Undefined: newcomers are admitted. */
  readonly reason: ShedReason | undefined;
  /** Samples in a row that speak for a change. */
  readonly streak: number;
}

/** Nothing is refused yet. */
export const admitting: ShedState = { reason: undefined, streak: 0 };

/**
 * The state after one more sample. A change needs several samples in a row, `shedLateSamples` to
 * begin and `shedCalmSamples` to end, so that neither one long pause nor one quiet moment flips it;
 * memory above its limit needs one, since it does not come back by itself.
 */
export function nextShedState(state: ShedState, sample: LoadSample, at: ShedThresholds): ShedState {
  if (sample.rssBytes > at.rssBytes) return { reason: "memory", streak: 0 };
  if (state.reason === undefined) {
    if (sample.loopDelayP99Ms <= at.loopDelayMs) return admitting;
    const streak = state.streak + 1;
    return streak >= limits.shedLateSamples
      ? { reason: "event_loop_delay", streak: 0 }
      : { reason: undefined, streak };
  }
  const calm =
    sample.loopDelayP99Ms <= at.loopDelayMs * limits.shedEndRatio &&
    sample.rssBytes <= at.rssBytes * limits.shedEndRatio;
  const streak = calm ? state.streak + 1 : 0;
  return streak >= limits.shedCalmSamples ? admitting : { reason: state.reason, streak };
}

/** The load shedder of a hub. */
export interface Shedder extends Service {
  /** Undefined: a newcomer may come in. Else the error to answer: UNAVAILABLE `OVERLOADED` with a jittered RetryInfo. */
  admits(): MoorageError | undefined;
  /** Throws what {@link admits} answers, and counts it. Called for each new Sync stream and Watch call. */
  check(): void;
  /** Counts a connection that a listener refused. */
  refused(reason: RefusedReason): void;
}

/** Makes a shedder; it decides while it runs, and admits all until its first samples. */
export function createShedder(deps: {
  clock: Clock;
  rng: Rng;
  sampler: Sampler;
  thresholds: ShedThresholds;
  metrics?: Metrics;
  /** Called when the shedder ends. */
  stop?: () => void;
}): Shedder {
  const { clock, rng, sampler, thresholds, metrics } = deps;
  let state = admitting;
  metrics?.gauge({
    name: "moorage_hub_shedding",
    help: "1 while new streams and watches are refused because of load",
    collect: (g) => g.set(state.reason === undefined ? 0 : 1),
  });
  const counted = metrics?.counter({
    name: "moorage_hub_refused_total",
    help: "Connections and streams that were refused to protect those that are open, by reason",
    labels: { reason: [...refusedReasons, "event_loop_delay", "memory"] },
  });
  const admits = (): MoorageError | undefined => {
    if (state.reason === undefined) return undefined;
    const what = state.reason === "memory" ? "memory is short" : "it is late with its work";
    return new MoorageError(Code.UNAVAILABLE, `Cannot open another stream: the hub is overloaded, ${what}`, {
      reason: "OVERLOADED",
      metadata: { because: state.reason },
      retryAfterMs: Math.round(limits.shedRetryMs * (0.5 + rng.float())),
    });
  };
  return {
    name: "load shedder",
    admits,
    check() {
      const error = admits();
      if (error === undefined) return;
      counted?.inc({ reason: state.reason as ShedReason });
      throw error;
    },
    refused: (reason) => counted?.inc({ reason }),
    async run(signal) {
      while (!signal.aborted) {
        await sleep(clock, limits.shedSampleMs, signal).catch(() => undefined);
        if (!signal.aborted) state = nextShedState(state, sampler(), thresholds);
      }
      deps.stop?.();
    },
  };
}

/** Samples this process. The histogram costs one timer of 20 ms; `stop` ends it. */
export function processSampler(): { sampler: Sampler; stop(): void } {
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  return {
    sampler() {
      const sample = {
        loopDelayP99Ms: delay.percentile(99) / 1e6,
        rssBytes: process.memoryUsage.rss(),
      };
      delay.reset();
      return sample;
    },
    stop: () => void delay.disable(),
  };
}
