/** Views of a hub's disk that lie. */
import { prefixes } from "@moorage/hub/core/keys";
import { keyText } from "@moorage/hub/store/bytes";
import type { ResRow, Store } from "@moorage/hub/store/store";

/** A store whose last process did not close it: what is missing at its end was lost. */
export function uncleanStart(store: Store): Store {
  return { ...store, status: async () => ({ ...(await store.status()), uncleanStart: true }) };
}

/** A store in which some resources are missing, as after a load that broke off. */
export function halfLoaded(store: Store, missing: (row: { uid: string; name: string }) => boolean): Store {
  const there = (row: ResRow) => !missing(row);
  return {
    ...store,
    async range(q) {
      const result = await store.range(q);
      const uidOf = (at: Uint8Array) => keyText(at).slice(prefixes.uids.length);
      const gone = (at: Uint8Array) =>
        keyText(at).startsWith(prefixes.uids) && missing({ uid: uidOf(at), name: "" });
      return { ...result, kvs: result.kvs.filter((kv) => !gone(kv.key)) };
    },
    async changes(q) {
      const result = await store.changes(q);
      return { ...result, rows: result.rows.filter(there) };
    },
    async resByUid(dp, uid) {
      const row = await store.resByUid(dp, uid);
      return row !== undefined && there(row) ? row : undefined;
    },
    async resAll(dp, q) {
      // Pages end at a short one, so all are read at once.
      const { limit, ...from } = q;
      const rows = (await store.resAll(dp, { ...from, limit: 100_000 })).filter(there);
      return rows.slice(0, limit);
    },
  };
}

/** A store whose view is behind while `lagging()`: rows written above `rev` are not in it. */
export function laggingView(store: Store, on: { rev: number; lagging: () => boolean }): Store {
  const there = (row: ResRow) => !on.lagging() || row.rev <= on.rev;
  return {
    ...store,
    async status() {
      const status = await store.status();
      return on.lagging() ? { ...status, rev: Math.min(status.rev, on.rev) } : status;
    },
    async changes(q) {
      const result = await store.changes(q);
      const head = on.lagging() ? Math.min(result.head, on.rev) : result.head;
      return { ...result, rows: result.rows.filter(there), head };
    },
    async resByUid(dp, uid) {
      const row = await store.resByUid(dp, uid);
      return row !== undefined && there(row) ? row : undefined;
    },
    async resAll(dp, q) {
      const { limit, ...from } = q;
      return (await store.resAll(dp, { ...from, limit: 100_000 })).filter(there).slice(0, limit);
    },
  };
}
