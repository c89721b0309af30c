/**
 * Named points in the code at which a test may end, fail or delay the process. Inert unless
 * `MOORAGE_FAILPOINT=name:kill|error|sleep[@n]` was given to the process, which only tests do:
 * `@n` acts on the n-th hit (1 is the first). A test compares this list with the source, and another
 * dies at each of them.
 */
import { Code, MoorageError } from "./errors.ts";

/** Every failpoint and what has happened, and not happened, when it is hit. */
export const failpoints = {
  "store/before-begin": "a batch was taken, nothing is written",
  "store/before-commit": "all of a batch is written, not committed",
  "store/after-commit": "committed, nobody knows yet",
} as const;

/** The name of a failpoint. */
export type FailpointName = keyof typeof failpoints;

type Action = "kill" | "error" | "sleep";

/** How long `sleep` holds the thread. */
const SLEEP_MS = 100;

let armed: { name: FailpointName; action: Action; at: number } | undefined;
let hits = 0;

/**
 * Arms the failpoint that `text` names; undefined or empty disarms. Each thread has its own. Error:
 * INVALID_ARGUMENT for an unknown name or action.
 */
export function armFailpoint(text: string | undefined): void {
  armed = undefined;
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
}

/** Marks the point `name`; acts when it is armed and its turn has come. */
export function failpoint(name: FailpointName): void {
  if (armed === undefined || armed.name !== name) return;
  hits += 1;
  if (hits !== armed.at) return;
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
