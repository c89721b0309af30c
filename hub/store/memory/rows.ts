import type { ChangesRequest, ChangesResult, ResRow, Rev, RowOp } from "../store.ts";
import { checkLimit, unknownDp } from "../plan.ts";
import { SortedMap } from "./sorted.ts";

/** The read model of one data plane: every resource once, by uid. */
interface Dp {
  floor: Rev;
  rows: SortedMap<ResRow>;
}

/** The sync read model in memory; the meaning of each op is that of {@link RowOp}. */
export class Rows {
  readonly #dps = new Map<string, Dp>();

  has(dp: string): boolean {
    return this.#dps.has(dp);
  }

  /** Applies checked ops at `rev`; returns the data planes that changed. */
  apply(ops: readonly RowOp[], rev: Rev): Set<string> {
    const changed = new Set<string>();
    for (const op of ops) {
      if ("putDp" in op) {
        if (this.#dps.has(op.putDp.uid)) continue;
        this.#dps.set(op.putDp.uid, { floor: 0, rows: new SortedMap() });
        changed.add(op.putDp.uid);
      } else if ("dropDp" in op) {
        if (this.#dps.delete(op.dropDp.uid)) changed.add(op.dropDp.uid);
      } else if ("dropRes" in op) {
        const dp = this.#dp(op.dropRes.dp);
        const row = dp.rows.get(op.dropRes.uid);
        if (row === undefined) continue;
        dp.rows.delete(row.uid);
        dp.floor = Math.max(dp.floor, row.rev);
        changed.add(op.dropRes.dp);
      } else {
        const { dp, ...row } = op.upsertRes;
        this.#dp(dp).rows.set(row.uid, { rev, ...row });
        changed.add(dp);
      }
    }
    return changed;
  }

  changes(q: ChangesRequest, head: Rev): ChangesResult {
    checkLimit(q.limit, "limit");
    checkLimit(q.maxBytes, "maxBytes");
    const dp = this.#dp(q.dp);
    const all = [...dp.rows.from("")].map(([, row]) => row).filter((row) => row.rev > q.after);
    // Stable: rows of one revision stay in order of uid.
    all.sort((a, b) => a.rev - b.rev);
    const rows: ResRow[] = [];
    let bytes = 0;
    for (let i = 0; i < all.length;) {
      const rev = (all[i] as ResRow).rev;
      let end = i;
      let size = 0;
      while (end < all.length && (all[end] as ResRow).rev === rev)
        size += (all[end++] as ResRow).update.length;
      if (rows.length > 0 && (end > q.limit || bytes + size > q.maxBytes)) break;
      rows.push(...all.slice(i, end));
      bytes += size;
      i = end;
    }
    return { rows, head, floor: dp.floor, more: rows.length < all.length };
  }

  resByUid(dp: string, uid: string): ResRow | undefined {
    return this.#dps.get(dp)?.rows.get(uid);
  }

  resAll(dp: string, q: { afterUid?: string; limit: number }): ResRow[] {
    checkLimit(q.limit, "limit");
    const rows: ResRow[] = [];
    for (const [uid, row] of this.#dp(dp).rows.from(q.afterUid ?? "")) {
      if (uid === q.afterUid) continue;
      rows.push(row);
      if (rows.length === q.limit) break;
    }
    return rows;
  }

  floor(dp: string): Rev {
    return this.#dp(dp).floor;
  }

  #dp(uid: string): Dp {
    const dp = this.#dps.get(uid);
    if (dp === undefined) throw unknownDp(uid);
    return dp;
  }
}
