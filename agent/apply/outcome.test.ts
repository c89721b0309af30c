import { describe, expect, it } from "vitest";
import { KubeError, type StatusCause } from "../kube/errors.ts";
import { outcomeOf } from "./outcome.ts";

describe("the outcome of a failed apply", () => {
  const of = (status: number, reason: string, message = "", causes: StatusCause[] = [], crdInSet = false) =>
    outcomeOf(new KubeError(message, { status, reason, causes, retryAfterMs: 3_000 }), {
      crdInSet,
      changes: (field) => field === "spec.selector",
    });
  const managed = (manager: string) => ({
    reason: "FieldManagerConflict",
    message: `conflict with "${manager}" using apps/v1`,
    field: ".spec.replicas",
  });

  it.each([
    [
      "another application's field",
      of(409, "Conflict", "", [managed("moorage.b"), managed("kubectl")]),
      "Conflict",
      "FieldConflict",
    ],
    ["a person's field", of(409, "Conflict", "", [managed("kubectl-edit")]), "Conflict", "FieldConflict"],
    ["a quota's own race", of(409, "Conflict", "operation cannot be fulfilled"), "Retry", "Conflict"],
    [
      "an invalid field",
      of(422, "Invalid", "", [{ reason: "FieldValueInvalid", message: "must be positive", field: "spec.x" }]),
      "Stalled",
      "Invalid",
    ],
    [
      "an immutable field of ours",
      of(422, "Invalid", "", [
        { reason: "FieldValueInvalid", message: "field is immutable", field: "spec.selector" },
      ]),
      "Stalled",
      "ImmutableField",
    ],
    [
      "a webhook's talk of a field that is not ours",
      of(422, "Invalid", "", [{ reason: "X", message: "field is immutable", field: "spec.other" }]),
      "Stalled",
      "Invalid",
    ],
    ["a missing kind", of(404, "KindNotInstalled"), "Stalled", "KindNotInstalled"],
    [
      "a kind that is about to be served",
      of(404, "KindNotInstalled", "", [], true),
      "Retry",
      "KindNotInstalled",
    ],
    ["a missing namespace", of(404, "NotFound"), "Waiting", "NamespaceNotFound"],
    [
      "a namespace on its way out",
      of(403, "Forbidden", "", [{ reason: "NamespaceTerminating", message: "", field: "" }]),
      "Waiting",
      "NamespaceTerminating",
    ],
    ["a missing right", of(403, "Forbidden"), "Stalled", "Forbidden"],
    ["an exhausted quota", of(403, "Forbidden", "exceeded quota: rq"), "Stalled", "QuotaExceeded"],
    ["a bad request", of(400, "BadRequest", "strict decoding error"), "Stalled", "Rejected"],
    ["too large an object", of(413, "RequestEntityTooLarge"), "Stalled", "TooLarge"],
    [
      "a field outside of the schema",
      of(500, "", "failed to create typed patch object: .spec.bogus: field not declared in schema"),
      "Stalled",
      "Invalid",
    ],
    ["a failing webhook", of(500, "InternalError", "failed calling webhook"), "Retry", "WebhookFailed"],
    ["an overloaded server", of(429, "TooManyRequests"), "Retry", "TooManyRequests"],
    ["a timeout", of(0, "Timeout"), "Retry", "Timeout"],
  ])("is right for %s", (_what, outcome, action, reason) => {
    expect(outcome).toMatchObject({ action, reason });
  });

  it("may be forced against people and controllers, never against another application", () => {
    expect(of(409, "Conflict", "", [managed("kubectl")]).forceable).toBe(true);
    expect(of(409, "Conflict", "", [managed("kubectl"), managed("moorage.b")])).toMatchObject({
      forceable: false,
      message: expect.stringContaining("moorage.b") as string,
    });
  });

  it("is ambiguous when the write may have been committed", () => {
    expect(
      [of(0, "Timeout"), of(503, "X"), of(422, "Invalid"), of(429, "TooManyRequests")].map(
        (o) => o.ambiguous,
      ),
    ).toEqual([true, true, false, false]);
  });
});
