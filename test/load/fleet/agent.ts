/**
 * A protocol-only agent: the wire behaviour of agent/link with memory instead of a cluster. It keeps
 * cursor, held set and status; what it holds counts as durable at once.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Changes, Policy, ServerHello, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import {
  Capability,
  Resume,
  SyncRequestSchema,
  SyncResponseSchema,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock, Timer } from "@moorage/shared/clock";
import { limits } from "@moorage/shared/limits";
import type { Rng } from "@moorage/shared/rng";
import type { Closed, Connection } from "./connection.ts";
import { openConnection } from "./connection.ts";
import type { HeldEntry } from "./held.ts";
import { HeldSet, statusOf } from "./held.ts";
import { reconnectDelayMs } from "./reconnect.ts";
import type { Tally } from "./tally.ts";

/** An agent's identity, as enrolled. */
export interface AgentIdentity {
  uid: string;
  certPem: string;
  keyPem: string;
  caPem: string;
  /** Address to come from; the machine's choice when absent. */
  localAddress?: string;
}

/** What the agents of one process share. */
export interface AgentDeps {
  clock: Clock;
  rng: Rng;
  tally: Tally;
  /** The agent port, or a proxy before it. */
  target: { host: string; port: number; serverName: string };
  /** Report status; without it only removals are reported. */
  reports: boolean;
  /** A frame of changes was acked; `revision` is the newest in it. */
  onAck?(agent: ProtocolAgent, revision: bigint, updates: Changes["updates"]): void;
  /** `initial_end` came. */
  onInSync?(agent: ProtocolAgent): void;
}

type ToHub = NonNullable<MessageInitShape<typeof SyncRequestSchema>["message"]>;

/** HTTP/2 keepalive, and how long a stream may be silent. Source: shared/grpc/options.ts, agent/link/stream.ts. */
const PING_MS = 30_000;
const IDLE_MS = 150_000;
/** The hello must be answered within this time of the dial. */
const HELLO_MS = 30_000;
/** Held resources a page of an inventory, and statuses a report. */
const PAGE = 1_000;
const REPORT = 100;
const KINDS = ["DataPlane", "Tenant", "Application"].map((kind) => ({ kind, versions: ["v1"] }));
const CAPABILITIES = [Capability.BLOB_REF, Capability.REMOVAL_GUARD];

/** See the module's text. */
export class ProtocolAgent {
  readonly identity: AgentIdentity;
  readonly held = new HeldSet();
  readonly #deps: AgentDeps;
  readonly #instanceId: Uint8Array;
  readonly #timers = new Map<string, Timer>();
  readonly #dirty = new Set<string>();
  #policy = { heartbeatMs: 20_000, spreadMs: 30_000, compareMs: 6 * 3_600_000 };
  #connection: Connection | undefined;
  #cursor: { epoch: Uint8Array; revision: bigint } | undefined;
  #inFlight: { seq: bigint; sent: { uid: string; revision: bigint }[] } | undefined;
  #full = false;
  #seq = 0n;
  #resume: Resume = Resume.UNSPECIFIED;
  /** Something came since the hello, so that the hub could not judge its digest. */
  #missed = false;
  #statusSeq = 0n;
  #echo = 0n;
  #lastMessageMs = 0;
  #state: "stopped" | "waiting" | "dialling" | "up" | "in-sync" = "stopped";
  #goodbyeMs: number | undefined;
  #attempt = 0;
  #refusedRunning = 0;
  #failed = false;

  constructor(identity: AgentIdentity, deps: AgentDeps) {
    this.identity = identity;
    this.#deps = deps;
    this.#instanceId = deps.rng.bytes(16);
  }

  /** The first part of the present stream is over. */
  get inSync(): boolean {
    return this.#state === "in-sync";
  }

  /** A stream stands. */
  get up(): boolean {
    return this.#state === "up" || this.#state === "in-sync";
  }

  /** Nothing of its status waits for the hub. */
  get reported(): boolean {
    return this.#inFlight === undefined && this.#dirty.size === 0 && !this.#full;
  }

