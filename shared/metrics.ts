import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";

/**
 * A facade on prom-client that keeps what it does not: names and units are checked, label values are
 * closed or capped, NaN is refused, and one list describes every metric for the reference.
 */

/** Labels of a metric: a closed list of values (any other becomes `other`), or `"open"` up to a cap. */
export type LabelSpec = Readonly<Record<string, readonly string[] | "open">>;

/** Values of the labels of one series. */
export type LabelValues = Readonly<Record<string, string>>;

/** What a metric is called and means. */
export interface MetricSpec {
  /** `moorage_...` with the unit at the end; counters end in `_total`. */
  name: string;
  help: string;
  labels?: LabelSpec;
}

/** Bucket bounds by name, in the metric's base unit. */
export const buckets = {
  /** An operation of the process itself: 0.5 ms to 10 s. */
  operationSeconds: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
  /** Convergence of a resource: 1 s to a day. */
  convergenceSeconds: [1, 2, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 14_400, 86_400],
  /** Sizes: 1 KiB to 64 MiB. */
  bytes: [1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864],
} as const;

/** A value that only grows. */
export interface CounterMetric {
  /** Adds `by` (default 1; finite and >= 0, else RangeError). */
  inc(labels?: LabelValues, by?: number): void;
}

/** A value that goes up and down. */
export interface GaugeMetric {
  /** Sets a finite value, else RangeError. */
  set(value: number, labels?: LabelValues): void;
  /** Drops all series; for gauges that `collect` fills anew. */
  reset(): void;
}

/** A distribution. */
export interface HistogramMetric {
  /** Records a finite value, else RangeError. */
  observe(value: number, labels?: LabelValues): void;
}

/** All metrics of a process. */
export interface Metrics {
  counter(spec: MetricSpec): CounterMetric;
  /** `collect` is called before each scrape to set the gauge. */
  gauge(spec: MetricSpec & { collect?: (gauge: GaugeMetric) => void | Promise<void> }): GaugeMetric;
  histogram(spec: MetricSpec & { buckets: keyof typeof buckets }): HistogramMetric;
  /** Every metric declared, in order of name. */
  catalogue(): readonly (MetricSpec & { type: "counter" | "gauge" | "histogram" })[];
  /** Text exposition format 0.0.4. */
  metricsText(): Promise<string>;
  /** Content-Type of {@link metricsText}. */
  readonly contentType: string;
}

/** Values an open label takes before new ones become `other`. */
const OPEN_LABEL_VALUES = 200;

const NAME = /^(moorage|grpc_server|grpc_client|workqueue|rest_client)_[a-z0-9_]+$/;
const NOT_BASE_UNIT = /_(ms|milliseconds|micros|minutes|hours|days|kb|kib|mb|mib|gb|percent)(_total)?$/;

/** An empty set of metrics; `processMetrics` adds Node's own (`process_*`, `nodejs_*`). */
export function createMetrics(options: { processMetrics?: boolean } = {}): Metrics {
  const registry = new Registry();
  if (options.processMetrics) collectDefaultMetrics({ register: registry });
  const declared = new Map<string, MetricSpec & { type: "counter" | "gauge" | "histogram" }>();
  const dropped = new Counter({
    name: "moorage_metrics_series_dropped_total",
    help: "Observations put under `other` because a label had a value outside its list or cap",
    labelNames: ["metric"],
    registers: [registry],
  });
  const declare = (spec: MetricSpec, type: "counter" | "gauge" | "histogram") => {
    checkName(spec.name, type);
    if (declared.has(spec.name)) throw new Error(`Cannot declare metric "${spec.name}": the name is taken`);
    const { name, help, labels } = spec;
    declared.set(name, { name, help, type, ...(labels === undefined ? {} : { labels }) });
    const base = { name, help, labelNames: Object.keys(labels ?? {}), registers: [registry] };
    return { base, close: labelCloser(spec, () => dropped.inc({ metric: name })) };
  };
  return {
    contentType: registry.contentType,
    counter(spec) {
      const { base, close } = declare(spec, "counter");
      const counter = new Counter(base);
      return {
        inc(labels, by = 1) {
          if (!(by >= 0))
            throw new RangeError(`Cannot add "${by}" to counter "${spec.name}": it is not >= 0`);
          counter.inc(close(labels), finite(spec.name, by));
        },
      };
    },
    gauge(spec) {
      const { base, close } = declare(spec, "gauge");
      const { collect } = spec;
      const gauge = new Gauge(collect === undefined ? base : { ...base, collect: () => collect(facade) });
      const facade: GaugeMetric = {
        set: (value, labels) => gauge.set(close(labels), finite(spec.name, value)),
        reset: () => gauge.reset(),
      };
      return facade;
    },
    histogram(spec) {
      const { base, close } = declare(spec, "histogram");
      const histogram = new Histogram({ ...base, buckets: [...buckets[spec.buckets]] });
      return { observe: (value, labels) => histogram.observe(close(labels), finite(spec.name, value)) };
    },
    catalogue: () => [...declared.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
    metricsText: () => registry.metrics(),
  };
}

function checkName(name: string, type: string): void {
  const refuse = (why: string) => new Error(`Cannot declare metric "${name}": ${why}`);
  if (!NAME.test(name)) throw refuse("it does not start with moorage_ or a known foreign prefix");
  if (NOT_BASE_UNIT.test(name)) throw refuse("its unit is not a base unit");
  if ((type === "counter") !== name.endsWith("_total"))
    throw refuse("counters, and only they, end in _total");
}

function finite(name: string, value: number): number {
  if (Number.isFinite(value)) return value;
  throw new RangeError(`Cannot record "${value}" in metric "${name}": it is not finite`);
}

/** Maps given label values to those allowed; a missing or undeclared label is a programming error. */
function labelCloser(
  spec: MetricSpec,
  onDropped: () => void,
): (labels?: LabelValues) => Record<string, string> {
  const seen = new Map<string, Set<string>>();
  const specs = Object.entries(spec.labels ?? {});
  return (labels = {}) => {
    const given = Object.keys(labels).length;
    if (given !== specs.length)
      throw new Error(`Cannot record metric "${spec.name}": it has ${specs.length} labels`);
    const out: Record<string, string> = {};
    for (const [label, allowed] of specs) {
      const value = labels[label];
      if (value === undefined)
        throw new Error(`Cannot record metric "${spec.name}": label "${label}" is missing`);
      let known: boolean;
      if (allowed === "open") {
        const values = seen.get(label) ?? new Set();
        seen.set(label, values);
        if (values.size < OPEN_LABEL_VALUES) values.add(value);
        known = values.has(value);
      } else known = allowed.includes(value);
      if (!known) onDropped();
      out[label] = known ? value : "other";
    }
    return out;
  };
}
