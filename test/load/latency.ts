/**
 * Single changes of one ConfigMap through the hub, each beside a raw server-side apply of an equal one
 * at the same API server (A-B-A-B). One process makes both writes and holds both watches, so that one
 * monotonic clock stamps everything. G1 and G2 share one run; G3 makes its own under load.
 */
import { createHttpClient } from "@moorage/agent/kube/http-client";
import { staticCredentials } from "@moorage/agent/kube/credentials";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { configData, createBenchApplication, markerOf, startBenchWorld } from "./bench-world.ts";
import type { BenchWorld } from "./bench-world.ts";
import type { GoalReport, Lab } from "./goal.ts";
import { goalReport } from "./goal.ts";
import { patiently } from "./patience.ts";
import { cpuSeconds, rssMb } from "./procfs.ts";
import { blocks, quantile, round, spread } from "./stats.ts";
import { watchConfigMaps, watchReady } from "./watchers.ts";

/** Changes that count, and those before them that warm up code and connections. */
const SAMPLES = 300;
const WARM_UP = 30;
/** Least time between the starts of two writes. */
const SPACING_MS = 100;
/** Repetitions for the spread of a ratio: the samples in as many runs, in order. */
const REPETITIONS = 6;

/** Durations in milliseconds, index by index of one change. */
export interface Latencies {
  /** A raw server-side apply, call to answer. */
  raw: number[];
  /** The hub's write call starts -> its answer. */
  acknowledged: number[];
  /** The hub's write call starts -> the object seen by watch at the API server. */
  visible: number[];
  /** The hub's write call starts -> Ready for that generation seen by watch at the hub. */
  ready: number[];
}

/** A run with what else is known of it. */
export interface LatencyRun extends Latencies {
  detail: Record<string, number>;
}

/** Makes changes one at a time and measures each. */
export interface LatencyProbe {
  /** `count` changes, each beside a raw apply. */
  measure(count: number): Promise<Latencies>;
}

/** A probe on the world's data plane, closed with the lab's goal. */
export async function openLatencyProbe(lab: Lab, world: BenchWorld): Promise<LatencyProbe> {
  const { cluster, hub } = world;
  const { clock } = lab;
  await cluster.kubectl(["create", "namespace", "bench-raw"]);
  const kube = createHttpClient({
    clock,
    credentials: staticCredentials(cluster.apiUrl, {
      tls: { ca: cluster.caPem, cert: cluster.admin.cert, key: cluster.admin.key },
    }),
  });
  const stop = new AbortController();
  lab.defer(async () => {
    stop.abort();
    await kube.close();
  });
  const name = await createBenchApplication(world, "probe");
  await patiently(() => hub.api.wait.waitFor({ name, timeout: { seconds: 60n } }));
  const session = kube.asAgent();
  const visible = watchConfigMaps(session, { namespace: "tenant-bench", clock, signal: stop.signal });
  const ready = watchReady(hub, { parent: world.tenant, clock, signal: stop.signal });
  const rawApply = (n: number) =>
    session.apply(
      {
        apiVersion: "v1",
        kind: "ConfigMap",
        metadata: { name: "probe", namespace: "bench-raw" },
        data: configData(markerOf(n)),
      },
      { fieldManager: "bench", force: true },
    );
  const change = async (n: number) => {
    const start = clock.monotonicMs();
    const updated = await updateMarker(world, { name, marker: markerOf(n) });
    const acknowledged = clock.monotonicMs();
    const seen = await visible.at(`probe/${markerOf(n)}`);
    const readyAt = await ready.at(`${name}@${updated.generation}`);
    return { start, acknowledged: acknowledged - start, visible: seen - start, ready: readyAt - start };
  };
  let n = 0;
  return {
    async measure(count) {
      const out: Latencies = { raw: [], acknowledged: [], visible: [], ready: [] };
      for (let i = 0; i < count; i++) {
        n++;
        const start = clock.monotonicMs();
        await rawApply(n);
        out.raw.push(clock.monotonicMs() - start);
        await pause(clock, start);
        const took = await change(n);
        await pause(clock, took.start);
        out.acknowledged.push(took.acknowledged);
        out.visible.push(took.visible);
        out.ready.push(took.ready);
      }
      return out;
    },
  };
}

