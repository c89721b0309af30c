/**
 * Collects chunks that no bundle version names: those of deleted versions, and of uploads that never
 * ended. Mark and sweep in bounded steps. A chunk goes only in a transaction that compares that no
 * version was published since the marks were made, and a version is published only in one that
 * compares that all its chunks are there: whichever commits first, no version ever lacks a chunk.
 */
import { fromBinary } from "@bufbuild/protobuf";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import type { Clock } from "@moorage/shared/clock";
import { failpoint } from "@moorage/shared/failpoint";
import { blobKey, bundleStampKey, prefixes } from "../core/keys.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { KV, Rev, Store } from "../store/store.ts";

/** How often chunks are looked at. */
export const COLLECT_INTERVAL_MS = 10 * 60_000;
/** A chunk stays this long after it was first seen without a version: an upload may be under way. */
export const COLLECT_GRACE_MS = 3_600_000;

/** Versions, and keys of chunks, read at a time; chunks deleted in one transaction. */
const VERSIONS = 100;
const KEYS = 1_000;
const DELETES = 64;

/** The collector. */
export class BundleCollector {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #graceMs: number;
  /** Chunks without a version: the revision they were written at, and when they were first seen so. */
  #seen = new Map<string, { modRev: Rev; sinceMs: number }>();

  constructor(deps: { store: Store; clock: Clock; graceMs?: number }) {
    this.#store = deps.store;
    this.#clock = deps.clock;
    this.#graceMs = deps.graceMs ?? COLLECT_GRACE_MS;
  }

  /** Looks at all chunks once; answers how many were deleted. A publication meanwhile ends the sweep early. */
  async collect(signal?: AbortSignal): Promise<number> {
    const { rev } = await this.#store.status();
    const named = await this.#named(rev);
    const nowMs = this.#clock.monotonicMs();
    const seen = new Map<string, { modRev: Rev; sinceMs: number }>();
    const due: KV[] = [];
    for await (const kv of this.#keys(prefixes.blobs, rev)) {
      const text = keyText(kv.key);
      if (named.has(text)) continue;
      const before = this.#seen.get(text);
      const sinceMs = before?.modRev === kv.modRev ? before.sinceMs : nowMs;
      if (nowMs - sinceMs >= this.#graceMs) due.push(kv);
      else seen.set(text, { modRev: kv.modRev, sinceMs });
    }
    let deleted = 0;
    for (let i = 0; i < due.length && signal?.aborted !== true; i += DELETES) {
      const part = due.slice(i, i + DELETES);
      if (!(await this.#delete(part, rev))) {
        // Somebody published: what is due is looked at again next time, and is due then, too.
        for (const kv of due.slice(i)) seen.set(keyText(kv.key), { modRev: kv.modRev, sinceMs: -Infinity });
        break;
      }
      deleted += part.length;
    }
    this.#seen = seen;
    return deleted;
  }

  async #delete(part: readonly KV[], marked: Rev): Promise<boolean> {
    failpoint("api/before-collect");
    const { ok } = await this.#store.txn({
      if: [
        { key: key(bundleStampKey), target: "modRev", op: "<", to: marked + 1 },
        ...part.map((kv) => ({
          key: kv.key,
          target: "modRev" as const,
          op: "=" as const,
          to: kv.modRev,
        })),
      ],
      then: part.map((kv) => ({ delete: { key: kv.key } })),
    });
    return ok;
  }

  /** Keys of all chunks that a version of `rev` names. */
  async #named(rev: Rev): Promise<Set<string>> {
    const named = new Set<string>();
    const { start, end } = prefix(prefixes.bundleVersions);
    for (let from = start; ;) {
      const { kvs, more } = await this.#store.range({ start: from, end, rev, limit: VERSIONS });
      for (const kv of kvs)
        for (const { digest } of fromBinary(BundleVersionSchema, kv.value).chunks)
          named.add(blobKey(Buffer.from(digest).toString("hex")));
      const last = kvs.at(-1);
      if (!more || last === undefined) return named;
      from = keyAfter(last.key);
    }
  }

  async *#keys(below: string, rev: Rev): AsyncGenerator<KV, void, void> {
    const { start, end } = prefix(below);
    for (let from = start; ;) {
      const { kvs, more } = await this.#store.range({ start: from, end, rev, limit: KEYS, keysOnly: true });
      yield* kvs;
      const last = kvs.at(-1);
      if (!more || last === undefined) return;
      from = keyAfter(last.key);
    }
  }
}
