import { create, toJson } from "@bufbuild/protobuf";
import { StatusReportSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { limits } from "@moorage/shared/limits";
import { describe, expect, test } from "vitest";
import { checkReport } from "./check-report.ts";
import { readStatus } from "./rows.ts";
import { hubWith, settle, want } from "./testing.ts";

/** A report of one resource with one condition, changed as told. */
const reportOf = (condition: object, status: object = {}) =>
  create(StatusReportSchema, {
    seq: 1n,
    statuses: [
      {
        uid: "t1",
        name: "tenants/t1",
        conditions: [{ type: "Ready", status: "True", reason: "Ready", ...condition }],
        ...status,
      },
    ],
  });

const check = (report: ReturnType<typeof reportOf>) => () => checkReport(report, 1n);

describe("the time of a condition", () => {
  const at = (seconds: bigint, nanos = 0) => reportOf({ lastTransitionTime: { seconds, nanos } });

  test.each([
    [-62_135_596_801n, 0, "outside of the years 1 to 9999"],
    [253_402_300_800n, 0, "outside of the years 1 to 9999"],
    [0n, -1, "nanos, which must be from 0 to 999999999"],
    [0n, 1_000_000_000, "nanos, which must be from 0 to 999999999"],
  ])("is refused with %s seconds and %s nanos, as it cannot be shown", (seconds, nanos, rule) => {
    const report = at(seconds, nanos);
    expect(() => toJson(StatusReportSchema, report)).toThrow();
    expect(check(report)).toThrow(rule);
    expect(check(report)).toThrow(
      'Cannot accept status report "1": condition "Ready" of "tenants/t1" has a last_transition_time',
    );
  });

  test("is taken from the first second to the last one that can be shown", () => {
    for (const report of [at(-62_135_596_800n), at(253_402_300_799n, 999_999_999)]) {
      toJson(StatusReportSchema, report);
      expect(check(report)).not.toThrow();
    }
  });

  test("ends the stream of an agent that sends another, and is not stored", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await agent.hello();
    agent.send({ case: "status", value: at(253_402_300_800n) });
    await settle();
    expect(agent.state.error?.reason).toBe("INVALID_STATUS");
    expect((await readStatus(hub.store, "t1")).stored).toBeUndefined();
  });
});

describe("a status is taken with each of its texts at the limit, and refused by name above it", () => {
  const x = (bytes: number) => "x".repeat(bytes);
  const { conditionWordBytes, conditionMessageBytes, namespacesPerTenant, namespaceBytes } = limits;
  const cases: [string, number, (n: number) => ReturnType<typeof reportOf>][] = [
    ["a name over", limits.resourceNameBytes, (n) => reportOf({}, { name: x(n) })],
    ["a condition with a type over", conditionWordBytes, (n) => reportOf({ type: x(n) })],
    [
      'condition "Ready" of "tenants/t1" has a reason over',
      conditionWordBytes,
      (n) => reportOf({ reason: x(n) }),
    ],
    ["a message over", conditionMessageBytes, (n) => reportOf({ message: x(n) })],
    ["a verdict's reason over", conditionWordBytes, (n) => reportOf({}, { verdict: { reason: x(n) } })],
    ["a verdict's message over", conditionMessageBytes, (n) => reportOf({}, { verdict: { message: x(n) } })],
    ["an applied_version over", limits.bundleVersionBytes, (n) => reportOf({}, { appliedVersion: x(n) })],
    ["an applied_digest over", limits.bundleDigestBytes, (n) => reportOf({}, { appliedDigest: x(n) })],
    ["a namespace over", namespaceBytes, (n) => reportOf({}, { namespaces: [x(n)] })],
    ["namespaces, at most", namespacesPerTenant, (n) => reportOf({}, { namespaces: Array(n).fill("a") })],
  ];

  test.each(cases)("%s %i", (rule, limit, report) => {
    expect(check(report(limit))).not.toThrow();
    expect(check(report(limit + 1))).toThrow(`${rule} ${limit}`);
  });

  test("and its conditions say True, False or Unknown", () => {
    for (const status of ["True", "False", "Unknown"]) expect(check(reportOf({ status }))).not.toThrow();
    for (const status of ["", "Maybe"])
      expect(check(reportOf({ status }))).toThrow(
        `the status "${status}", which must be True, False or Unknown`,
      );
  });
});
