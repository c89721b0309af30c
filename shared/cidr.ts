/**
 * IP ranges in CIDR notation, IPv4 and IPv6, as plain arithmetic. Enough for validation and for
 * subtracting one list of ranges from another. Text forms: RFC 4632 (IPv4), RFC 4291 section 2.2 (IPv6).
 */

/** A range: its family, its first address as an integer, and the length of its prefix. */
export interface Cidr {
  family: 4 | 6;
  base: bigint;
  prefix: number;
}

const bits = (family: 4 | 6): number => (family === 4 ? 32 : 128);

function parseV4(text: string): bigint | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  let out = 0n;
  for (const p of parts) {
    // A leading zero is refused: some resolvers read it as octal.
    if (!/^(0|[1-9][0-9]{0,2})$/.test(p) || Number(p) > 255) return undefined;
    out = (out << 8n) | BigInt(p);
  }
  return out;
}

function parseV6(text: string): bigint | undefined {
  let rest = text;
  let tail: bigint[] = [];
  const dot = rest.lastIndexOf(":");
  if (rest.includes(".")) {
    const v4 = parseV4(rest.slice(dot + 1));
    if (v4 === undefined) return undefined;
    tail = [v4 >> 16n, v4 & 0xffffn];
    rest = rest.slice(0, dot + 1) + "0:0";
  }
  const halves = rest.split("::");
  if (halves.length > 2) return undefined;
  const groups = (half: string): bigint[] | undefined => {
    if (half === "") return [];
    const out: bigint[] = [];
    for (const g of half.split(":")) {
      if (!/^[0-9a-fA-F]{1,4}$/.test(g)) return undefined;
      out.push(BigInt(`0x${g}`));
    }
    return out;
  };
  const left = groups(halves[0] as string);
  const right = halves.length === 2 ? groups(halves[1] as string) : [];
  if (left === undefined || right === undefined) return undefined;
  const missing = 8 - left.length - right.length;
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const all = [...left, ...Array<bigint>(missing).fill(0n), ...right];
  if (tail.length > 0) all.splice(6, 2, ...tail);
  return all.reduce((sum, g) => (sum << 16n) | g, 0n);
}

/** Parses `a.b.c.d/n` or `x::y/n`; undefined when the text is no range or has bits set below its prefix. */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.indexOf("/");
  if (slash < 0) return undefined;
  const address = text.slice(0, slash);
  const length = text.slice(slash + 1);
  if (!/^(0|[1-9][0-9]{0,2})$/.test(length)) return undefined;
  const prefix = Number(length);
  const family = address.includes(":") ? 6 : 4;
  const base = family === 6 ? parseV6(address) : parseV4(address);
  if (base === undefined || prefix > bits(family)) return undefined;
  const host = (1n << BigInt(bits(family) - prefix)) - 1n;
  return (base & host) === 0n ? { family, base, prefix } : undefined;
}

/** True when every address of `inner` lies in `outer`. */
export function contains(outer: Cidr, inner: Cidr): boolean {
  if (outer.family !== inner.family || inner.prefix < outer.prefix) return false;
  const shift = BigInt(bits(outer.family) - outer.prefix);
  return inner.base >> shift === outer.base >> shift;
}

/** True when the two ranges share an address: one then contains the other. */
export function overlaps(a: Cidr, b: Cidr): boolean {
  return contains(a, b) || contains(b, a);
}

/**
 * Addresses under which clouds serve instance metadata and credentials: the link-local address of
 * AWS, Google Cloud, Azure, Oracle and DigitalOcean; AWS over IPv6; Azure's wire server; Alibaba.
 * They are subtracted from every range that a tenant may reach.
 */
export const metadataRanges: readonly string[] = [
  "169.254.169.254/32",
  "168.63.129.16/32",
  "100.100.100.200/32",
  "fd00:ec2::254/128",
];
