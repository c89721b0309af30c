/**
 * A hub as a whole: store, identity, sync, API and their listeners, in the order in which they start.
 * `main.ts` runs one as a process; tests run it in theirs, with a store and a clock of their own.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ApiKeyService } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApplicationService } from "@moorage/proto/moorage/hub/v1/application_service_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { DataPlaneService } from "@moorage/proto/moorage/hub/v1/data_plane_service_pb";
import { HubService } from "@moorage/proto/moorage/hub/v1/hub_service_pb";
import { JoinTokenService } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { WaitService } from "@moorage/proto/moorage/hub/v1/wait_service_pb";
import type { Clock } from "@moorage/shared/clock";
import { ServingStatus, createHealth } from "@moorage/shared/grpc/health";
import type { Address } from "@moorage/shared/grpc/listener";
import { isWatch } from "@moorage/shared/grpc/dispatch";
import { agentPortLimits, apiLimits, enrolmentPortLimits } from "@moorage/shared/grpc/options";
import { createReflection } from "@moorage/shared/grpc/reflection";
import type { RunningServer } from "@moorage/shared/grpc/server";
import { startServer } from "@moorage/shared/grpc/server";
import type { BoundService } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import type { OpsServer } from "@moorage/shared/http-ops";
import { startOpsServer } from "@moorage/shared/http-ops";
import { limits } from "@moorage/shared/limits";
import type { Logger } from "@moorage/shared/log";
import type { Metrics } from "@moorage/shared/metrics";
import { createMetrics } from "@moorage/shared/metrics";
import type { Rng } from "@moorage/shared/rng";
import { runServices } from "@moorage/shared/run-services";
import type { Service } from "@moorage/shared/service";
import type { Advertised } from "./api/admin.ts";
import { BundleCollector, COLLECT_INTERVAL_MS } from "./api/collector.ts";
import { createApi } from "./api/create-api.ts";
import type { HubConfig } from "./config.ts";
import { createAuditSealer } from "./identity/audit-sealer.ts";
import { createIdentity } from "./identity/create-identity.ts";
import { createDenialAudit } from "./identity/denials.ts";
import type { Identity } from "./identity/identity.ts";
import { identityOptions } from "./identity/options.ts";
import { createConvergence } from "./ops/convergence.ts";
import { callStarts } from "./ops/calls.ts";
import type { CallStarts } from "./ops/calls.ts";
import { callMetrics, hubMetrics, groupMetrics } from "./ops/metrics.ts";
import { limitMetrics } from "./ops/limits.ts";
import type { Sampler, Shedder } from "./ops/shedding.ts";
import { createShedder, processSampler } from "./ops/shedding.ts";
import { createChore } from "./store/chore.ts";
import { createCompactor } from "./store/compactor.ts";
import { createSizeWatch } from "./store/size-watch.ts";
import { openSqliteStore } from "./store/sqlite/sqlite.ts";
import type { Store } from "./store/store.ts";
import { createSync } from "./sync/create-sync.ts";
import type { Sync } from "./sync/sync.ts";
import { finaliser } from "./api/finalise.ts";

/** What a hub runs on. */
export interface HubDeps {
  clock: Clock;
  rng: Rng;
  log: Logger;
  /** Instead of the SQLite store of the data directory; the caller closes it. */
  store?: Store;
  /** Instead of this process's load. */
  sampler?: Sampler;
}

/** A running hub. */
export interface Hub {
  readonly addresses: {
    api: Address;
    agent: Address;
    enrolment: Address;
    ops: Address;
    /** Where it is open. */
    apiClientCert?: Address;
  };
  readonly identity: Identity;
  readonly sync: Sync;
  readonly store: Store;
  readonly metrics: Metrics;
  readonly shedder: Shedder;
  /** Secret of the first API key, on the start that made it. */
  readonly bootstrapSecret: string | undefined;
  /** Settles when the hub has ended by itself: a failure. */
  readonly failed: Promise<never>;
  /** Drains and ends everything. Idempotent. */
  stop(): Promise<void>;
}

/** How often expired request ids and join tokens are deleted. */
const SWEEP_MS = 3_600_000;
/** Time for API calls under way when the hub stops. */
const API_DRAIN_MS = 2_000;

