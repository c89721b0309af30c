/**
 * A hub process for the benchmark: hub/hub.ts as hub/main.ts starts it, with a way to ask it from
 * outside what only it knows (its heap after a collection, its commits, how busy its event loop was)
 * and to fan one change out in transactions of many data planes, as a rollout does.
 */
import { createHash } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { hubOptions } from "@moorage/hub/config";
import type { Hub } from "@moorage/hub/hub";
import { startHub } from "@moorage/hub/hub";
import { key } from "@moorage/hub/store/bytes";
import type { RowOp } from "@moorage/hub/store/store";
import { TenantBodySchema } from "@moorage/proto/moorage/agent/v1/body_pb";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { sleep, systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { createLogger } from "@moorage/shared/log";
import { systemRng } from "@moorage/shared/rng";
import { hostClock } from "./host-clock.ts";
import type { HubAnswers, HubCommand } from "./hub-commands.ts";
import { createMeter } from "./meter.ts";

/** Rows a transaction of a fan-out: the store takes 128 operations. */
const ROWS_PER_TXN = 100;
/** Between looks at the agents' acks. */
const LOOK_MS = 5;

const meter = createMeter(hostClock);
let commits = 0;
let prepared: RowOp[][] = [];

const config = parseConfig(hubOptions, {
  argv: process.argv.slice(2),
  env: {},
  readFile: (path) => {
    throw new Error(`No file is read here: "${path}"`);
  },
});
const log = createLogger({ level: config.logLevel, format: config.logFormat });
const hub = await startHub(config, { clock: systemClock, rng: systemRng, log });
hub.store.onCommit(() => void commits++);

async function run(command: HubCommand): Promise<HubAnswers[HubCommand["do"]]> {
  switch (command.do) {
    case "ready":
      return undefined;
    case "mark":
      commits = 0;
      meter.mark();
      return undefined;
    case "read":
      return {
        meter: meter.read(),
        commits,
        revision: (await hub.store.status()).rev,
        connected: hub.sync.connected().length,
      };
    case "collect":
      return collect();
    case "prepare":
      prepared = await prepare(hub, command);
      return undefined;
    case "fanOut":
      return fanOut(hub);
    case "awaitAcked":
      return awaitAcked(hub, command);
    case "awaitPosition":
      return awaitPosition(hub, command);
  }
}

/** Memory after full collections; two, since finalisers run between. */
async function collect(): Promise<HubAnswers["collect"]> {
  if (globalThis.gc === undefined) throw new Error("The hub was started without --expose-gc");
  for (let i = 0; i < 3; i++) {
    globalThis.gc();
    await sleep(systemClock, 200);
  }
  const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage();
  return { rss, heapUsed, external, arrayBuffers };
}

/** New content for one tenant of each data plane, encoded before the clock starts. */
async function prepare(
  on: Hub,
  what: { dps: string[]; bodyBytes: number; round: number },
): Promise<RowOp[][]> {
  const txns: RowOp[][] = [];
  for (const [i, dp] of what.dps.entries()) {
    const rows = await on.store.resAll(dp, { limit: 64 });
    const row = rows.find((r) => r.name.startsWith("tenants/") && !r.del);
    if (row === undefined) throw new Error(`Data plane ${dp} has no tenant`);
    const update = fromBinary(UpdateSchema, row.update);
    if (update.change.case !== "upsert" || update.change.value.content.case !== "body")
      throw new Error(`Tenant "${row.name}" has no body`);
    const body = fromBinary(TenantBodySchema, update.change.value.content.value);
    body.labels = { bench: `${what.round}`, filler: "x".repeat(what.bodyBytes) };
    const bytes = toBinary(TenantBodySchema, body);
    const value = {
      ...update.change.value,
      generation: update.change.value.generation + 1n,
      digest: createHash("sha256").update(bytes).digest(),
      content: { case: "body" as const, value: bytes },
    };
    const encoded = toBinary(
      UpdateSchema,
      create(UpdateSchema, { ...update, change: { case: "upsert", value } }),
    );
    if (i % ROWS_PER_TXN === 0) txns.push([]);
    txns.at(-1)?.push({ upsertRes: { dp, uid: row.uid, name: row.name, del: false, update: encoded } });
  }
  return txns;
}

async function fanOut(on: Hub): Promise<HubAnswers["fanOut"]> {
  const startMs = hostClock.monotonicMs();
  const done = await Promise.all(
    prepared.map((rows, i) =>
      on.store.txn({ then: [{ put: { key: key(`bench/fan-out/${i}`), value: new Uint8Array() } }], rows }),
    ),
  );
  return { startMs, committedMs: hostClock.monotonicMs(), revision: Math.max(...done.map((r) => r.rev)) };
}

/** When every stream of these data planes has acked what was written up to `revision`. */
async function awaitAcked(on: Hub, what: { dps: string[]; revision: number }): Promise<{ atMs: number }> {
  const wanted = new Set(what.dps);
  for (;;) {
    const acked = on.sync
      .connected()
      .filter((a) => wanted.has(a.dataPlaneUid) && a.ackedRevision >= what.revision).length;
    if (acked === wanted.size) return { atMs: hostClock.monotonicMs() };
    await sleep(systemClock, LOOK_MS);
  }
}

/** The newest row of each data plane up to `revision`, acked by its agent. */
async function awaitPosition(on: Hub, what: { dps: string[]; revision: number }): Promise<{ atMs: number }> {
  for (const dp of what.dps) {
    let newest = 0;
    for (let afterUid: string | undefined; ;) {
      const rows = await on.store.resAll(dp, { ...(afterUid === undefined ? {} : { afterUid }), limit: 500 });
      newest = Math.max(newest, ...rows.filter((r) => r.rev <= what.revision).map((r) => r.rev));
      if (rows.length < 500) break;
      afterUid = rows.at(-1)?.uid;
    }
    await awaitAcked(on, { dps: [dp], revision: newest });
  }
  return { atMs: hostClock.monotonicMs() };
}

process.on("message", (asked: { id: number; command: HubCommand }) => {
  run(asked.command).then(
    (value) => process.send?.({ id: asked.id, value }),
    (error: unknown) => process.send?.({ id: asked.id, error: String(error) }),
  );
});
for (const signal of ["SIGTERM", "SIGINT"] as const)
  process.once(signal, () => void hub.stop().then(() => process.exit(0)));
// A benchmark that died leaves no hub behind.
process.on("disconnect", () => process.exit(0));
