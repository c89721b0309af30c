import { expect, test } from "vitest";
import { createMetrics } from "./metrics.ts";

test("a label value outside its list is counted as other", async () => {
  const metrics = createMetrics();
  const c = metrics.counter({ name: "moorage_x_total", help: "x", labels: { result: ["ok", "failed"] } });
  c.inc({ result: "ok" });
  c.inc({ result: "surprise" });
  const text = await metrics.metricsText();
  expect(text).toContain('moorage_x_total{result="ok"} 1');
  expect(text).toContain('moorage_x_total{result="other"} 1');
  expect(text).toContain('moorage_metrics_series_dropped_total{metric="moorage_x_total"} 1');
});

test("an open label is capped", async () => {
  const metrics = createMetrics();
  const c = metrics.counter({ name: "moorage_x_total", help: "x", labels: { kind: "open" } });
  for (let i = 0; i < 300; i++) c.inc({ kind: `k${i}` });
  expect(await metrics.metricsText()).toContain('moorage_x_total{kind="other"} 100');
});

test("a gauge is set by its callback at each scrape", async () => {
  let value = 1;
  const metrics = createMetrics();
  metrics.gauge({ name: "moorage_size_bytes", help: "x", collect: (g) => g.set(value) });
  expect(await metrics.metricsText()).toContain("moorage_size_bytes 1");
  value = 2;
  expect(await metrics.metricsText()).toContain("moorage_size_bytes 2");
});

test("wrong names, units, duplicates and values are refused", () => {
  const metrics = createMetrics();
  expect(() => metrics.counter({ name: "x_total", help: "x" })).toThrow(/does not start with moorage_/);
  expect(() => metrics.gauge({ name: "moorage_age_ms", help: "x" })).toThrow(/not a base unit/);
  expect(() => metrics.gauge({ name: "moorage_age_total", help: "x" })).toThrow(/only they, end in _total/);
  const c = metrics.counter({ name: "moorage_x_total", help: "x" });
  expect(() => metrics.counter({ name: "moorage_x_total", help: "x" })).toThrow(/the name is taken/);
  expect(() => c.inc({}, Number.NaN)).toThrow(RangeError);
  expect(() => c.inc({}, -1)).toThrow(RangeError);
  expect(metrics.catalogue().map((m) => [m.name, m.type])).toEqual([["moorage_x_total", "counter"]]);
});
