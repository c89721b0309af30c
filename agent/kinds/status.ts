/** From facts to a record's status: one way for all kinds. */
import type { Condition } from "@moorage/shared/conditions/conditions";
import { mergeConditions, removeCondition } from "@moorage/shared/conditions/conditions";
import type { MirrorRecord } from "../mirror/mirror.ts";

/** A condition without times and generation. */
export interface Fact {
  type: string;
  status: "True" | "False" | "Unknown";
  reason: string;
  message: string;
}

/** The types that are present only while true. */
const abnormalTrue = ["Reconciling", "Stalled"];

/**
 * The record's conditions with the facts of this generation. A type of `all` that neither the facts
 * nor an earlier visit knows becomes Unknown; Reconciling and Stalled go unless the facts state them.
 */
export function conditionsWith(
  record: MirrorRecord,
  facts: readonly Fact[],
  options: { all: readonly string[]; now: number },
): readonly Condition[] {
  const observedGeneration = record.generation;
  let list: readonly Condition[] = record.status?.conditions ?? [];
  const known = new Set([...list.map((c) => c.type), ...facts.map((f) => f.type)]);
  const first = options.all
    .filter((type) => !known.has(type))
    .map((type) => ({
      type,
      status: "Unknown" as const,
      reason: "Pending",
      message: "",
      observedGeneration,
    }));
  list = mergeConditions(list, [...first, ...facts.map((f) => ({ ...f, observedGeneration }))], options.now);
  for (const type of abnormalTrue)
    if (!facts.some((f) => f.type === type)) list = removeCondition(list, type);
  return list;
}
