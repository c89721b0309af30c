/** Lists and watches of published bundle versions: as those of the three kinds, without status and filter. */
import { fromBinary } from "@bufbuild/protobuf";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { ChangeType } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { Clock } from "@moorage/shared/clock";
import { invalidField } from "@moorage/shared/errors";
import { prefixes } from "../core/keys.ts";
import { PageRoom, pageSize, pageToken, readPageToken } from "../core/pages.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { KV, Rev, Store, StoreEvent } from "../store/store.ts";
import { cursorAt } from "./lists.ts";
import type { Reader } from "./reader.ts";
import { bookmarkMs, compacted } from "./watch.ts";

/** Versions read from the store at a time: a reader that takes none has no more waiting for it. */
const READ = 50;

type Deps = { store: Store; reader: Reader; clock: Clock };

/** What a watch of bundle versions tells. `cursor` on the last change of a revision only. */
export type BundleEvent =
  | { kind: "change"; type: ChangeType; bundleVersion: BundleVersion; cursor: Cursor | undefined }
  | { kind: "synced" | "bookmark"; cursor: Cursor };

const versionOf = (kv: KV): BundleVersion => ({
  ...fromBinary(BundleVersionSchema, kv.value),
  revision: BigInt(kv.modRev),
});

/** One page, in order of name; `below` is the prefix of names. */
export async function listBundles(
  deps: Deps,
  q: { below: string; pageSize: number; pageToken: string; minRevision: bigint },
): Promise<{ bundleVersions: BundleVersion[]; nextPageToken: string; cursor: Cursor }> {
  const limit = pageSize(q.pageSize);
  const query = JSON.stringify(["BundleVersion", q.below]);
  const { rev: head, epoch } = await deps.reader.head(q.minRevision);
  const signing = await deps.reader.pageKey();
  const position =
    q.pageToken === "" ? { revision: head, after: "" } : readPageToken(q.pageToken, query, signing);
  const { revision: rev, after } = position;
  if (rev > head)
    throw invalidField("page_token", "is of another history of this hub; start again without it");
  const range = prefix(prefixes.bundleVersions + q.below);
  const start = after === "" ? range.start : keyAfter(key(prefixes.bundleVersions + after));
  const bundleVersions: BundleVersion[] = [];
  const room = new PageRoom(limit);
  let more = false;
  for (let next: Uint8Array | undefined = start; next !== undefined;) {
    const read = await deps.store.range({ start: next, end: range.end, rev, limit: READ });
    const fit = room.fits(read.kvs.map((kv) => kv.value.length));
    bundleVersions.push(...read.kvs.slice(0, fit).map(versionOf));
    const last = read.kvs.at(-1);
    more = fit < read.kvs.length;
    next = !more && read.more && last !== undefined ? keyAfter(last.key) : undefined;
  }
  const last = bundleVersions.at(-1)?.name ?? "";
  return {
    bundleVersions,
    nextPageToken: more ? pageToken({ revision: rev, after: last }, query, signing) : "",
    cursor: cursorAt(epoch, rev),
  };
}

/** Streams changes after the cursor, or a first listing and then changes. Ends with `signal`. */
export async function* watchBundles(
  deps: Deps,
  q: { below: string; cursor: Cursor | undefined },
  signal: AbortSignal,
): AsyncGenerator<BundleEvent, void, void> {
  const range = prefix(prefixes.bundleVersions + q.below);
  const { rev, epoch } = await deps.store.status();
  let from: Rev;
  if (q.cursor === undefined) {
    for (let start: Uint8Array | undefined = range.start; start !== undefined;) {
      const { kvs, more } = await deps.store.range({ start, end: range.end, rev, limit: READ });
      for (const kv of kvs)
        yield { kind: "change", type: ChangeType.UPSERTED, bundleVersion: versionOf(kv), cursor: undefined };
      const last = kvs.at(-1);
      start = more && last !== undefined ? keyAfter(last.key) : undefined;
    }
    yield { kind: "synced", cursor: cursorAt(epoch, rev) };
    from = rev + 1;
  } else {
    if (!Buffer.from(q.cursor.epoch).equals(epoch))
      throw compacted("the hub's history is another one (it was restored)");
    from = Number(q.cursor.revision) + 1;
  }
  let marked = deps.clock.monotonicMs();
  for await (const batch of deps.store.watch({ ...range, from, progress: true, signal })) {
    if (batch.kind === "compacted") throw compacted(`revisions up to ${batch.compactRev} were compacted`);
    if (batch.kind === "events") {
      for (const [i, event] of batch.events.entries()) {
        const cursor = i === batch.events.length - 1 ? cursorAt(epoch, batch.rev) : undefined;
        yield { kind: "change", ...(await changeOf(deps.reader, event, batch.rev)), cursor };
      }
    } else if (deps.clock.monotonicMs() - marked >= bookmarkMs) {
      marked = deps.clock.monotonicMs();
      yield { kind: "bookmark", cursor: cursorAt(epoch, batch.rev) };
    }
  }
}

async function changeOf(
  reader: Reader,
  event: StoreEvent,
  rev: Rev,
): Promise<{ type: ChangeType; bundleVersion: BundleVersion }> {
  if (event.type === "put") return { type: ChangeType.UPSERTED, bundleVersion: versionOf(event.kv) };
  const name = keyText(event.kv.key).slice(prefixes.bundleVersions.length);
  const before = await reader.bundle(name, rev - 1);
  if (before === undefined) throw compacted(`revision ${rev - 1} was compacted`);
  return { type: ChangeType.REMOVED, bundleVersion: { ...before.value, revision: BigInt(rev) } };
}
