import { randomBytes } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import type {
  Capability,
  SyncRequest,
  SyncRequestSchema,
  SyncResponse,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import {
  ClientHelloSchema,
  Encoding,
  SyncService,
  UpdateSchema,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import type { ClientDuplex } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { storeError } from "../store/errors.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { createSync } from "./create-sync.ts";
import type { AgentIdentity, SyncPolicy } from "./sync.ts";

/** What an agent writes. */
type SyncRequestInit = MessageInitShape<typeof SyncRequestSchema>;

/** What the tests of this folder share: a clock moved by hand, a hub in memory, an agent's end of a stream. */

/** A clock that stands still until it is moved. */
export interface ManualClock extends Clock {
  /** Moves time, firing timers in order; settles what they started. */
  advance(ms: number): Promise<void>;
}

/** Lets everything that needs no time happen. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** A {@link ManualClock} that starts at a fixed date. */
export function manualClock(startMs = Date.UTC(2026, 0, 1)): ManualClock {
  let t = 0;
  const timers = new Set<{ at: number; fn: () => void }>();
  return {
    now: () => Math.floor(startMs + t),
    monotonicMs: () => t,
    setTimer(delayMs, fn) {
      const timer = { at: t + delayMs, fn };
      timers.add(timer);
      return { cancel: () => void timers.delete(timer) };
    },
    async advance(ms) {
      const end = t + ms;
      for (;;) {
        const next = [...timers].filter((x) => x.at <= end).sort((a, b) => a.at - b.at)[0];
        if (next === undefined) break;
        timers.delete(next);
        t = Math.max(t, next.at);
        next.fn();
        await settle();
      }
      t = end;
      await settle();
    },
  };
}

/** A resource row's update; the digest stands for the body, as the hub never looks into it. */
export function update(uid: string, body: string, options: { capabilities?: Capability[] } = {}): Uint8Array {
  return toBinary(
    UpdateSchema,
    create(UpdateSchema, {
      name: `tenants/${uid}`,
      uid,
      change: {
        case: "upsert",
        value: {
          kind: "Tenant",
          version: "v1",
          generation: 1n,
          digest: Buffer.from(body),
          encoding: Encoding.PROTO,
          content: { case: "body", value: Buffer.from(body) },
          requiredCapabilities: options.capabilities ?? [],
        },
      },
    }),
  );
}

/** Writes the wanted state of a resource; one revision for all of them. */
export async function want(store: Store, dp: string, bodies: Record<string, string>): Promise<number> {
  const rows = Object.entries(bodies).map(([uid, body]) => ({
    upsertRes: { dp, uid, name: `tenants/${uid}`, del: false, update: update(uid, body) },
  }));
  return (
    await store.txn({
      then: [{ put: { key: Buffer.from(`t/${randomName()}`), value: new Uint8Array() } }],
      rows,
    })
  ).rev;
}

/** Writes the order to remove a resource. */
export async function remove(store: Store, dp: string, uid: string): Promise<number> {
  const value = create(UpdateSchema, { name: `tenants/${uid}`, uid, change: { case: "removed", value: {} } });
  const row = { dp, uid, name: `tenants/${uid}`, del: true, update: toBinary(UpdateSchema, value) };
  const put = { put: { key: Buffer.from(`t/${randomName()}`), value: new Uint8Array() } };
  return (await store.txn({ then: [put], rows: [{ upsertRes: row }] })).rev;
}

const randomName = () => randomBytes(8).toString("hex");

/** The store on a disk that takes no write while `disk.full` is set. */
export function onDisk(store: Store, disk: { full: boolean }): Store {
  const txn: Store["txn"] = (t) =>
    disk.full ? Promise.reject(storeError("STORE_FULL", "Write: no space is left")) : store.txn(t);
  return Object.assign(Object.create(store) as Store, { txn });
}

/**
 * A hub in memory whose certificates are the data plane's uid in UTF-8. `atCertificate` is waited for at
 * each look at one, as a real one takes its time.
 */
export async function testHub(
  options: {
    policy?: Partial<SyncPolicy>;
    store?: Store;
    clock?: ManualClock;
    atCertificate?: (uid: string) => Promise<void>;
  } = {},
) {
  const clock = options.clock ?? manualClock();
  const rng = seededRng(1);
  const store = options.store ?? openMemoryStore({ clock, rng });
  const log = memoryLogger();
  const listeners = new Set<(uid: string, valid: ReadonlySet<string>) => void>();
  const revokedKeys = new Set<string>();
  const identity: AgentIdentity = {
    async authenticateAgent(der) {
      const uid = Buffer.from(der ?? []).toString();
      if (uid === "" || revokedKeys.has(uid)) throw new MoorageError(Code.UNAUTHENTICATED, "No certificate");
      await options.atCertificate?.(uid);
      return { dataPlaneUid: uid, dataPlane: `dataPlanes/${uid}`, thumbprint: `key-${uid}` };
    },
    confirmAgentKey: async () => undefined,
    onCredentials(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
  };
  const finalise = async (dp: string, row: { uid: string }) => ({
    if: [],
    then: [{ put: { key: Buffer.from(`gone/${row.uid}`), value: new Uint8Array() } }],
    rows: [{ dropRes: { dp, uid: row.uid } }],
  });
  const sync = createSync({
    store,
    clock,
    rng,
    log,
    identity,
    finalise,
    ...(options.policy === undefined ? {} : { policy: options.policy }),
  });
  const stop = new AbortController();
  const running = sync.run(stop.signal);
  await settle();
  return {
    clock,
    store,
    sync,
    log,
    revoke(uid: string) {
      revokedKeys.add(uid);
      for (const fn of listeners) fn(uid, new Set());
    },
    async stop() {
      stop.abort(new Error("stop"));
      await running;
    },
    connect: (uid: string) => {
      const link = memoryConnect([bind(SyncService, sync.syncHandlers)], {
        certificateDer: Buffer.from(uid),
      });
      return agentEnd(link.client(SyncService).sync(), uid);
    },
  };
}

/** A {@link testHub} with data planes that are registered. */
export async function hubWith(...dps: string[]) {
  const hub = await testHub();
  for (const uid of dps) {
    await hub.store.txn({
      then: [{ put: { key: Buffer.from(`uids/${uid}`), value: Buffer.from(`dataPlanes/${uid}`) } }],
      rows: [{ putDp: { uid } }],
    });
  }
  return hub;
}

/** The agent's end of a stream: keeps all it received; acks and reports when told. */
export function agentEnd(stream: ClientDuplex<SyncResponse, SyncRequestInit>, uid: string) {
  const got: SyncResponse["message"][] = [];
  const state: { ended: boolean; error: MoorageError | undefined } = { ended: false, error: undefined };
  let reading = true;
  const read = async () => {
    try {
      for await (const m of stream.read()) {
        got.push(m.message);
        while (!reading) await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (thrown) {
      state.error = MoorageError.from(thrown);
    }
    state.ended = true;
  };
  void read();
  const send = (message: SyncRequestInit["message"]) =>
    void stream.write({ message: message as SyncRequest["message"] });
  return {
    got,
    state,
    stream,
    send,
    /** Stops taking messages off the transport, or goes on. */
    setReading: (on: boolean) => void (reading = on),
    async hello(more: object = {}) {
      const value = create(ClientHelloSchema, {
        dataPlaneUid: uid,
        agentGeneration: 1n,
        instanceId: randomBytes(16),
        protocolVersions: [1],
        kinds: [{ kind: "Tenant", versions: ["v1"] }],
        agent: { version: "0.1.0", kubernetesVersion: "1.37", clusterUid: "c1" },
        ...more,
      });
      send({ case: "hello", value });
      await settle();
    },
    /** The hello of the hub. */
    serverHello() {
      const m = got.find((x) => x.case === "hello");
      if (m?.case !== "hello") throw new Error(`no hello: ${state.error?.message ?? "nothing came"}`);
      return m.value;
    },
    /** All changes received so far. */
    changes: () => got.flatMap((m) => (m.case === "changes" ? [m.value] : [])),
    /** Updates received so far as `uid@revision`, with `-` for a tombstone. */
    updates: () =>
      got.flatMap((m) =>
        m.case === "changes"
          ? m.value.updates.map((u) => `${u.change.case === "removed" ? "-" : ""}${u.uid}@${u.revision}`)
          : [],
      ),
    /** Acks everything received; answers the newest cursor. */
    async ack() {
      const last = got.flatMap((m) => (m.case === "changes" ? [m.value] : [])).at(-1);
      if (last !== undefined)
        send({
          case: "ack",
          value: { seq: last.seq, ...(last.cursor ? { cursor: last.cursor } : {}) } as never,
        });
      await settle();
      return got.flatMap((m) => (m.case === "changes" && m.value.cursor ? [m.value.cursor] : [])).at(-1);
    },
  };
}