/** Makes the run of G1 and G2 on a world of its own. */
export async function runLatency(lab: Lab): Promise<LatencyRun> {
  const world = await startBenchWorld(lab, { audit: false });
  const { hub, agent } = world;
  const probe = await openLatencyProbe(lab, world);
  const seconds = Math.ceil(((SAMPLES + WARM_UP) * 2 * SPACING_MS) / 1_000);
  lab.progress(`${SAMPLES} single changes, each beside a raw apply (about ${seconds} s)`);
  await probe.measure(WARM_UP);
  const cpu = () => ({ hub: cpuSeconds(hub.child.pid), agent: cpuSeconds(agent.child.pid) });
  const before = cpu();
  const run = await probe.measure(SAMPLES);
  const after = cpu();
  const detail = {
    hub_cpu_seconds_per_1000: round(((after.hub - before.hub) / SAMPLES) * 1_000),
    agent_cpu_seconds_per_1000: round(((after.agent - before.agent) / SAMPLES) * 1_000),
    hub_rss_mb: round(rssMb(hub.child.pid), 1),
    agent_rss_mb: round(rssMb(agent.child.pid), 1),
    acknowledged_p50_ms: round(quantile(run.acknowledged, 0.5)),
    acknowledged_p99_ms: round(quantile(run.acknowledged, 0.99)),
  };
  return { ...run, detail };
}

const updateMarker = (world: BenchWorld, change: { name: string; marker: string }) =>
  world.hub.api.applications.updateApplication({
    application: { name: change.name, spec: { parameters: { name: "probe", marker: change.marker } } },
    updateMask: { paths: ["spec.parameters.marker"] },
  });

const pause = (clock: Clock, since: number): Promise<void> =>
  sleep(clock, Math.max(0, SPACING_MS - (clock.monotonicMs() - since)));

/** The report of a goal whose p50 and p99 are bounded by multiples of the raw ones. */
export function latencyReport(
  run: LatencyRun,
  goal: { id: string; samples: readonly number[]; p50: number; p99: number },
): GoalReport {
  const [p50, p99] = [quantile(goal.samples, 0.5), quantile(goal.samples, 0.99)];
  const [raw50, raw99] = [quantile(run.raw, 0.5), quantile(run.raw, 0.99)];
  const ratio = p50 / raw50;
  const ratio99 = p99 / raw99;
  const rawBlocks = blocks(run.raw, REPETITIONS);
  const ratios = blocks(goal.samples, REPETITIONS).map(
    (b, i) => quantile(b, 0.5) / quantile(rawBlocks[i] ?? [], 0.5),
  );
  const n = goal.samples.length;
  return goalReport({
    id: goal.id,
    figures: `p50 ${ratio.toFixed(1)}x raw (goal ${goal.p50}x) p99 ${ratio99.toFixed(1)}x (goal ${goal.p99}x)`,
    more: `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms; raw p50 ${raw50.toFixed(1)} ms, p99 ${raw99.toFixed(1)} ms; p50 ${spread(ratios)}x in ${ratios.length} runs; n=${n}`,
    value: round(p50, 3),
    unit: "ms",
    baseline: round(raw50, 3),
    ratio: round(ratio, 3),
    goal: goal.p50,
    met: ratio <= goal.p50 && ratio99 <= goal.p99,
    detail: {
      samples: n,
      p99_ms: round(p99, 3),
      raw_p99_ms: round(raw99, 3),
      p99_ratio: round(ratio99, 3),
      p99_goal_ratio: goal.p99,
      p50_ratio_range: spread(ratios),
      ...run.detail,
    },
  });
}