/** Starts a hub; ready when this resolves. Rejects with the first thing that is wrong, by name. */
export async function startHub(config: HubConfig, deps: HubDeps): Promise<Hub> {
  const { clock, rng, log } = deps;
  const metrics = createMetrics({ processMetrics: true });
  const groups = groupMetrics(metrics);
  let storeFailure: Error | undefined;
  const durable =
    deps.store === undefined
      ? await openSqliteStore({
          dir: config.dataDir,
          clock,
          rng,
          maxBytes: config.storeMaxBytes,
          ballastBytes: limits.storeBallastBytes,
          onGroup: groups,
          onFailure: (error) => {
            storeFailure = error;
            log.error("store failed, nothing is accepted any more", { error });
          },
        })
      : undefined;
  const store = deps.store ?? (durable as Store);
  const undo: (() => Promise<unknown>)[] = deps.store === undefined ? [() => store.close()] : [];
  try {
    const identity = await createIdentity({
      store,
      clock,
      rng,
      log: log.child({ part: "identity" }),
      dataDir: config.dataDir,
      trustDomain: config.trustDomain,
      ...(await identityOptions(config)),
    });
    const bootstrapSecret = await identity.apiKeys.bootstrap((secret) =>
      writeFile(join(config.dataDir, "admin.key"), `${secret}\n`, { mode: 0o600 }),
    );
    const writeCa = (pem: string) => writeFile(join(config.dataDir, "ca.pem"), pem);
    await writeCa(identity.trustBundlePem);
    identity.onTrustBundle(writeCa);
    const audit = { store, clock, rng, log: log.child({ part: "audit" }) };
    const denials = createDenialAudit({ ...audit, metrics });
    const sealer = createAuditSealer({
      ...audit,
      retentionMs: config.auditRetention,
      maxBytes: Math.floor((config.storeMaxBytes * config.auditShare) / 100),
    });
    const sync = createSync({
      store,
      clock,
      rng,
      log: log.child({ part: "sync" }),
      identity,
      finalise: finaliser(store),
      metrics,
      policy: {
        heartbeatIntervalMs: config.heartbeatInterval,
        reconnectSpreadMs: config.reconnectSpread,
        maxRemovalsPerSync: config.maxRemovalsPerSync,
      },
    });
    let advertised: Advertised = { agentAddress: "", enrolmentAddress: "" };
    const convergence = createConvergence({ store, clock, metrics });
    const api = createApi({
      store,
      clock,
      rng,
      identity,
      advertised: () => advertised,
      onGeneration: convergence.written,
      ...(durable === undefined
        ? {}
        : { backup: { dir: config.dataDir, write: (file) => durable.backup(file) } }),
    });
    // Made while there is room: a full disk must not keep lists from being served.
    await api.reader.pageKey().catch((error: unknown) => log.warn("page tokens have no key yet", { error }));
    const shedder = createShedder({
      clock,
      rng,
      metrics,
      ...(deps.sampler === undefined ? processSampler() : { sampler: deps.sampler }),
      thresholds: { loopDelayMs: limits.shedLoopDelayMs, rssBytes: config.memoryLimit },
    });
    const starts = callStarts(metrics);
    const servers = await listenAll({
      config,
      clock,
      identity,
      sync,
      api: api.services,
      before: api.before,
      shedder,
      starts,
      onCall: both(both(callMetrics(metrics, log), denials.onCall), starts.ended),
    });
    undo.push(...servers.open.map((s) => () => s.drain(0)));
    const host = (a: Address) => `${config.publicHost ?? a.host}:${a.port}`;
    advertised = {
      agentAddress: host(servers.all.agent.address),
      enrolmentAddress: host(servers.all.enrolment.address),
    };
    limitMetrics(metrics, { connectionsPerAddress: config.connectionsPerAddress });
    hubMetrics(metrics, {
      store,
      reader: api.reader,
      clock,
      ...(durable === undefined
        ? {}
        : { file: { stats: () => durable.stats(), maxBytes: config.storeMaxBytes } }),
    });
    const ops = await startOpsServer({
      address: config.opsAddress,
      option: "--ops-address",
      metrics,
      ready: [{ name: "store", check: () => storeFailure?.message }],
    });
    undo.push(() => ops.close());
    servers.health.set("", ServingStatus.SERVING);
    const addresses = {
      api: servers.all.api.address,
      agent: servers.all.agent.address,
      enrolment: servers.all.enrolment.address,
      ops: ops.address,
      ...(servers.clientApi === undefined ? {} : { apiClientCert: servers.clientApi.address }),
    };
    return run(
      { addresses, identity, sync, store, metrics, shedder, bootstrapSecret },
      {
        config,
        deps,
        servers,
        ops,
        sweep: (signal) => api.writer.sweep(signal),
        services: [
          convergence,
          sealer,
          ...(durable === undefined
            ? []
            : [
                createSizeWatch({ clock, log, stats: () => durable.stats(), maxBytes: config.storeMaxBytes }),
              ]),
        ],
        recorded: () => denials.settled(),
        closeStore: deps.store === undefined,
      },
    );
  } catch (thrown) {
    for (const end of undo.reverse())
      await end().catch((error: unknown) => log.error("cleaning up after a failed start failed", { error }));
    throw thrown;
  }
}

