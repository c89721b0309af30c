import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { Limits } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { limits } from "@moorage/shared/limits";
import { atMost } from "./messages.ts";
import type { ResRow } from "../store/store.ts";

/**
 * Frames of changes made by concatenating stored bytes; nothing stored is decoded or encoded again.
 * Field numbers are those of moorage.agent.v1: SyncResponse.changes = 2; Changes.seq = 1, cursor = 2,
 * updates = 3, initial_end = 4; Update.revision = 3; Cursor.epoch = 1, revision = 2.
 */

/** Rows that travel together. `cursor` is set when the frame ends at a revision boundary. */
export interface Frame {
  rows: readonly ResRow[];
  /** Of the updates alone. */
  bytes: number;
  cursor: number | undefined;
}

/** Bounds of one frame. */
export interface FrameLimits {
  bytes: number;
  items: number;
}

/** The limits of the protocol, less room for the envelope. */
export const frameLimits: FrameLimits = { bytes: limits.changesBytes - 128, items: limits.changesItems };

/** The limits for an agent that announced its own. */
export function frameLimitsFor(agent: Limits | undefined): FrameLimits {
  const envelope = limits.changesBytes - frameLimits.bytes;
  return {
    bytes: atMost(limits.changesBytes, agent?.maxMessageBytes) - envelope,
    items: frameLimits.items,
  };
}

/** Bytes of a revision field, and of tag and length around an update. */
const ROW_OVERHEAD = 16;

/** Bytes that a row takes in a frame, rounded up. */
export function rowBytes(row: ResRow): number {
  return row.update.length + ROW_OVERHEAD;
}

/**
 * Splits rows (whole revisions, in order) into frames. Revisions are kept whole as long as one fits
 * a frame; of one that does not, only the last frame has a cursor.
 */
export function packFrames(rows: readonly ResRow[], l: FrameLimits = frameLimits): Frame[] {
  const frames: Frame[] = [];
  let open: { rows: ResRow[]; bytes: number } = { rows: [], bytes: 0 };
  const close = (cursor: number | undefined) => {
    if (open.rows.length > 0) frames.push({ ...open, cursor });
    open = { rows: [], bytes: 0 };
  };
  const full = (items: number, bytes: number) =>
    open.rows.length + items > l.items || open.bytes + bytes > l.bytes;
  for (const group of revisions(rows)) {
    const bytes = group.reduce((sum, row) => sum + rowBytes(row), 0);
    if (full(group.length, bytes)) close(open.rows.at(-1)?.rev);
    for (const row of group) {
      if (open.rows.length > 0 && full(1, rowBytes(row))) close(undefined);
      open.rows.push(row);
      open.bytes += rowBytes(row);
    }
  }
  close(open.rows.at(-1)?.rev);
  return frames;
}

/** A frame as a stream sends it; with `initialEnd` the first part of the stream is over. */
export interface StreamFrame extends Frame {
  initialEnd: boolean;
}

/**
 * Frames of rows read up to `position`. `ends`: the first part of the stream ends there, rows or not. Of a
 * compare only that end has a cursor: an agent whose compare was cut comes back with the one it had, by
 * which the next compare tells what it was rid of.
 */
export function streamFrames(
  rows: readonly ResRow[],
  at: { position: number; ends: boolean; comparing: boolean },
  l: FrameLimits,
): StreamFrame[] {
  const frames = packFrames(rows, l);
  if (at.ends && frames.length === 0) frames.push({ rows: [], bytes: 0, cursor: undefined });
  return frames.map((frame, i) => {
    const last = i === frames.length - 1;
    const initialEnd = last && at.ends;
    const cursor = last ? at.position : frame.cursor;
    return { ...frame, cursor: at.comparing && !initialEnd ? undefined : cursor, initialEnd };
  });
}

function* revisions(rows: readonly ResRow[]): Generator<ResRow[]> {
  let group: ResRow[] = [];
  for (const row of rows) {
    if (group.length > 0 && group[0]?.rev !== row.rev) {
      yield group;
      group = [];
    }
    group.push(row);
  }
  if (group.length > 0) yield group;
}

/** An encoded SyncResponse that holds Changes with these rows. */
export function encodeChanges(frame: {
  seq: number;
  epoch: Uint8Array;
  cursor: number | undefined;
  rows: readonly ResRow[];
  initialEnd: boolean;
}): Buffer {
  const parts: Uint8Array[] = [new BinaryWriter().tag(1, WireType.Varint).uint64(frame.seq).finish()];
  if (frame.cursor !== undefined) {
    const cursor = new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(frame.epoch);
    if (frame.cursor !== 0) cursor.tag(2, WireType.Varint).int64(frame.cursor);
    parts.push(new BinaryWriter().tag(2, WireType.LengthDelimited).bytes(cursor.finish()).finish());
  }
  for (const row of frame.rows) {
    const revision = new BinaryWriter().tag(3, WireType.Varint).int64(row.rev).finish();
    const length = row.update.length + revision.length;
    parts.push(
      new BinaryWriter().tag(3, WireType.LengthDelimited).uint32(length).finish(),
      row.update,
      revision,
    );
  }
  if (frame.initialEnd) parts.push(new BinaryWriter().tag(4, WireType.Varint).bool(true).finish());
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = new BinaryWriter().tag(2, WireType.LengthDelimited).uint32(length).finish();
  return Buffer.concat([head, ...parts]);
}