  /** Dials at once, as a new process does, and stays connected until `stop`. */
  start(): void {
    if (this.#state === "stopped") this.#dial();
  }

  /** Leaves in good order and stays away. */
  stop(): void {
    this.#state = "stopped";
    this.#cancelTimers();
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.end();
  }

  #dial(): void {
    const { tally, target } = this.#deps;
    this.#state = "dialling";
    this.#goodbyeMs = undefined;
    this.#failed = false;
    this.#seq = 0n;
    this.#statusSeq = 0n;
    this.#full = false;
    // What was under way may have been stored or not: it is sent again.
    for (const s of this.#inFlight?.sent ?? []) this.#dirty.add(s.uid);
    this.#inFlight = undefined;
    tally.counts.dials++;
    const { caPem, certPem, keyPem, localAddress } = this.identity;
    const connection = openConnection(
      { ...target, caPem, certPem, keyPem, ...(localAddress === undefined ? {} : { localAddress }) },
      {
        onSecure: () => {
          tally.counts.handshakes++;
          tally.handshakeMs.push(this.#deps.clock.monotonicMs());
        },
        onMessage: (bytes) => this.#guarded(() => this.#take(bytes)),
        onClosed: (closed) => {
          if (this.#connection === connection) this.#onClosed(closed);
        },
      },
    );
    this.#connection = connection;
    this.#timer("hello", HELLO_MS, () => {
      tally.counts.unanswered++;
      connection.destroy();
    });
    this.#sayHello();
  }

  #onClosed(closed: Closed): void {
    const { tally, clock, rng } = this.#deps;
    const established = this.up;
    this.#cancelTimers();
    this.#connection = undefined;
    this.#noteEnd(closed, established);
    tally.refusedRunning = Math.max(tally.refusedRunning, this.#refusedRunning);
    this.#attempt = established ? 0 : this.#attempt + 1;
    this.#state = "waiting";
    const ended = { established, goodbyeMs: this.#goodbyeMs, retryAfterMs: closed.status?.retryAfterMs };
    const delayMs = reconnectDelayMs(ended, { attempt: this.#attempt, spreadMs: this.#policy.spreadMs, rng });
    this.#timers.set(
      "dial",
      clock.setTimer(delayMs, () => this.#dial()),
    );
  }

  #noteEnd(closed: Closed, established: boolean): void {
    const { counts } = this.#deps.tally;
    if (established) {
      if (this.#goodbyeMs !== undefined) counts.goodbyes++;
      else counts.lost++;
      if (closed.status !== undefined && !closed.ok) this.#deps.tally.because(reasonOf(closed));
      return;
    }
    if (closed.stage === "tcp") {
      counts.down++;
      return;
    }
    if (closed.stage === "tls") counts.closedBeforeTls++;
    else counts.refused++;
    this.#deps.tally.because(reasonOf(closed));
    this.#refusedRunning++;
  }

  #sayHello(): void {
    const { clock } = this.#deps;
    this.#send({
      case: "hello",
      value: {
        dataPlaneUid: this.identity.uid,
        agentGeneration: 1n,
        instanceId: this.#instanceId,
        protocolVersions: [1],
        capabilities: CAPABILITIES,
        kinds: KINDS,
        ...(this.#cursor === undefined ? {} : { cursor: this.#cursor }),
        statusDigest: this.held.statusDigest(),
        limits: {
          maxMessageBytes: limits.hubToAgentMessageBytes,
          windowBytes: limits.windowBytes,
          windowItems: limits.windowItems,
        },
        agent: { version: "0.1.0", kubernetesVersion: "v1.37.2", clusterUid: `cluster-${this.identity.uid}` },
        agentTime: timestampFromMs(Math.floor(clock.now())),
        heldDigest: this.held.heldDigest(),
      },
    });
  }

  #take(bytes: Uint8Array): void {
    const { tally, clock } = this.#deps;
    const { message } = fromBinary(SyncResponseSchema, bytes);
    this.#lastMessageMs = clock.monotonicMs();
    if (!this.up) {
      if (message.case !== "hello") throw new Error("the first message is no hello");
      return this.#onHello(message.value);
    }
    if (message.case === "changes") {
      tally.counts.frames++;
      tally.counts.frameBytes += bytes.length;
      return this.#onChanges(message.value);
    }
    this.#takeOther(message);
  }

  #takeOther(message: SyncResponse["message"]): void {
    const { counts } = this.#deps.tally;
    switch (message.case) {
      case "bookmark": {
        counts.bookmarks++;
        const { cursor, echo } = message.value;
        if (cursor !== undefined) this.#advance(cursor);
        this.#echo = echo;
        return this.#heartbeat();
      }
      case "statusAck":
        return this.#onStatusAck(message.value.seq);
      case "reportRequest":
        return this.#reportAll();
      case "policy":
        return this.#onPolicy(message.value);
      case "goodbye":
        this.#goodbyeMs = ms(message.value.reconnectAfter) ?? 0;
        this.#connection?.end();
        return;
      case "hello":
        throw new Error("a second hello");
      default:
    }
  }

