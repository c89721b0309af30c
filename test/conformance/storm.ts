/** Write storms in a process of their own that end by a kill, and what must be true of the store afterwards. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Rev, Store } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";
import { everything, tempDir, text } from "./support.ts";

const child = fileURLToPath(new URL("./kill-child.ts", import.meta.url));

/** Into the sleep of a failpoint, which lasts 100 ms. */
const SLEEPING_MS = 40;

/** Failpoints of work that only a storm's process asks for. */
export const compactionPoints: ReadonlySet<string> = new Set([
  "store/mid-compaction",
  "store/after-compaction-step",
]);

/** An acknowledged write, as the child's line has it. */
export interface Acked {
  rev: Rev;
  key: string;
  value: string;
}

/** What a storm's process was started with, and how it is to end. */
export interface Storm {
  dir: string;
  /** Unique among the storms of a directory. */
  run: number;
  /** Acknowledgements at which it kills itself; 0: from here, after `afterBytes` of its output. */
  at: number;
  afterBytes: number;
  /** See shared/failpoint.ts. One that sleeps is killed from here while it does. */
  failpoint?: string;
  /** A folder that holds another `hub/store`, in place of this repository's. */
  root?: string;
  env?: Record<string, string>;
}

/** What came out of it. `watched`: revisions that watchers of the process were shown, in their order. */
export interface StormEnd {
  acked: Acked[];
  watched: Map<string, Rev[]>;
  log: string;
}

/** Runs a storm until it is killed. Rejects when it ends in another way. */
export async function storm(on: Storm): Promise<StormEnd> {
  const script = on.root === undefined ? child : `${on.root}/test/conformance/kill-child.ts`;
  const storming = spawn(
    process.execPath,
    [script, on.dir, String(on.run), String(on.at), on.failpoint ?? ""],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...on.env },
    },
  );
  let out = "";
  let errors = "";
  const exit = once(storming, "close");
  storming.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    out += chunk;
    if (on.at === 0 && on.failpoint === undefined && out.length >= on.afterBytes) storming.kill("SIGKILL");
  });
  storming.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    errors += chunk;
    // Time enough for the other thread to tell what it should not know yet.
    if (/^failpoint .*: sleep$/m.test(chunk))
      systemClock.setTimer(SLEEPING_MS, () => storming.kill("SIGKILL"));
  });
  const [, signal] = (await exit) as [number | null, string | null];
  if (signal !== "SIGKILL") throw new Error(`The storm ended by itself: ${errors}`);
  const end: StormEnd = { acked: [], watched: new Map(), log: errors };
  // A line cut short by the kill was never wholly acknowledged.
  for (const line of out.slice(0, out.lastIndexOf("\n") + 1).split("\n")) {
    const [first = "", key = "", value = ""] = line.split(" ");
    if (first === "watch") end.watched.set(key, [...(end.watched.get(key) ?? []), Number(value)]);
    else if (first !== "") end.acked.push({ rev: Number(first), key, value });
  }
  return end;
}

/** What is wrong with the store after a kill. `before` is the head when the storm began. */
export async function audit(store: Store, before: Rev, end: StormEnd): Promise<string[]> {
  const offences: string[] = [];
  const written = new Map<Rev, Map<string, string>>();
  let expected = before + 1;
  for await (const batch of store.watch({ ...everything, from: before + 1, progress: true })) {
    if (batch.kind !== "events") break;
    if (batch.rev !== expected++) offences.push(`the log holds ${batch.rev} where ${expected - 1} is due`);
    written.set(batch.rev, new Map(batch.events.map((e) => [text(e.kv.key), text(e.kv.value)])));
  }
  const { rev: head } = await store.status();
  if (head !== expected - 1) offences.push(`the head is ${head}, the log ends at ${expected - 1}`);

  const seen = new Set<Rev>();
  for (const { rev, key, value } of end.acked) {
    if (seen.has(rev)) offences.push(`revision ${rev} was acknowledged twice`);
    seen.add(rev);
    const found = written.get(rev);
    if (found === undefined) offences.push(`acknowledged revision ${rev} is lost (head ${head})`);
    else if (found.get(key) !== value)
      offences.push(`revision ${rev} holds another write than was acknowledged`);
    else if (found.get(`${key}/twin`) !== value) offences.push(`revision ${rev} is torn`);
  }
  for (const [watcher, revs] of end.watched) {
    // Each revision of the storm writes below its prefix: whoever watches all of it sees them without gap.
    revs.forEach((rev, i) => {
      if (i > 0 && rev !== (revs[i - 1] as Rev) + 1)
        offences.push(`${watcher} saw ${rev} after ${revs[i - 1]}`);
    });
    const last = revs.at(-1) ?? 0;
    if (last > head) offences.push(`${watcher} was shown ${last}, the head is ${head}`);
  }
  // The state must be what the log says: the last value of each key that was written.
  const last = new Map([...written.values()].flatMap((m) => [...m]));
  const { kvs } = await store.range(everything);
  const state = new Map(kvs.map((kv) => [text(kv.key), text(kv.value)]));
  for (const [key, value] of last)
    if (state.get(key) !== value) offences.push(`key ${key} differs from the log`);
  return offences;
}

/** A storm over a store with some history that dies at a failpoint of its compaction; then the audit. */
export async function dieInStorm(failpoint: string): Promise<{ offences: string[]; log: string }> {
  const dir = tempDir();
  try {
    await storm({ dir, run: 1, at: 2_000, afterBytes: 0 });
    const before = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
    const { rev: head } = await before.status();
    await before.close();
    const end = await storm({ dir, run: 2, at: 0, afterBytes: 0, failpoint });
    const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
    try {
      return { offences: await audit(store, head, end), log: end.log };
    } finally {
      await store.close();
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
