import { writeSync } from "node:fs";
import { key, prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { armFailpoint } from "@moorage/shared/failpoint";
import { systemRng } from "@moorage/shared/rng";

/**
 * A write storm that ends by kill -9, see storm.ts. Arguments: the data directory, a number unique to
 * this run, the count of acknowledgements at which to kill itself (0: be killed from outside), and a
 * failpoint to arm. Each acknowledged write is one line on standard output before its writer goes on:
 * `<revision> <key> <value>`; each revision that a watcher is shown is `watch <watcher> <revision>`.
 */
const [dir = "", run = "", killAt = "0", armed = ""] = process.argv.slice(2);

const WRITERS = 64;
const WATCHERS = 4;

armFailpoint(armed);
const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
let acknowledged = 0;

/** Writes all of a line to the parent before anything else happens; a full pipe is tried until it is read. */
function record(line: string): void {
  const bytes = Buffer.from(line);
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}

const writer = async (w: number): Promise<never> => {
  for (let i = 0; ; i++) {
    // A few hot keys of each writer and values of uneven size, so that pages split and logs grow.
    const k = `w${w}/${i % 5}`;
    const value = `${run}:${w}:${i}:${"x".repeat((i * 37) % 700)}`;
    const { rev } = await store.txn({
      then: [
        { put: { key: key(k), value: key(value) } },
        { put: { key: key(`${k}/twin`), value: key(value) } },
      ],
    });
    record(`${rev} ${k} ${value}\n`);
    if (++acknowledged === Number(killAt)) process.kill(process.pid, "SIGKILL");
  }
};

/** Watches everything, as an agent's stream does, and says what it is shown. */
const watcher = async (w: number, from: number): Promise<void> => {
  for await (const batch of store.watch({ ...prefix("w"), from }))
    if (batch.kind === "events") record(`watch ${run}/${w} ${batch.rev}\n`);
};

const { rev } = await store.status();
const watching = Array.from({ length: WATCHERS }, (_, w) => watcher(w, rev + 1));
// Old history is removed while the storm goes on, so that some runs die in the middle of that.
await store.compact(rev);
await Promise.all([...watching, ...Array.from({ length: WRITERS }, (_, w) => writer(w))]);
