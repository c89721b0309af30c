import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { expect, test } from "vitest";
import { UsageError, errorLines, exitCodeOf } from "./exit.ts";

test("an error of the hub names what, the field with its rule, and the next step", () => {
  expect(errorLines(invalidField("tenant.spec.data_plane", "is required"))).toEqual([
    'error: Invalid "tenant.spec.data_plane": is required (INVALID_ARGUMENT, INVALID_FIELD)',
    "  field tenant.spec.data_plane: is required",
  ]);
  expect(errorLines(new MoorageError(Code.UNAUTHENTICATED, "Unknown key"))[1]).toMatch(
    /next: .*moorage login/,
  );
  expect(errorLines(new UsageError("Wrong", "Do right"))).toEqual(["error: Wrong", "  next: Do right"]);
});

test.each([
  [Code.NOT_FOUND, 3],
  [Code.ALREADY_EXISTS, 4],
  [Code.ABORTED, 4],
  [Code.DEADLINE_EXCEEDED, 5],
  [Code.PERMISSION_DENIED, 6],
  [Code.UNAUTHENTICATED, 6],
  [Code.UNAVAILABLE, 7],
  [Code.INVALID_ARGUMENT, 1],
])("code %i ends with exit code %i", (code, exit) => {
  expect(exitCodeOf(new MoorageError(code, "x"))).toBe(exit);
});

test("a usage error ends with 2 and a foreign one with 1", () => {
  expect([exitCodeOf(new UsageError("x")), exitCodeOf(new Error("x"))]).toEqual([2, 1]);
});
