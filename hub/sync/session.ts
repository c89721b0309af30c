import { durationFromMs, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type {
  Ack,
  ClientHello,
  Heartbeat,
  InventoryPage,
  SyncRequest,
} from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Resume } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Timer } from "@moorage/shared/clock";
import type { MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import { isStoreError } from "../store/errors.ts";
import { Bookmarks } from "./bookmarks.ts";
import { Inventory } from "./compare.ts";
import type { SyncCounts } from "./counts.ts";
import type { StreamFrame } from "./frames.ts";
import { stuck } from "./ends.ts";
import { encodeChanges, frameLimitsFor, streamFrames } from "./frames.ts";
import { HeldBack } from "./held-back.ts";
import type { MessageCase, MessageOf, MessageValue, SyncStream } from "./messages.ts";
import { broken, policyMessage } from "./messages.ts";
import type { Opening } from "./open.ts";
import { abilitiesOf } from "./open.ts";
import type { Restored } from "./plan-resume.ts";
import { Progress } from "./progress.ts";
import { worthTelling } from "./policy.ts";
import { Reports, RETRY_MS } from "./reports.ts";
import { HistoryLost, refuseLoss, selectRows } from "./select.ts";
import { Wake } from "./signal.ts";
import type { StatusDeps } from "./status.ts";
import { judgeHeld, Surveys } from "./survey.ts";
import type { AgentPrincipal, ConnectedAgent, SyncPolicy } from "./sync.ts";
import type { Window, WindowLimits } from "./window.ts";
import { acked, fits, openWindow, room, sent, windowLimitsFor } from "./window.ts";

/** What a session needs of the hub. */
export interface SessionDeps extends StatusDeps {
  /** The policy of now, for a fleet of today's size. */
  policy(): SyncPolicy;
  /** Set while the hub's epoch waits for its acceptance. */
  restored(): Restored | undefined;
  /**
   * An agent holds a revision that this hub gave and no longer has: begins a new epoch, once. Rejects
   * with what the stream ends with: it is of the epoch before, whoever began the new one.
   */
  historyLost(agentRevision: number): Promise<never>;
  /** Something was held back although the epoch is accepted by now. */
  settleDivergences(): void;
  replica: string;
  counts: SyncCounts;
  /** Uniform in [0, 1), for jitter. */
  random(): number;
  /** A sign of life. */
  seen(): void;
  /** The agent was told to send signs of life at this interval. */
  heartbeatTold(intervalMs: number): void;
  /** The next stream of this agent is to compare. */
  requestCompare(): void;
  /** The first part of the stream is over. */
  onInitialEnd(): void;
  /** The turn to store a status report; the function answered gives it back. */
  reportTurn(): Promise<() => void>;
}

/** What a session is about. */
export interface SessionFacts {
  principal: AgentPrincipal;
  hello: ClientHello;
  version: number;
  opening: Opening;
  /** Stores that the stream is up, as soon as there is room for it; true once it is. Undefined: it is. */
  storeLink: (() => Promise<boolean>) | undefined;
}

type Outcome = { error?: unknown };

/** Part of a stream: waiting for the inventory, sending what was missed, following changes. */
type Phase = "inventory" | "initial" | "live";

/**
 * One stream after its hello was admitted: a position in the data plane's rows, a window of un-acked
 * frames, and the answers to the agent's messages. Sending and receiving are two loops that share
 * nothing but this object.
 */
export class Session {
  readonly principal: AgentPrincipal;
  readonly agentGeneration: bigint;
  readonly #deps: SessionDeps;
  readonly #stream: SyncStream;
  readonly #facts: SessionFacts;
  readonly #abilities;
  readonly #wake = new Wake();
  readonly #inventory = new Inventory();
  readonly #frameLimits;
  readonly #heldBack: HeldBack;
  #linkStored: SessionFacts["storeLink"];
  #told: SyncPolicy;
  #phase: Phase;
  #window: Window;
  #position: number;
  #pending: StreamFrame[] = [];
  #dirty = true;
  readonly #bookmarks: Bookmarks;
  readonly #progress: Progress;
  /** Writers that wait for the transport. */
  #blocked = 0;
  #bookmarkTimer: Timer | undefined;
  #retry: Timer | undefined;
  #clockOffsetMs = 0;
  #unknownToHub: readonly string[] = [];
  readonly #surveys: Surveys;
  readonly #reports: Reports;
  #saidGoodbye = false;
  #outcome: Outcome | undefined;
  #settle: () => void = () => undefined;

  constructor(deps: SessionDeps, stream: SyncStream, facts: SessionFacts) {
    const { hello, opening } = facts;
    this.principal = facts.principal;
    this.agentGeneration = hello.agentGeneration;
    this.#deps = deps;
    this.#stream = stream;
    this.#facts = facts;
    this.#linkStored = facts.storeLink;
    this.#abilities = abilitiesOf(hello);
    this.#heldBack = new HeldBack(deps, facts.principal, opening.divergences);
    const { dataPlaneUid } = facts.principal;
    this.#surveys = new Surveys(deps, { dataPlaneUid, abilities: this.#abilities });
    this.#reports = new Reports(deps, {
      by: { dataPlaneUid, agentGeneration: hello.agentGeneration },
      surveys: this.#surveys,
      position: () => this.#position,
      turn: () => deps.reportTurn(),
      ack: (seq) => this.#write("statusAck", { seq }),
      request: () => this.#write("reportRequest", { names: [] }),
      drained: () => this.#drained(),
      failed: (error) => this.#end({ error }),
    });
    this.#told = deps.policy();
    this.#phase = opening.plan.mode === "COMPARE" ? "inventory" : "initial";
    this.#position = opening.plan.after;
    this.#window = openWindow(windowLimitsFor(hello.limits), opening.plan.after);
    this.#frameLimits = frameLimitsFor(hello.limits);
    this.#bookmarks = new Bookmarks(deps.clock);
    this.#progress = new Progress(deps.clock);
    this.#setOffset(hello.agentTime === undefined ? undefined : timestampMs(hello.agentTime));
  }

  /** Serves the stream to its end; `messages` continue after the hello. Rejects with the status to answer. */
  async run(messages: AsyncIterator<SyncRequest>): Promise<void> {
    const over = new Promise<void>((resolve) => (this.#settle = resolve));
    if (this.#outcome === undefined) {
      this.#greet();
      this.#armBookmark();
      this.#read(messages).then(
        () => this.#end({}),
        (error: unknown) => this.#end({ error }),
      );
      this.#send().catch((error: unknown) => void this.#sendFailed(error));
      await over;
    }
    this.#retry?.cancel();
    this.#bookmarkTimer?.cancel();
    this.#deps.onInitialEnd();
    const outcome = this.#outcome as Outcome | undefined;
    if (outcome !== undefined && "error" in outcome) throw outcome.error;
  }

  /** The stream was ended in good order by the hub. */
  get saidGoodbye(): boolean {
    return this.#saidGoodbye;
  }

  /** Rows of this data plane changed. */
  changed(): void {
    this.#dirty = true;
    this.#wake.notify();
  }

  /** Ends the stream with an error status, at once even when the agent does not read. */
  abort(error: MoorageError): void {
    if (this.#outcome !== undefined) return;
    this.#end({ error });
    this.#stream.abort(error);
  }

  /** Ends the stream in good order: the agent comes back after the delay. */
  goodbye(reason: string, reconnectAfterMs: number): void {
    if (this.#outcome !== undefined) return;
    this.#saidGoodbye = true;
    this.#write("goodbye", { reason, reconnectAfter: durationFromMs(Math.round(reconnectAfterMs)) });
    this.#end({});
  }

  /** Ends the stream because the hub goes: with the newest position, so that the agent resumes from it. */
  leave(reconnectAfterMs: number): void {
    const current = this.#phase === "live" && this.#pending.length === 0 && !this.#dirty;
    if (this.#outcome === undefined && current) {
      const cursor = { epoch: this.#facts.opening.epoch, revision: BigInt(this.#position) };
      this.#write("bookmark", { cursor, echo: this.#bookmarks.echo });
    }
    this.goodbye("DRAINING", reconnectAfterMs);
  }

  /** Tells the agent the policy of now, when it differs from what it was told. True when it was sent. */
  tell(policy: SyncPolicy): boolean {
    if (this.#outcome !== undefined || !worthTelling(this.#told, policy)) return false;
    this.#told = policy;
    this.#deps.heartbeatTold(policy.heartbeatIntervalMs);
    this.#write("policy", policyMessage(policy));
    return true;
  }

  /** The stream as views and metrics see it. */
  info(): ConnectedAgent {
    return {
      dataPlaneUid: this.principal.dataPlaneUid,
      dataPlane: this.principal.dataPlane,
      agentGeneration: Number(this.agentGeneration),
      agentVersion: this.#facts.hello.agent?.version ?? "",
      mode: this.#facts.opening.plan.mode,
      position: this.#position,
      ackedRevision: this.#window.ackedRevision,
      clockOffsetMs: this.#clockOffsetMs,
      roundTripMs: this.#bookmarks.roundTripMs,
      unknownToHub: this.#unknownToHub,
    };
  }

  #end(outcome: Outcome): void {
    if (this.#outcome !== undefined) return;
    this.#outcome = outcome;
    this.#reports.close();
    this.#wake.notify();
    this.#settle();
  }

  #greet(): void {
    failpoint("sync/hello");
    const { clock, replica } = this.#deps;
    const { opening, version } = this.#facts;
    this.#deps.heartbeatTold(this.#told.heartbeatIntervalMs);
    this.#write("hello", {
      protocolVersion: version,
      capabilities: [],
      resume: Resume[opening.plan.mode],
      head: { epoch: opening.epoch, revision: BigInt(opening.head) },
      policy: policyMessage(this.#told),
      statusKnown: opening.statusKnown,
      hubTime: timestampFromMs(clock.now()),
      replica,
    });
  }

  /** Writes one message that is no frame of changes; false when the transport is full. */
  #write<K extends Exclude<MessageCase, "changes">>(kind: K, value: MessageValue<K>): boolean {
    this.#deps.counts.messageSent(kind);
    return this.#stream.write({ message: { case: kind, value } as MessageOf });
  }

  /** Waits until the transport has room. */
  async #drained(): Promise<void> {
    this.#blocked++;
    await this.#stream.drained();
    this.#blocked--;
    this.#progress.made();
  }

  // Sending: one loop that goes to sleep whenever there is nothing to send, or no room for it.

  async #send(): Promise<void> {
    while (this.#outcome === undefined) {
      if (!(await this.#step())) await this.#wake.wait();
    }
  }

  async #sendFailed(error: unknown): Promise<void> {
    if (error instanceof HistoryLost) {
      // Ends this stream with all others; the next one compares under the new epoch.
      return this.#deps.historyLost(error.revision).catch((thrown: unknown) => this.#end({ error: thrown }));
    }
    this.#end({ error });
  }

  /** One step of sending; false when there is nothing to do until something happens. */
  async #step(): Promise<boolean> {
    if (this.#phase === "inventory") return false;
    const frame = this.#pending[0];
    if (frame !== undefined) {
      // The position is that of the frame, which may stand for long: the agent sees a stream that lives.
      if (!fits(this.#window, { bytes: frame.bytes, items: frame.rows.length }))
        return this.#sendBookmark(undefined);
      this.#pending.shift();
      await this.#sendFrame(frame);
      return true;
    }
    // Rows are read when they can go: what is read ahead grows old, and would be sent twice.
    const free = room(this.#window);
    if (this.#dirty && free.items > 0 && free.bytes > 0) {
      this.#dirty = false;
      await this.#load(free).catch((thrown: unknown) => this.#waitForRoom(thrown));
      return true;
    }
    return this.#sendBookmark({ epoch: this.#facts.opening.epoch, revision: BigInt(this.#position) });
  }

  /** What is withheld or written anew could not be stored: the rows are read again when there may be room. */
  #waitForRoom(thrown: unknown): void {
    if (!isStoreError(thrown, "STORE_FULL")) throw thrown;
    this.#retry?.cancel();
    this.#retry = this.#deps.clock.setTimer(RETRY_MS, () => this.changed());
  }

  async #sendFrame(frame: StreamFrame): Promise<void> {
    const { rows, cursor, bytes, initialEnd } = frame;
    this.#window = sent(this.#window, { bytes, items: rows.length, revision: cursor });
    const { epoch } = this.#facts.opening;
    const data = encodeChanges({ seq: this.#window.lastSeq, epoch, cursor, rows, initialEnd });
    this.#deps.counts.messageSent("changes");
    this.#deps.counts.sent({ items: rows.length, bytes: data.length });
    if (initialEnd) this.#endInitial();
    failpoint("sync/before-frame");
    const room = this.#stream.write(data);
    failpoint("sync/after-frame");
    if (!room) await this.#drained();
  }

  /** Reads the next rows above the position and makes frames of those that are to be sent. */
  async #load(free: WindowLimits): Promise<void> {
    const dp = this.principal.dataPlaneUid;
    const limit = Math.min(this.#frameLimits.items, free.items);
    const maxBytes = Math.min(this.#frameLimits.bytes, free.bytes);
    let result;
    try {
      result = await this.#deps.store.changes({ dp, after: this.#position, limit, maxBytes });
    } catch (thrown) {
      if (!isStoreError(thrown, "DATA_PLANE_UNKNOWN")) throw thrown;
      // The report that ended it may still wait for its ack.
      await this.#reports.settled;
      this.goodbye("FORGOTTEN", this.#told.reconnectSpreadMs);
      return;
    }
    const { hello } = this.#facts;
    const { plan, deliverable, loss } = this.#facts.opening;
    const comparing = this.#phase === "initial" && plan.mode === "COMPARE";
    const cursorRevision = hello.cursor === undefined ? undefined : Number(hello.cursor.revision);
    const { rows, withheld } = await selectRows(this.#deps, result.rows, {
      by: { dataPlaneUid: dp, agentGeneration: this.agentGeneration },
      abilities: this.#abilities,
      compare: comparing ? { inventory: this.#inventory, cursorRevision, deliverable, loss } : undefined,
      restored: this.#deps.restored(),
      divergences: this.#heldBack.all,
    });
    // Before any cursor passes them: a later stream must know what was held back.
    await this.#heldBack.add(withheld);
    const last = result.rows.at(-1);
    this.#position = result.more && last !== undefined ? last.rev : result.head;
    if (result.more) this.#dirty = true;
    else if (comparing) {
      const unknown = this.#inventory.unmatched();
      const known = Math.max(this.#facts.opening.head, result.head);
      for (const { held } of unknown) refuseLoss(held, known, loss);
      this.#unknownToHub = unknown.map((u) => u.uid);
      await this.#heldBack.endCompare(unknown);
    }
    const ends = this.#phase === "initial" && !result.more;
    this.#pending = streamFrames(rows, { position: this.#position, ends, comparing }, this.#frameLimits);
  }

  #endInitial(): void {
    if (this.#phase === "live") return;
    this.#phase = "live";
    this.#deps.onInitialEnd();
  }

  #armBookmark(): void {
    const { clock } = this.#deps;
    const delay = this.#told.bookmarkIntervalMs * (0.9 + 0.2 * this.#deps.random());
    this.#bookmarkTimer = clock.setTimer(delay, () => {
      if (this.#outcome !== undefined) return;
      const waiting = this.#phase === "inventory" || this.#window.unacked.length > 0 || this.#blocked > 0;
      if (this.#progress.stuck(waiting)) return this.abort(stuck());
      this.#bookmarks.due = true;
      // Reading again moves the position past revisions of other data planes.
      this.#dirty = true;
      this.#wake.notify();
      this.#storeLink();
      this.#armBookmark();
    });
  }

  #storeLink(): void {
    this.#linkStored?.().then(
      (stored) => {
        if (stored) this.#linkStored = undefined;
      },
      (error: unknown) => this.#end({ error }),
    );
  }

  /** Sends the bookmark that is due, without a cursor while there is no position to name; false when none is. */
  async #sendBookmark(cursor: MessageValue<"bookmark">["cursor"]): Promise<boolean> {
    if (!this.#bookmarks.due) return false;
    const bookmark = { ...(cursor === undefined ? {} : { cursor }), echo: this.#bookmarks.next() };
    if (!this.#write("bookmark", bookmark)) await this.#drained();
    return true;
  }

  // Receiving: one loop over the agent's messages; none of them waits for the store.

  async #read(messages: AsyncIterator<SyncRequest>): Promise<void> {
    while (this.#outcome === undefined) {
      const next = await messages.next();
      if (next.done === true || this.#outcome !== undefined) return;
      this.#deps.seen();
      this.#deps.counts.messageReceived(next.value.message.case);
      await this.#receive(next.value);
    }
  }

  async #receive({ message }: SyncRequest): Promise<void> {
    switch (message.case) {
      case "ack":
        return this.#onAck(message.value);
      case "status":
        return this.#reports.take(message.value);
      case "heartbeat":
        return this.#onHeartbeat(message.value);
      case "inventory":
        return this.#onInventory(message.value);
      case "usageHello":
      case "usageSegment":
      case "records":
        // Capabilities that this hub does not announce; unanswered, the agent keeps what it has.
        this.#deps.log.warn("Message of a capability that was not announced", { message: message.case });
        return;
      case "hello":
        throw broken('message "hello": a stream has exactly one, as its first message');
      case undefined:
        throw broken("message: it is none of those that SyncRequest defines");
    }
  }

  #onAck(ack: Ack): void {
    const next = acked(this.#window, Number(ack.seq));
    if (next === undefined) {
      throw broken(`ack of seq "${ack.seq}": the last one sent was "${this.#window.lastSeq}"`);
    }
    if (next.unacked.length < this.#window.unacked.length) this.#progress.made();
    this.#window = next;
    failpoint("sync/acked");
    this.#wake.notify();
  }

  #onHeartbeat(beat: Heartbeat): void {
    this.#setOffset(beat.agentTime === undefined ? undefined : timestampMs(beat.agentTime));
    this.#bookmarks.echoed(beat.bookmarkEcho);
  }

  #setOffset(agentMs: number | undefined): void {
    if (agentMs === undefined) return;
    const before = Math.abs(this.#clockOffsetMs) > limits.clockSkewMs;
    this.#clockOffsetMs = agentMs - this.#deps.clock.now();
    if (!before && Math.abs(this.#clockOffsetMs) > limits.clockSkewMs) {
      const { dataPlane } = this.principal;
      this.#deps.log.warn("Clock of an agent is off", { dataPlane, offsetMs: this.#clockOffsetMs });
    }
  }

  async #onInventory(page: InventoryPage): Promise<void> {
    if (this.#phase === "inventory") {
      this.#inventory.add(page);
      this.#progress.made();
      if (!this.#inventory.complete) return;
      this.#phase = "initial";
      this.#wake.notify();
      return;
    }
    if (page.held.length > 0) throw broken("inventory: the hub did not ask for one");
    await this.#judgeDigest(page.digest);
  }

  /** The compare of an agent that has all there is: 32 bytes when all is well. */
  async #judgeDigest(digest: Uint8Array): Promise<void> {
    const settled = () =>
      this.#phase === "live" &&
      !this.#dirty &&
      this.#pending.length === 0 &&
      this.#window.unacked.length === 0;
    if (digest.length === 0 || !settled()) return;
    const found = await this.#surveys.take("held", this.#position);
    if (!settled() || found === undefined || judgeHeld(digest, found) !== "differs") return;
    this.#deps.requestCompare();
    this.goodbye("COMPARE", 0);
  }
}
