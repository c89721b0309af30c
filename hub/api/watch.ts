/**
 * Watch: every change of any part of a view (record, status, link), whole revisions in order. A
 * position in the log, never a queue: a slow reader is asked to wait and costs nothing meanwhile.
 */
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { ChangeType, View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { compileFilter } from "../core/filter.ts";
import type { Kind } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import { view } from "../core/views.ts";
import type { Within } from "../identity/authorize.ts";
import { isWithin } from "../identity/authorize.ts";
import { prefix } from "../store/bytes.ts";
import type { Rev, Store } from "../store/store.ts";
import type { Affected } from "./affected.ts";
import { below, cursorAt, listPage } from "./lists.ts";
import type { Reader } from "./reader.ts";

/** What a watch reads from; `affected` is shared by all watches. */
export interface WatchDeps {
  store: Store;
  reader: Reader;
  affected: Affected;
  clock: Clock;
}

/** What is watched. */
export interface WatchQuery {
  kind: Kind;
  parent: string;
  filter: string;
  view: View;
  cursor: Cursor | undefined;
  /** The part of the collection that the caller may see; undefined for all. */
  within?: Within | undefined;
}

/** What a watch tells. `cursor` on the last change of a revision only. */
export type WatchEvent =
  | { kind: "change"; type: ChangeType; resource: Resource; cursor: Cursor | undefined }
  | { kind: "synced"; cursor: Cursor }
  | { kind: "bookmark"; cursor: Cursor };

/** A bookmark at least this often while other things change. */
export const bookmarkMs = 60_000;
/** Page of the first listing. */
const PAGE = 500;

/** Streams changes after the cursor, or a first listing and then changes. Ends with `signal`. */
export async function* watch(
  deps: WatchDeps,
  q: WatchQuery,
  signal: AbortSignal,
): AsyncGenerator<WatchEvent, void, void> {
  const { epoch } = await deps.store.status();
  const selected = selector(q);
  let from: Rev;
  if (q.cursor === undefined) {
    let pageTokenText = "";
    let at: Cursor;
    do {
      const { kind, parent, filter, view: how, within } = q;
      const part = { pageSize: PAGE, pageToken: pageTokenText, minRevision: 0n };
      const page = await listPage(deps, { kind, parent, filter, view: how, within, ...part }, signal);
      for (const resource of page.resources) {
        if (selected(resource.name))
          yield { kind: "change", type: ChangeType.UPSERTED, resource, cursor: undefined };
      }
      pageTokenText = page.nextPageToken;
      at = page.cursor;
    } while (pageTokenText !== "");
    yield { kind: "synced", cursor: at };
    from = Number(at.revision) + 1;
  } else {
    if (!Buffer.from(q.cursor.epoch).equals(epoch))
      throw compacted("the hub's history is another one (it was restored)");
    from = Number(q.cursor.revision) + 1;
  }
  yield* follow(deps, q, { from, epoch, signal, selected });
}

async function* follow(
  deps: WatchDeps,
  q: WatchQuery,
  at: { from: Rev; epoch: Uint8Array; signal: AbortSignal; selected: (name: string) => boolean },
): AsyncGenerator<WatchEvent, void, void> {
  const matches = compileFilter(q.filter);
  let marked = deps.clock.monotonicMs();
  for await (const batch of deps.store.watch({
    ...prefix(""),
    from: at.from,
    progress: true,
    signal: at.signal,
  })) {
    if (batch.kind === "compacted") throw compacted(`revisions up to ${batch.compactRev} were compacted`);
    const bookmark = () => {
      if (deps.clock.monotonicMs() - marked < bookmarkMs) return undefined;
      marked = deps.clock.monotonicMs();
      return { kind: "bookmark" as const, cursor: cursorAt(at.epoch, batch.rev) };
    };
    if (batch.kind === "progress") {
      const mark = bookmark();
      if (mark !== undefined) yield mark;
      continue;
    }
    const changes: { type: ChangeType; resource: Resource }[] = [];
    for (const name of await deps.affected.names(q.kind, batch)) {
      if (!at.selected(name)) continue;
      const change = await changeOf(deps.reader, {
        name,
        rev: batch.rev,
        view: q.view,
        matches,
        filtered: q.filter !== "",
      });
      if (change !== undefined) changes.push(change);
    }
    if (changes.length === 0) {
      // The log goes on without this watch's resources: its reader's position should, too.
      const mark = bookmark();
      if (mark !== undefined) yield mark;
      continue;
    }
    for (const [i, change] of changes.entries()) {
      yield {
        kind: "change",
        ...change,
        cursor: i === changes.length - 1 ? cursorAt(at.epoch, batch.rev) : undefined,
      };
    }
    marked = deps.clock.monotonicMs();
  }
}

function selector(q: WatchQuery): (name: string) => boolean {
  const prefixText = below(q.kind, q.parent);
  return (name) => name.startsWith(prefixText) && isWithin(q.within, name);
}

async function changeOf(
  reader: Reader,
  of: { name: string; rev: Rev; view: View; matches: (r: Resource) => boolean; filtered: boolean },
): Promise<{ type: ChangeType; resource: Resource } | undefined> {
  const full = of.filtered ? View.FULL : of.view;
  const now = await viewAt(reader, of.name, of.rev, full);
  if (now !== undefined && of.matches(now)) {
    const resource = full === of.view ? now : ((await viewAt(reader, of.name, of.rev, of.view)) as Resource);
    return { type: ChangeType.UPSERTED, resource };
  }
  const before = of.rev > 1 ? await viewAt(reader, of.name, of.rev - 1, full) : undefined;
  if (before === undefined || !of.matches(before)) return undefined;
  before.revision = BigInt(of.rev);
  return { type: ChangeType.REMOVED, resource: before };
}

/** The view of a resource at a revision; undefined when it does not exist there. OUT_OF_RANGE `COMPACTED`. */
export async function viewAt(
  reader: Reader,
  name: string,
  rev: Rev,
  how: View,
): Promise<Resource | undefined> {
  const found = await reader.resource(name, rev);
  return found === undefined ? undefined : view(await reader.stored(found, rev), how);
}

/** OUT_OF_RANGE `COMPACTED`: the position is no longer, or never was, in this log. */
export function compacted(why: string): MoorageError {
  return new MoorageError(
    Code.OUT_OF_RANGE,
    `Cannot resume the watch: ${why}; list again and watch from there`,
    { reason: "COMPACTED" },
  );
}
