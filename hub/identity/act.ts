import { Code, MoorageError } from "@moorage/shared/errors";
import type { Compare, Op, Rev } from "../store/store.ts";
import { auditOp } from "./audit.ts";
import type { IdentityContext } from "./context.ts";
import type { Actor } from "./identity.ts";

/** What callers do to keys and tokens, as transactions: the API commits them with its request ids. */

/** Tries before an act that keeps losing its compares is given up; each part of an act counts. */
const TRIES = 128;

/** One transaction; its audit record is added by whoever commits it. */
export interface Act<A> {
  if: Compare[];
  then: Op[];
  /** Name that the audit record names. */
  resource: string;
  answer: A;
  /** True when it is a part: once it is committed, the act is planned anew. */
  more?: boolean;
  /** Called once it is durable. */
  committed?(rev: Rev): void;
}

/** Reads, checks, and says what to do; called anew when another write came between. */
export type Plan<A> = () => Promise<Act<A>>;

/** Commits an act with its audit record. */
export async function carryOut<A>(
  ctx: IdentityContext,
  by: Actor & { method: string },
  plan: Plan<A>,
): Promise<A> {
  for (let i = 0; i < TRIES; i++) {
    const act = await plan();
    const record = auditOp(ctx, { ...by, resource: act.resource, outcome: "OK" });
    const { ok, rev } = await ctx.store.txn({ if: act.if, then: [...act.then, record] });
    if (!ok) continue;
    act.committed?.(rev);
    if (act.more !== true) return act.answer;
  }
  throw new MoorageError(Code.ABORTED, "Cannot write: other writes came between; retry", {
    reason: "CONTENTION",
  });
}
