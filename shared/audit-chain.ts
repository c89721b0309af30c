/**
 * The hash chain over the audit trail, for the hub that seals and for whoever verifies. Pure.
 *
 * Records are committed unchained, each with its act. A seal closes a run of them: all records above the
 * seal before, up to its own last revision. Its digest covers the digest before it, so that whoever keeps
 * one digest outside the hub can tell any later change of what lies below.
 */
import { createHash } from "node:crypto";
import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampMs } from "@bufbuild/protobuf/wkt";

/** One record as it was committed. */
export interface ChainRecord {
  /** Unique id, e.g. `1790000000000/<uuid>`. */
  name: string;
  revision: number;
  encoded: Uint8Array;
  /** Of the decoded record; for {@link PRUNE_METHOD}. */
  method: string;
  resource: string;
}

/** One seal; see moorage.hub.v1.AuditSeal. */
export interface ChainSeal {
  sequence: number;
  previousDigest: Uint8Array;
  digest: Uint8Array;
  sealTimeMs: number;
  recordRevisions: readonly number[];
  recordDigests: readonly Uint8Array[];
  /** The anchor: retention deleted its records and every seal before it. */
  pruned: boolean;
}

/** A seal as the chain has it, of one that is stored or that the API showed. */
export const chainSeal = (
  s: Omit<ChainSeal, "sequence" | "sealTimeMs" | "recordRevisions"> & {
    sequence: bigint;
    sealTime?: Timestamp | undefined;
    recordRevisions: readonly bigint[];
  },
): ChainSeal => ({
  sequence: Number(s.sequence),
  previousDigest: s.previousDigest,
  digest: s.digest,
  sealTimeMs: s.sealTime === undefined ? 0 : timestampMs(s.sealTime),
  recordRevisions: s.recordRevisions.map(Number),
  recordDigests: s.recordDigests,
  pruned: s.pruned,
});

/** Method of the record by which retention says that it pruned up to the seal that the resource names. */
export const PRUNE_METHOD = "moorage.hub/PruneAuditRecords";
/** The resource of that record. */
export const sealName = (sequence: number): string => `hub/auditSeals/${sequence}`;

/** Digest before the first seal. */
export const NO_DIGEST: Uint8Array = new Uint8Array(32);

function u64(n: number): Buffer {
  const b = Buffer.alloc(8);
  b.writeBigUInt64BE(BigInt(n));
  return b;
}

function u32(n: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeUInt32BE(n);
  return b;
}

/** SHA-256 over revision, name and bytes of a record, the last two with their lengths. */
export function recordDigest(r: Pick<ChainRecord, "name" | "revision" | "encoded">): Uint8Array {
  const name = Buffer.from(r.name);
  return new Uint8Array(
    createHash("sha256")
      .update(u64(r.revision))
      .update(u32(name.length))
      .update(name)
      .update(u32(r.encoded.length))
      .update(r.encoded)
      .digest(),
  );
}

/** SHA-256 over the digest before, sequence, time and the digests of the run. */
export function sealDigest(
  s: Pick<ChainSeal, "previousDigest" | "sequence" | "sealTimeMs" | "recordDigests">,
): Uint8Array {
  const hash = createHash("sha256")
    .update(s.previousDigest)
    .update(u64(s.sequence))
    .update(u64(s.sealTimeMs));
  for (const d of s.recordDigests) hash.update(d);
  return new Uint8Array(hash.digest());
}

/** The order of records: revision, then name byte by byte. */
export function compareRecords(
  a: Pick<ChainRecord, "revision" | "name">,
  b: Pick<ChainRecord, "revision" | "name">,
): number {
  return a.revision - b.revision || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name));
}

/** What is wrong, in words that name it. */
export interface Finding {
  kind:
    "edited" | "removed" | "inserted" | "reordered" | "seal-edited" | "seal-missing" | "truncated" | "anchor";
  message: string;
}

/** What a verification found. */
export interface ChainReport {
  /** Nothing was found; what no seal covers yet may still have been changed. */
  intact: boolean;
  findings: Finding[];
  seals: number;
  /** Sealed records that were compared. */
  sealed: number;
  /** Records after the last seal: not protected yet. */
  unsealed: { name: string; revision: number }[];
  /** The newest seal, to be kept outside the hub. */
  head: { sequence: number; digest: string } | undefined;
  /** Records up to this revision were deleted by retention. */
  prunedTo: number | undefined;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const lastRevision = (s: ChainSeal): number => s.recordRevisions.at(-1) ?? 0;

/**
 * Verifies a trail that comes in pages: records in order, and each seal no earlier than the last record of
 * its run. `head` is a seal that was kept outside the hub earlier.
 */
export class ChainVerifier {
  readonly #kept: { sequence: number; digest: string } | undefined;
  readonly #findings: Finding[] = [];
  #pending: ChainRecord[] = [];
  #last: ChainRecord | undefined;
  #seal: ChainSeal | undefined;
  #anchor: ChainSeal | undefined;
  #anchorRecorded = false;
  #keptSeen = false;
  #seals = 0;
  #sealed = 0;

  constructor(head?: { sequence: number; digest: string }) {
    this.#kept = head;
  }

