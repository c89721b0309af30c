/** What the security tests of identity share: a whole hub in this process, with a wall clock that can be moved. */
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { Identity as AgentIdentity } from "@moorage/agent/identity/identity";
import type { Credentials } from "@moorage/agent/identity/identity";
import { IdentitySecret } from "@moorage/agent/identity/secret";
import { createMemoryCluster } from "@moorage/agent/kube/memory-cluster";
import { hubOptions } from "@moorage/hub/config";
import { resourceKey, uidKey } from "@moorage/hub/core/keys";
import type { Hub } from "@moorage/hub/hub";
import { startHub } from "@moorage/hub/hub";
import { key } from "@moorage/hub/store/bytes";
import { openMemoryStore } from "@moorage/hub/store/memory/memory";
import type { Store } from "@moorage/hub/store/store";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import type { Clock } from "@moorage/shared/clock";
import { systemClock } from "@moorage/shared/clock";
import { parseConfig } from "@moorage/shared/config";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { ClientTls } from "@moorage/shared/grpc/client";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits } from "@moorage/shared/grpc/options";
import type { Logger } from "@moorage/shared/log";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng, systemRng, uuid } from "@moorage/shared/rng";
import { backoffSleep } from "@moorage/shared/service";
import { onTestFinished } from "vitest";

/** Who does what in these tests. */
export const by = { actor: "apiKeys/test" };

/** A clock whose wall time is the machine's and `offsetMs`; TLS and the deadlines of calls always live by the machine's. */
export function shiftedClock(offsetMs = 0): Clock & { offsetMs: number } {
  const clock = { ...systemClock, offsetMs, now: () => systemClock.now() + clock.offsetMs };
  return clock;
}

/** The reason of a refusal, or OK. */
export async function reasonOf(attempt: Promise<unknown>): Promise<string> {
  try {
    await attempt;
    return "OK";
  } catch (thrown) {
    return MoorageError.from(thrown).reason;
  }
}

/** A folder that goes with the test. */
export async function folder(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "moorage-security-"));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Starts a hub on free ports over `store`; it stops with the test. */
export async function hubOn(o: {
  dir: string;
  store?: Store;
  clock: Clock;
  log?: Logger;
  more?: string[];
}): Promise<Hub> {
  // These agents send no heartbeats: a slow machine must not take them for dead.
  const argv = [
    "--data-dir",
    o.dir,
    "--drain-time",
    "50ms",
    "--heartbeat-interval",
    "1h",
    "--connections-per-address",
    "100000",
    "--trust-domain",
    "test.moorage",
  ];
  for (const name of ["api", "agent", "enrolment", "ops"]) argv.push(`--${name}-address`, "127.0.0.1:0");
  const config = parseConfig(hubOptions, {
    argv: [...argv, ...(o.more ?? [])],
    env: {},
    readFile: () => ({}),
  });
  const hub = await startHub(config, {
    clock: o.clock,
    rng: systemRng,
    log: o.log ?? memoryLogger(),
    // Its agents live in the same process: what makes the loop late here is not the hub.
    sampler: () => ({ loopDelayP99Ms: 0, rssBytes: 0 }),
    ...(o.store === undefined ? {} : { store: o.store }),
  });
  onTestFinished(() => hub.stop());
  return hub;
}

/** Tries again while a port turns newcomers away, as an agent does: a fleet at one address is above its limits. */
export async function persist<T>(fn: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await fn();
    } catch (thrown) {
      if (MoorageError.from(thrown).code !== Code.UNAVAILABLE || attempt === 100) throw thrown;
      const signal = new AbortController().signal;
      await backoffSleep({ baseMs: 50, capMs: 1_000 }, attempt, {
        clock: systemClock,
        rng: systemRng,
        signal,
      });
    }
  }
}

/** Runs `fn` over all items, a few at a time, as a fleet spreads its returns. */
export async function inTurns<T, R>(items: readonly T[], fn: (item: T) => Promise<R>): Promise<R[]> {
  const out: R[] = [];
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < items.length; i = next++) out[i] = await fn(items[i] as T);
  };
  await Promise.all(Array.from({ length: 8 }, worker));
  return out;
}

/** A store in memory that closes with the test. */
export function memoryStore(clock: Clock): Store {
  const store = openMemoryStore({ clock, rng: systemRng });
  onTestFinished(() => store.close());
  return store;
}

