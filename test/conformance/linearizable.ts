/**
 * Linearizability by revision (sync-and-store.md 6.3): the revisions of the log are the witness, so that
 * one pass decides. The replay of the log must reproduce each answer; an answer before a call means a
 * lower revision; a read shows the state at its revision, which is not below any write answered before the
 * call. Each write carries its id as its value: one without an answer is in the log once, or not at all.
 */
import type { Batch, Rev } from "@moorage/hub/store/store";

/** One key as a client saw it. */
export interface SeenKV {
  key: string;
  value: string;
  modRev: Rev;
  version: number;
}

/** A client's call. */
export type Call =
  | { t: "call"; id: string; read: true }
  | {
      t: "call";
      id: string;
      txn: { if: { key: string; modRev: Rev }[]; put: string[]; delete: string[]; get: string[] };
    };

/** What it was answered. */
export type Answer =
  | { t: "read"; id: string; rev: Rev; kvs: SeenKV[] }
  | { t: "txn"; id: string; ok: boolean; rev: Rev; got: SeenKV[] }
  | { t: "refused"; id: string; reason: string };

type State = ReadonlyMap<string, SeenKV>;

/** The states of a log without gap from revision 1; index is the revision. */
export function replayLog(log: readonly Batch[]): { states: State[]; writers: Map<string, Rev[]> } {
  const states: State[] = [new Map(), new Map()];
  const writers = new Map<string, Rev[]>();
  for (const batch of log) {
    if (batch.kind !== "events") continue;
    const state = new Map(states.at(-1));
    const ids = new Set<string>();
    for (const { type, kv } of batch.events) {
      const key = Buffer.from(kv.key).toString();
      if (type === "delete") state.delete(key);
      else {
        const value = Buffer.from(kv.value).toString();
        state.set(key, { key, value, modRev: batch.rev, version: (state.get(key)?.version ?? 0) + 1 });
        ids.add(value);
      }
    }
    for (const id of ids) writers.set(id, [...(writers.get(id) ?? []), batch.rev]);
    states[batch.rev] = state;
  }
  return { states, writers };
}

/** All violations of a history: the calls and answers in their order, and the log as it is now. */
export function violations(lines: readonly (Call | Answer)[], log: readonly Batch[]): string[] {
  const out: string[] = [];
  const { states, writers } = replayLog(log);
  for (let rev = 1; rev < states.length; rev++)
    if (states[rev] === undefined) out.push(`revision ${rev} is missing`);
  if (out.length > 0) return out;
  const head = states.length - 1;
  const calls = new Map<string, { call: Call; floor: Rev }>();
  /** The highest revision that any answer so far has named. */
  let answered: Rev = 1;
  for (const line of lines) {
    if (line.t === "call") {
      calls.set(line.id, { call: line, floor: answered });
      continue;
    }
    if (line.t === "refused") {
      out.push(`${line.id} was refused: ${line.reason}`);
      continue;
    }
    const open = calls.get(line.id);
    if (open === undefined) {
      out.push(`${line.id} was answered without a call`);
      continue;
    }
    calls.delete(line.id);
    const { call, floor } = open;
    if (line.rev > head) {
      out.push(`${line.id} was answered revision ${line.rev}, the log ends at ${head}`);
      continue;
    }
    if (line.t === "read") {
      if (line.rev < floor) out.push(`read ${line.id} at ${line.rev} misses ${floor}, answered before it`);
      if (!same(line.kvs, states[line.rev] as State))
        out.push(`read ${line.id} is not the state at ${line.rev}`);
    } else if ("txn" in call) out.push(...judgeTxn(call, line, { floor, states, writers }));
    answered = Math.max(answered, line.rev);
  }
  for (const [id] of calls) {
    const at = writers.get(id) ?? [];
    if (at.length > 1) out.push(`${id} has no answer and is in the log ${at.length} times`);
  }
  return out;
}

function judgeTxn(
  call: Extract<Call, { txn: unknown }>,
  answer: Extract<Answer, { t: "txn" }>,
  on: { floor: Rev; states: readonly State[]; writers: ReadonlyMap<string, Rev[]> },
): string[] {
  const { id, rev, ok } = answer;
  const out: string[] = [];
  const { txn } = call;
  const holds = (state: State): boolean => txn.if.every((c) => (state.get(c.key)?.modRev ?? 0) === c.modRev);
  if (!ok) {
    const seen = on.states[rev] as State;
    if (rev < on.floor) out.push(`failed compare ${id} at ${rev} misses ${on.floor}, answered before it`);
    if (holds(seen)) out.push(`${id} failed its compares, which hold at ${rev}`);
    const expected = txn.get.flatMap((k) => seen.get(k) ?? []);
    if (JSON.stringify(answer.got) !== JSON.stringify(expected))
      out.push(`${id} got another value than that at ${rev}`);
    return out;
  }
  // A delete of a missing key writes nothing: its revision is the head that it saw.
  const effect =
    txn.put.length > 0 || txn.delete.some((k) => (on.states[rev - 1] as State | undefined)?.has(k));
  if (!effect) return rev < on.floor ? [`${id} at ${rev} misses ${on.floor}, answered before it`] : [];
  if (rev <= on.floor && txn.put.length > 0)
    out.push(`${id} wrote ${rev}, ${on.floor} was answered before its call`);
  if (txn.put.length > 0 && !holds(on.states[rev - 1] as State))
    out.push(`${id} wrote ${rev} over a compare that failed`);
  if (txn.put.length > 0 && String(on.writers.get(id) ?? []) !== String([rev]))
    out.push(`${id} was answered ${rev}, the log has it at [${String(on.writers.get(id) ?? [])}]`);
  for (const k of txn.put)
    if (on.states[rev]?.get(k)?.value !== id)
      out.push(`${id} wrote "${k}" at ${rev}, which holds another value`);
  return out;
}

function same(seen: readonly SeenKV[], state: State): boolean {
  if (seen.length !== state.size) return false;
  return seen.every((kv) => JSON.stringify(state.get(kv.key)) === JSON.stringify(kv));
}
