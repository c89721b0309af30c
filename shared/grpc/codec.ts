import type { DescMessage } from "@bufbuild/protobuf";
import { create, fromBinary, isMessage, toBinary } from "@bufbuild/protobuf";

/** How messages are decoded. */
export interface CodecOptions {
  /** Keep fields the schema does not know (default true); false for messages from agents. */
  readUnknownFields?: boolean;
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

/** Decodes a message; throws on malformed bytes. `bytes` fields may share memory with `data`. */
export function decode(schema: DescMessage, data: Uint8Array, options: CodecOptions): unknown {
  return fromBinary(schema, data, { readUnknownFields: options.readUnknownFields ?? true });
}
