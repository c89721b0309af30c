/** R11: five clients with compare-and-set on one store that is killed again and again; the log is the witness. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { Batch } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { rounds, seed } from "../faults/scale.ts";
import type { Answer, Call } from "./linearizable.ts";
import { violations } from "./linearizable.ts";
import { bytes, history, tempDir } from "./support.ts";

const runs = rounds(6, 100);
/** Lives of a run, each ended by a kill. */
const LIVES = 3;
const child = fileURLToPath(new URL("./linearizable-child.ts", import.meta.url));

async function live(on: {
  dir: string;
  life: number;
  seed: number;
  answers: number;
}): Promise<(Call | Answer)[]> {
  const process_ = spawn(
    process.execPath,
    [child, on.dir, String(on.life), String(on.seed), String(on.answers)],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let out = "";
  let errors = "";
  process_.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  process_.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
  const [, signal] = (await once(process_, "close")) as [number | null, string | null];
  if (signal !== "SIGKILL") throw new Error(`The clients ended by themselves: ${errors}`);
  const whole = out.slice(0, out.lastIndexOf("\n") + 1).split("\n");
  return whole.filter(Boolean).map((line) => JSON.parse(line) as Call | Answer);
}

describe("R11: a store under five clients and kills", () => {
  it("is linearizable by revision", async () => {
    const rng = seededRng(seed);
    const total = { answers: 0, revisions: 0, unanswered: 0 };
    for (let run = 0; run < runs; run++) {
      const dir = tempDir();
      const lines: (Call | Answer)[] = [];
      try {
        for (let n = 0; n < LIVES; n++) {
          const answers = 100 + Math.floor(rng.float() * 700);
          lines.push(...(await live({ dir, life: n, seed: Math.floor(rng.float() * 2 ** 31), answers })));
        }
        const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
        const log = await history(store, 1);
        await store.close();
        expect(violations(lines, log), `run ${run}, seed ${seed}`).toEqual([]);
        const calls = lines.filter((l) => l.t === "call").length;
        total.answers += lines.length - calls;
        total.unanswered += 2 * calls - lines.length;
        total.revisions += log.length - 1;
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }
    console.log(
      `linearizability: ${runs} runs, ${runs * LIVES} kills, ${total.answers} answers, ${total.unanswered} without one, ${total.revisions} revisions, seed ${seed}`,
    );
    expect(total.answers).toBeGreaterThan(runs * LIVES * 100);
  }, 1_800_000);
});

describe("The judge of linearizability", () => {
  const put = (rev: number, k: string, value: string): Batch => ({
    kind: "events",
    rev,
    events: [
      {
        type: "put",
        kv: { key: bytes(k), value: bytes(value), createRev: rev, modRev: rev, version: 1, lease: 0 },
        prevRev: 0,
      },
    ],
  });
  const call = (id: string): Call => ({ t: "call", id, txn: { if: [], put: ["a"], delete: [], get: [] } });
  const done = (id: string, rev: number): Answer => ({ t: "txn", id, ok: true, rev, got: [] });
  const read = (id: string): Call => ({ t: "call", id, read: true });
  const log = [put(2, "a", "x"), put(3, "b", "y")];

  it.each<[string, (Call | Answer)[], RegExp]>([
    ["a lost write", [call("z"), done("z", 4)], /the log ends at 3/],
    ["a write under another revision", [call("x"), done("x", 3)], /the log has it at \[2\]/],
    [
      "a read of the past",
      [call("x"), done("x", 2), read("r"), { t: "read", id: "r", rev: 1, kvs: [] }],
      /misses 2, answered before it/,
    ],
    ["a torn read", [read("r"), { t: "read", id: "r", rev: 3, kvs: [] }], /is not the state at 3/],
    [
      "a compare that held",
      [
        { t: "call", id: "c", txn: { if: [{ key: "a", modRev: 2 }], put: ["a"], delete: [], get: [] } },
        { t: "txn", id: "c", ok: false, rev: 3, got: [] },
      ],
      /failed its compares, which hold/,
    ],
    [
      "a compare that did not hold",
      [
        { t: "call", id: "y", txn: { if: [{ key: "a", modRev: 1 }], put: ["b"], delete: [], get: [] } },
        done("y", 3),
      ],
      /over a compare that failed/,
    ],
  ])("finds %s", (_, lines, offence) => {
    expect(violations(lines, log).join("\n")).toMatch(offence);
  });
});
