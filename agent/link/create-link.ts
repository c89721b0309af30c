/** The loop around the streams: dial, run, wait, again. */
import type { Link } from "@moorage/shared/grpc/types";
import { sleep } from "@moorage/shared/clock";
import { Code, codeName, MoorageError } from "@moorage/shared/errors";
import { type Backoff, backoffMs, isAbort } from "@moorage/shared/service";
import type { HubLink, HubLinkDeps, LinkState } from "./hub-link.ts";
import { Outbox } from "./outbox.ts";
import type { StreamContext, StreamEnd } from "./stream.ts";
import { defaultPolicy, runStream } from "./stream.ts";

/** Between dials that failed. */
const BACKOFF: Backoff = { baseMs: 1_000, capMs: 120_000 };
/** The longest that a hub may send an agent away: a stolen one must not park a fleet for years. */
const MAX_AWAY_MS = 15 * 60_000;

/** A link; nothing happens before `run`. */
export function createHubLink(deps: HubLinkDeps): HubLink {
  const state: LinkState = {
    connected: false,
    connectedSinceMs: 0,
    lastMessageMs: 0,
    desiredRevision: 0,
    appliedRevision: 0,
    clockOffsetMs: undefined,
    maxRemovalsPerSync: 0,
  };
  const listeners = new Set<() => void>();
  const context: StreamContext = {
    deps,
    outbox: new Outbox(deps.store),
    policy: { ...defaultPolicy },
    state,
    bookmark: { cursor: undefined },
    changed: () => {
      for (const fn of listeners) fn();
    },
  };

  async function once(signal: AbortSignal): Promise<StreamEnd> {
    let link: Link;
    try {
      link = await deps.connect(signal);
    } catch (thrown) {
      return { established: false, goodbye: undefined, error: MoorageError.from(thrown) };
    }
    try {
      return await runStream(context, link, signal);
    } finally {
      link.close();
    }
  }

  async function run(signal: AbortSignal): Promise<void> {
    let attempt = 0;
    // Changes between streams count too: the outbox knows no stream.
    const leave = deps.store.onStatus((change) => {
      if (!state.connected) context.outbox.changed(change);
    });
    try {
      while (!signal.aborted) {
        const end = await once(signal);
        if (signal.aborted) return;
        attempt = end.established ? 0 : attempt + 1;
        const reason = reasonOf(end);
        deps.onEnded?.({ reason, error: end.error });
        noteGeneration(end.error);
        const delayMs = Math.min(Math.max(0, delayOf(end, attempt)), MAX_AWAY_MS);
        deps.log.warn("not connected to the hub, it is dialled again", {
          reason,
          delayMs: Math.round(delayMs),
          error: end.error,
        });
        await sleep(deps.clock, delayMs, signal);
      }
    } catch (thrown) {
      if (!isAbort(thrown, signal)) throw thrown;
    } finally {
      leave();
    }
  }

  function noteGeneration(error: MoorageError | undefined): void {
    if (error?.code !== Code.FAILED_PRECONDITION) return;
    const known = Number(error.metadata["agent_generation"] ?? error.metadata["agentGeneration"]);
    if (Number.isSafeInteger(known) && known >= deps.hello().generation) deps.onRefusedGeneration(known);
  }

  function delayOf(end: StreamEnd, attempt: number): number {
    if (end.goodbye !== undefined) return end.goodbye.reconnectAfterMs;
    if (end.error?.retryAfterMs !== undefined) return end.error.retryAfterMs * (1 + deps.rng.float() * 0.2);
    if (end.established) return deps.rng.float() * context.policy.reconnectSpreadMs;
    return backoffMs(BACKOFF, attempt, deps.rng);
  }

  return {
    name: "hub link",
    run,
    state,
    onChange(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
  };
}

function reasonOf(end: StreamEnd): string {
  if (end.goodbye !== undefined)
    return end.goodbye.reason === "" ? "goodbye" : end.goodbye.reason.toLowerCase();
  return end.error === undefined ? "closed" : codeName(end.error.code).toLowerCase();
}
