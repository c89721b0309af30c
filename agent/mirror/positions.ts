/** The position of the stream as it is kept: after the records of its batch, and in the order of the batches. */
import type { ResourceStatus } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { failpoint } from "@moorage/shared/failpoint";
import { equalJson } from "../kube/json.ts";
import { equalCursor } from "./reported.ts";
import type { Batch } from "./store.ts";
import type { SyncState } from "./sync-state.ts";
import type { RecordWriter } from "./writer.ts";

/** Writes positions, one at a time. */
export class Positions {
  readonly #state: SyncState;
  readonly #writer: RecordWriter;
  /** Removals of resources that were not here, as told to the hub. */
  readonly #gone: ReadonlyMap<string, ResourceStatus>;
  /** The last batch's commit, by stream. */
  readonly #committed = new WeakMap<AbortSignal, Promise<void>>();
  #writes: Promise<void> = Promise.resolve();

  constructor(deps: { state: SyncState; writer: RecordWriter; gone: ReadonlyMap<string, ResourceStatus> }) {
    this.#state = deps.state;
    this.#writer = deps.writer;
    this.#gone = deps.gone;
  }

  /**
   * Settles once the batch is durable: its records by `writes`, then its position, after all earlier
   * batches of the stream. A batch that failed takes all later ones of its stream with it: no position
   * may skip it.
   */
  commit(batch: Batch, on: { writes: Promise<unknown>; signal: AbortSignal }): Promise<void> {
    const before = this.#committed.get(on.signal) ?? Promise.resolve();
    const commit = Promise.all([before, on.writes]).then(() => this.#next(batch, on.signal));
    commit.catch(() => undefined);
    this.#committed.set(on.signal, commit);
    return commit;
  }

  #next(batch: Batch, signal: AbortSignal): Promise<void> {
    const run = this.#writes.then(() => {
      signal.throwIfAborted();
      return this.#write(batch);
    });
    this.#writes = run.catch(() => undefined);
    return run;
  }

  async #write(batch: Batch): Promise<void> {
    const { position } = this.#state;
    const highest = batch.updates.reduce(
      (max, u) => Math.max(max, Number(u.revision)),
      position.highestRevision,
    );
    const gone = [...this.#gone.values()].map((g) => ({
      name: g.name,
      uid: g.uid,
      revision: Number(g.observedRevision),
    }));
    const moved =
      batch.cursor !== undefined &&
      (position.cursor === undefined || !equalCursor(position.cursor, batch.cursor));
    if (!moved && equalJson(gone, position.gone)) return;
    failpoint("agent/before-cursor");
    await this.#writer.persist("SyncState", () =>
      this.#state.write({
        ...position,
        cursor: batch.cursor ?? position.cursor,
        highestRevision: highest,
        gone,
      }),
    );
    failpoint("agent/after-cursor");
  }
}
