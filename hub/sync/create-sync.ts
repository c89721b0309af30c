import type { ClientHello, SyncRequest } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallContext } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { createBlobHandlers } from "./blob.ts";
import { syncCounts } from "./counts.ts";
import { readLink } from "./links.ts";
import {
  abilitiesOf,
  checkHello,
  checkLink,
  decideOpening,
  helloFacts,
  showClusterChange,
  storeConnected,
} from "./open.ts";
import type { SyncStream } from "./session.ts";
import { Session } from "./session.ts";
import { Silence, silenceDeadlines } from "./silence.ts";
import type { AgentPrincipal, Sync, SyncOptions, SyncPolicy } from "./sync.ts";
import { defaultPolicy } from "./sync.ts";
import { Turns } from "./turns.ts";

/** An initial sync that takes longer gives its turn away; the stream goes on. */
const TURN_MS = 30_000;

/** Makes the hub's end of all agent streams. See sync.ts for the contract. */
export function createSync(options: SyncOptions): Sync {
  const hub = new Streams(options);
  return {
    name: "sync",
    syncHandlers: { sync: (stream, ctx) => hub.serve(stream, ctx) },
    blobHandlers: createBlobHandlers(options),
    connected: () => hub.connected(),
    run: (signal) => hub.run(signal),
    drain: (ms) => hub.drain(ms),
  };
}

/** The registry of live streams: one per data plane. */
class Streams {
  readonly #o: SyncOptions;
  readonly #policy: SyncPolicy;
  readonly #live = new Map<string, Session>();
  readonly #compareRequested = new Set<string>();
  readonly #counts;
  readonly #silence: Silence;
  readonly #turns: Turns;
  readonly #serving = new Set<Promise<void>>();
  #draining = false;

