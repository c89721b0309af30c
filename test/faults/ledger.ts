/** What callers of the API were told, and whether a store still says so. */
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Rev, Store, StoreEvent } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";

/** An acknowledged write: it is in the log at `rev`, as an event of `key`. */
export interface Acked {
  key: string;
  rev: Rev;
}

/** Collects what was promised over all lives of a hub. */
export class Ledger {
  readonly acked: Acked[] = [];
  /** Digest of the events of each revision that was ever seen on disk. */
  readonly #witness = new Map<Rev, string>();
  #head: Rev = 1;

  /** A write was answered. */
  ack(key: string, rev: bigint | number): void {
    this.acked.push({ key, rev: Number(rev) });
  }

  /** Highest revision that anyone was told of. */
  get told(): Rev {
    return this.acked.reduce((max, a) => Math.max(max, a.rev), this.#head);
  }

  /**
   * Compares a store with all that was promised: every acknowledged write is in the log at its
   * revision, no revision that was on disk before means something else now. Returns the offences.
   */
  async audit(store: Store): Promise<string[]> {
    const offences: string[] = [];
    const { rev: head, compactRev } = await store.status();
    const keys = new Map<Rev, Set<string>>();
    const seen = new Map<Rev, string>();
    for await (const batch of store.watch({ ...prefix(""), from: compactRev + 1, progress: true })) {
      if (batch.kind !== "events") break;
      keys.set(batch.rev, new Set(batch.events.map((e) => Buffer.from(e.kv.key).toString())));
      seen.set(batch.rev, digest(batch.events));
    }
    if (head < this.#head) offences.push(`the head fell from ${this.#head} to ${head}`);
    for (const [rev, before] of this.#witness) {
      if (rev <= compactRev || seen.get(rev) === before) continue;
      offences.push(`revision ${rev} is ${seen.has(rev) ? "another write now" : "gone"}`);
    }
    for (const { key, rev } of this.acked) {
      if (rev > compactRev && keys.get(rev)?.has(key) !== true)
        offences.push(`acknowledged write of "${key}" at ${rev} is not in the log (head ${head})`);
    }
    for (const [rev, d] of seen) this.#witness.set(rev, d);
    this.#head = Math.max(this.#head, head);
    return offences;
  }

  /** {@link audit} on a copy of the files of a store that does not run. */
  async auditFiles(dataDir: string): Promise<string[]> {
    const copy = copyStore(dataDir);
    try {
      const store = await openSqliteStore({ dir: copy, clock: systemClock, rng: systemRng });
      try {
        return await this.audit(store);
      } finally {
        await store.close();
      }
    } finally {
      rmSync(copy, { recursive: true, force: true });
    }
  }
}

/** Copies database and write-ahead log of a store that does not run into a new folder. */
export function copyStore(dataDir: string): string {
  const copy = mkdtempSync(join(tmpdir(), "moorage-audit-"));
  for (const name of ["moorage.db", "moorage.db-wal"])
    if (existsSync(join(dataDir, name))) cpSync(join(dataDir, name), join(copy, name));
  return copy;
}

function digest(events: readonly StoreEvent[]): string {
  const hash = createHash("sha256");
  for (const { type, kv } of events)
    hash.update(type).update(kv.key).update("\0").update(kv.value).update("\0");
  return hash.digest("hex");
}
