import { describe, expect, it } from "vitest";
import type { ApplyResult } from "./observed.ts";
import { judge, readiness } from "./plan.ts";

const result = (over: Partial<ApplyResult> = {}): ApplyResult => ({
  objects: [{ name: "ConfigMap a/b", action: "Unchanged", reason: "", message: "" }],
  applied: true,
  waitingFor: [],
  health: { status: "Current", message: "" },
  drifted: [],
  driftRepaired: true,
  pruneHeld: undefined,
  invalid: undefined,
  retryAfterMs: undefined,
  ...over,
});
const fact = (r: ApplyResult, type: string) => judge(r).facts.find((f) => f.type === type);
const object = (action: "Stalled" | "Conflict" | "Retry", reason: string, message = "because") => ({
  name: "Deployment.apps a/web",
  action,
  reason,
  message,
});

describe("what a run says of an application", () => {
  it("applied and healthy is settled, and Ready", () => {
    expect(judge(result()).verdict).toEqual({ kind: "settled" });
    expect(readiness({ kind: "settled" }).map((f) => f.type)).toEqual(["Ready"]);
  });

  it("an unhealthy workload is applied, not Ready, and waits for an event", () => {
    const r = result({
      health: { status: "Failed", message: "Deployment.apps a/web: ProgressDeadlineExceeded" },
    });
    expect(fact(r, "Applied")?.status).toBe("True");
    expect(fact(r, "Healthy")?.status).toBe("False");
    expect(judge(r).verdict).toMatchObject({ kind: "waiting", reason: "Unhealthy" });
  });

  it("health that nobody can read is Unknown, never True", () => {
    expect(fact(result({ health: { status: "Unknown", message: "?" } }), "Healthy")?.status).toBe("Unknown");
  });

  it("a permanent failure outranks a passing one and names the object, the reason and how many more", () => {
    const r = result({
      applied: false,
      objects: [object("Retry", "Throttled"), object("Stalled", "Forbidden"), object("Stalled", "Invalid")],
    });
    expect(judge(r).verdict).toEqual({
      kind: "stalled",
      reason: "Forbidden",
      message: "Deployment.apps a/web: because (and 2 more)",
    });
    expect(fact(r, "Healthy")).toBeUndefined();
  });

  it("a passing failure keeps the server's delay", () => {
    const r = result({ applied: false, objects: [object("Retry", "TooManyRequests")], retryAfterMs: 3_000 });
    expect(judge(r).verdict).toMatchObject({ kind: "retrying", retryAfterMs: 3_000 });
  });

  it("a conflict raises FieldConflict and stalls", () => {
    const r = result({ applied: false, objects: [object("Conflict", "OwnedByAnother")] });
    expect(fact(r, "FieldConflict")).toMatchObject({ status: "True", reason: "Conflict" });
    expect(judge(r).verdict.kind).toBe("stalled");
  });

  it("drift that is repaired lowers nothing; drift that is left shows", () => {
    expect(fact(result({ drifted: ["ConfigMap a/b"] }), "Drifted")).toMatchObject({
      status: "False",
      reason: "NoDrift",
    });
    expect(judge(result({ drifted: ["ConfigMap a/b"] })).verdict.kind).toBe("settled");
    expect(fact(result({ drifted: ["ConfigMap a/b"], driftRepaired: false }), "Drifted")?.status).toBe(
      "True",
    );
  });

  it("a held prune shows and does not lower Ready", () => {
    const r = result({ pruneHeld: { reason: "TooMany", message: "12 of 20" } });
    expect(fact(r, "PruneHeld")?.status).toBe("True");
    expect(judge(r).verdict.kind).toBe("settled");
  });

  it.each(["waiting", "retrying"] as const)("%s shows Reconciling and never Stalled", (kind) => {
    const types = readiness({ kind, reason: "R", message: "m" }).map((f) => f.type);
    expect(types).toEqual(["Ready", "Reconciling"]);
  });
});