  constructor(options: SyncOptions) {
    const { store, clock, log, identity } = options;
    this.#o = options;
    this.#policy = { ...defaultPolicy, ...options.policy };
    this.#counts = syncCounts(options.metrics);
    this.#turns = new Turns({
      turns: limits.initialSyncs,
      waitMs: limits.initialSyncWaitMs,
      clock,
      what: "initial sync",
    });
    this.#silence = new Silence({
      store,
      clock,
      log,
      deadlines: silenceDeadlines(this.#policy.heartbeatIntervalMs),
      graceMs: this.#policy.reconnectSpreadMs,
      onDisconnected: (uid) =>
        this.#live.get(uid)?.abort(unavailable("no sign of life came in time", "NO_HEARTBEAT")),
    });
    store.onCommit(({ dps }) => {
      for (const uid of dps) this.#live.get(uid)?.changed();
    });
    identity.onCredentials((uid, valid) => {
      const session = this.#live.get(uid);
      if (session !== undefined && !valid.has(session.principal.thumbprint))
        session.abort(revoked(session.principal));
    });
  }

  connected() {
    return [...this.#live.values()].map((s) => s.info());
  }

  async run(signal: AbortSignal): Promise<void> {
    await this.#silence.start();
    if (!signal.aborted) {
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    }
    this.#draining = true;
    this.#silence.stop();
    for (const session of this.#live.values()) session.abort(unavailable("the hub is stopping", "STOPPING"));
    await Promise.allSettled(this.#serving);
  }

  async drain(ms: number): Promise<void> {
    this.#draining = true;
    const sessions = [...this.#live.values()];
    await Promise.all(
      sessions.map(
        (session, i) =>
          new Promise<void>((resolve) => {
            this.#o.clock.setTimer((ms * i) / sessions.length, () => {
              session.goodbye("DRAINING", this.#o.rng.float() * this.#policy.reconnectSpreadMs);
              resolve();
            });
          }),
      ),
    );
  }

  async serve(stream: SyncStream, ctx: CallContext): Promise<void> {
    const serving = this.#open(stream, ctx);
    this.#serving.add(serving);
    try {
      await serving;
    } finally {
      this.#serving.delete(serving);
    }
  }

  async #open(stream: SyncStream, ctx: CallContext): Promise<void> {
    if (this.#draining) {
      throw new MoorageError(Code.UNAVAILABLE, "Cannot open a stream: the hub is draining", {
        reason: "DRAINING",
        retryAfterMs: Math.round(this.#o.rng.float() * this.#policy.reconnectSpreadMs),
      });
    }
    const { identity, store, clock } = this.#o;
    const principal = await identity.authenticateAgent(ctx.peerCertificateDer);
    const messages = stream.read()[Symbol.asyncIterator]();
    const hello = await this.#hello(messages, principal);
    const version = checkHello(hello, principal);
    const facts = helloFacts(hello);
    const uid = principal.dataPlaneUid;
    try {
      checkLink((await readLink(store, uid)).link, facts, principal.dataPlane);
    } catch (thrown) {
      await showClusterChange(store, uid, facts);
      throw thrown;
    }
    const release = await this.#turns.take();
    const turn = clock.setTimer(TURN_MS, release);
    try {
      await this.#silence.up(uid);
      await storeConnected(store, { principal, facts, nowMs: clock.now() });
      await identity.confirmAgentKey(principal);
      const on = { abilities: abilitiesOf(hello), compareRequested: this.#compareRequested.has(uid) };
      const opening = await decideOpening(store, hello, on);
      this.#compareRequested.delete(uid);
      // A revocation may have come since the certificate was looked at.
      await identity.authenticateAgent(ctx.peerCertificateDer);
      this.#note(principal, opening.plan);
      const session = new Session(this.#deps(uid, release), stream, { principal, hello, version, opening });
      await this.#serve(session, messages, ctx.signal);
    } finally {
      turn.cancel();
      release();
    }
  }

  async #serve(session: Session, messages: AsyncIterator<SyncRequest>, signal: AbortSignal): Promise<void> {
    const uid = session.principal.dataPlaneUid;
    const older = this.#live.get(uid);
    if (older !== undefined && older.agentGeneration > session.agentGeneration) {
      throw new MoorageError(Code.FAILED_PRECONDITION, "Cannot open a stream: a newer agent has one", {
        reason: "STALE_GENERATION",
        metadata: { agent_generation: String(older.agentGeneration) },
      });
    }
    this.#live.set(uid, session);
    older?.abort(
      new MoorageError(Code.ABORTED, "Another stream of this agent came up: the newest one wins", {
        reason: "REPLACED",
      }),
    );
    const gone = () => session.abort(MoorageError.from(signal.reason));
    if (signal.aborted) gone();
    signal.addEventListener("abort", gone, { once: true });
    this.#counts.opened();
    try {
      await session.run(messages);
    } finally {
      this.#counts.closed();
      signal.removeEventListener("abort", gone);
      if (this.#live.get(uid) === session) {
        this.#live.delete(uid);
        this.#silence.ended(uid);
      }
    }
  }

  #deps(uid: string, release: () => void) {
    const { store, clock, rng, log, finalise, replica } = this.#o;
    return {
      store,
      clock,
      log: log.child({ dataPlaneUid: uid }),
      finalise,
      policy: this.#policy,
      replica: replica ?? "hub",
      counts: this.#counts,
      random: () => rng.float(),
      seen: () => this.#silence.seen(uid),
      requestCompare: () => void this.#compareRequested.add(uid),
      onInitialEnd: release,
    };
  }

  #note(principal: AgentPrincipal, plan: { mode: string; reason: string; historyLost: boolean }): void {
    this.#counts.resumed(plan.mode);
    const fields = { dataPlane: principal.dataPlane, mode: plan.mode, reason: plan.reason };
    if (plan.historyLost) this.#o.log.error("An agent holds a revision that this hub does not have", fields);
    else this.#o.log.info("Agent stream is up", fields);
  }

  /** The first message, which must be a hello and come in time. */
  async #hello(messages: AsyncIterator<SyncRequest>, principal: AgentPrincipal): Promise<ClientHello> {
    let timer: { cancel(): void } | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = this.#o.clock.setTimer(limits.handshakeMs, () =>
        reject(
          new MoorageError(
            Code.DEADLINE_EXCEEDED,
            `No hello of "${principal.dataPlane}" within ${limits.handshakeMs} ms`,
          ),
        ),
      );
    });
    try {
      const first = await Promise.race([messages.next(), late]);
      if (first.done !== true && first.value.message.case === "hello") return first.value.message.value;
    } finally {
      timer?.cancel();
    }
    throw new MoorageError(Code.INVALID_ARGUMENT, "Cannot open a stream: its first message must be a hello", {
      reason: "PROTOCOL_VIOLATION",
    });
  }
}

function unavailable(why: string, reason: string): MoorageError {
  return new MoorageError(Code.UNAVAILABLE, `The stream was ended: ${why}`, { reason });
}

function revoked(principal: AgentPrincipal): MoorageError {
  return new MoorageError(
    Code.UNAUTHENTICATED,
    `The stream of "${principal.dataPlane}" was ended: its key is no longer registered`,
    { reason: "CREDENTIALS_REVOKED" },
  );
}
