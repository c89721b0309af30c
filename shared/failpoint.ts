/**
 * Named points in the code at which a test may end, fail or delay the process. Inert unless
 * `MOORAGE_FAILPOINT=name:kill|error|sleep[@n]` was given to the process, which only tests do:
 * `@n` acts on the n-th hit (1 is the first). A test compares this list with the source, and another
 * dies at each of them.
 */
import { writeSync } from "node:fs";
import { Code, MoorageError } from "./errors.ts";

/** Every failpoint and what has happened, and not happened, when it is hit. */
export const failpoints = {
  "store/ballast-dropped": "the disk is full and the ballast was given up",
  "store/after-shrink-step":
    "free pages were looked at and, where they are many, some given back; the file is not yet shorter",
  "store/mid-backup": "part of a backup is copied, the rest is not",
  "store/backup-copied": "a backup is copied, it is neither checked nor on the disk",
  "store/mid-move-aside": "the file of a store that a restore replaces is moved away, its log is not",
  "store/before-restore-rename": "a restored store is complete beside its place",
  "store/mid-migration": "a step of a schema migration is written, not committed",
  "store/before-epoch": "a new epoch is written, not committed",
  "store/before-begin": "a batch was taken, nothing is written",
  "store/before-commit": "all of a batch is written, not committed",
  "store/after-commit": "committed, nobody knows yet",
  "store/opened": "the file is open and marked as in use, nobody was told",
  "store/mid-batch": "part of a batch is written, the rest is not",
  "store/mid-compaction": "a step of a compaction is written, not committed",
  "store/after-compaction-step": "a step of a compaction is committed, more are due",
  "store/before-checkpoint": "the write-ahead log is about to be copied into the file",
  "store/after-checkpoint": "the write-ahead log was copied and emptied",
  "store/before-publish": "committed and known to the main thread, no watch was told and nothing settled",
  "store/after-publish": "watches were told, no request has settled",
  "api/before-txn": "a write of the API is planned and checked, not sent to the store",
  "api/after-txn": "a write of the API is committed, its caller has no answer",
  "api/backup-written": "the copy for a backup is written, none of it is sent",
  "api/before-collect": "chunks that no version names are about to be deleted",
  "api/mid-upload": "a chunk of a bundle is stored, its version is not",
  "identity/mid-issue": "a certificate is signed, its key is not registered",
  "identity/before-join-txn": "a join token was checked, it is not consumed",
  "identity/after-join-txn": "a join token is consumed and the key registered, the agent has no certificate",
  "identity/before-rejoin-txn": "a rejoin was checked, its certificate is not registered",
  "identity/after-renew-txn":
    "a renewed certificate is registered as a candidate, the agent does not have it",
  "identity/before-confirm-txn": "a stream came up with a candidate key, which is still a candidate",
  "identity/before-revoke-txn": "a revocation is checked, not written",
  "identity/after-revoke-txn": "a revocation is written, its caller has no answer",
  "sync/hello": "a hello was admitted, nothing was answered",
  "sync/before-frame": "rows were read for a frame, it is not written to the stream",
  "sync/after-frame": "a frame was written to the stream",
  "sync/acked": "an agent's ack moved the window",
  "sync/before-status-txn": "a report was read, its statuses are not written",
  "sync/after-status-txn": "the statuses of a report are committed",
  "sync/before-status-ack": "a report is durable, the agent has no ack",
  "sync/before-finalise-txn": "an agent confirmed a removal, the resource is still there",
  "sync/after-finalise-txn": "a removed resource is gone, the report is not acked",
  "sync/before-link-txn": "a link is about to change state",
  "sync/after-link-txn": "a link's change of state is committed",
  "agent/key-stored": "the agent's key is in its Secret, no token was sent",
  "agent/enrolled": "the hub issued a certificate, it is not in the Secret",
  "agent/record-written": "a record of a batch is a custom resource, others may not be",
  "agent/before-cursor": "all records of a batch are written, the cursor is not",
  "agent/after-cursor": "records and cursor of a batch are written, nothing is acked",
  "agent/after-ack": "a batch was acked",
  "agent/before-status": "a status report was taken, it is not sent",
  "agent/status-acked": "the hub has a report, the agent has not noted it",
  "agent/inventory-written": "the inventory is written ahead, no object was applied",
  "agent/object-applied": "an object of a set was applied, others may not be",
  "agent/before-prune": "all objects are applied, what is no longer wanted is still there",
  "agent/before-inventory-result": "all is applied and pruned, the inventory does not say so",
  "agent/removal-told": "a removal is done and durable, the hub was not told",
  "identity/ca-made": "a new authority is made, neither saved nor trusted",
  "identity/ca-trusted": "a new authority is in the trust bundle on disk, the former one signs",
  "identity/ca-saved": "a new authority signs after the next start, nobody was told",
  "audit/before-seal": "a run of audit records is read, its seal is not written",
  "audit/pruned": "a seal is marked as the anchor, its records are not deleted",
} as const;

/** The name of a failpoint. */
export type FailpointName = keyof typeof failpoints;

type Action = "kill" | "error" | "sleep";

/** How long `sleep` holds the thread. */
const SLEEP_MS = 100;

let armedText: string | undefined;
let armed: { name: FailpointName; action: Action; at: number } | undefined;
let hits = 0;

/**
 * Arms the failpoint that `text` names; undefined or empty disarms. Each thread has its own. Error:
 * INVALID_ARGUMENT for an unknown name or action.
 */
export function armFailpoint(text: string | undefined): void {
  armed = undefined;
  armedText = undefined;
  hits = 0;
  if (text === undefined || text === "") return;
  const match = /^([^:]+):(kill|error|sleep)(?:@([1-9][0-9]{0,8}))?$/.exec(text);
  const name = match?.[1];
  if (match === null || name === undefined || !Object.hasOwn(failpoints, name)) {
    throw new MoorageError(
      Code.INVALID_ARGUMENT,
      `Cannot set the failpoint "${text}": write NAME:kill|error|sleep[@N] with a name of shared/failpoint.ts`,
      { reason: "FAILPOINT_UNKNOWN" },
    );
  }
  armed = { name: name as FailpointName, action: match[2] as Action, at: Number(match[3] ?? 1) };
  armedText = text;
}

/** What this thread was armed with, for a thread that it starts. */
export function armedFailpoint(): string | undefined {
  return armedText;
}

/** Marks the point `name`; acts when it is armed and its turn has come. */
export function failpoint(name: FailpointName): void {
  if (armed === undefined || armed.name !== name) return;
  hits += 1;
  if (hits !== armed.at) return;
  // At once and past all buffers: a test must see that it was this that ended the process.
  writeSync(2, `failpoint ${name} hit ${hits}: ${armed.action}\n`);
  switch (armed.action) {
    case "kill":
      process.kill(process.pid, "SIGKILL");
      // The signal is on its way; nothing of this thread may run meanwhile.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
      return;
    case "error":
      throw new MoorageError(Code.INTERNAL, `Stopped at the failpoint "${name}"`, { reason: "FAILPOINT" });
    case "sleep":
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, SLEEP_MS);
  }
}
