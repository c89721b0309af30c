/**
 * The condition checker: numbered rules that hold for every status anyone emits. Tests run it over
 * every resource at the end of every reconcile.
 */
import { limits } from "../limits.ts";
import { catalogue, commonReasons } from "./catalogue.ts";
import type { Entity } from "./catalogue.ts";
import { getCondition } from "./conditions.ts";
import type { Condition } from "./conditions.ts";

/** A broken rule: FAIL is a defect, WARN a doubt. */
export interface Finding {
  rule: string;
  level: "FAIL" | "WARN";
  text: string;
}

/** What is checked: one resource's status as emitted. */
export interface Checked {
  entity: Entity;
  generation: number;
  conditions: readonly Condition[];
  /** Who wrote the status; ownership is checked when given. */
  writer?: "hub" | "agent";
  /** The status written before, for the rule on transition times. */
  before?: readonly Condition[];
}

/** The rules by number, with the text the reference page shows. */
export const rules = {
  F1: "Ready is always present",
  F2: "Ready=True never stands beside Reconciling or Stalled",
  F3: "Reconciling and Stalled never stand together",
  F4: "observedGeneration is never above the generation",
  F5: "observedGeneration equals the generation when Ready=True",
  F6: "lastTransitionTime moves on a flip of status, and only then",
  F7: "each type stands once",
  F8: "status is True, False or Unknown",
  F9: "reason is a non-empty CamelCase word",
  F10: "message and number of conditions stay within the limits",
  F11: "a party writes the types it owns",
  F12: "the type is in the catalogue",
  F13: "Reconciling and Stalled are present only while True",
  F14: "lastTransitionTime is an RFC 3339 time",
  W1: "all types of the writer are present after the first visit",
  W2: "the reason is in the catalogue",
  W3: "the message is one line",
} as const;

/** All broken rules of one status, in the order of the rules' numbers. */
export function checkConditions(checked: Checked): Finding[] {
  const found: Finding[] = [];
  const add = (rule: keyof typeof rules, detail: string): void => {
    found.push({ rule, level: rule.startsWith("F") ? "FAIL" : "WARN", text: `${rules[rule]}: ${detail}` });
  };
  checkCombinations(checked, add);
  const seen = new Set<string>();
  for (const condition of checked.conditions) {
    if (seen.has(condition.type)) add("F7", condition.type);
    seen.add(condition.type);
    checkOne(condition, checked, add);
  }
  if (checked.writer !== undefined) {
    for (const kind of catalogue[checked.entity]) {
      if (kind.owner === checked.writer && kind.transient === undefined && !seen.has(kind.type))
        add("W1", kind.type);
    }
  }
  const order = Object.keys(rules);
  return found.sort((a, b) => order.indexOf(a.rule) - order.indexOf(b.rule));
}

type Add = (rule: keyof typeof rules, detail: string) => void;

function checkCombinations(checked: Checked, add: Add): void {
  const { conditions, generation } = checked;
  const ready = getCondition(conditions, "Ready");
  const on = (type: string): boolean => getCondition(conditions, type)?.status === "True";
  // A hub that writes its own conditions alone owes no Ready: the agent does.
  if (ready === undefined && checked.writer !== "hub") add("F1", "absent");
  if (ready?.status === "True") {
    if (on("Reconciling")) add("F2", "Reconciling");
    if (on("Stalled")) add("F2", "Stalled");
    if (ready.observedGeneration !== generation) add("F5", `${ready.observedGeneration}, not ${generation}`);
  }
  if (on("Reconciling") && on("Stalled")) add("F3", "both True");
  if (conditions.length > limits.conditionsPerResource) add("F10", `${conditions.length} conditions`);
}

function checkOne(condition: Condition, checked: Checked, add: Add): void {
  const { type, status, reason, message } = condition;
  if (condition.observedGeneration > checked.generation) {
    add("F4", `${type}: ${condition.observedGeneration} above ${checked.generation}`);
  }
  if (!["True", "False", "Unknown"].includes(status)) add("F8", `${type}: "${status}"`);
  if (!/^[A-Z][A-Za-z0-9]*$/.test(reason)) add("F9", `${type}: "${reason}"`);
  if (Buffer.byteLength(message) > limits.conditionMessageBytes) add("F10", `${type}: message too long`);
  if (/[\r\n]/.test(message)) add("W3", type);
  const time = condition.lastTransitionTime;
  if (
    !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(time) ||
    Number.isNaN(Date.parse(time))
  ) {
    add("F14", `${type}: "${time}"`);
  }
  const old = getCondition(checked.before ?? [], type);
  if (old !== undefined && old.status === status && old.lastTransitionTime !== time)
    add("F6", `${type} moved without a flip`);
  if (old !== undefined && old.status !== status && old.lastTransitionTime === time)
    add("F6", `${type} flipped and did not move`);
  const kind = catalogue[checked.entity].find((candidate) => candidate.type === type);
  if (kind === undefined) {
    add("F12", type);
    return;
  }
  if (kind.transient && status !== "True") add("F13", `${type}: ${status}`);
  if (checked.writer !== undefined && kind.owner !== checked.writer)
    add("F11", `${type} by ${checked.writer}`);
  if (!kind.reasons.includes(reason) && !commonReasons.includes(reason)) add("W2", `${type}: "${reason}"`);
}
