import { randomFillSync } from "node:crypto";

/** Chance as an interface: the simulation passes a seeded one. */
export interface Rng {
  /** Uniform in [0, 1). */
  float(): number;
  /** `n` fresh bytes owned by the caller. */
  bytes(n: number): Uint8Array;
}

/** Random bytes drawn ahead: a call to the system costs more than the 16 bytes of an id. */
const pool = new Uint8Array(4_096);
let poolAt = pool.length;

/** `n` bytes of the pool, which keeps nothing of what it has given. */
function pooled(n: number): Uint8Array {
  if (poolAt + n > pool.length) {
    randomFillSync(pool);
    poolAt = 0;
  }
  const out = pool.slice(poolAt, poolAt + n);
  pool.fill(0, poolAt, poolAt + n);
  poolAt += n;
  return out;
}

/** Cryptographic randomness of the machine. */
export const systemRng: Rng = {
  float() {
    const b = new Uint32Array(2);
    randomFillSync(b);
    // 53 random bits, as many as a double's mantissa holds.
    return ((b[0] as number) * 2 ** 21 + ((b[1] as number) >>> 11)) / 2 ** 53;
  },
  bytes: (n) => (n <= 64 ? pooled(n) : randomFillSync(new Uint8Array(n))),
};

/**
 * A seeded generator for tests and the simulation: splitmix32
 * (the mixing constants are those of the public-domain splitmix/murmur3 finaliser).
 */
export function seededRng(seed: number): Rng {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
  return {
    float: () => next() / 2 ** 32,
    bytes(n) {
      const out = new Uint8Array(n);
      for (let i = 0; i < n; i++) out[i] = next() & 0xff;
      return out;
    },
  };
}

/** A random (version 4) UUID in canonical text form, from `rng`. RFC 9562 section 5.4. */
export function uuid(rng: Rng): string {
  const b = rng.bytes(16);
  b[6] = ((b[6] as number) & 0x0f) | 0x40;
  b[8] = ((b[8] as number) & 0x3f) | 0x80;
  const h = Buffer.from(b).toString("hex");
  return `${h.slice(0, 8)}-${h.slice(8, 12)}-${h.slice(12, 16)}-${h.slice(16, 20)}-${h.slice(20)}`;
}
