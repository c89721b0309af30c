import { create, toBinary } from "@bufbuild/protobuf";
import { createMemoryCluster } from "@moorage/agent/kube/memory-cluster";
import type { KubeClient } from "@moorage/agent/kube/client";
import { fetchBlob } from "@moorage/agent/link/blobs";
import { createHubLink } from "@moorage/agent/link/create-link";
import { ClusterMirror } from "@moorage/agent/mirror/cluster-mirror";
import { SyncState } from "@moorage/agent/mirror/sync-state";
import type { ManualClock } from "@moorage/agent/mirror/testing";
import { cursorAt, manualClock, tombstone, upsert } from "@moorage/agent/mirror/testing";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import type { SyncRequest, SyncResponse, Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import {
  ChangesSchema,
  GoodbyeSchema,
  PolicySchema,
  ReportRequestSchema,
  ServerHelloSchema,
  SyncResponseSchema,
  SyncService,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import { MoorageError } from "@moorage/shared/errors";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import type { ServerDuplex } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { Draw } from "../draw.ts";
import type { Pool } from "../message.ts";
import { disturb, drawInit, drawMessage } from "../message.ts";
import type { Target } from "../target.ts";
import { hold } from "../target.ts";
import { turns } from "../world.ts";

const namespace = "moorage-system";
const apiVersion = "moorage.dev/v1alpha1";
/** What the agent holds before the hub turns hostile: name by uid. */
const held: Readonly<Record<string, string>> = {
  "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa": "tenants/acme",
  "22222222-bbbb-4bbb-8bbb-bbbbbbbbbbbb": "tenants/acme/applications/web",
  "33333333-cccc-4ccc-8ccc-cccccccccccc": "dataPlanes/eu",
};
const uids = Object.keys(held);
const STEPS = 48;
/** However the hub was, the agent dials again within a quarter of an hour; milliseconds, one after the other. */
const back = [1_000, 30_000, 120_000, 750_000];

const newPool = (): Pool => ({
  texts: [
    "",
    ...uids,
    ...Object.values(held),
    "tenants/other",
    "Tenant",
    "Application",
    "DataPlane",
    "v1",
    "COMPARE",
    "DRAINING",
  ],
  bytes: [new Uint8Array(), new Uint8Array(16).fill(1), new Uint8Array(32), new Uint8Array(100)],
});

/** A hub that writes what a case says, and the tombstones that it wrote. */
class HostileHub {
  readonly #services;
  #stream: ServerDuplex<SyncRequest, SyncResponse> | undefined;
  /** A uid is in here once any frame ordered its removal. */
  readonly removed = new Set<string>();
  dials = 0;
  seq = 0n;
  cut: () => void = () => undefined;
  blob: Uint8Array = new Uint8Array();

  constructor() {
    const sync = async (stream: ServerDuplex<SyncRequest, SyncResponse>) => {
      this.#stream = stream;
      this.seq = 0n;
      for await (const _ of stream.read());
    };
    const readBlob = async function* (this: HostileHub) {
      yield { data: this.blob };
    }.bind(this);
    this.#services = [bind(SyncService, { sync } as never), bind(BlobService, { readBlob } as never)];
  }

  connect() {
    this.dials++;
    const link = memoryConnect(this.#services);
    this.cut = () => link.cut();
    return Promise.resolve(link);
  }

  blobs() {
    return Promise.resolve(memoryConnect(this.#services));
  }

  write(bytes: Uint8Array): void {
    this.#stream?.write(bytes);
  }

  say(message: SyncResponse["message"]): void {
    if (message.case === "changes") this.note(message.value.updates);
    this.write(toBinary(SyncResponseSchema, create(SyncResponseSchema, { message })));
  }

  note(updates: readonly Update[]): void {
    for (const u of updates) if (u.change.case === "removed") this.removed.add(u.uid);
  }

  fail(): void {
    this.#stream?.fail(new MoorageError(14, "away", { retryAfterMs: 1_000 }));
  }
}

async function agent(clock: ManualClock, hub: HostileHub) {
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const kube: KubeClient = cluster.client();
  const session = kube.asAgent();
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  const stop = new AbortController();
  const log = memoryLogger();
  const state = new SyncState({ session, namespace });
  await state.load();
  const mirror = new ClusterMirror({
    kube,
    namespace,
    clock,
    rng: seededRng(2),
    log,
    state,
    mayWrite: () => true,
    hasHub: true,
  });
  let failed: unknown;
  const running = [mirror.run(stop.signal)];
  await mirror.whenSynced(stop.signal);
  const updates = uids.map((uid, i) =>
    upsert(held[uid] as string, { uid, revision: i + 1, tenantUid: uids[0] as string }),
  );
  await mirror.apply({ updates, cursor: cursorAt(3) }, stop.signal);
  const link = createHubLink({
    store: mirror,
    connect: () => hub.connect(),
    hello: () => ({
      dataPlaneUid: uids[2] as string,
      generation: 1,
      instanceId: new Uint8Array(16),
      agent: { version: "0.1.0", kubernetesVersion: "v1.37.0", labels: {}, clusterUid: "c" },
    }),
    fetchBlob: (ref, signal) => fetchBlob(ref, { connect: () => hub.blobs(), clock, signal }),
    onRefusedGeneration: () => undefined,
    clock,
    rng: seededRng(3),
    log,
  });
  running.push(link.run(stop.signal));
  for (const run of running) run.catch((thrown: unknown) => !stop.signal.aborted && (failed = thrown));
  return {
    mirror,
    /** Every record that was not ordered to go is there, in the cluster and in the mirror, and wanted. */
    async check() {
      if (failed !== undefined) throw failed;
      const list = await Promise.all(
        ["Tenant", "Application", "DataPlane"].map((kind) =>
          session.list({ apiVersion, kind }, { namespace }),
        ),
      );
      const there = new Set(list.flatMap((l) => l.items).map((o) => (o["spec"] as { uid?: string }).uid));
      for (const uid of uids) {
        if (hub.removed.has(uid)) continue;
        hold(there.has(uid), `the record of ${held[uid]} is gone without a tombstone`);
        hold(mirror.get(uid)?.removal === undefined, `${held[uid]} is to be removed without a tombstone`);
      }
    },
    async stop() {
      stop.abort(new DOMException("ended", "AbortError"));
      await turns(4);
    },
  };
}

function drawUpdate(draw: Draw): Update {
  const uid = draw.pick([...uids, "44444444-dddd-4ddd-8ddd-dddddddddddd"]);
  const name = draw.int(3) === 0 ? draw.pick(Object.values(held)) : (held[uid] ?? "tenants/new");
  const revision = draw.int(12);
  if (draw.chance(5)) return tombstone(name, { uid, revision });
  if (draw.chance(4)) return upsert(name, { uid, revision, body: draw.bytes(draw.byte()) });
  return upsert(name, { uid, revision, label: String(draw.byte()) });
}

const hello = { protocolVersion: 1, resume: 1, statusKnown: true };

async function step(draw: Draw, on: { hub: HostileHub; clock: ManualClock; pool: Pool }): Promise<void> {
  const { hub, clock, pool } = on;
  const drawn = <T extends object>(value: T) => value as never;
  switch (draw.int(14)) {
    case 0:
    case 1:
      return hub.say({
        case: "hello",
        value: create(
          ServerHelloSchema,
          drawn({
            ...(draw.int(2) === 0 ? {} : drawInit(draw, ServerHelloSchema, { pool })),
            ...hello,
            resume: draw.int(5),
          }),
        ),
      });
    case 2:
    case 3:
    case 4: {
      const updates = Array.from({ length: draw.int(4) }, () => drawUpdate(draw));
      hub.seq += draw.chance(16) ? 2n : 1n;
      const cursor = draw.int(2) === 0 ? {} : { cursor: cursorAt(draw.int(20), draw.int(3)) };
      return hub.say({
        case: "changes",
        value: create(ChangesSchema, { seq: hub.seq, updates, ...cursor, initialEnd: draw.int(2) === 0 }),
      });
    }
    case 5: {
      hub.seq += 1n;
      const value = { ...drawMessage(draw, ChangesSchema, { pool }), seq: hub.seq };
      return hub.say({ case: "changes", value });
    }
    case 6:
      return hub.say({ case: "policy", value: drawMessage(draw, PolicySchema, { pool }) });
    case 7:
      return draw.chance(2)
        ? hub.say({ case: "goodbye", value: drawMessage(draw, GoodbyeSchema, { pool }) })
        : undefined;
    case 8:
      return hub.say({ case: "reportRequest", value: drawMessage(draw, ReportRequestSchema, { pool }) });
    case 9: {
      const message = drawMessage(draw, SyncResponseSchema, { pool });
      return hub.say(message.message);
    }
    case 10: {
      // What bytes of chance say, the hub cannot know; a tombstone in them counts for all.
      for (const uid of uids) hub.removed.add(uid);
      return hub.write(
        disturb(draw, toBinary(SyncResponseSchema, drawMessage(draw, SyncResponseSchema, { pool }))),
      );
    }
    case 11:
      return clock.advance(draw.pick([1, 1_000, 30_000, 200_000]));
    case 12:
      hub.blob = draw.bytes(draw.byte());
      return draw.chance(3) ? hub.cut() : undefined;
    default:
      return draw.chance(3) ? hub.fail() : undefined;
  }
}

/** Steps one after the other, each of an operation byte and what it draws. */
const target: Target = {
  seeds: () =>
    Array.from({ length: 14 }, (_, op) =>
      Buffer.from([
        0,
        0,
        1,
        2,
        2,
        0,
        1,
        5,
        0,
        1,
        1,
        0,
        op,
        ...Array.from({ length: 80 }, (__, n) => (n * 31 + op * 17) % 256),
      ]),
    ),
  async run(data) {
    const draw = new Draw(data);
    const clock = manualClock();
    const hub = new HostileHub();
    const world = await agent(clock, hub);
    try {
      await turns(2);
      const on = { hub, clock, pool: newPool() };
      for (let n = 0; n < STEPS && draw.left > 0; n++) {
        await step(draw, on);
        await turns(3);
      }
      await turns(20);
      await world.check();
      // The hub comes to its senses: it ends the stream, and is dialled again.
      hub.cut();
      const { dials } = hub;
      for (const ms of back) if (hub.dials === dials) await clock.advance(ms);
      hold(hub.dials > dials, "the agent never dials again");
      await world.check();
    } finally {
      await world.stop();
    }
  },
};

export default target;
