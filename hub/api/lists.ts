/** Lists: pages that all show one revision, in order of name. */
import { create } from "@bufbuild/protobuf";
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
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { Rev, Store } from "../store/store.ts";
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

/** One page. Errors: INVALID_ARGUMENT by field; OUT_OF_RANGE `COMPACTED` when the pages' revision is gone. */
export async function listPage(
  deps: { store: Store; reader: Reader },
  q: ListQuery,
): Promise<{ resources: Resource[]; nextPageToken: string; cursor: Cursor }> {
  const size = pageSize(q.pageSize);
  const matches = compileFilter(q.filter);
  const query = JSON.stringify([q.kind, q.parent, q.filter, q.view]);
  const head = await deps.reader.head(q.minRevision);
  const position = q.pageToken === "" ? { revision: head.rev, after: "" } : readPageToken(q.pageToken, query);
  if (position.revision > head.rev)
    throw invalidField("page_token", "is of another history of this hub; start again without it");
  const range = prefix(resourceKey(q.kind, below(q.kind, q.parent)));
  const snapshot = new Snapshot(deps.reader, position.revision);
  const resources: Resource[] = [];
  let start = position.after === "" ? range.start : keyAfter(key(resourceKey(q.kind, position.after)));
  for (;;) {
    const page = await deps.store.range({
      start,
      end: range.end,
      rev: position.revision,
      limit: q.filter === "" ? Math.min(READ, size + 1) : READ,
    });
    if (page.kvs.length >= MANY) await snapshot.readStatuses();
    for (const kv of page.kvs) {
      const record = decode(q.kind, kv.value);
      const stored = await snapshot.stored({ value: record, modRev: kv.modRev });
      const full = q.filter === "" ? viewInto(record, stored, q.view) : view(stored, View.FULL);
      if (!matches(full)) continue;
      if (resources.length === size) {
        const after = resources.at(-1)?.name ?? "";
        return {
          resources,
          nextPageToken: pageToken({ revision: position.revision, after }, query),
          cursor: cursorAt(head.epoch, position.revision),
        };
      }
      resources.push(q.filter === "" ? full : view(stored, q.view));
    }
    const last = page.kvs.at(-1);
    if (!page.more || last === undefined) break;
    start = keyAfter(key(keyText(last.key)));
  }
  return { resources, nextPageToken: "", cursor: cursorAt(head.epoch, position.revision) };
}

/** A cursor. */
export const cursorAt = (epoch: Uint8Array, rev: Rev): Cursor =>
  create(CursorSchema, { epoch, revision: BigInt(rev) });
