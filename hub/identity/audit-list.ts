import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type {
  AuditRecord,
  AuditSeal,
  ListAuditRecordsRequest,
  ListAuditRecordsResponse,
} from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import {
  AuditRecordSchema,
  AuditSealSchema,
  ListAuditRecordsResponseSchema,
} from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { StoredAuditRecordSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { ChainRecord, ChainSeal } from "@moorage/shared/audit-chain";
import { compareRecords } from "@moorage/shared/audit-chain";
import type { Clock, Timer } from "@moorage/shared/clock";
import { invalidField } from "@moorage/shared/errors";
import { auditSealKey } from "../core/keys.ts";
import { pageSize, pageToken, readPageToken } from "../core/pages.ts";
import { key } from "../store/bytes.ts";
import type { Rev, Store } from "../store/store.ts";
import { readRecords, scanRecords, sealOf, seals } from "./audit-trail.ts";

/**
 * The audit trail in pages, in order of revision. Keys are in order of time, so the first page looks at
 * every key once; the order is kept for the pages that follow, for as long as they come.
 */

const NAME = "hub/auditRecords/";
/** The order of a listing is forgotten after this time without another page. */
const KEPT_MS = 60_000;
/** Listings under way whose order is kept, each of all records: 150 bytes a record. */
const KEPT_INDEXES = 4;
/** The order of a listing at a revision. */
interface Index {
  records: { name: string; revision: Rev }[];
  seals: { sequence: number; lastRevision: Rev }[];
}

/** Lists the trail; one for each hub. */
export class AuditList {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #signing: { pageKey(): Promise<Uint8Array> } | undefined;
  /** By the revision of their listing, least recently used first. */
  readonly #indexes = new Map<Rev, { index: Promise<Index>; timer: Timer }>();

  /** `reader`: gives the key that page tokens are signed with. */
  constructor(deps: { store: Store; clock: Clock; reader?: { pageKey(): Promise<Uint8Array> } }) {
    this.#signing = deps.reader;
    this.#store = deps.store;
    this.#clock = deps.clock;
  }

  /** One page. Errors: INVALID_ARGUMENT by field; OUT_OF_RANGE `COMPACTED` when the pages' revision is gone. */
  async page(request: ListAuditRecordsRequest): Promise<ListAuditRecordsResponse> {
    const size = pageSize(request.pageSize);
    if (request.afterRevision < 0n) throw invalidField("after_revision", "must not be negative");
    const query = `audit ${request.afterRevision}`;
    const first = request.pageToken === "";
    const signing = await this.#signing?.pageKey();
    const at = first
      ? (await this.#store.status()).rev
      : readPageToken(request.pageToken, query, signing).revision;
    const after = first
      ? startOf(Number(request.afterRevision))
      : parseAfter(request.pageToken, { query, signing });
    const index = await this.#indexOf(at);
    const from = index.records.findIndex((r) => compareRecords(after, r) < 0);
    const rest = from < 0 ? [] : index.records.slice(from, from + size);
    const end = rest.at(-1);
    const more = end !== undefined && from + size < index.records.length;
    // A seal comes with the page that goes beyond its run, so that no page shows half of one as whole.
    const next = more ? (index.records[from + size]?.revision ?? 0) : Number.POSITIVE_INFINITY;
    // Each page begins where the one before ended: at the revision of its own first record.
    const low = first ? Number(request.afterRevision) + 1 : (rest[0]?.revision ?? next);
    const shown = index.seals.filter((s) => s.lastRevision < next && s.lastRevision >= low);
    const records = await readRecords(this.#store, { names: rest.map((r) => r.name), rev: at });
    return create(ListAuditRecordsResponseSchema, {
      records: records.map(viewRecord),
      seals: await this.#readSeals(
        shown.map((s) => s.sequence),
        at,
      ),
      nextPageToken: more
        ? pageToken({ revision: at, after: `${end.revision} ${end.name}` }, query, signing)
        : "",
    });
  }

  async #readSeals(sequences: readonly number[], rev: Rev): Promise<AuditSeal[]> {
    const out: AuditSeal[] = [];
    for (const sequence of sequences) {
      const { kvs } = await this.#store.range({ start: key(auditSealKey(sequence)), rev });
      if (kvs[0] !== undefined) out.push(viewSeal(sealOf(kvs[0].value)));
    }
    return out;
  }

  async #indexOf(at: Rev): Promise<Index> {
    const index = this.#indexes.get(at)?.index ?? this.#makeIndex(at);
    this.#keep(at, index);
    try {
      const made = await index;
      // The time without another page begins now, however long it was in the making.
      this.#keep(at, index);
      return made;
    } catch (thrown) {
      this.#forget(at);
      throw thrown;
    }
  }

  async #makeIndex(at: Rev): Promise<Index> {
    const records = await scanRecords(this.#store, { rev: at, keep: () => true });
    const found: Index["seals"] = [];
    for await (const { seal } of seals(this.#store, { rev: at }))
      found.push({ sequence: seal.sequence, lastRevision: seal.recordRevisions.at(-1) ?? 0 });
    return { records, seals: found };
  }

  #keep(at: Rev, index: Promise<Index>): void {
    this.#forget(at);
    if (this.#indexes.size >= KEPT_INDEXES) this.#forget(this.#indexes.keys().next().value as Rev);
    const timer = this.#clock.setTimer(KEPT_MS, () => this.#forget(at));
    this.#indexes.set(at, { index, timer });
  }

  #forget(at: Rev): void {
    this.#indexes.get(at)?.timer.cancel();
    this.#indexes.delete(at);
  }
}

/** Before every record above a revision. */
const startOf = (revision: Rev): { revision: Rev; name: string } => ({ revision: revision + 1, name: "" });

function parseAfter(
  token: string,
  of: { query: string; signing: Uint8Array | undefined },
): { revision: Rev; name: string } {
  const [, revision, name] = /^(\d+) (.*)$/.exec(readPageToken(token, of.query, of.signing).after) ?? [];
  if (revision === undefined || name === undefined)
    throw invalidField("page_token", "is not one that this list gave; start again without it");
  return { revision: Number(revision), name };
}

/** A record as the API shows it; one whose bytes are damaged shows them alone. */
function viewRecord(r: ChainRecord): AuditRecord {
  const base = { name: NAME + r.name, revision: BigInt(r.revision), encoded: r.encoded };
  try {
    const { time, actor, method, resource, requestId, outcome, generation, suppressed } = fromBinary(
      StoredAuditRecordSchema,
      r.encoded,
    );
    const facts = { actor, method, resource, requestId, outcome, generation, suppressed };
    return create(AuditRecordSchema, { ...base, ...facts, ...(time === undefined ? {} : { time }) });
  } catch {
    return create(AuditRecordSchema, base);
  }
}

function viewSeal(s: ChainSeal): AuditSeal {
  return create(AuditSealSchema, {
    sequence: BigInt(s.sequence),
    firstRevision: BigInt(s.recordRevisions[0] ?? 0),
    lastRevision: BigInt(s.recordRevisions.at(-1) ?? 0),
    records: s.recordRevisions.length,
    previousDigest: s.previousDigest,
    digest: s.digest,
    sealTime: timestampFromMs(s.sealTimeMs),
    recordRevisions: s.recordRevisions.map(BigInt),
    recordDigests: [...s.recordDigests],
    pruned: s.pruned,
  });
}
