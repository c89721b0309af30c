import { writeSync } from "node:fs";
import { key } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";

/**
 * A write storm that ends by kill -9, for kill.test.ts. Arguments: the data directory, a number
 * unique to this run, the count of acknowledgements at which to kill itself (0: be killed from
 * outside), and `ackBeforeCommit` to break the store. Each acknowledged write is one line on
 * standard output before its writer goes on: `<revision> <key> <value>`.
 */
const [dir = "", run = "", killAt = "0", failpoint] = process.argv.slice(2);

const WRITERS = 64;

const store = await openSqliteStore({
  dir,
  clock: systemClock,
  rng: systemRng,
  ...(failpoint === "ackBeforeCommit" ? { failpoint } : {}),
});
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

// Old history is removed while the storm goes on, so that some runs die in the middle of that.
const { rev } = await store.status();
await store.compact(rev);
await Promise.all(Array.from({ length: WRITERS }, (_, w) => writer(w)));
