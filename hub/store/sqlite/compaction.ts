import type Database from "better-sqlite3";
import type { Rev } from "../store.ts";

/** Log rows looked at in one step: about a millisecond, as steps go between the groups of a busy hub. */
const STEP_ROWS = 250;

/**
 * Removes what a compaction gave up, step by step between groups. Oldest first: a delete marker goes
 * only after the values it hides, so a state read between two steps is never wrong.
 */
export class Compaction {
  readonly #page: Database.Statement<unknown[]>;
  readonly #newer: Database.Statement<unknown[]>;
  readonly #remove: Database.Statement<unknown[]>;
  #target: Rev = 0;
  #at: { rev: Rev; sub: number } = { rev: 0, sub: -1 };
  #done = true;

  constructor(db: Database.Database) {
    this.#page = db.prepare(
      "SELECT rev, sub, key, del FROM log WHERE (rev, sub) > (?, ?) AND rev <= ? ORDER BY rev, sub LIMIT ?",
    );
    this.#newer = db.prepare("SELECT 1 FROM log WHERE key = ? AND rev > ? AND rev <= ? LIMIT 1");
    this.#remove = db.prepare("DELETE FROM log WHERE rev = ? AND sub = ?");
  }

  /** Sets what is to be removed: all that is not visible at `rev` or after. */
  aim(rev: Rev): void {
    if (rev <= this.#target) return;
    this.#target = rev;
    this.#at = { rev: 0, sub: -1 };
    this.#done = false;
  }

  get done(): boolean {
    return this.#done;
  }

  /** One step, inside a transaction of the caller. */
  step(): void {
    const page = this.#page.all(this.#at.rev, this.#at.sub, this.#target, STEP_ROWS) as {
      rev: number;
      sub: number;
      key: Buffer;
      del: number;
    }[];
    for (const { rev, sub, key, del } of page) {
      if (del === 1 || this.#newer.get(key, rev, this.#target) !== undefined) this.#remove.run(rev, sub);
      this.#at = { rev, sub };
    }
    this.#done = page.length < STEP_ROWS;
  }
}
