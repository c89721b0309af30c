import type { StatusReport } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Timer } from "@moorage/shared/clock";
import { isStoreError } from "../store/errors.ts";
import { checkReport } from "./check-report.ts";
import type { SyncCounts } from "./counts.ts";
import { broken } from "./messages.ts";
import { hex } from "./open.ts";
import type { Reporter, StatusDeps } from "./status.ts";
import { writeReport } from "./status.ts";
import type { Surveys } from "./survey.ts";

/** When what found the store full is tried again. */
export const RETRY_MS = 5_000;

/** What the reports of a stream need of it. */
export interface ReportsOf {
  by: Reporter;
  surveys: Surveys;
  /** Revision up to which everything was sent. */
  position(): number;
  /** The turn to store a report; the function answered gives it back. */
  turn(): Promise<() => void>;
  /** Writes the ack of a report, or the request for all; false when the transport is full. */
  ack(seq: bigint): boolean;
  request(): boolean;
  drained(): Promise<void>;
  /** Ends the stream. */
  failed(error: unknown): void;
}

/** The status reports of one stream: one at a time, each acked once it is durable. */
export class Reports {
  readonly #deps: StatusDeps & { counts: SyncCounts };
  readonly #of: ReportsOf;
  #seq = 0n;
  #storing: Promise<void> | undefined;
  #acking: Promise<void> | undefined;
  #requested = false;
  #retry: Timer | undefined;
  #over = false;

  constructor(deps: StatusDeps & { counts: SyncCounts }, of: ReportsOf) {
    this.#deps = deps;
    this.#of = of;
  }

  /** Settles when no report is under way. */
  get settled(): Promise<void> {
    return this.#storing ?? Promise.resolve();
  }

  /** Takes the next report; settles once its storing has begun. Throws when it breaks the protocol. */
  async take(report: StatusReport): Promise<void> {
    // An ack that waits for the transport was not read: the next report has no right to be there yet, and
    // an agent that only writes would have the acks pile up here.
    await this.#acking;
    if (this.#storing !== undefined)
      throw broken(`status report "${report.seq}": the one before is not acked yet`);
    checkReport(report, this.#seq + 1n);
    this.#seq = report.seq;
    this.#storing = this.#store(report).catch((error: unknown) => this.#of.failed(error));
  }

  /** The stream is over. */
  close(): void {
    this.#over = true;
    this.#retry?.cancel();
  }

  async #store(report: StatusReport): Promise<void> {
    const written = await this.#write(report);
    this.#storing = undefined;
    if (written === undefined) return;
    this.#deps.counts.statusWritten(written);
    if (this.#over) return;
    if (!this.#of.ack(report.seq))
      this.#acking = this.#of.drained().finally(() => (this.#acking = undefined));
    await this.#judge(report);
  }

  /**
   * Undefined when the stream ended before its turn came, and no more is written once it ends: its agent
   * reports anew, and what a newer stream has stored by now must stand. On a full disk the report waits for
   * room, and its ack with it: the agent keeps what is newer meanwhile.
   */
  async #write(report: StatusReport): Promise<number | undefined> {
    const { by } = this.#of;
    for (let refused = false; ; refused = true) {
      const release = await this.#of.turn();
      try {
        if (this.#over) return undefined;
        const { statuses } = report;
        return await writeReport(this.#deps, by, { statuses, over: () => this.#over });
      } catch (thrown) {
        if (!isStoreError(thrown, "STORE_FULL") || this.#over) throw thrown;
      } finally {
        release();
      }
      if (!refused)
        this.#deps.log.warn("Status waits for room in the store", { dataPlaneUid: by.dataPlaneUid });
      await new Promise<void>((resolve) => (this.#retry = this.#deps.clock.setTimer(RETRY_MS, resolve)));
    }
  }

  /** After a full report hub and agent must agree; if not, everything is asked for again, once a stream. */
  async #judge(report: StatusReport): Promise<void> {
    if (report.digest.length === 0 || this.#requested) return;
    const found = await this.#of.surveys.take("status", this.#of.position());
    if (this.#over || found === undefined || hex(report.digest) === hex(found.statusDigest)) return;
    this.#requested = true;
    this.#of.request();
  }
}
