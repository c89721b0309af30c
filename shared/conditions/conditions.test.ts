import fc from "fast-check";
import { expect, test } from "vitest";
import { limits } from "../limits.ts";
import {
  getCondition,
  isTrue,
  mergeConditions,
  removeCondition,
  setCondition,
  statusOf,
  truncateMessage,
} from "./conditions.ts";
import type { Condition, ConditionInput } from "./conditions.ts";

const ready: ConditionInput = {
  type: "Ready",
  status: "True",
  reason: "Ready",
  message: "",
  observedGeneration: 1,
};

test("stating the same again returns the same list", () => {
  const list = setCondition([], ready, 1000);
  expect(setCondition(list, { ...ready }, 2000)).toBe(list);
  expect(removeCondition(list, "Stalled")).toBe(list);
});

test("the transition time moves on a flip of status only", () => {
  const list = setCondition([], ready, 0);
  const reworded = setCondition(list, { ...ready, message: "still", observedGeneration: 2 }, 5000);
  expect(getCondition(reworded, "Ready")?.lastTransitionTime).toBe("1970-01-01T00:00:00.000Z");
  const flipped = setCondition(reworded, { ...ready, status: "False", reason: "Progressing" }, 9000);
  expect(getCondition(flipped, "Ready")?.lastTransitionTime).toBe("1970-01-01T00:00:09.000Z");
});

test("an absent condition is Unknown and an old generation is not ready", () => {
  expect(statusOf([], "Ready")).toBe("Unknown");
  expect(isTrue(setCondition([], ready, 0), "Ready", 1)).toBe(true);
  expect(isTrue(setCondition([], ready, 0), "Ready", 2)).toBe(false);
});

test("any message is cut to the limit between code points", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 3000 }), (text) => {
      const cut = truncateMessage(text);
      expect(Buffer.byteLength(cut)).toBeLessThanOrEqual(limits.conditionMessageBytes);
      if (Buffer.byteLength(text) <= limits.conditionMessageBytes) expect(cut).toBe(text);
      else expect(text.startsWith(cut.slice(0, cut.lastIndexOf("…")))).toBe(true);
    }),
  );
});

test("a list never grows above its limit", () => {
  const many = Array.from({ length: 40 }, (_, i) => ({ ...ready, type: `T${i}` }));
  const list: readonly Condition[] = mergeConditions([], many, 0);
  expect(list).toHaveLength(limits.conditionsPerResource);
});
