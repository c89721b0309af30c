/**
 * A backup as a stream: the store writes a copy of itself to a file beside it, which goes out in parts
 * and is removed. One at a time: each takes as much disk as the store.
 */
import { createReadStream } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { Rng } from "@moorage/shared/rng";
import { uuid } from "@moorage/shared/rng";
import type { Rev } from "../store/store.ts";

/** Bytes of a part. */
export const BACKUP_PART_BYTES = 512 * 1024;
const TEMPORARY = /^backup-[0-9a-f-]{36}\.tmp$/;

/** Where the copies are made, and by whom. */
export interface BackupSource {
  /** A directory with room for a copy: the store's own. */
  dir: string;
  /** Writes a consistent copy to a new file, and says what is in it. */
  write(file: string): Promise<BackupFacts>;
}

/** What the last part says of the whole. */
export interface BackupFacts {
  sha256: Uint8Array;
  bytes: number;
  /** The newest write in it. */
  rev: Rev;
}

/** Makes backups, one at a time. */
export class Backups {
  readonly #source: BackupSource;
  readonly #rng: Rng;
  #running = false;

  constructor(source: BackupSource, rng: Rng) {
    this.#source = source;
    this.#rng = rng;
  }

  /**
   * The file in parts, then its facts. RESOURCE_EXHAUSTED `BACKUP_RUNNING` while there is another; `begun` is
   * called once there is none, and waited for before the copy is made.
   */
  async *stream(begun: () => Promise<unknown>): AsyncGenerator<Uint8Array | BackupFacts, void, void> {
    if (this.#running) throw running();
    this.#running = true;
    const file = join(this.#source.dir, `backup-${uuid(this.#rng)}.tmp`);
    try {
      await begun();
      await this.#removeLeft();
      const facts = await this.#source.write(file);
      failpoint("api/backup-written");
      for await (const part of createReadStream(file, { highWaterMark: BACKUP_PART_BYTES }))
        yield part as Buffer;
      yield facts;
    } finally {
      await rm(file, { force: true });
      this.#running = false;
    }
  }

  /** Removes what a hub that died over a backup left behind. */
  async #removeLeft(): Promise<void> {
    for (const name of await readdir(this.#source.dir))
      if (TEMPORARY.test(name)) await rm(join(this.#source.dir, name), { force: true });
  }
}

function running(): MoorageError {
  const description = "a backup is under way, the limit is 1 at a time";
  return new MoorageError(Code.RESOURCE_EXHAUSTED, `Cannot make a backup: ${description}`, {
    reason: "BACKUP_RUNNING",
    quota: [{ subject: "hub", description }],
    retryAfterMs: 10_000,
  });
}