  /** One page. */
  add(records: readonly ChainRecord[], seals: readonly ChainSeal[]): void {
    for (const r of records) {
      if (this.#last !== undefined && compareRecords(this.#last, r) >= 0)
        this.#find("reordered", `record "${r.name}" of revision ${r.revision} is out of order`);
      this.#last = r;
      this.#pending.push(r);
      if (this.#anchor !== undefined) this.#noteAnchor(this.#anchor, r);
    }
    for (const s of seals) this.#addSeal(s);
  }

  /** The end of the trail. */
  finish(): ChainReport {
    const head = this.#seal;
    if (this.#anchor !== undefined && !this.#anchorRecorded) {
      const at = this.#anchor.sequence;
      this.#find("anchor", `seal ${at} says that records were pruned, and no record tells of it`);
    }
    if (this.#kept !== undefined && !this.#keptSeen) {
      const { sequence } = this.#kept;
      this.#find("truncated", `seal ${sequence}, which was kept outside, is missing or another one`);
    }
    return {
      intact: this.#findings.length === 0,
      findings: this.#findings,
      seals: this.#seals,
      sealed: this.#sealed,
      unsealed: this.#pending.map(({ name, revision }) => ({ name, revision })),
      head: head === undefined ? undefined : { sequence: head.sequence, digest: hex(head.digest) },
      prunedTo: this.#anchor === undefined ? undefined : lastRevision(this.#anchor),
    };
  }

  #find(kind: Finding["kind"], message: string): void {
    this.#findings.push({ kind, message });
  }

  #noteAnchor(anchor: ChainSeal, r: ChainRecord): void {
    if (r.method === PRUNE_METHOD && r.resource === sealName(anchor.sequence)) this.#anchorRecorded = true;
  }

  #addSeal(s: ChainSeal): void {
    const { sequence } = s;
    this.#seals += 1;
    if (hex(sealDigest(s)) !== hex(s.digest))
      this.#find("seal-edited", `seal ${sequence} does not match its own digest`);
    if (this.#kept?.sequence === sequence) this.#keptSeen = this.#kept.digest === hex(s.digest);
    const before = this.#seal;
    this.#seal = s;
    const run = this.#take(lastRevision(s));
    if (s.pruned && before === undefined) {
      // What retention has not deleted yet of its run is nobody's evidence.
      this.#anchor = s;
      for (const r of [...run, ...this.#pending]) this.#noteAnchor(s, r);
      return;
    }
    if (s.pruned) this.#find("anchor", `seal ${sequence} says that it was pruned, and is not the first`);
    const expected = (before?.sequence ?? 0) + 1;
    if (sequence !== expected) {
      const missing = sequence > expected ? `seals ${expected} to ${sequence - 1} are missing` : "";
      this.#find("seal-missing", missing === "" ? `seal ${sequence} follows seal ${expected - 1}` : missing);
    } else if (hex(s.previousDigest) !== hex(before?.digest ?? NO_DIGEST))
      this.#find("seal-edited", `seal ${sequence} does not continue the one before it`);
    this.#compare(s, run);
  }

  /** Takes the records up to a revision. */
  #take(revision: number): ChainRecord[] {
    const run = this.#pending.filter((r) => r.revision <= revision);
    this.#pending = this.#pending.filter((r) => r.revision > revision);
    return run;
  }

  #compare(s: ChainSeal, run: readonly ChainRecord[]): void {
    const missing = new Map<string, number>();
    s.recordDigests.forEach((d, i) => missing.set(hex(d), s.recordRevisions[i] ?? 0));
    const strange = run.filter((r) => !missing.delete(hex(recordDigest(r))));
    this.#sealed += run.length - strange.length;
    const lost = [...missing.values()];
    for (const r of strange) {
      const at = lost.indexOf(r.revision);
      if (at >= 0) lost.splice(at, 1);
      const what = `record "${r.name}" of revision ${r.revision}`;
      if (at >= 0) this.#find("edited", `${what} is not what seal ${s.sequence} closed`);
      else this.#find("inserted", `${what} was not there when seal ${s.sequence} closed its run`);
    }
    for (const revision of lost)
      this.#find("removed", `the record of revision ${revision}, closed by seal ${s.sequence}, is missing`);
  }
}

/** A report as lines for a person; names at most 20 unsealed records. */
export function reportLines(r: ChainReport): string[] {
  const shown = r.unsealed.slice(0, 20).map((u) => `  revision ${u.revision}  ${u.name}`);
  const hidden = r.unsealed.length - shown.length;
  return [
    ...r.findings.map((f) => `${f.kind}: ${f.message}`),
    ...(r.prunedTo === undefined ? [] : [`pruned: records up to revision ${r.prunedTo}, by retention`]),
    `sealed: ${r.sealed} records in ${r.seals} seals`,
    `unsealed: ${r.unsealed.length} records`,
    ...shown,
    ...(hidden > 0 ? [`  and ${hidden} more`] : []),
    r.head === undefined ? "head: none" : `head: ${r.head.sequence}:${r.head.digest}`,
    r.intact ? "intact" : `not intact: ${r.findings.length} findings`,
  ];
}

/** A seal kept outside, `SEQUENCE:DIGEST`; throws an Error whose message is the rule. */
export function parseHead(text: string): { sequence: number; digest: string } {
  const [, sequence, digest] = /^([1-9]\d{0,14}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (sequence === undefined || digest === undefined)
    throw new Error("must be SEQUENCE:DIGEST, as an earlier verification printed it");
  return { sequence: Number(sequence), digest };
}
