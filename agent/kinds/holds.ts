/** What a reconcile decides by, read again before each write: every await may outlast it. */
import type { MirrorRecord } from "../mirror/mirror.ts";
import { sameView } from "../mirror/reported.ts";
import type { KindContext } from "./context.ts";

type Grounds = Pick<KindContext, "mirror" | "gate" | "leaseHeld">;

/** Why the customer's policy or a pause lets nothing be written now; undefined when it may. */
export function blockedByPolicy(context: Pick<KindContext, "gate">): string | undefined {
  const gate = context.gate();
  if (gate.paused !== undefined) return gate.paused;
  if (gate.mode === "Auto") return undefined;
  return `AgentPolicy mode is ${gate.mode}: the agent writes nothing; the customer changes it in AgentPolicy "default"`;
}

/** Whether the Lease is held, the order is still the one that `record` was read with, and the gate is open. */
export function holds(context: Grounds, record: MirrorRecord): boolean {
  return (
    context.leaseHeld() &&
    sameView(context.mirror.get(record.uid), record) &&
    blockedByPolicy(context) === undefined
  );
}
