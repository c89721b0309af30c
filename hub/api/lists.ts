/** Lists: pages that all show one revision, in order of name. */
import { create } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { CursorSchema } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { Clock } from "@moorage/shared/clock";
import { invalidField } from "@moorage/shared/errors";
import type { BasicKind } from "../core/basic-bytes.ts";
import type { Kind } from "../core/keys.ts";
import { resourceKey } from "../core/keys.ts";
import { compileFilter } from "../core/filter.ts";
import { requireParent } from "../core/names.ts";
import { PageRoom, pageSize, pageToken, readPageToken } from "../core/pages.ts";
import type { Resource } from "../core/resources.ts";
import { decode } from "../core/resources.ts";
import { view, viewInto } from "../core/views.ts";
import type { Within } from "../identity/authorize.ts";
import { compareKeys, key, keyAfter, prefix } from "../store/bytes.ts";
import type { KeyRange, Rev, Store } from "../store/store.ts";
import { encodePage } from "./basic-items.ts";
import type { BasicItems } from "./basic-items.ts";
import { Pace } from "@moorage/shared/pace";
import type { Reader } from "./reader.ts";
import { Snapshot } from "./snapshot.ts";

/** A list request of any kind. */
export interface ListQuery {
  kind: Kind;
  /** Applications: a parent, `tenants/-`, `dataPlanes/-`, `-` or empty. */
  parent: string;
  pageSize: number;
  pageToken: string;
  filter: string;
  view: View;
  minRevision: bigint;
  /** The part of the collection that the caller may see; undefined for all. */
  within?: Within | undefined;
}

/** Records read from the store at a time. */
const READ = 250;

/** The prefix of names that a parent selects; `parent` is checked. */
export function below(kind: Kind, parent: string): string {
  if (kind !== "Application" || parent === "" || parent === "-") return "";
  if (parent === "tenants/-" || parent === "dataPlanes/-") return parent.slice(0, -1);
  return `${requireParent("parent", parent)}/applications/`;
}

/**
 * The keys of the resources whose names begin with `belowText` and that `within` shows, as ranges in
 * order without overlap: what a caller may not see is not read either.
 */
export function rangesOf(kind: Kind, belowText: string, within: Within): Required<KeyRange>[] {
  const all = prefix(resourceKey(kind, belowText));
  if (within === undefined) return [all];
  const out: Required<KeyRange>[] = [];
  const later = (a: Uint8Array, b: Uint8Array) => (compareKeys(a, b) < 0 ? b : a);
  // A scope covers its own name and all below it.
  const covered = within.flatMap((scope) => {
    const own = key(resourceKey(kind, scope));
    return [{ start: own, end: keyAfter(own) }, prefix(resourceKey(kind, `${scope}/`))];
  });
  for (const { start, end } of covered.sort((a, b) => compareKeys(a.start, b.start))) {
    const last = out.at(-1);
    const range = {
      start: later(later(all.start, start), last?.end ?? start),
      end: compareKeys(end, all.end) < 0 ? end : all.end,
    };
    if (compareKeys(range.start, range.end) < 0) out.push(range);
  }
  return out;
}

/** A page: `nextPageToken` is empty on the last one, `cursor` the revision that all pages show. */
export interface Page {
  resources: Resource[];
  nextPageToken: string;
  cursor: Cursor;
}

/** Where a page begins, and what it is a part of. */
async function positionOf(deps: { reader: Reader }, q: ListQuery) {
  const size = pageSize(q.pageSize);
  const query = JSON.stringify([q.kind, q.parent, q.filter, q.view, q.within ?? null]);
  const head = await deps.reader.head(q.minRevision);
  const signing = await deps.reader.pageKey();
  const position =
    q.pageToken === "" ? { revision: head.rev, after: "" } : readPageToken(q.pageToken, query, signing);
  if (position.revision > head.rev)
    throw invalidField("page_token", "is of another history of this hub; start again without it");
  const from = keyAfter(key(resourceKey(q.kind, position.after)));
  const ranges = rangesOf(q.kind, below(q.kind, q.parent), q.within)
    .filter(({ end }) => compareKeys(from, end) < 0)
    .map(({ start, end }) => ({ start: compareKeys(start, from) < 0 ? from : start, end }));
  const rev = position.revision;
  const rest = (after: string) => ({
    nextPageToken: after === "" ? "" : pageToken({ revision: rev, after }, query, signing),
    cursor: cursorAt(head.epoch, rev),
  });
  return { size, rev, ranges, rest };
}

/**
 * One page. Errors: INVALID_ARGUMENT by field; OUT_OF_RANGE `COMPACTED` when the pages' revision is
 * gone; the reason of `signal`, which ends a search that may go through all there is.
 */
export async function listPage(
  deps: { store: Store; reader: Reader; clock: Clock },
  q: ListQuery,
  signal: AbortSignal,
): Promise<Page> {
  const matches = compileFilter(q.filter);
  const { size, rev, ranges, rest } = await positionOf(deps, q);
  const snapshot = new Snapshot(deps.reader, rev);
  const pace = new Pace(deps.clock, signal);
  const resources: Resource[] = [];
  const room = new PageRoom(size);
  for (const { start: first, end } of ranges) {
    for (let start: Uint8Array | undefined = first; start !== undefined;) {
      const limit = q.filter === "" ? Math.min(READ, size - resources.length + 1) : READ;
      const { kvs, more } = await deps.store.range({ start, end, rev, limit });
      for (const kv of kvs) {
        await pace.step();
        const record = decode(q.kind, kv.value);
        const stored = await snapshot.stored({ value: record, modRev: kv.modRev });
        const full = q.filter === "" ? viewInto(record, stored, q.view) : view(stored, View.FULL);
        if (!matches(full)) continue;
        if (!room.take(kv.value.length + (stored.statusBytes ?? 0)))
          return { resources, ...rest(resources.at(-1)?.name ?? "") };
        resources.push(q.filter === "" ? full : view(stored, q.view));
      }
      const last = kvs.at(-1);
      start = more && last !== undefined ? keyAfter(last.key) : undefined;
    }
  }
  return { resources, ...rest("") };
}

/** Whether {@link listBasicPage} takes the query. */
export const isBasic = (q: ListQuery): q is ListQuery & { kind: BasicKind } =>
  q.view === View.BASIC && q.filter === "" && q.within === undefined && q.kind !== "DataPlane";

/** A page as {@link listPage} answers it, encoded as a response of `schema`; ends with `signal`. */
export async function listBasicPage(
  deps: { reader: Reader; items: BasicItems },
  q: ListQuery & { kind: BasicKind },
  answer: { schema: DescMessage; signal: AbortSignal },
): Promise<Uint8Array> {
  const { size, rev, ranges, rest } = await positionOf(deps, q);
  const [range] = ranges;
  if (range === undefined) return encodePage(answer.schema, [], rest(""));
  const page = await deps.items.page(q.kind, { range, rev, limit: size, signal: answer.signal });
  return encodePage(answer.schema, page.items, rest(page.more ? page.last : ""));
}

/** A cursor. */
export const cursorAt = (epoch: Uint8Array, rev: Rev): Cursor =>
  create(CursorSchema, { epoch, revision: BigInt(rev) });
