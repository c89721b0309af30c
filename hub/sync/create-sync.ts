import type { ClientHello, SyncRequest } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Timer } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { CallContext } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { epochKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import { Attempts } from "./attempts.ts";
import { createBlobHandlers } from "./blob.ts";
import { Conflicts } from "./conflicts.ts";
import type { DisconnectReason } from "./counts.ts";
import { syncCounts } from "./counts.ts";
import { epochChanged, reasonOf, replaced, revoked, stale, twin, unavailable } from "./ends.ts";
import { readRestored } from "./epoch.ts";
import { readLink } from "./links.ts";
import type { Opening } from "./open.ts";
import {
  abilitiesOf,
  checkHello,
  checkLink,
  claimedPosition,
  decideOpening,
  helloFacts,
  hex,
  storeConnected,
} from "./open.ts";
import type { Restored, ResumePlan } from "./plan-resume.ts";
import { provesLoss } from "./plan-resume.ts";
import { scaledPolicy } from "./policy.ts";
import type { SyncStream } from "./messages.ts";
import type { SessionDeps } from "./session.ts";
import { Session } from "./session.ts";
import { Settling } from "./settling.ts";
import { Silence, silenceDeadlines } from "./silence.ts";
import type { AgentPrincipal, Sync, SyncOptions, SyncPolicy } from "./sync.ts";
import { defaultPolicy } from "./sync.ts";
import { Turns } from "./turns.ts";
import type { Instance } from "./twins.ts";
import { Twins } from "./twins.ts";
import type { Rev, StoreStatus } from "../store/store.ts";

/** An initial sync that takes longer gives its turn away; the stream goes on. */
const TURN_MS = 30_000;
/** Between a change of the size of the fleet, or a part of it that was told, and a look at who is to be told. */
const POLICY_MS = 1_000;
/** Time for agents to come back before a hub knows how many they are. Source: sync-and-store.md 1.2, rule 1. */
const DEFAULT_SPREAD_MS = 30_000;
/** Agents told of a new policy at a look. */
const POLICY_PART = 200;

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
  readonly #reportTurns: Turns;
  readonly #twins: Twins;
  readonly #attempts: Attempts;
  readonly #conflicts: Conflicts;
  readonly #settling: Settling;
  readonly #serving = new Set<Promise<void>>();
  /** Set while the hub's epoch waits for its acceptance; refreshed by every stream that opens. */
  #restored: Restored | undefined;
  /** The head when the streams began. */
  #startRev: Rev | undefined;
  /** Epochs begun by this process. */
  #epochs = 0;
  #epochChange: Promise<void> = Promise.resolve();
  #policyTimer: Timer | undefined;
  #draining = false;

  constructor(options: SyncOptions) {
    const { store, clock, rng, log, identity } = options;
    this.#o = options;
    this.#policy = { ...defaultPolicy, ...options.policy };
    this.#counts = syncCounts(options.metrics);
    this.#twins = new Twins(clock);
    this.#attempts = new Attempts(clock);
    this.#conflicts = new Conflicts({ store, clock, log });
    this.#settling = new Settling({ store, clock, rng, log });
    this.#turns = new Turns({
      turns: limits.initialSyncs,
      clock,
      refused: { waitMs: limits.initialSyncWaitMs, what: "initial sync" },
    });
    this.#reportTurns = new Turns({ turns: limits.statusReports, clock });
    this.#silence = new Silence({
      store,
      clock,
      log,
      deadlines: silenceDeadlines(this.#policy.heartbeatIntervalMs),
      // Nobody knows yet how many will come back: the default of the protocol is the least to wait for.
      graceMs: this.#policy.reconnectSpreadMs > 0 ? this.#policy.reconnectSpreadMs : DEFAULT_SPREAD_MS,
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
    this.#startRev ??= (await this.#o.store.status()).rev;
    await this.#silence.start();
    await this.#conflicts.start();
    this.#restored = await readRestored(this.#o.store);
    if (this.#restored === undefined) this.#settling.ask();
    else this.#o.log.warn("The epoch of this hub waits for its acceptance: deletions are held back", {});
    const watching = this.#watchEpoch(signal);
    if (!signal.aborted) {
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    }
    this.#draining = true;
    this.#policyTimer?.cancel();
    this.#silence.stop();
    this.#conflicts.stop();
    for (const session of this.#live.values()) session.abort(unavailable("the hub is stopping", "STOPPING"));
    await Promise.allSettled([...this.#serving, watching, this.#settling.stop()]);
  }

  async drain(ms: number): Promise<void> {
    this.#draining = true;
    const sessions = [...this.#live.values()];
    const { reconnectSpreadMs } = this.#scaled();
    await Promise.all(
      sessions.map(
        (session, i) =>
          new Promise<void>((resolve) => {
            this.#o.clock.setTimer((ms * i) / sessions.length, () => {
              session.leave(this.#o.rng.float() * reconnectSpreadMs);
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
    try {
      await this.#admitted(stream, ctx);
    } catch (thrown) {
      const error = MoorageError.from(thrown);
      if (error.code === Code.UNAUTHENTICATED && error.reason !== "CREDENTIALS_REVOKED")
        this.#counts.connection("unauthenticated");
      throw thrown;
    }
  }

  async #admitted(stream: SyncStream, ctx: CallContext): Promise<void> {
    const { identity, store, clock } = this.#o;
    this.#startRev ??= (await store.status()).rev;
    this.#checkOpening(ctx.signal);
    const principal = await identity.authenticateAgent(ctx.peerCertificateDer);
    const uid = principal.dataPlaneUid;
    try {
      this.#attempts.take(uid);
    } catch (thrown) {
      throw this.#throttled(thrown as MoorageError);
    }
    const messages = stream.read()[Symbol.asyncIterator]();
    const hello = await this.#hello(messages, principal);
    this.#counts.messageReceived("hello");
    const version = checkHello(hello, principal);
    const facts = helloFacts(hello);
    try {
      checkLink((await readLink(store, uid)).link, facts, principal.dataPlane);
    } catch (thrown) {
      return this.#refuse(uid, MoorageError.from(thrown));
    }
    const release = await this.#turns.take(ctx.signal).catch((thrown: MoorageError) => {
      throw ctx.signal.aborted ? thrown : this.#throttled(thrown);
    });
    const turn = clock.setTimer(TURN_MS, release);
    try {
      this.#checkOpening(ctx.signal);
      const by = { instance: hex(hello.instanceId), generation: hello.agentGeneration };
      // Before anything of a live stream is touched.
      const refusal = this.#unfit(principal, by);
      if (refusal !== undefined) return await this.#refuse(uid, refusal);
      await this.#silence.up(uid);
      const storeLink = () => storeConnected(store, { principal, facts, nowMs: clock.now() });
      const stored = await storeLink();
      await identity.confirmAgentKey(principal);
      await this.#checkHistory(hello, principal);
      this.#checkOpening(ctx.signal);
      const epochs = this.#epochs;
      const opening = await this.#decide(hello, principal, ctx.signal);
      // A revocation may have come since the certificate was looked at.
      await identity.authenticateAgent(ctx.peerCertificateDer);
      this.#checkOpening(ctx.signal);
      // Streams that are up are ended when an epoch begins; this one was not among them yet.
      if (epochs !== this.#epochs) throw epochChanged();
      const session = new Session(this.#deps(principal, release), stream, {
        principal,
        hello,
        version,
        opening,
        storeLink: stored ? undefined : storeLink,
      });
      await this.#serve(session, by, { messages, opening, signal: ctx.signal });
    } finally {
      turn.cancel();
      release();
    }
  }

  /** Ends an opening stream of which nothing can come any more: its agent went, or the hub goes. */
  #checkOpening(signal: AbortSignal): void {
    if (signal.aborted) throw MoorageError.from(signal.reason);
    if (this.#draining) throw this.#throttled(this.#drainingError());
  }

  /** Refuses a stream that another agent's rules out. */
  async #refuse(uid: string, refusal: MoorageError): Promise<never> {
    this.#counts.connection("refused");
    await this.#conflicts.refused(uid, refusal);
    throw refusal;
  }

  /** How the stream begins. */
  async #decide(hello: ClientHello, principal: AgentPrincipal, signal: AbortSignal): Promise<Opening> {
    const uid = principal.dataPlaneUid;
    const { store } = this.#o;
    this.#restored = await readRestored(store);
    return decideOpening(this.#o, hello, {
      abilities: abilitiesOf(hello),
      compareRequested: this.#compareRequested.has(uid),
      restored: this.#restored !== undefined,
      dataPlane: principal.dataPlane,
      signal,
    });
  }

  /** A proof of lost history in the hello begins a new epoch. */
  #checkHistory(hello: ClientHello, principal: AgentPrincipal): Promise<void> {
    return this.#proven(principal, claimedPosition(hello)?.revision ?? 0, (status) => {
      const cursor = claimedPosition(hello);
      const head = { epochHex: hex(status.epoch), revision: status.rev };
      return cursor !== undefined && provesLoss(cursor, head, status.uncleanStart);
    });
  }

  /** Begins a new epoch if `proof` holds. One at a time: the second agent with the same proof finds the new epoch. */
  #proven(
    principal: AgentPrincipal,
    agentRevision: number,
    proof: (status: StoreStatus) => boolean,
  ): Promise<void> {
    const check = async () => {
      const status = await this.#o.store.status();
      if (!proof(status)) return;
      this.#o.log.error("History was lost: an agent holds a revision that this hub gave and no longer has", {
        dataPlane: principal.dataPlane,
        agentRevision,
        head: status.rev,
      });
      // What was given since the start may bear numbers that the lost end of history had given before.
      await this.#o.store.newEpoch(this.#startRev);
      this.#epochs++;
      this.#counts.epochChanged();
      for (const session of this.#live.values()) session.abort(epochChanged());
    };
    const checked = this.#epochChange.then(check);
    this.#epochChange = checked.catch(() => undefined);
    return checked;
  }

  async #serve(
    session: Session,
    by: Instance,
    on: { messages: AsyncIterator<SyncRequest>; opening: Opening; signal: AbortSignal },
  ): Promise<void> {
    const { principal } = session;
    const { signal } = on;
    const uid = principal.dataPlaneUid;
    const refusal = this.#unfit(principal, by);
    if (refusal !== undefined) return this.#refuse(uid, refusal);
    const older = this.#live.get(uid);
    older?.abort(replaced());
    this.#twins.opened(uid, by);
    this.#note(principal, on.opening.plan);
    this.#compareRequested.delete(uid);
    this.#live.set(uid, session);
    this.#tellPolicy();
    const gone = () => session.abort(MoorageError.from(signal.reason));
    signal.addEventListener("abort", gone, { once: true });
    this.#counts.connection(older === undefined ? "accepted" : "replaced");
    this.#counts.opened();
    let reason: DisconnectReason = "closed";
    try {
      await session.run(on.messages);
      if (session.saidGoodbye) reason = "goodbye";
    } catch (thrown) {
      reason = signal.aborted ? "closed" : reasonOf(MoorageError.from(thrown));
      throw thrown;
    } finally {
      this.#counts.closed(reason);
      signal.removeEventListener("abort", gone);
      if (this.#live.get(uid) === session) {
        this.#live.delete(uid);
        this.#tellPolicy();
        this.#silence.ended(uid);
      }
    }
  }

  /** Why a stream may not take over from the live one; undefined when it may, or there is none. */
  #unfit({ dataPlane, dataPlaneUid }: AgentPrincipal, by: Instance): MoorageError | undefined {
    const older = this.#live.get(dataPlaneUid);
    if (older === undefined) return undefined;
    if (older.agentGeneration > by.generation) return stale(older.agentGeneration);
    return this.#twins.refuses(dataPlaneUid, by) ? twin(dataPlane) : undefined;
  }

  #deps(principal: AgentPrincipal, release: () => void): SessionDeps {
    const uid = principal.dataPlaneUid;
    const { store, clock, rng, log, finalise, replica } = this.#o;
    return {
      store,
      clock,
      log: log.child({ dataPlaneUid: uid }),
      finalise,
      policy: () => this.#scaled(),
      restored: () => this.#restored,
      // A store that is not clean any more has begun a new epoch since: the proof was of the one before.
      historyLost: async (revision) => {
        await this.#proven(principal, revision, (status) => status.uncleanStart);
        throw epochChanged();
      },
      settleDivergences: () => this.#settling.ask(),
      replica: replica ?? "hub",
      counts: this.#counts,
      random: () => rng.float(),
      seen: () => this.#silence.seen(uid),
      heartbeatTold: (intervalMs) => this.#silence.told(uid, intervalMs),
      requestCompare: () => void this.#compareRequested.add(uid),
      onInitialEnd: release,
      reportTurn: () => this.#reportTurns.take(),
    };
  }

  #note(principal: AgentPrincipal, plan: ResumePlan): void {
    this.#counts.resumed(plan.mode);
    const fields = { dataPlane: principal.dataPlane, mode: plan.mode, reason: plan.reason };
    if (plan.aboveHead) this.#o.log.error("An agent claims a revision that this hub never gave", fields);
    else this.#o.log.info("Agent stream is up", fields);
  }

  // The epoch's acceptance, which is one key of the store.

  async #watchEpoch(signal: AbortSignal): Promise<void> {
    try {
      const { rev } = await this.#o.store.status();
      const at = { start: key(epochKey), from: rev + 1, signal };
      for await (const batch of this.#o.store.watch(at)) {
        if (batch.kind === "compacted") return await this.#watchEpoch(signal);
        this.#restored = await readRestored(this.#o.store);
        if (this.#restored === undefined) this.#settling.ask();
      }
    } catch (error) {
      // A store that fails ends the hub by itself.
      if (!signal.aborted) this.#o.log.error("Cannot watch the epoch's acceptance", { error });
    }
  }

  // The policy for a fleet of today's size.

  #scaled(): SyncPolicy {
    return scaledPolicy(this.#policy, {
      connected: this.#live.size,
      acceptsPerSecond: limits.acceptsPerSecond,
    });
  }

  /** The fleet has another size: soon its agents are told what follows from that. */
  #tellPolicy(): void {
    if (this.#policyTimer !== undefined || this.#draining) return;
    this.#policyTimer = this.#o.clock.setTimer(POLICY_MS, () => {
      this.#policyTimer = undefined;
      const policy = this.#scaled();
      let told = 0;
      for (const session of this.#live.values()) {
        // The rest follows with the next look: nobody needs it this very second.
        if (told >= POLICY_PART) return this.#tellPolicy();
        if (session.tell(policy)) told++;
      }
    });
  }

  #throttled(error: MoorageError): MoorageError {
    this.#counts.connection("throttled");
    return error;
  }

  #drainingError(): MoorageError {
    return new MoorageError(Code.UNAVAILABLE, "Cannot open a stream: the hub is draining", {
      reason: "DRAINING",
      retryAfterMs: Math.round(this.#o.rng.float() * this.#scaled().reconnectSpreadMs),
    });
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
