import type { CheckedTxn } from "../plan.ts";
import type { LeaseId, Rev, TxnResult } from "../store.ts";
import type { Commit } from "../memory/core.ts";
import type { Meta } from "./meta.ts";
import type { EpochBegun, EpochRequest } from "./schema.ts";

/** The messages between the store's thread and its writer. Each message to the writer is a list. */
export type Request =
  | { id: number; kind: "txn"; txn: CheckedTxn }
  | { id: number; kind: "compact"; rev: Rev }
  | { id: number; kind: "grant"; ttlMs: number }
  | { id: number; kind: "revoke"; lease: LeaseId }
  | { id: number; kind: "stats" }
  | ({ id: number; kind: "newEpoch" } & EpochRequest)
  | { id: number; kind: "backup"; file: string }
  | { id: number; kind: "close" };

/** What a request comes to; the value's type is that of the request's kind (a number is a lease or a revision). */
export type Outcome = TxnResult | number | StoreStats | EpochBegun | undefined;

/** What the writer knows of file and work; counts since the start. */
export interface StoreStats {
  /** Size of the file, and of the write-ahead log that no checkpoint has taken in yet. */
  dbBytes: number;
  walBytes: number;
  /** Of the file's size, what holds content; and pages of the file without any. */
  usedBytes: number;
  freePages: number;
  /** Writes asked for, and groups in which they were committed: so many syncs. */
  txns: number;
  commits: number;
  checkpoints: number;
  /** Requests that the writer has taken in and not yet tried. */
  queueDepth: number;
  /** The disk is full: what adds is refused. */
  diskFull: boolean;
}

/** A MoorageError in the form that threads can pass on. */
export interface ErrorMessage {
  code: number;
  reason: string;
  message: string;
  metadata: Record<string, string>;
}

/** One settled request. */
export type Ack = { id: number; value: Outcome } | { id: number; error: ErrorMessage };

/** From the writer. `committed` leaves it only after COMMIT, `failed` is its last message. */
export type Reply =
  | { kind: "ready"; meta: Meta; leases: { id: LeaseId; ttlMs: number }[] }
  | { kind: "committed"; acks: Ack[]; commits: Commit[]; compactRev: Rev; tookMs?: number }
  | { kind: "failed"; error: ErrorMessage }
  | { kind: "closed" };

/** What a writer is started with. */
export interface WriterOptions {
  file: string;
  /** The epoch of a store that this opening creates. */
  epoch: Uint8Array;
  /** Largest size of the file. */
  maxBytes: number | undefined;
  /** Size of the file that is given up on a full disk; 0 for none. */
  ballastBytes: number;
  /** What this thread is armed with; see shared/failpoint.ts. */
  failpoint: string | undefined;
}
