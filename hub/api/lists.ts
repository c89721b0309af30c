/** Lists: pages that all show one revision, in order of name. */
import { create } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { CursorSchema } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import { invalidField } from "@moorage/shared/errors";
import type { Kind } from "../core/keys.ts";
import { resourceKey } from "../core/keys.ts";
import { compileFilter } from "../core/filter.ts";
import { requireParent } from "../core/names.ts";
import { pageSize, pageToken, readPageToken } from "../core/pages.ts";
import type { Resource } from "../core/resources.ts";
import { decode } from "../core/resources.ts";
import { view, viewInto } from "../core/views.ts";
import type { Within } from "../identity/authorize.ts";
import { isWithin } from "../identity/authorize.ts";
import { key, keyAfter, prefix } from "../store/bytes.ts";
import type { Rev, Store } from "../store/store.ts";
import { encodePage } from "./basic-items.ts";
import type { BasicItems } from "./basic-items.ts";
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

/** Records read from the store at a time while a filter is looking for matches. */
const READ = 1_001;

/** From this number of records on, all statuses are read at once instead of each by its key. */
const MANY = 64;

/** The prefix of names that a parent selects; `parent` is checked. */
export function below(kind: Kind, parent: string): string {
  if (kind !== "Application" || parent === "" || parent === "-") return "";
  if (parent === "tenants/-" || parent === "dataPlanes/-") return parent.slice(0, -1);
  return `${requireParent("parent", parent)}/applications/`;
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
  const { start, end } = prefix(resourceKey(q.kind, below(q.kind, q.parent)));
  const from = position.after === "" ? start : keyAfter(key(resourceKey(q.kind, position.after)));
  const rev = position.revision;
  const rest = (after: string) => ({
    nextPageToken: after === "" ? "" : pageToken({ revision: rev, after }, query, signing),
    cursor: cursorAt(head.epoch, rev),
  });
  return { size, rev, range: { start: from, end }, rest };
}

/**
 * One page. Errors: INVALID_ARGUMENT by field; OUT_OF_RANGE `COMPACTED` when the pages' revision is
 * gone.
 */
export async function listPage(deps: { store: Store; reader: Reader }, q: ListQuery): Promise<Page> {
  const matches = compileFilter(q.filter);
  const { size, rev, range, rest } = await positionOf(deps, q);
  const snapshot = new Snapshot(deps.reader, rev);
  const resources: Resource[] = [];
  let { start } = range;
  for (;;) {
    const limit = q.filter === "" && q.within === undefined ? Math.min(READ, size + 1) : READ;
    const page = await deps.store.range({ start, end: range.end, rev, limit });
    if (page.kvs.length >= MANY) await snapshot.readStatuses();
    for (const kv of page.kvs) {
      const record = decode(q.kind, kv.value);
      if (!isWithin(q.within, record.name)) continue;
      const stored = await snapshot.stored({ value: record, modRev: kv.modRev });
      const full = q.filter === "" ? viewInto(record, stored, q.view) : view(stored, View.FULL);
      if (!matches(full)) continue;
      if (resources.length === size) return { resources, ...rest(resources.at(-1)?.name ?? "") };
      resources.push(q.filter === "" ? full : view(stored, q.view));
    }
    const last = page.kvs.at(-1);
    if (!page.more || last === undefined) break;
    start = keyAfter(last.key);
  }
  return { resources, ...rest("") };
}

/** Whether {@link listBasicPage} takes the query. */
export const isBasic = (q: ListQuery): boolean =>
  q.view === View.BASIC && q.filter === "" && q.within === undefined && q.kind !== "DataPlane";

/** A page as {@link listPage} answers it, encoded as a response of `schema`. */
export async function listBasicPage(
  deps: { reader: Reader; items: BasicItems },
  q: ListQuery,
  schema: DescMessage,
): Promise<Uint8Array> {
  const { size, rev, range, rest } = await positionOf(deps, q);
  const page = await deps.items.page(q.kind, { range, rev, limit: size });
  return encodePage(schema, page.items, rest(page.more ? page.last : ""));
}

/** A cursor. */
export const cursorAt = (epoch: Uint8Array, rev: Rev): Cursor =>
  create(CursorSchema, { epoch, revision: BigInt(rev) });
