/** Mutation of byte strings, in the manner of AFL's havoc stage. Pure but for the generator passed in. */
import type { Rng } from "@moorage/shared/rng";

/** What a mutation may take from. */
export interface Material {
  rng: Rng;
  maxBytes: number;
  /** Other inputs, to cross with. */
  inputs: readonly Uint8Array[];
  /** Words of the format. */
  words: readonly Uint8Array[];
}

const edges = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

/** A changed copy of `input`. */
export function mutate(input: Uint8Array, of: Material): Uint8Array {
  const below = (n: number) => Math.floor(of.rng.float() * n);
  let out: Buffer = Buffer.from(input);
  for (let rounds = 1 << below(5); rounds > 0; rounds--) out = once(out, of, below);
  return out.length > of.maxBytes ? out.subarray(0, of.maxBytes) : out;
}

type Below = (n: number) => number;

function once(data: Buffer, of: Material, below: Below): Buffer {
  const at = below(data.length + 1);
  const length = Math.min(data.length - at, 1 + below(below(4) === 0 ? 64 : 8));
  switch (data.length === 0 ? 6 : below(12)) {
    case 0:
      return replace(data, at, 1, Buffer.from([(data[at] ?? 0) ^ (1 << below(8))]));
    case 1:
      return replace(data, at, 1, Buffer.from([below(256)]));
    case 2:
      return replace(data, at, 1, Buffer.from([(data[at] ?? 0) + below(35) - 17]));
    case 3:
      return replace(data, at, below(2) * 4, edge(below));
    case 4:
      return replace(data, at, length, Buffer.alloc(0));
    case 5:
      return replace(data, at, 0, data.subarray(below(data.length)).subarray(0, length));
    case 6:
      return replace(data, at, 0, Buffer.from(of.rng.bytes(1 + below(8))));
    case 7:
    case 8:
      return replace(data, at, below(2) * length, word(of, below));
    case 9:
      return cross(data, at, of, below);
    case 10:
      return replace(data, at, length, Buffer.alloc(length, data[at] ?? 0));
    default:
      return below(4) === 0
        ? Buffer.from(data.subarray(0, at))
        : replace(data, at, 0, Buffer.alloc(1 + below(64), data[at] ?? 0x20));
  }
}

function replace(data: Buffer, at: number, length: number, by: Uint8Array): Buffer {
  return Buffer.concat([data.subarray(0, at), by, data.subarray(at + length)]);
}

function edge(below: Below): Buffer {
  const out = Buffer.alloc(4);
  const value = edges[below(edges.length)] as number;
  if (below(2) === 0) out.writeUInt32LE(value);
  else out.writeUInt32BE(value);
  return out.subarray(0, 1 << below(3));
}

function word(of: Material, below: Below): Uint8Array {
  return of.words.length === 0 ? Buffer.from([below(256)]) : (of.words[below(of.words.length)] as Uint8Array);
}

/** A part of another input over, or into, this one. */
function cross(data: Buffer, at: number, of: Material, below: Below): Buffer {
  const other = of.inputs[below(of.inputs.length)] ?? data;
  if (below(3) === 0) return Buffer.concat([data.subarray(0, at), other.subarray(below(other.length + 1))]);
  const from = below(other.length + 1);
  const part = other.subarray(from, from + 1 + below(64));
  return replace(data, at, below(2) * part.length, part);
}
