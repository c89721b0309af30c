import type { Limits } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { limits } from "@moorage/shared/limits";
import { atMost } from "./messages.ts";

/** The un-acked part of a stream: pure bookkeeping of frames sent and acked. */

/** One un-acked frame; `revision` is the cursor it carried, undefined inside a revision. */
export interface SentFrame {
  seq: number;
  bytes: number;
  items: number;
  revision: number | undefined;
}

/** Bounds of the un-acked part. */
export interface WindowLimits {
  bytes: number;
  items: number;
}

/** The bounds that an agent announced, within those of the protocol. */
export function windowLimitsFor(agent: Limits | undefined): WindowLimits {
  return {
    bytes: atMost(limits.windowBytes, agent?.windowBytes),
    items: atMost(limits.windowItems, agent?.windowItems),
  };
}

/** Immutable state of a window. */
export interface Window {
  readonly limits: WindowLimits;
  readonly unacked: readonly SentFrame[];
  readonly bytes: number;
  readonly items: number;
  readonly lastSeq: number;
  /** Newest revision that an acked frame carried as its cursor. */
  readonly ackedRevision: number;
}

/** An empty window at the position the agent holds. */
export function openWindow(limits: WindowLimits, ackedRevision: number): Window {
  return { limits, unacked: [], bytes: 0, items: 0, lastSeq: 0, ackedRevision };
}

/** Whether a frame may be sent: it fits, or nothing is under way (one frame always may). */
export function fits(w: Window, frame: { bytes: number; items: number }): boolean {
  if (w.unacked.length === 0) return true;
  return w.bytes + frame.bytes <= w.limits.bytes && w.items + frame.items <= w.limits.items;
}

/** What may be sent beside what is under way; one frame always may when nothing is. */
export function room(w: Window): WindowLimits {
  if (w.unacked.length === 0) return w.limits;
  return { bytes: Math.max(0, w.limits.bytes - w.bytes), items: Math.max(0, w.limits.items - w.items) };
}

/** The window after a frame was sent under the next sequence number. */
export function sent(
  w: Window,
  frame: { bytes: number; items: number; revision: number | undefined },
): Window {
  const seq = w.lastSeq + 1;
  return {
    ...w,
    lastSeq: seq,
    unacked: [...w.unacked, { seq, ...frame }],
    bytes: w.bytes + frame.bytes,
    items: w.items + frame.items,
  };
}

/**
 * The window after an ack of `seq` and all before; an ack of what was acked already changes nothing.
 * Undefined when `seq` was never sent.
 */
export function acked(w: Window, seq: number): Window | undefined {
  if (seq < 1 || seq > w.lastSeq) return undefined;
  const done = w.unacked.filter((f) => f.seq <= seq);
  let { bytes, items, ackedRevision } = w;
  for (const frame of done) {
    bytes -= frame.bytes;
    items -= frame.items;
    ackedRevision = Math.max(ackedRevision, frame.revision ?? 0);
  }
  return { ...w, unacked: w.unacked.slice(done.length), bytes, items, ackedRevision };
}
