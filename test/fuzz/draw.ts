/** Structure out of bytes: each draw takes a few; when they run out, every further draw is 0 or empty. */
export class Draw {
  readonly #data: Uint8Array;
  #at = 0;

  constructor(data: Uint8Array) {
    this.#data = data;
  }

  /** Bytes not yet drawn. */
  get left(): number {
    return this.#data.length - this.#at;
  }

  /** 0 to 255. */
  byte(): number {
    return this.#at < this.#data.length ? (this.#data[this.#at++] as number) : 0;
  }

  /** 0 to `below` - 1, for `below` up to 65,536. */
  int(below: number): number {
    if (below <= 1) return 0;
    return (below <= 256 ? this.byte() : this.byte() * 256 + this.byte()) % below;
  }

  /** True once in `of` times. */
  chance(of: number): boolean {
    return this.left > 0 && this.int(of) === 1 % of;
  }

  /** One of a list. */
  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)] as T;
  }

  /** At most `n` bytes, a copy. */
  bytes(n: number): Uint8Array {
    const out = this.#data.slice(this.#at, this.#at + n);
    this.#at += out.length;
    return out;
  }

  /** All that is left. */
  rest(): Uint8Array {
    return this.bytes(this.left);
  }

  /** A few bytes over and over, up to `max` bytes, then all that is left: what costs by the square shows. */
  swollen(max: number): Uint8Array {
    const unit = Buffer.from(this.bytes(1 + this.int(16)));
    const size = Math.min(max, unit.length * (1 << this.int(17)));
    return Buffer.concat([Buffer.alloc(size, unit.length === 0 ? 0x20 : unit), this.rest()]).subarray(0, max);
  }

  /** A text: a length byte, then that many bytes as UTF-8. */
  text(): string {
    return Buffer.from(this.bytes(this.byte())).toString("utf8");
  }

  /** A signed 64-bit integer, small or at the edges of what code takes for granted. */
  int64(): bigint {
    const edges = [0n, 1n, -1n, 2n ** 31n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n)];
    const kind = this.byte();
    return kind < 64 ? (edges[kind % edges.length] as bigint) : BigInt(kind - 64);
  }
}

/** Keys that code may take for something else than a name. */
export const oddKeys: readonly string[] = [
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "valueOf",
  "then",
  "toJSON",
  "length",
  "0",
  "1",
  "-1",
  "4294967295",
  "1e3",
  "",
  "a",
  "b",
  "a.b",
  "a/b",
  "~0",
  "*",
  "-",
  ".",
  "$ref",
  "items",
  "name",
  "é",
  "\u0000",
  "\ud800",
  "\u0085",
];

const scalars: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -0,
  1,
  -1,
  1.5,
  1e21,
  2 ** 53,
  "",
  "a",
  "0",
  "true",
  "__proto__",
  "${{ parameters.a }}",
  "$${{",
  "${{",
];

/**
 * A JSON value whose keys are often odd; own keys all, `__proto__` among them, as JSON.parse makes
 * them. At most `depth` levels.
 */
export function drawJson(draw: Draw, depth = 5): unknown {
  const kind = draw.int(8);
  if (depth <= 0 || kind < 3) return kind === 2 ? draw.text() : draw.pick(scalars);
  const size = draw.int(5);
  if (kind === 3) return Array.from({ length: size }, () => drawJson(draw, depth - 1));
  return drawObject(draw, depth, size);
}

/** An object as of {@link drawJson}. */
export function drawObject(draw: Draw, depth = 5, size = draw.int(6)): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (let i = 0; i < size; i++) {
    const key = draw.chance(6) ? draw.text() : draw.pick(oddKeys);
    Object.defineProperty(out, key, {
      value: drawJson(draw, depth - 1),
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return out;
}
