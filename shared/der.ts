/**
 * Reading DER (X.690), strictly and without recursion: definite lengths in their shortest form, tags of one
 * byte, and nothing left over. A library that turns all of a certificate into objects takes a millisecond
 * for it, which a hub cannot afford when all of its agents come back at once.
 */

/** One element: its tag as it stands, its content, and both with the length between them. */
export interface DerElement {
  tag: number;
  content: Uint8Array;
  whole: Uint8Array;
}

/** Tags that certificates are made of. */
export const tags = {
  boolean: 0x01,
  octetString: 0x04,
  objectIdentifier: 0x06,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
} as const;

/** The elements that stand in `der` one after the other; throws unless they fill it exactly. */
export function elements(der: Uint8Array): DerElement[] {
  const found: DerElement[] = [];
  for (let at = 0; at < der.length;) {
    const tag = der[at] as number;
    if ((tag & 0x1f) === 0x1f) throw new Error("A tag has more than one byte");
    const { length, begin } = lengthAt(der, at + 1);
    const end = begin + length;
    if (end > der.length) throw new Error("An element is longer than what holds it");
    found.push({ tag, content: der.subarray(begin, end), whole: der.subarray(at, end) });
    at = end;
  }
  return found;
}

function lengthAt(der: Uint8Array, at: number): { length: number; begin: number } {
  const first = der[at];
  if (first === undefined) throw new Error("An element has no length");
  if (first < 0x80) return { length: first, begin: at + 1 };
  const bytes = first & 0x7f;
  if (bytes < 1 || bytes > 4) throw new Error("A length is indefinite or too large");
  let length = 0;
  for (let i = 1; i <= bytes; i++) length = length * 256 + (der[at + i] ?? Number.NaN);
  // The shortest form: no leading zero byte, no byte where the first one would do. Not a number is refused too.
  if (!(length >= 0x80 && length >= 256 ** (bytes - 1)))
    throw new Error("A length is not in its shortest form");
  return { length, begin: at + 1 + bytes };
}

/** The one element of `der`, which must have this tag; its own elements. */
export function inside(der: Uint8Array, tag: number): DerElement[] {
  const [only, more] = elements(der);
  if (only === undefined || more !== undefined || only.tag !== tag)
    throw new Error("There is another element than is expected");
  return elements(only.content);
}

/** A time as certificates have it (RFC 5280 section 4.1.2.5), in milliseconds since the Unix epoch. */
export function timeMs(element: DerElement): number {
  const text = Buffer.from(element.content).toString("latin1");
  const [, years, rest] = /^(\d\d|\d{4})(\d{10})Z$/.exec(text) ?? [];
  if (years === undefined || rest === undefined) throw new Error("A time is malformed");
  if (element.tag !== (years.length === 2 ? tags.utcTime : tags.generalizedTime))
    throw new Error("A time has another tag than its form");
  const century = years.length === 4 ? "" : Number(years) < 50 ? "20" : "19";
  const iso = rest.replace(/(..)(..)(..)(..)(..)/, "-$1-$2T$3:$4:$5.000Z");
  const at = new Date(century + years + iso);
  // A day that its month does not have becomes one of the next.
  if (Number.isNaN(at.getTime()) || at.toISOString() !== century + years + iso)
    throw new Error("A time does not exist");
  return at.getTime();
}