/** Registers data planes as the API would; answers name and uid of each. */
export async function dataPlanes(store: Store, count: number): Promise<{ name: string; uid: string }[]> {
  const made = [];
  for (let i = 0; i < count; i++) {
    const [name, uid] = [`dataPlanes/dp-${i}`, uuid(systemRng)];
    const k = key(resourceKey("DataPlane", name));
    const value = toBinary(DataPlaneSchema, create(DataPlaneSchema, { name, uid }));
    await store.txn({
      then: [{ put: { key: k, value } }, { put: { key: key(uidKey(uid)), value: k } }],
      rows: [{ putDp: { uid } }],
    });
    made.push({ name, uid });
  }
  return made;
}

/** Agents as far as identity goes: the real code, with its Secret in a cluster in memory. */
export async function agentsOf(on: { hub: () => Hub; clock: Clock; pinnedCa: string }) {
  const cluster = createMemoryCluster({ clock: on.clock, rng: seededRng(1) });
  const session = cluster.client().asAgent();
  const namespace = "moorage-system";
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  const dial = (port: "agent" | "enrolment", tls: ClientTls) =>
    connect({
      target: on.hub().addresses[port],
      tls,
      limits: agentLimits,
      clock: systemClock,
      ownConnection: {},
    });
  return {
    /** An agent with a join token; restarting it is making it again under the same name. */
    agent(name: string, token: string) {
      let told: () => void = () => undefined;
      const tell = (message: string) => {
        if (message === "certificate renewed" || message === "renewed certificate is confirmed") told();
      };
      const identity = new AgentIdentity({
        secret: new IdentitySecret({ session, namespace, name }),
        joinToken: () => Promise.resolve(token),
        pinnedCa: () => Promise.resolve(on.pinnedCa),
        connectEnrolment: (tls) => dial("enrolment", tls),
        connectAgent: (tls) => dial("agent", tls),
        clock: on.clock,
        rng: systemRng,
        log: { ...memoryLogger(), info: tell },
      });
      return {
        identity,
        /** Renews or confirms what is due now, once. */
        async look(): Promise<void> {
          const stop = new AbortController();
          const done = new Promise<void>((resolve) => (told = resolve));
          const running = identity.run(stop.signal);
          await done;
          stop.abort(new DOMException("ended", "AbortError"));
          await running;
        },
        stream: async () => openStream(on, await identity.credentials()),
      };
    },
    openStream: (credentials: Credentials) => openStream(on, credentials),
    dial,
  };
}

/** A sync stream that notes what it is sent and how it ends. */
export function openStream(on: { hub: () => Hub }, credentials: Credentials) {
  const link = connect({
    target: on.hub().addresses.agent,
    tls: credentials.tls,
    limits: agentLimits,
    clock: systemClock,
    ownConnection: {},
  });
  const call = link.client(SyncService).sync();
  call.write({
    message: {
      case: "hello",
      value: {
        dataPlaneUid: credentials.dataPlaneUid,
        agentGeneration: 1n,
        instanceId: randomBytes(16),
        protocolVersions: [1],
        kinds: [{ kind: "Tenant", versions: ["v1"] }],
      },
    },
  });
  const names: string[] = [];
  const waiting: { name: string; resolve: () => void }[] = [];
  const opened = Promise.withResolvers<void>();
  const ended = (async (): Promise<string> => {
    try {
      for await (const { message } of call.read()) {
        if (message.case === "hello") opened.resolve();
        if (message.case !== "changes") continue;
        for (const u of message.value.updates) names.push(u.name);
        for (const w of waiting) if (names.includes(w.name)) w.resolve();
      }
      return "OK";
    } catch (thrown) {
      const error = MoorageError.from(thrown);
      opened.reject(error);
      return error.reason;
    }
  })();
  opened.promise.catch(() => undefined);
  return {
    /** Settles once the hub has answered the hello; rejects when it refused. */
    opened: opened.promise,
    /** Settles with the reason of the end. */
    ended,
    names,
    /** Settles once a resource was sent; rejects when the stream ended before. */
    received(name: string): Promise<void> {
      if (names.includes(name)) return Promise.resolve();
      const arrived = new Promise<void>((resolve) => waiting.push({ name, resolve }));
      const lost = ended.then((reason) => {
        throw new Error(`The stream ended before "${name}" came: ${reason}`);
      });
      return Promise.race([arrived, lost]);
    },
    close(): void {
      call.cancel();
      link.close();
    },
  };
}
