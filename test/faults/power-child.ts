/**
 * A store under a trace, for power.ts. Arguments: the data directory, a file for acknowledgements
 * beside it, and how many writes. Each acknowledged write is one line of that file, `<revision> <key>
 * <value>`, and each revision that a watcher was shown `watch 0 <revision>`: in the trace they stand
 * where they happened. Ends by SIGKILL.
 */
import { openSync, writeSync } from "node:fs";
import { key, prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import { sleep, systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";

const [dir = "", acks = "", count = "0"] = process.argv.slice(2);
const WRITERS = 3;
/** Writes between two rests, in each of which the store checkpoints. */
const BURST = 120;
const REST_MS = 1_150;

const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
const out = openSync(acks, "a");
const record = (line: string): void => void writeSync(out, line);
const { rev: head } = await store.status();
void (async () => {
  for await (const batch of store.watch({ ...prefix("w"), from: head + 1 }))
    record(`watch 0 ${batch.kind === "events" ? batch.rev : 0}\n`);
})();

let written = 0;
const writer = async (w: number, until: number): Promise<void> => {
  while (written < until) {
    const i = written++;
    const k = `w${w}/${i % 40}`;
    const value = `${i}:${"x".repeat((i * 37) % 700)}`;
    const { rev } = await store.txn({
      then: [
        { put: { key: key(k), value: key(value) } },
        { put: { key: key(`${k}/twin`), value: key(value) } },
      ],
    });
    record(`${rev} ${k} ${value}\n`);
  }
};
for (let until = BURST; ; until += BURST) {
  await Promise.all(Array.from({ length: WRITERS }, (_, w) => writer(w, Math.min(until, Number(count)))));
  if (until >= Number(count)) break;
  await sleep(systemClock, REST_MS);
}
process.kill(process.pid, "SIGKILL");
