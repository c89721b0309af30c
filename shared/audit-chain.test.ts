import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ChainRecord, ChainSeal } from "./audit-chain.ts";
import {
  ChainVerifier,
  NO_DIGEST,
  parseHead,
  PRUNE_METHOD,
  recordDigest,
  reportLines,
  sealDigest,
  sealName,
} from "./audit-chain.ts";

const record = (revision: number, more: Partial<ChainRecord> = {}): ChainRecord => ({
  name: `t/${revision}`,
  revision,
  encoded: Buffer.from(`act ${revision}`),
  method: "m",
  resource: "r",
  ...more,
});

const seal = (before: ChainSeal | undefined, run: readonly ChainRecord[]): ChainSeal => {
  const s = {
    sequence: (before?.sequence ?? 0) + 1,
    previousDigest: before?.digest ?? NO_DIGEST,
    sealTimeMs: 1_000,
    recordRevisions: run.map((r) => r.revision),
    recordDigests: run.map(recordDigest),
    pruned: false,
  };
  return { ...s, digest: sealDigest(s) };
};

/** Records of revisions 1 to `count`, every second revision skipped, in runs of 5; the last `tail` are unsealed. */
function trail(count: number, tail: number) {
  const records = Array.from({ length: count }, (_, i) => record(2 * i + 2));
  const seals: ChainSeal[] = [];
  for (let i = 0; i < count - tail; i += 5)
    seals.push(seal(seals.at(-1), records.slice(i, Math.min(i + 5, count - tail))));
  return { records, seals };
}

function verify(
  t: { records: ChainRecord[]; seals: ChainSeal[] },
  head?: { sequence: number; digest: string },
) {
  const verifier = new ChainVerifier(head);
  verifier.add(t.records, []);
  verifier.add([], t.seals);
  return verifier.finish();
}

describe("the audit chain", () => {
  test("an untouched trail is intact, and its unsealed tail is named", () => {
    const report = verify(trail(23, 3));
    expect(report).toMatchObject({ findings: [], sealed: 20, seals: 4, prunedTo: undefined });
    expect(report.unsealed.map((u) => u.revision)).toEqual([42, 44, 46]);
    expect(reportLines(report).join("\n")).toContain("revision 42  t/42");
    expect(reportLines(report).at(-1)).toBe("intact");
  });

  test("any edit, removal, insertion or move of a sealed record is found and named by its revision", () => {
    const tampering = fc.record({
      at: fc.nat(19),
      how: fc.constantFrom("edit", "remove", "insert", "move", "rename"),
      by: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(tampering, ({ at, how, by }) => {
        const t = trail(23, 3);
        const r = t.records[at] as ChainRecord;
        const encoded = Buffer.from(r.encoded);
        encoded[by % encoded.length] = (encoded[by % encoded.length] as number) ^ by;
        const lower = record(r.revision - 1, { name: `forged/${by}` });
        if (how === "edit") t.records[at] = { ...r, encoded };
        if (how === "rename") t.records[at] = { ...r, name: `${r.name}x` };
        if (how === "remove") t.records.splice(at, 1);
        if (how === "insert") t.records.splice(at, 0, lower);
        if (how === "move") t.records[at] = { ...r, revision: r.revision - 1 };
        const { findings } = verify(t);
        expect(findings.length).toBeGreaterThan(0);
        expect(findings.every((f) => /revision \d+/.test(f.message))).toBe(true);
        const named = how === "insert" ? lower.name : `revision ${r.revision}`;
        expect(findings.some((f) => f.message.includes(named))).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  test("edited, missing, exchanged and forged seals are found", () => {
    const t = trail(20, 0);
    const [a, b, c, d] = t.seals as [ChainSeal, ChainSeal, ChainSeal, ChainSeal];
    const kinds = (seals: ChainSeal[]) => verify({ ...t, seals }).findings.map((f) => f.kind);
    expect(kinds([a, b, { ...c, sealTimeMs: 1 }, d])).toContain("seal-edited");
    expect(kinds([a, b, d])).toContain("seal-missing");
    expect(kinds([b, c, d])).toContain("seal-missing");
    expect(kinds([a, c, b, d])).toContain("seal-missing");
    // A run sealed anew after an edit matches itself, and breaks what follows.
    const records = t.records.map((r) => (r.revision === 12 ? { ...r, encoded: Buffer.from("forged") } : r));
    const forged = seal(a, records.slice(5, 10));
    expect(verify({ records, seals: [a, forged, c, d] }).findings.map((f) => f.kind)).toContain(
      "seal-edited",
    );
    expect(kinds([a, b, { ...c, pruned: true }, d])).toContain("anchor");
  });

  test("a trail cut off at its end is found by a seal that was kept outside, and only by that", () => {
    const t = trail(20, 0);
    const head = verify(t).head as { sequence: number; digest: string };
    const cut = { records: t.records.slice(0, 15), seals: t.seals.slice(0, 3) };
    expect(verify(cut).findings).toEqual([]);
    expect(verify(cut, head).findings.map((f) => f.kind)).toEqual(["truncated"]);
    expect(verify(t, head).findings).toEqual([]);
    expect(verify(t, { ...head, digest: "0".repeat(64) }).findings.map((f) => f.kind)).toEqual(["truncated"]);
    const cutRecords = { records: t.records.slice(0, 18), seals: t.seals };
    expect(verify(cutRecords).findings.map((f) => f.kind)).toEqual(["removed", "removed"]);
  });

  test("a pruned prefix leaves an anchor that a record must tell of", () => {
    const t = trail(20, 0);
    const [, b, c, d] = t.seals as [ChainSeal, ChainSeal, ChainSeal, ChainSeal];
    const told = record(99, { method: PRUNE_METHOD, resource: sealName(2) });
    const seals = [{ ...b, pruned: true }, c, d];
    const kept = { records: [...t.records.slice(10), told], seals };
    expect(verify(kept)).toMatchObject({ findings: [], prunedTo: 20 });
    // What retention has not come to yet is no insertion.
    expect(verify({ records: [...t.records.slice(7), told], seals }).findings).toEqual([]);
    expect(verify({ records: t.records.slice(10), seals }).findings.map((f) => f.kind)).toEqual(["anchor"]);
  });

  test("a kept seal is read strictly", () => {
    expect(parseHead(`7:${"a".repeat(64)}`)).toEqual({ sequence: 7, digest: "a".repeat(64) });
    for (const bad of ["", "7", "0:aa", `7:${"A".repeat(64)}`, `7:${"a".repeat(63)}`, `x:${"a".repeat(64)}`])
      expect(() => parseHead(bad)).toThrow("SEQUENCE:DIGEST");
  });
});