type OnCall = NonNullable<Parameters<typeof startServer>[0]["onCall"]>;

const both =
  (first: OnCall, second: OnCall): OnCall =>
  (report) => {
    first(report);
    second(report);
  };

type Parts = Omit<Hub, "failed" | "stop">;
type Servers = Awaited<ReturnType<typeof listenAll>>;

function run(
  parts: Parts,
  on: {
    config: HubConfig;
    deps: HubDeps;
    servers: Servers;
    ops: OpsServer;
    sweep: (signal: AbortSignal) => Promise<number>;
    closeStore: boolean;
    /** Further ones beside those that are made here. */
    services: readonly Service[];
    /** Settles once refusals under way are recorded. */
    recorded: () => Promise<void>;
  },
): Hub {
  const { clock, log } = on.deps;
  const end = new AbortController();
  // The streams are drained by `stop` itself, with a time of its own.
  const streams: Service = { name: parts.sync.name, run: (signal) => parts.sync.run(signal) };
  const kept = { clock, log: log.child({ part: "store" }) };
  const sweeper = createChore(
    {
      name: "request id sweeper",
      intervalMs: SWEEP_MS,
      missed: "expired request ids could not be deleted",
      once: on.sweep,
    },
    kept,
  );
  const tokenSweeper = createChore(
    {
      name: "join token sweeper",
      intervalMs: SWEEP_MS,
      missed: "expired join tokens could not be deleted",
      once: (signal) => parts.identity.joinTokens.sweep(signal),
    },
    kept,
  );
  const compactor = createCompactor({
    ...kept,
    store: parts.store,
    intervalMs: on.config.compactInterval,
    retentionMs: on.config.historyRetention,
  });
  const chunks = new BundleCollector({ store: parts.store, clock });
  const collector = createChore(
    {
      name: "bundle collector",
      intervalMs: COLLECT_INTERVAL_MS,
      missed: "chunks that no bundle version names could not be deleted",
      once: (signal) => chunks.collect(signal),
    },
    kept,
  );
  const chores = [sweeper, tokenSweeper, compactor, collector];
  const services = [parts.identity, parts.shedder, streams, ...chores, ...on.services];
  const running = runServices(services, { signal: end.signal, log });
  let stopping: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    on.servers.health.set("", ServingStatus.NOT_SERVING);
    // Agents first: each is told when to come back, so that they do not come back at once.
    await parts.sync.drain(on.config.drainTime);
    await Promise.all(on.servers.open.map((server) => server.drain(API_DRAIN_MS)));
    end.abort(new DOMException("the hub stops", "AbortError"));
    await running.catch((error: unknown) => log.error("a service failed while stopping", { error }));
    await on.recorded();
    await on.ops.close();
    if (on.closeStore) await parts.store.close();
  };
  const failed = running.then(
    () => new Promise<never>(() => {}),
    (error: unknown) => {
      throw error;
    },
  );
  // Whoever runs the hub awaits `failed`; until then a failure is no unhandled rejection.
  failed.catch(() => {});
  return { ...parts, failed, stop: () => (stopping ??= stop()) };
}

