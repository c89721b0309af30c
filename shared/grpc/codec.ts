import type { DescMessage } from "@bufbuild/protobuf";
import { create, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";
import { MoorageError } from "../errors.ts";
import type { ElementLimits } from "./scan.ts";
import { malformed, scanElements } from "./scan.ts";

/** How messages are decoded. */
export interface CodecOptions {
  /** Keep fields the schema does not know (default true); false for messages from agents. */
  readUnknownFields?: boolean;
  /** Counted before a message is decoded; unbounded when absent. */
  elements?: ElementLimits;
}

/** Encodes a message or its init shape; bytes pass as they are. The result may share memory with `value`. */
export function encode(schema: DescMessage, value: unknown): Buffer {
  if (Buffer.isBuffer(value)) return value;
  const bytes =
    value instanceof Uint8Array
      ? value
      : toBinary(schema, isMessage(value, schema) ? value : create(schema, value as never));
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Decodes a message. `bytes` fields may share memory with `data`. Errors: those of `scanElements`;
 * INVALID_ARGUMENT `MALFORMED_MESSAGE`.
 */
export function decode(schema: DescMessage, data: Uint8Array, options: CodecOptions): unknown {
  if (options.elements !== undefined) scanElements(schema, data, options.elements);
  try {
    return fromBinary(schema, data, { readUnknownFields: options.readUnknownFields ?? true });
  } catch (thrown) {
    throw malformed(schema, "it cannot be decoded", thrown);
  }
}

/** A request that could not be decoded, in the place of its message: the reader throws its error. */
export class Undecodable {
  readonly error: MoorageError;

  constructor(error: MoorageError) {
    this.error = error;
  }
}

/**
 * Like {@link decode}, but never throws: grpc-js answers a decoder that throws with INTERNAL and a
 * text of its own, and the caller would not learn which limit its message passed.
 */
export function decodeOrRefuse(schema: DescMessage, data: Uint8Array, options: CodecOptions): unknown {
  try {
    return decode(schema, data, options);
  } catch (thrown) {
    return new Undecodable(MoorageError.from(thrown));
  }
}
