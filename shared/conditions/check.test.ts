import { expect, test } from "vitest";
import { catalogue } from "./catalogue.ts";
import { checkConditions, rules } from "./check.ts";
import type { Checked } from "./check.ts";
import type { Condition } from "./conditions.ts";

const time = "2026-01-01T00:00:00.000Z";
const one = (type: string, over: Partial<Condition> = {}): Condition => ({
  type,
  status: "True",
  reason: type === "Ready" ? "Ready" : "Progressing",
  message: "",
  lastTransitionTime: time,
  observedGeneration: 2,
  ...over,
});
const app = (conditions: Condition[], over: Partial<Checked> = {}): Checked => ({
  entity: "Application",
  generation: 2,
  conditions,
  ...over,
});
const broken = (checked: Checked): string[] => checkConditions(checked).map((finding) => finding.rule);
const ready = one("Ready");
const held = { reason: "Held" };

/** One planted offender per rule keeps the checker from going blind. */
const offenders: [keyof typeof rules, Checked][] = [
  ["F1", app([])],
  ["F2", app([ready, one("Reconciling")])],
  [
    "F3",
    app([one("Ready", { status: "False", reason: "Invalid" }), one("Reconciling"), one("Stalled", held)]),
  ],
  ["F4", app([one("Ready", { status: "False", observedGeneration: 3 })])],
  ["F5", app([one("Ready", { observedGeneration: 1 })])],
  ["F6", app([ready], { before: [one("Ready", { lastTransitionTime: "2025-01-01T00:00:00Z" })] })],
  ["F7", app([ready, ready])],
  ["F8", app([one("Ready", { status: "Maybe" as "True" })])],
  ["F9", app([one("Ready", { reason: "" })])],
  ["F10", app([one("Ready", { message: "x".repeat(1025) })])],
  ["F11", app([one("Connected", { reason: "StreamOpen" }), ready], { entity: "DataPlane", writer: "agent" })],
  ["F12", app([ready, one("Nonsense")])],
  ["F13", app([ready, one("Reconciling", { status: "False" })])],
  ["F14", app([one("Ready", { lastTransitionTime: "yesterday" })])],
  ["W1", app([ready], { writer: "agent" })],
  ["W2", app([one("Ready", { reason: "Because" })])],
  ["W3", app([one("Ready", { message: "a\nb" })])],
];

test.each(offenders)("rule %s is seen broken", (rule, checked) => {
  expect(broken(checked)).toContain(rule);
});

test("every rule has its offender", () => {
  expect(offenders.map(([rule]) => rule)).toEqual(Object.keys(rules));
});

test("a sound status breaks no rule", () => {
  expect(broken(app([ready]))).toEqual([]);
});

test("the catalogue names each type once, with sound reasons, within the limit", () => {
  for (const kinds of Object.values(catalogue)) {
    expect(new Set(kinds.map((kind) => kind.type)).size).toBe(kinds.length);
    expect(kinds.length).toBeLessThanOrEqual(32);
    for (const reason of kinds.flatMap((kind) => kind.reasons)) expect(reason).toMatch(/^[A-Z][A-Za-z]*$/);
  }
});
