/** Keys as bytes: making them from text, comparing them, prefixes. */

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A text key, UTF-8: `key("tenants/acme")`. */
export function key(text: string): Uint8Array {
  return encoder.encode(text);
}

/** The text of a key made by {@link key}. */
export function keyText(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** Above every key that a store accepts. */
const afterAll = new Uint8Array(1025).fill(0xff);

/** The end of the range of all keys that begin with `prefix`; an empty prefix means all keys. */
export function prefixEnd(prefix: Uint8Array): Uint8Array {
  for (let i = prefix.length - 1; i >= 0; i--) {
    const b = prefix[i] as number;
    if (b < 0xff) {
      const end = prefix.slice(0, i + 1);
      end[i] = b + 1;
      return end;
    }
  }
  return afterAll;
}

/** `{start, end}` of all keys that begin with the text: `...prefix("tenants/")` in a range or watch. */
export function prefix(text: string): { start: Uint8Array; end: Uint8Array } {
  const start = key(text);
  return { start, end: prefixEnd(start) };
}

/** The least key above `k`: where the page after `k` starts. */
export function keyAfter(k: Uint8Array): Uint8Array {
  const next = new Uint8Array(k.length + 1);
  next.set(k);
  return next;
}

/** Byte order, as `Array.prototype.sort` wants it. */
export function compareKeys(a: Uint8Array, b: Uint8Array): number {
  return Buffer.compare(a, b);
}

/** Whether `k` lies in [`start`, `end`), or is `start` when there is no end. */
export function inRange(k: Uint8Array, r: { start: Uint8Array; end?: Uint8Array }): boolean {
  const low = Buffer.compare(k, r.start);
  if (r.end === undefined) return low === 0;
  return low >= 0 && Buffer.compare(k, r.end) < 0;
}

/**
 * Bytes of their own buffer. A view of a pooled Buffer would keep the whole pool alive, and be
 * cloned with it when sent to another thread.
 */
export function owned(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}
