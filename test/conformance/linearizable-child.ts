/**
 * Clients on one store, for linearizable.test.ts. Arguments: the data directory, a number unique to this
 * life, a seed, and the count of answers after which it kills itself. One line on standard output for
 * each call and each answer, in the order in which they happened.
 */
import { writeSync } from "node:fs";
import { key, prefix } from "@moorage/hub/store/bytes";
import { openSqliteStore } from "@moorage/hub/store/sqlite/sqlite";
import type { KV, TxnRequest } from "@moorage/hub/store/store";
import { systemClock } from "@moorage/shared/clock";
import { MoorageError } from "@moorage/shared/errors";
import { seededRng, systemRng } from "@moorage/shared/rng";
import type { Answer, Call, SeenKV } from "./linearizable.ts";

const [dir = "", life = "0", seed = "0", killAfter = "0"] = process.argv.slice(2);
const CLIENTS = 5;
const KEYS = ["a", "b", "c", "d"];

const store = await openSqliteStore({ dir, clock: systemClock, rng: systemRng });
let answers = 0;

function line(value: Call | Answer): void {
  const bytes = Buffer.from(`${JSON.stringify(value)}\n`);
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}

const text = (b: Uint8Array): string => Buffer.from(b).toString();
const shown = (kv: KV): SeenKV => ({
  key: text(kv.key),
  value: text(kv.value),
  modRev: kv.modRev,
  version: kv.version,
});

const client = async (c: number): Promise<never> => {
  const rng = seededRng(Number(seed) * 97 + c);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(rng.float() * list.length)] as T;
  const known = new Map<string, number>();
  for (let i = 0; ; i++) {
    const id = `${life}/${c}/${i}`;
    const [k, other] = [pick(KEYS), pick(KEYS)];
    const roll = rng.float();
    if (roll < 0.25) {
      line({ t: "call", id, read: true });
      const { rev, kvs } = await store.range(prefix(""));
      for (const kv of kvs) known.set(text(kv.key), kv.modRev);
      line({ t: "read", id, rev, kvs: kvs.map(shown) });
    } else {
      const request = {
        if: [] as { key: string; modRev: number }[],
        put: [] as string[],
        delete: [] as string[],
        get: [k],
      };
      if (roll < 0.75) request.if.push({ key: k, modRev: known.get(k) ?? 0 });
      if (roll < 0.6) request.put = k === other ? [k] : [k, other];
      else if (roll < 0.9) request.put = [k];
      else request.delete = [k];
      line({ t: "call", id, txn: request });
      try {
        const { ok, rev, results } = await store.txn(toTxn(request, id));
        const got = results.flatMap((r) => (r.kind === "get" && r.kv !== undefined ? [shown(r.kv)] : []));
        for (const n of ok ? [...request.put, ...request.delete] : [])
          known.set(n, request.put.includes(n) ? rev : 0);
        for (const g of got) known.set(g.key, g.modRev);
        line({ t: "txn", id, ok, rev, got });
      } catch (thrown) {
        line({ t: "refused", id, reason: MoorageError.from(thrown).reason });
      }
    }
    if (++answers >= Number(killAfter)) process.kill(process.pid, "SIGKILL");
  }
};

function toTxn(r: NonNullable<Extract<Call, { txn: unknown }>["txn"]>, value: string): TxnRequest {
  return {
    if: r.if.map((c) => ({ key: key(c.key), target: "modRev", op: "=", to: c.modRev })),
    then: [
      ...r.put.map((k) => ({ put: { key: key(k), value: key(value) } })),
      ...r.delete.map((k) => ({ delete: { key: key(k) } })),
    ],
    else: r.get.map((k) => ({ get: { key: key(k) } })),
  };
}

await Promise.all(Array.from({ length: CLIENTS }, (_, c) => client(c)));
