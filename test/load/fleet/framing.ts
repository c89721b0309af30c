/** gRPC's framing of messages on an HTTP/2 stream: a flag, a length, the bytes. */
import { limits } from "@moorage/shared/limits";

const HEAD_BYTES = 5;

/** A message with its prefix, not compressed. */
export function frame(message: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(HEAD_BYTES + message.length);
  out.writeUInt8(0, 0);
  out.writeUInt32BE(message.length, 1);
  out.set(message, HEAD_BYTES);
  return out;
}

/** Puts messages together from chunks that are cut anywhere. */
export class Deframer {
  #rest: Buffer = Buffer.alloc(0);

  /** The messages that are complete now; they may share memory with `chunk`. Throws on a malformed prefix. */
  push(chunk: Buffer): Buffer[] {
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const out: Buffer[] = [];
    while (data.length >= HEAD_BYTES) {
      if (data[0] !== 0) throw new Error("Cannot read the stream: a message is compressed");
      const length = data.readUInt32BE(1);
      if (length > limits.hubToAgentMessageBytes)
        throw new Error(`Cannot read the stream: a message of ${length} bytes is above the limit`);
      if (data.length < HEAD_BYTES + length) break;
      out.push(data.subarray(HEAD_BYTES, HEAD_BYTES + length));
      data = data.subarray(HEAD_BYTES + length);
    }
    this.#rest = data;
    return out;
  }
}