  #onHello(hello: ServerHello): void {
    const { tally } = this.#deps;
    this.#timers.get("hello")?.cancel();
    tally.counts.hellos++;
    if (hello.resume === Resume.DELTA) tally.counts.delta++;
    else if (hello.resume === Resume.COMPARE) tally.counts.compare++;
    else tally.counts.snapshot++;
    this.#state = "up";
    this.#resume = hello.resume;
    this.#missed = false;
    this.#refusedRunning = 0;
    if (hello.policy !== undefined) this.#onPolicy(hello.policy);
    if (hello.resume === Resume.COMPARE) this.#sendInventory();
    this.#heartbeatLater();
    this.#compareLater();
    this.#timer("ping", PING_MS, () => this.#ping());
    if (!hello.statusKnown) this.#reportAll();
    else this.#pump();
  }

  #sendInventory(): void {
    const held = [...this.held.entries()];
    for (let at = 0; at === 0 || at < held.length; at += PAGE) {
      const last = at + PAGE >= held.length;
      const page = held
        .slice(at, at + PAGE)
        .map(({ name, uid, digest, revision }) => ({ name, uid, digest, revision }));
      const digest = last ? this.held.heldDigest() : new Uint8Array();
      this.#send({ case: "inventory", value: { held: page, last, digest } });
    }
  }

  #onChanges(changes: Changes): void {
    const { tally } = this.#deps;
    const { counts } = tally;
    this.#missed ||= changes.updates.length > 0;
    if (changes.seq !== ++this.#seq)
      throw new Error(`changes ${changes.seq} came, ${this.#seq} was expected`);
    let newest = 0n;
    for (const update of changes.updates) {
      if (update.revision > newest) newest = update.revision;
      const applied = this.held.apply(update);
      counts.updates++;
      if (applied === "stale") {
        counts.stale++;
        continue;
      }
      if (applied === "unchanged") counts.unchanged++;
      if (applied === "removed") counts.removed++;
      if (this.#deps.reports || applied === "removed") this.#dirty.add(update.uid);
    }
    const { cursor, seq } = changes;
    if (cursor !== undefined) this.#advance(cursor);
    this.#send({ case: "ack", value: { seq, ...(cursor === undefined ? {} : { cursor }) } });
    counts.acks++;
    this.#deps.onAck?.(this, newest, changes.updates);
    if (changes.initialEnd) {
      this.#state = "in-sync";
      tally.initialEndMs.push(this.#deps.clock.monotonicMs());
      this.#deps.onInSync?.(this);
      if (this.#resume === Resume.DELTA && this.#missed) this.#sendDigest();
    }
    this.#pump();
  }

  #advance(cursor: { epoch: Uint8Array; revision: bigint }): void {
    this.#cursor = { epoch: new Uint8Array(cursor.epoch), revision: cursor.revision };
  }

  #onPolicy(policy: Policy): void {
    const kept = this.#policy;
    kept.heartbeatMs = Math.max(1_000, ms(policy.heartbeatInterval) ?? kept.heartbeatMs);
    kept.spreadMs = ms(policy.reconnectSpread) ?? kept.spreadMs;
    kept.compareMs = Math.max(60_000, ms(policy.compareInterval) ?? kept.compareMs);
    if (this.#timers.has("heartbeat")) this.#heartbeatLater();
  }

  #ping(): void {
    const silentMs = this.#deps.clock.monotonicMs() - this.#lastMessageMs;
    if (silentMs > IDLE_MS || this.#connection?.ping() === false) {
      this.#connection?.destroy();
      return;
    }
    this.#timer("ping", PING_MS, () => this.#ping());
  }

  #heartbeat(): void {
    const { clock, tally } = this.#deps;
    tally.counts.heartbeats++;
    this.#send({
      case: "heartbeat",
      value: {
        agentTime: timestampFromMs(Math.floor(clock.now())),
        monotonicMs: BigInt(Math.floor(clock.monotonicMs())),
        bookmarkEcho: this.#echo,
      },
    });
    this.#heartbeatLater();
  }

  #heartbeatLater(): void {
    const delayMs = this.#policy.heartbeatMs * (0.9 + 0.1 * this.#deps.rng.float());
    this.#timer("heartbeat", delayMs, () => this.#heartbeat());
  }

  #compareLater(): void {
    this.#timer("compare", this.#policy.compareMs * (0.75 + 0.5 * this.#deps.rng.float()), () => {
      this.#sendDigest();
      this.#compareLater();
    });
  }

  #sendDigest(): void {
    this.#send({ case: "inventory", value: { held: [], last: true, digest: this.held.heldDigest() } });
  }

  #reportAll(): void {
    this.held.forgetReported();
    if (this.#deps.reports) for (const e of this.held.entries()) this.#dirty.add(e.uid);
    this.#full = true;
    this.#pump();
  }

  /** Sends the next report when none is under way. */
  #pump(): void {
    if (!this.up || this.#inFlight !== undefined || (this.#dirty.size === 0 && !this.#full)) return;
    const entries: HeldEntry[] = [];
    for (const uid of this.#dirty) {
      if (entries.length === REPORT) break;
      this.#dirty.delete(uid);
      const entry = this.held.get(uid);
      if (entry !== undefined) entries.push(entry);
    }
    const last = this.#dirty.size === 0;
    const seq = ++this.#statusSeq;
    this.#inFlight = { seq, sent: entries.map((e) => ({ uid: e.uid, revision: e.revision })) };
    const { counts } = this.#deps.tally;
    counts.reports++;
    counts.statuses += entries.length;
    this.#send({
      case: "status",
      value: { seq, statuses: entries.map((e) => statusOf(e)), full: this.#full, digest: new Uint8Array() },
    });
    if (last) this.#full = false;
  }

  #onStatusAck(seq: bigint): void {
    if (this.#inFlight?.seq !== seq) return;
    for (const s of this.#inFlight.sent) this.held.acknowledged(s.uid, s.revision);
    this.#inFlight = undefined;
    this.#pump();
  }

  #send(message: ToHub): void {
    this.#connection?.send(toBinary(SyncRequestSchema, create(SyncRequestSchema, { message })));
  }

  /** A hub that breaks a rule is left; it shows in the tally. */
  #guarded(fn: () => void): void {
    if (this.#failed) return;
    try {
      fn();
    } catch (error) {
      this.#failed = true;
      this.#deps.tally.counts.violations++;
      this.#deps.tally.because(`violation: ${error instanceof Error ? error.message : String(error)}`);
      this.#connection?.destroy();
    }
  }

  #timer(name: string, delayMs: number, fn: () => void): void {
    this.#timers.get(name)?.cancel();
    this.#timers.set(name, this.#deps.clock.setTimer(delayMs, fn));
  }

  #cancelTimers(): void {
    for (const timer of this.#timers.values()) timer.cancel();
    this.#timers.clear();
  }
}

function reasonOf(closed: Closed): string {
  const { status, stage } = closed;
  return status === undefined
    ? `closed at ${stage}`
    : `${status.code} ${status.reason || status.message.slice(0, 60)}`;
}

function ms(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1_000 + duration.nanos / 1e6;
}
