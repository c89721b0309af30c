import { describe, expect, it } from "vitest";
import { goalReport } from "./goal.ts";
import type { MeterReading } from "./meter.ts";
import { driverLimit, loadNote, verdictOf } from "./verdict.ts";

const idle: MeterReading = {
  pid: 7,
  spanMs: 1_000,
  busy: 0.2,
  cores: 0.2,
  loopDelayP99Ms: 3,
  rssBytes: 1,
};

describe("a verdict", () => {
  it("blames the driver when it was saturated and the hub was not", () => {
    expect(driverLimit({ drivers: [idle, { ...idle, busy: 0.95 }], hubBusy: 0.5 })).toMatch(/busy for 95 %/);
    expect(driverLimit({ drivers: [{ ...idle, loopDelayP99Ms: 400 }], hubBusy: 0.5 })).toMatch(
      /late by 400 ms/,
    );
    expect(driverLimit({ drivers: [{ ...idle, busy: 0.95 }], hubBusy: undefined })).toBeDefined();
  });

  it("blames the hub when both were saturated, and nobody when the driver had room", () => {
    expect(driverLimit({ drivers: [{ ...idle, busy: 0.95 }], hubBusy: 0.97 })).toBeUndefined();
    expect(driverLimit({ drivers: [idle, idle], hubBusy: 0.1 })).toBeUndefined();
  });

  it("is never missed when the driver was the limit, and never met when the run was none", () => {
    expect(verdictOf({ met: false, limit: "x", invalid: undefined })).toBe("driver-limited");
    expect(verdictOf({ met: true, limit: "x", invalid: undefined })).toBe("met");
    expect(verdictOf({ met: false, limit: undefined, invalid: undefined })).toBe("missed");
    expect(verdictOf({ met: true, limit: undefined, invalid: "too little load" })).toBe("invalid");
  });

  it("stands in the line and in the record, with the scale and the reason", () => {
    const base = {
      id: "G5-1000",
      value: 9,
      unit: "s",
      baseline: null,
      ratio: null,
      goal: 10,
      met: true,
      detail: {},
    };
    const report = goalReport({
      ...base,
      figures: "9 s",
      more: "n=1",
      scale: 0.2,
      invalid: "too few streams",
    });
    expect(report.text).toBe("9 s  invalid at SCALE=0.2  [n=1]");
    expect(report.notes).toEqual(["invalid: too few streams"]);
    expect(report.record).toMatchObject({ verdict: "invalid", scale: 0.2, met: true });
    expect(report.record).not.toHaveProperty("figures");
  });

  it("comes with what the driver used of the machine", () => {
    expect(loadNote({ drivers: [idle, { ...idle, loopDelayP99Ms: 9 }], hubBusy: 0.4 }, 2)).toBe(
      "driver: 2 processes, 0.40 of 2 cores, busiest 20 %, loop p99 9 ms; hub's event loop busy 40 %; all on this machine",
    );
  });
});
