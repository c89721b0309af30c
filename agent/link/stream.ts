/** One stream to the hub, from hello to end. */
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  Capability,
  Encoding,
  Resume,
  ResourceSchema,
  SyncRequestSchema,
  SyncService,
  UpdateSchema,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type {
  Changes,
  Goodbye,
  Policy,
  ServerHello,
  SyncRequest,
  SyncResponse,
  Update,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { Timer } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { ClientDuplex, Link } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import { heldDigest } from "@moorage/shared/sync-digest";
import { fetchBody } from "./blobs.ts";
import type { HelloFacts, HubLinkDeps, LinkState, ToHub } from "./hub-link.ts";
import type { HeldRecord } from "../mirror/store.ts";
import type { Outbox } from "./outbox.ts";

/** The protocol versions spoken. */
export const PROTOCOL_VERSIONS = [1];
/** The hub's answer to the hello must come within this time. */
export const HELLO_MS = 30_000;
/** Bookmarks come every 60 s with jitter: a stream this long without a message is dead. */
export const IDLE_MS = 150_000;
/** Held resources a page of an inventory: about 150 B each. */
const PAGE = 1_000;

/** Kinds and body versions that this agent applies. */
const KINDS = ["DataPlane", "Tenant", "Application"].map((kind) => ({ kind, versions: ["v1"] }));
const CAPABILITIES = [Capability.BLOB_REF, Capability.REMOVAL_GUARD];

/** The hub's wishes, milliseconds; kept over streams. */
export interface LinkPolicy {
  heartbeatMs: number;
  statusMinMs: number;
  reconnectSpreadMs: number;
  compareMs: number;
}

/** Before the hub said otherwise. */
export const defaultPolicy: LinkPolicy = {
  heartbeatMs: 20_000,
  statusMinMs: 20,
  reconnectSpreadMs: 30_000,
  compareMs: 6 * 3_600_000,
};

/** How a stream ended. */
export interface StreamEnd {
  /** The hello was answered. */
  established: boolean;
  goodbye: { reason: string; reconnectAfterMs: number } | undefined;
  error: MoorageError | undefined;
}

/** What a stream shares with those before and after it. */
export interface StreamContext {
  deps: HubLinkDeps;
  outbox: Outbox;
  policy: LinkPolicy;
  state: LinkState;
  /** Newest position known to be reached, from bookmarks, in memory only. */
  bookmark: { cursor: Cursor | undefined };
  changed(): void;
}

type Stream = ClientDuplex<SyncResponse, SyncRequest>;

/** Runs one stream on `link` until it ends or `signal` aborts. Never rejects. */
export async function runStream(context: StreamContext, link: Link, signal: AbortSignal): Promise<StreamEnd> {
  const run = new StreamRun(context, signal);
  return run.run(link);
}

class StreamRun {
  readonly #c: StreamContext;
  readonly #facts: HelloFacts;
  readonly #end = new AbortController();
  readonly #signal: AbortSignal;
  readonly #timers = new Map<string, Timer>();
  #stream: Stream | undefined;
  #writes: Promise<void> = Promise.resolve();
  /** Messages that wait for the transport. */
  #blocked = 0;
  #acks: Promise<void> = Promise.resolve();
  #resolved: Promise<unknown> = Promise.resolve();
  #seq = 0n;
  #echo = 0n;
  #failure: MoorageError | undefined;
  #goodbye: StreamEnd["goodbye"];
  #established = false;
  #resume: Resume = Resume.UNSPECIFIED;
  /** Something changed while no stream was up, so that the hub could not judge the hello's digest. */
  #missed = false;
  #extensions: { take(message: SyncResponse["message"]): void; close(): void }[] = [];

  constructor(context: StreamContext, signal: AbortSignal) {
    this.#c = context;
    this.#facts = context.deps.hello();
    this.#signal = AbortSignal.any([signal, this.#end.signal]);
  }

  async run(link: Link): Promise<StreamEnd> {
    const { store } = this.#c.deps;
    const leave = store.onStatus((change) => {
      this.#c.outbox.changed(change);
      this.#guarded(() => this.#pumpStatus());
    });
    try {
      const stream = link.client(SyncService).sync({ signal: this.#signal }) as Stream;
      this.#stream = stream;
      this.#sayHello();
      this.#timer("idle", HELLO_MS, () =>
        this.#fail(Code.DEADLINE_EXCEEDED, "The hub did not answer the hello in time"),
      );
      for await (const message of stream.read()) {
        this.#c.state.lastMessageMs = this.#c.deps.clock.now();
        this.#take(message.message);
        if (this.#goodbye !== undefined) break;
        this.#timer("idle", IDLE_MS, () =>
          this.#fail(Code.DEADLINE_EXCEEDED, "Nothing came from the hub for too long"),
        );
      }
      if (this.#goodbye !== undefined) {
        await this.#writes;
        stream.end();
      }
    } catch (thrown) {
      this.#failure ??= MoorageError.from(thrown);
    } finally {
      leave();
      this.#close();
    }
    return { established: this.#established, goodbye: this.#goodbye, error: this.#failure };
  }

  #sayHello(): void {
    const { store, clock } = this.#c.deps;
    const held = store.held();
    const cursor = newer(store.cursor(), this.#c.bookmark.cursor);
    const statusDigest = this.#c.outbox.open();
    this.#send({
      case: "hello",
      value: {
        dataPlaneUid: this.#facts.dataPlaneUid,
        agentGeneration: BigInt(this.#facts.generation),
        instanceId: this.#facts.instanceId,
        protocolVersions: PROTOCOL_VERSIONS,
        capabilities: CAPABILITIES,
        kinds: KINDS,
        ...(cursor === undefined ? {} : { cursor }),
        statusDigest,
        limits: {
          maxMessageBytes: limits.hubToAgentMessageBytes,
          windowBytes: limits.windowBytes,
          windowItems: limits.windowItems,
        },
        agent: this.#facts.agent,
        agentTime: timestampFromMs(Math.floor(clock.now())),
        heldDigest: digestOf(held),
      },
    });
  }

  #take(message: SyncResponse["message"]): void {
    if (!this.#established) {
      if (message.case !== "hello")
        throw new MoorageError(Code.INTERNAL, "The hub's first message is no hello");
      return this.#onHello(message.value);
    }
    switch (message.case) {
      case "changes":
        return this.#onChanges(message.value);
      case "bookmark": {
        const { cursor, echo } = message.value;
        // Reached only once everything before it is durable.
        this.#acks.then(
          () => (this.#c.bookmark.cursor = cursor ?? this.#c.bookmark.cursor),
          () => undefined,
        );
        this.#echo = echo;
        return this.#heartbeat();
      }
      case "statusAck":
        failpoint("agent/status-acked");
        this.#c.outbox.acknowledge(message.value.seq);
        return this.#pumpStatus();
      case "reportRequest":
        this.#c.outbox.request(message.value.names);
        return this.#pumpStatus();
      case "policy":
        return this.#onPolicy(message.value);
      case "goodbye":
        return this.#onGoodbye(message.value);
      case "hello":
        throw new MoorageError(Code.INTERNAL, "The hub said hello twice");
      default:
        for (const extension of this.#extensions) extension.take(message);
    }
  }

  #onHello(hello: ServerHello): void {
    const { deps, state, outbox } = this.#c;
    if (!PROTOCOL_VERSIONS.includes(hello.protocolVersion)) {
      throw new MoorageError(
        Code.FAILED_PRECONDITION,
        `The hub chose protocol version ${hello.protocolVersion}, which this agent does not speak`,
      );
    }
    this.#established = true;
    this.#resume = hello.resume;
    if (hello.policy !== undefined) this.#onPolicy(hello.policy);
    if (hello.hubTime !== undefined) {
      state.clockOffsetMs =
        deps.clock.now() - (Number(hello.hubTime.seconds) * 1_000 + Math.floor(hello.hubTime.nanos / 1e6));
    }
    state.connected = true;
    state.connectedSinceMs = deps.clock.now();
    state.desiredRevision = Math.max(state.desiredRevision, Number(deps.store.cursor()?.revision ?? 0n));
    state.appliedRevision = Number(deps.store.cursor()?.revision ?? 0n);
    deps.log.info("connected to the hub", {
      resume: Object.entries(Resume).find(([, v]) => v === hello.resume)?.[0],
      replica: hello.replica,
      generation: this.#facts.generation,
    });
    if (hello.resume === Resume.COMPARE) this.#sendInventory();
    if (!hello.statusKnown) outbox.reportAll();
    this.#extensions = (deps.extensions ?? []).map((e) => e.open((m) => this.#send(m)));
    this.#heartbeatLater();
    this.#compareLater();
    this.#pumpStatus();
    this.#c.changed();
  }

  #sendInventory(): void {
    const held = this.#c.deps.store.held();
    const digest = digestOf(held);
    for (let at = 0; at === 0 || at < held.length; at += PAGE) {
      const last = at + PAGE >= held.length;
      const page = held
        .slice(at, at + PAGE)
        .map(({ name, uid, digest: d, revision }) => ({ name, uid, digest: d, revision: BigInt(revision) }));
      this.#send({
        case: "inventory",
        value: { held: page, last, digest: last ? digest : new Uint8Array() },
      });
    }
  }

  #onChanges(changes: Changes): void {
    const { deps, state } = this.#c;
    if (changes.seq !== ++this.#seq)
      throw new MoorageError(Code.DATA_LOSS, `The hub sent changes ${changes.seq}, expected ${this.#seq}`);
    requireCountable(changes);
    this.#missed ||= changes.updates.length > 0;
    const judge = changes.initialEnd && this.#resume === Resume.DELTA && this.#missed;
    for (const u of changes.updates)
      state.desiredRevision = Math.max(state.desiredRevision, Number(u.revision));
    // In the order of the batches: the store keeps positions in the order in which it is given them.
    const resolved = Promise.all([this.#resolve(changes.updates), this.#resolved]);
    this.#resolved = resolved;
    const durable = resolved.then(([updates]) =>
      deps.store.apply({ updates, cursor: changes.cursor }, this.#signal),
    );
    // Acks are cumulative: in the order of the batches, whichever was durable first.
    this.#acks = Promise.all([this.#acks, durable]).then(() => {
      const { cursor, seq } = changes;
      if (cursor !== undefined) state.appliedRevision = Number(cursor.revision);
      this.#send({ case: "ack", value: { seq, ...(cursor === undefined ? {} : { cursor }) } });
      failpoint("agent/after-ack");
      if (changes.initialEnd) deps.log.info("in sync with the hub", { revision: state.appliedRevision });
      if (judge) this.#sendDigest();
    });
    this.#acks.catch((thrown: unknown) => this.#failWith(MoorageError.from(thrown)));
  }

  /** Bodies by reference become inline ones, verified on the way. */
  async #resolve(updates: readonly Update[]): Promise<Update[]> {
    return Promise.all(
      updates.map(async (update) => {
        if (update.change.case !== "upsert" || update.change.value.content.case !== "blob") return update;
        const resource = update.change.value;
        const body = await fetchBody(update.change.value.content.value, this.#c.deps, this.#signal);
        // As it came: the store rejects this one resource.
        if (body === undefined) return update;
        const value = create(ResourceSchema, {
          ...resource,
          encoding: resource.encoding || Encoding.PROTO,
          content: { case: "body", value: body },
        });
        return create(UpdateSchema, { ...update, change: { case: "upsert", value } });
      }),
    );
  }

  #onPolicy(policy: Policy): void {
    const { policy: kept, state } = this.#c;
    const ms = (d: { seconds: bigint; nanos: number } | undefined, old: number) =>
      d === undefined ? old : Number(d.seconds) * 1_000 + d.nanos / 1e6;
    kept.heartbeatMs = Math.max(1_000, ms(policy.heartbeatInterval, kept.heartbeatMs));
    kept.statusMinMs = ms(policy.statusMinInterval, kept.statusMinMs);
    kept.reconnectSpreadMs = ms(policy.reconnectSpread, kept.reconnectSpreadMs);
    kept.compareMs = Math.max(60_000, ms(policy.compareInterval, kept.compareMs));
    state.maxRemovalsPerSync = policy.maxRemovalsPerSync;
    if (this.#timers.has("heartbeat")) this.#heartbeatLater();
  }

  #onGoodbye(goodbye: Goodbye): void {
    const after = goodbye.reconnectAfter;
    const reconnectAfterMs = after === undefined ? 0 : Number(after.seconds) * 1_000 + after.nanos / 1e6;
    this.#goodbye = { reason: goodbye.reason, reconnectAfterMs };
  }

  #heartbeat(): void {
    const { clock } = this.#c.deps;
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
    const { heartbeatMs } = this.#c.policy;
    // A little earlier than asked, never later: late ones count as silence.
    this.#timer("heartbeat", heartbeatMs * (0.9 + 0.1 * this.#c.deps.rng.float()), () => this.#heartbeat());
  }

  #compareLater(): void {
    this.#timer("compare", this.#c.policy.compareMs * (0.75 + 0.5 * this.#c.deps.rng.float()), () => {
      this.#sendDigest();
      this.#compareLater();
    });
  }

  #sendDigest(): void {
    const digest = digestOf(this.#c.deps.store.held());
    this.#send({ case: "inventory", value: { held: [], last: true, digest } });
  }

  #pumpStatus(): void {
    if (!this.#established) return;
    const { outbox, policy } = this.#c;
    if (outbox.due === "now") {
      this.#cancel("status");
      const report = outbox.take();
      if (report !== undefined) this.#send({ case: "status", value: report });
    } else if (outbox.due === "later" && !this.#timers.has("status")) {
      this.#timer("status", policy.statusMinMs, () => {
        const report = outbox.take();
        if (report !== undefined) this.#send({ case: "status", value: report });
      });
    }
  }

  /** Queues a message behind those before it, as fast as the transport takes them. */
  #send(message: ToHub): void {
    const stream = this.#stream;
    if (stream === undefined || this.#signal.aborted) return;
    const request = create(SyncRequestSchema, { message });
    const size = toBinary(SyncRequestSchema, request).length;
    if (size > limits.agentToHubMessageBytes)
      throw new Error(
        `Cannot send "${String(message.case)}": ${size} bytes are above the limit of ${limits.agentToHubMessageBytes}`,
      );
    if (this.#blocked === 0) {
      if (!stream.write(request)) this.#wait(stream);
      return;
    }
    this.#blocked++;
    this.#writes = this.#writes.then(async () => {
      if (!this.#signal.aborted && !stream.write(request)) await stream.drained();
      this.#blocked--;
    });
  }

  #wait(stream: Stream): void {
    this.#blocked++;
    this.#writes = this.#writes.then(() => stream.drained()).then(() => void this.#blocked--);
  }

  #timer(name: string, ms: number, fn: () => void): void {
    this.#cancel(name);
    this.#timers.set(
      name,
      this.#c.deps.clock.setTimer(ms, () => {
        this.#timers.delete(name);
        this.#guarded(fn);
      }),
    );
  }

  /** What is called from outside the read loop must end the stream on an error, not the process. */
  #guarded(fn: () => void): void {
    try {
      fn();
    } catch (thrown) {
      this.#failWith(MoorageError.from(thrown));
    }
  }

  #cancel(name: string): void {
    this.#timers.get(name)?.cancel();
    this.#timers.delete(name);
  }

  #fail(code: Code, message: string): void {
    this.#failWith(new MoorageError(code, message));
  }

  #failWith(error: MoorageError): void {
    if (this.#end.signal.aborted) return;
    this.#failure ??= error;
    this.#end.abort(error);
    this.#stream?.cancel();
  }

  #close(): void {
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    for (const extension of this.#extensions) extension.close();
    this.#end.abort(new DOMException("The stream ended", "AbortError"));
    if (this.#c.state.connected) {
      this.#c.state.connected = false;
      this.#c.changed();
    }
  }
}

/** The digest of all that is held without an order to remove it. */
function digestOf(held: readonly HeldRecord[]): Uint8Array {
  return heldDigest(held.filter((h) => !h.removing));
}

/** The later of two positions of one epoch; the durable one when the epochs differ. */
function newer(durable: Cursor | undefined, seen: Cursor | undefined): Cursor | undefined {
  if (durable === undefined || seen === undefined) return durable;
  const sameEpoch = Buffer.from(durable.epoch).equals(seen.epoch);
  return sameEpoch && seen.revision > durable.revision ? seen : durable;
}

/** Throws when a revision or generation is none: the cluster's API and its clients keep 53 bits of a number. */
function requireCountable({ updates, cursor }: Changes): void {
  const require = (field: string, value: bigint) => {
    if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER))
      throw new MoorageError(
        Code.DATA_LOSS,
        `The hub sent ${field} ${value}, which is not from 0 to 2^53 - 1`,
      );
  };
  if (cursor !== undefined) require("cursor.revision", cursor.revision);
  for (const [i, { revision, change }] of updates.entries()) {
    require(`updates[${i}].revision`, revision);
    if (change.case === "upsert") require(`updates[${i}].upsert.generation`, change.value.generation);
  }
}