async function listenAll(on: {
  config: HubConfig;
  clock: Clock;
  identity: Identity;
  sync: Sync;
  api: readonly BoundService[];
  before: NonNullable<Parameters<typeof startServer>[0]["before"]>;
  shedder: Shedder;
  starts: CallStarts;
  onCall: NonNullable<Parameters<typeof startServer>[0]["onCall"]>;
}) {
  const { config, clock, identity, sync } = on;
  const hosts = new Set(
    [
      config.publicHost,
      config.apiAddress.host,
      config.agentAddress.host,
      config.enrolmentAddress.host,
      "localhost",
    ].filter((h) => h !== undefined),
  );
  const isIp = (h: string) => /^[0-9.]+$/.test(h) || h.includes(":");
  const certificate = await identity.serverCertificate({
    dnsNames: [...hosts].filter((h) => !isIp(h)),
    ipAddresses: [...new Set([...[...hosts].filter(isIp), "127.0.0.1"])],
  });
  const health = createHealth();
  const reflection = createReflection([
    DataPlaneService,
    TenantService,
    ApplicationService,
    BundleService,
    WaitService,
    ApiKeyService,
    JoinTokenService,
    HubService,
  ]);
  const open: RunningServer[] = [];
  const start = async (options: Parameters<typeof startServer>[0]): Promise<RunningServer> => {
    const server = await startServer({
      ...options,
      before(ctx, method) {
        on.starts.started(ctx, method);
        return options.before?.(ctx, method);
      },
    });
    open.push(server);
    return server;
  };
  const tls = () => ({ certPem: certificate.current().certPem, keyPem: certificate.current().keyPem });
  const agentTls = () => ({ ...tls(), clientCaPem: identity.trustBundlePem });
  const shared = { clock, onCall: on.onCall };
  const admission = {
    pace: {
      perSecond: limits.acceptsPerSecond,
      burst: limits.acceptBurst,
      loopDelayMs: limits.acceptLoopDelayMs,
      waiting: limits.waitingConnections,
      waitMs: limits.waitingConnectionMs,
    },
    handshakeMs: limits.handshakeMs,
    pendingPerAddress: limits.pendingConnectionsPerAddress,
    onRefused: on.shedder.refused,
  };
  // On the agent port a certificate tells clients apart; elsewhere it is their address alone.
  const perAddress = { ...admission, connectionsPerAddress: config.connectionsPerAddress };
  // Its two ports differ in how they know their callers, and in nothing else.
  const publicApi: Omit<Parameters<typeof startServer>[0], "address" | "tls"> = {
    ...shared,
    services: [...on.api, health.service, reflection],
    limits: apiLimits,
    retryInfo: true,
    admission: perAddress,
    before(ctx, method) {
      if (isWatch(method)) on.shedder.check();
      return on.before(ctx, method);
    },
  };
  try {
    const api = await start({
      ...publicApi,
      address: config.apiAddress,
      option: "--api-address",
      tls: tls(),
    });
    const clientCaPem = config.clientCaFile === undefined ? "" : await readFile(config.clientCaFile, "utf8");
    const clientTls = () => ({ ...tls(), clientCaPem });
    const clientApi =
      config.apiClientCertAddress === undefined
        ? undefined
        : await start({
            ...publicApi,
            address: config.apiClientCertAddress,
            option: "--api-client-cert-address",
            tls: clientTls(),
          });
    const agent = await start({
      ...shared,
      address: config.agentAddress,
      option: "--agent-address",
      tls: agentTls(),
      services: [
        bind(SyncService, sync.syncHandlers),
        bind(BlobService, sync.blobHandlers),
        bind(IdentityService, identity.identityHandlers),
      ],
      limits: agentPortLimits,
      admission,
      before(_ctx, method) {
        if (method === SyncService.method.sync) on.shedder.check();
      },
      codec: { readUnknownFields: false },
    });
    const enrolment = await start({
      ...shared,
      address: config.enrolmentAddress,
      option: "--enrolment-address",
      tls: tls(),
      services: [bind(EnrolmentService, identity.enrolmentHandlers)],
      limits: enrolmentPortLimits,
      admission: perAddress,
      codec: { readUnknownFields: false },
    });
    certificate.onRenewed(() => {
      api.replaceTls(tls());
      clientApi?.replaceTls(clientTls());
      enrolment.replaceTls(tls());
      agent.replaceTls(agentTls());
    });
    return { all: { api, agent, enrolment }, clientApi, open, health };
  } catch (thrown) {
    await Promise.all(open.map((s) => s.drain(0)));
    throw thrown;
  }
}
