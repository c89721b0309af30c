/**
 * What the store holds, counted for the gauges. Counting reads everything, so that scrapes share one
 * count, which goes through the store in slices and takes a small part of the time at most.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import {
  LinkState,
  StoredCredentialsSchema,
  StoredLinkSchema,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Kind } from "../core/keys.ts";
import { kindPrefix, prefixes } from "../core/keys.ts";
import { decode } from "../core/resources.ts";
import { viewInto } from "../core/views.ts";
import { Pace } from "@moorage/shared/pace";
import { Snapshot } from "../api/snapshot.ts";
import type { Reader } from "../api/reader.ts";
import { keyAfter, prefix } from "../store/bytes.ts";
import type { KV, Rev, Store } from "../store/store.ts";
import { statusOf } from "./status-of.ts";

/** All kinds, as the gauges' label has them. */
export const kinds: readonly Kind[] = ["DataPlane", "Tenant", "Application"];

/** Records read from the store at a time. */
const READ = 250;
/** A count that took long is not begun anew before this many times as long has passed. */
const REST = 10;
/** A scrape waits so long for the count, and then shows the one before. */
const WAIT_MS = 2_000;

/** What was counted, as of one revision. */
export interface Count {
  rev: Rev;
  /** Resources by `kind/condition/status`. */
  entities: ReadonlyMap<string, number>;
  /** Data planes whose agent was connected once and is not now. */
  stale: number;
  /** When the first of the agents' newest certificates runs out, ms since the epoch; undefined without any. */
  earliestExpiryMs: number | undefined;
}

/** Counts when asked, no more than once at a time. */
export class Census {
  readonly #from: { store: Store; reader: Reader; clock: Clock };
  #newest: Count | undefined;
  #running: Promise<Count> | undefined;
  #notBeforeMs = -Infinity;

  constructor(from: { store: Store; reader: Reader; clock: Clock }) {
    this.#from = from;
  }

  /** The count of what is there now; of a large store one that is a little older. Undefined before the first. */
  async newest(): Promise<Count | undefined> {
    const { clock, store } = this.#from;
    const due = clock.monotonicMs() >= this.#notBeforeMs && (await store.status()).rev !== this.#newest?.rev;
    // Another scrape may have begun it meanwhile.
    if (due) this.#running ??= this.#count().finally(() => (this.#running = undefined));
    if (this.#running === undefined) return this.#newest;
    const waited = new AbortController();
    const late = sleep(clock, WAIT_MS, waited.signal).then(() => this.#newest);
    late.catch(() => undefined);
    return Promise.race([this.#running, late]).finally(() => waited.abort());
  }

  async #count(): Promise<Count> {
    const { clock } = this.#from;
    const startMs = clock.monotonicMs();
    try {
      return (this.#newest = await count(this.#from));
    } finally {
      const endMs = clock.monotonicMs();
      this.#notBeforeMs = endMs + REST * (endMs - startMs);
    }
  }
}

/** Counts everything at the newest revision. */
async function count(from: { store: Store; reader: Reader; clock: Clock }): Promise<Count> {
  const { rev } = await from.store.status();
  const pace = new Pace(from.clock);
  const walk = async function* (below: string): AsyncGenerator<KV, void, void> {
    const { start: first, end } = prefix(below);
    for (let start: Uint8Array | undefined = first; start !== undefined;) {
      const { kvs, more } = await from.store.range({ start, end, rev, limit: READ });
      for (const kv of kvs) {
        await pace.step();
        yield kv;
      }
      const last = kvs.at(-1);
      start = more && last !== undefined ? keyAfter(last.key) : undefined;
    }
  };
  const entities = new Map<string, number>();
  const snapshot = new Snapshot(from.reader, rev);
  for (const kind of kinds) {
    for await (const { value, modRev } of walk(kindPrefix(kind))) {
      const record = decode(kind, value);
      const resource = viewInto(record, await snapshot.stored({ value: record, modRev }), View.FULL);
      for (const condition of statusOf(kind)) {
        const status = resource.status?.conditions.find((c) => c.type === condition)?.status ?? "Unknown";
        const key = `${kind}/${condition}/${status}`;
        entities.set(key, (entities.get(key) ?? 0) + 1);
      }
    }
  }
  let stale = 0;
  for await (const { value } of walk(prefixes.links)) {
    const { state } = fromBinary(StoredLinkSchema, value);
    if (state === LinkState.DISCONNECTED || state === LinkState.SILENT) stale++;
  }
  let earliestExpiryMs: number | undefined;
  for await (const { value } of walk(prefixes.credentials)) {
    for (const { notAfter } of fromBinary(StoredCredentialsSchema, value).keys) {
      if (notAfter === undefined) continue;
      earliestExpiryMs = Math.min(earliestExpiryMs ?? Infinity, timestampMs(notAfter));
    }
  }
  return { rev, entities, stale, earliestExpiryMs };
}
