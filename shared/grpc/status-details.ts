import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import type { ErrorDetails } from "../errors.ts";
import { Code, codeName, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";

/**
 * google.rpc.Status with its standard details (googleapis google/rpc/status.proto and
 * error_details.proto), encoded by hand: six small messages whose field numbers are frozen.
 */

/** Metadata key that carries the encoded Status. */
export const DETAILS_KEY = "grpc-status-details-bin";

/** google.rpc.ErrorInfo.domain of every error of this system. */
export const ERROR_DOMAIN = "moorage.dev";

const TYPE_PREFIX = "type.googleapis.com/google.rpc.";

/** A text as a status may carry it: cut, with a mark, at `limits.statusTextBytes`. */
export function statusText(text: string): string {
  const most = limits.statusTextBytes;
  if (text.length <= most / 3 || Buffer.byteLength(text) <= most) return text;
  // A character that the cut went through is left out.
  const kept = Buffer.from(text.slice(0, most)).subarray(0, most - 3);
  return `${new TextDecoder().decode(kept, { stream: true })}…`;
}

/** One field per string, numbered from 1; empty strings are left out, as proto3 does. */
function strings(...values: string[]): Uint8Array {
  const w = new BinaryWriter();
  values.forEach((value, i) => {
    if (value !== "") w.tag(i + 1, WireType.LengthDelimited).string(statusText(value));
  });
  return w.finish();
}

/** A message with `items` as its repeated field 1. */
function repeated(items: Uint8Array[]): Uint8Array {
  const w = new BinaryWriter();
  for (const item of items) w.tag(1, WireType.LengthDelimited).bytes(item);
  return w.finish();
}

function errorInfo(error: MoorageError): Uint8Array {
  const w = new BinaryWriter();
  w.raw(strings(error.reason, ERROR_DOMAIN));
  for (const [key, value] of Object.entries(error.metadata)) {
    w.tag(3, WireType.LengthDelimited).bytes(strings(key, value));
  }
  return w.finish();
}

function retryInfo(ms: number): Uint8Array {
  const duration = new BinaryWriter();
  const seconds = Math.floor(ms / 1000);
  const nanos = Math.round((ms - seconds * 1000) * 1e6);
  if (seconds !== 0) duration.tag(1, WireType.Varint).int64(seconds);
  if (nanos !== 0) duration.tag(2, WireType.Varint).int32(nanos);
  return repeated([duration.finish()]);
}

/** Codes that say when to try again on the public API, and what they say when the error does not. */
const retryMs: Partial<Record<Code, number>> = {
  [Code.UNAVAILABLE]: limits.retryBaseMs,
  [Code.RESOURCE_EXHAUSTED]: 1_000,
};

/**
 * The google.rpc.Status of an error; exactly one ErrorInfo, other details when there are any. With
 * `retryInfo` UNAVAILABLE and RESOURCE_EXHAUSTED always carry one; agents, which spread their return
 * by themselves, are told a time only where the hub means it. Fields and the like are told as far as
 * `limits.statusDetailBytes` go.
 */
export function encodeStatus(error: MoorageError, options: { retryInfo?: boolean } = {}): Uint8Array {
  const details: [string, Uint8Array][] = [["ErrorInfo", errorInfo(error)]];
  let left = limits.statusDetailBytes;
  const told = (items: Uint8Array[]) => repeated(items.filter((item) => (left -= item.length) >= 0));
  if (error.fields.length > 0) {
    details.push(["BadRequest", told(error.fields.map((f) => strings(f.field, f.description)))]);
  }
  if (error.preconditions.length > 0) {
    const items = error.preconditions.map((p) => strings(p.type, p.subject, p.description));
    details.push(["PreconditionFailure", told(items)]);
  }
  if (error.quota.length > 0) {
    details.push(["QuotaFailure", told(error.quota.map((q) => strings(q.subject, q.description)))]);
  }
  const retryAfterMs = error.retryAfterMs ?? (options.retryInfo === true ? retryMs[error.code] : undefined);
  if (retryAfterMs !== undefined) details.push(["RetryInfo", retryInfo(retryAfterMs)]);
  const w = new BinaryWriter().tag(1, WireType.Varint).int32(error.code);
  if (error.message !== "") w.tag(2, WireType.LengthDelimited).string(statusText(error.message));
  for (const [name, value] of details) {
    const any = new BinaryWriter().tag(1, WireType.LengthDelimited).string(TYPE_PREFIX + name);
    if (value.length > 0) any.tag(2, WireType.LengthDelimited).bytes(value);
    w.tag(3, WireType.LengthDelimited).bytes(any.finish());
  }
  return w.finish();
}

/** Fields of a message by number: length-delimited ones as bytes, varints as numbers. */
function fields(data: Uint8Array): { no: number; bytes: Uint8Array; value: number }[] {
  const reader = new BinaryReader(data);
  const out: { no: number; bytes: Uint8Array; value: number }[] = [];
  while (reader.pos < reader.len) {
    const [no, type] = reader.tag();
    if (type === WireType.LengthDelimited) out.push({ no, bytes: reader.bytes(), value: 0 });
    else if (type === WireType.Varint)
      out.push({ no, bytes: new Uint8Array(), value: Number(reader.int64()) });
    else reader.skip(type, no);
  }
  return out;
}

const utf8 = new TextDecoder();

function texts(data: Uint8Array): Record<number, string> {
  return Object.fromEntries(fields(data).map((f) => [f.no, utf8.decode(f.bytes)]));
}

function decodeDetail(name: string, value: Uint8Array, into: ErrorDetails): void {
  const items = () =>
    fields(value)
      .filter((f) => f.no === 1)
      .map((f) => texts(f.bytes));
  if (name === "ErrorInfo") {
    const metadata: Record<string, string> = {};
    for (const f of fields(value)) {
      if (f.no === 1) into.reason = utf8.decode(f.bytes);
      if (f.no !== 3) continue;
      const pair = texts(f.bytes);
      metadata[pair[1] ?? ""] = pair[2] ?? "";
    }
    into.metadata = metadata;
  } else if (name === "BadRequest") {
    into.fields = items().map((t) => ({ field: t[1] ?? "", description: t[2] ?? "" }));
  } else if (name === "PreconditionFailure") {
    into.preconditions = items().map((t) => ({
      type: t[1] ?? "",
      subject: t[2] ?? "",
      description: t[3] ?? "",
    }));
  } else if (name === "QuotaFailure") {
    into.quota = items().map((t) => ({ subject: t[1] ?? "", description: t[2] ?? "" }));
  } else if (name === "RetryInfo") {
    const duration = fields(value).find((f) => f.no === 1);
    let ms = 0;
    for (const f of duration === undefined ? [] : fields(duration.bytes)) {
      ms += f.no === 1 ? f.value * 1000 : f.value / 1e6;
    }
    into.retryAfterMs = ms;
  }
}

/** An error of a peer. Malformed or absent details leave code and message alone. */
export function decodeStatus(code: number, message: string, details: Uint8Array | undefined): MoorageError {
  const known = codeName(code) === "UNKNOWN" ? Code.UNKNOWN : (code as Code);
  const into: ErrorDetails = {};
  try {
    for (const f of details === undefined ? [] : fields(details)) {
      if (f.no !== 3) continue;
      const any = fields(f.bytes);
      const type = utf8.decode(any.find((x) => x.no === 1)?.bytes);
      if (!type.startsWith(TYPE_PREFIX)) continue;
      decodeDetail(
        type.slice(TYPE_PREFIX.length),
        any.find((x) => x.no === 2)?.bytes ?? new Uint8Array(),
        into,
      );
    }
  } catch {
    return new MoorageError(known, message);
  }
  return new MoorageError(known, message, into);
}
