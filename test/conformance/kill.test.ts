import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Rev, Store } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { everything, tempDir, text } from "./support.ts";

/** Kills of a real process in a write storm. `ROUNDS` sets how many; `SEED` replays their moments. */
const rounds = Number(process.env["ROUNDS"] ?? 50);
const seed = Number(process.env["SEED"] ?? 20_261_126);
const child = fileURLToPath(new URL("./kill-child.ts", import.meta.url));

/** An acknowledged write, as the child's line has it. */
interface Acked {
  rev: Rev;
  key: string;
  value: string;
}

/** Runs the storm until it is killed, by itself at an acknowledgement or from here after some output. */
async function storm(
  dir: string,
  run: number,
  kill: { at: number; afterBytes: number },
  failpoint = "",
): Promise<Acked[]> {
  const storming = spawn(process.execPath, [child, dir, String(run), String(kill.at), failpoint], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let errors = "";
  const exit = once(storming, "close");
  storming.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    out += chunk;
    if (kill.at === 0 && out.length >= kill.afterBytes) storming.kill("SIGKILL");
  });
  storming.stderr.setEncoding("utf8").on("data", (chunk: string) => (errors += chunk));
  const [, signal] = (await exit) as [number | null, string | null];
  if (signal !== "SIGKILL") throw new Error(`The storm ended by itself: ${errors}`);
  // A line cut short by the kill was never wholly acknowledged.
  const lines = out
    .slice(0, out.lastIndexOf("\n") + 1)
    .trimEnd()
    .split("\n");
  return lines.filter(Boolean).map((line) => {
    const [rev = "", key = "", value = ""] = line.split(" ");
    return { rev: Number(rev), key, value };
  });
}

/** What is wrong with the store after a kill. `before` is the head when the storm began. */
async function audit(store: Store, before: Rev, acked: readonly Acked[]): Promise<string[]> {
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
  for (const { rev, key, value } of acked) {
    if (seen.has(rev)) offences.push(`revision ${rev} was acknowledged twice`);
    seen.add(rev);
    const found = written.get(rev);
    if (found === undefined) offences.push(`acknowledged revision ${rev} is lost (head ${head})`);
    else if (found.get(key) !== value)
      offences.push(`revision ${rev} holds another write than was acknowledged`);
    else if (found.get(`${key}/twin`) !== value) offences.push(`revision ${rev} is torn`);
  }
  // The state must be what the log says: the last value of each key that was written.
  const last = new Map([...written.values()].flatMap((m) => [...m]));
  const { kvs } = await store.range(everything);
  const state = new Map(kvs.map((kv) => [text(kv.key), text(kv.value)]));
  for (const [key, value] of last)
    if (state.get(key) !== value) offences.push(`key ${key} differs from the log`);
  return offences;
}

/** Rounds of storm, kill and audit on one directory, until the first offence. */
async function campaign(
  count: number,
  failpoint?: string,
): Promise<{ rounds: number; acked: number; offences: string[] }> {
  const rng = seededRng(seed);
  const dir = tempDir();
  let head = 1;
  let acked = 0;
  try {
    for (let round = 1; round <= count; round++) {
      const at = round % 2 === 0 ? 0 : 1 + Math.floor(rng.float() * 1_500);
      const lines = await storm(dir, round, { at, afterBytes: rng.float() * 500_000 }, failpoint);
      acked += lines.length;
      const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
      try {
        const offences = await audit(store, head, lines);
        const status = await store.status();
        if (!status.uncleanStart) offences.push("the start after a kill is taken for a clean one");
        if (offences.length > 0) return { rounds: round, acked, offences };
        head = status.rev;
      } finally {
        await store.close();
      }
    }
    return { rounds: count, acked, offences: [] };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

describe("A process killed in a write storm", () => {
  it("has lost no acknowledged write and reuses no revision", async () => {
    const result = await campaign(rounds);
    console.log(`kill -9: ${result.rounds} rounds, ${result.acked} acknowledged writes, seed ${seed}`);
    expect(result.offences).toEqual([]);
    expect(result.rounds).toBe(rounds);
    expect(result.acked).toBeGreaterThan(rounds * 50);
  }, 600_000);

  it("is caught losing writes when it acknowledges before the commit", async () => {
    const result = await campaign(rounds, "ackBeforeCommit");
    console.log(`ack before commit: caught in round ${result.rounds}: ${result.offences[0] ?? "not caught"}`);
    expect(result.offences.join("\n")).toMatch(/acknowledged revision \d+ is lost/);
  }, 600_000);
});
