import { fromBinary } from "@bufbuild/protobuf";
import { LinkState, StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock, Timer } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import { prefixes } from "../core/keys.ts";
import { keyText, prefix } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import { changeLink, transition } from "./links.ts";

/**
 * Silence of agents as stored transitions. Signs of life stay in memory; the store sees DISCONNECTED
 * after two heartbeat intervals and 5 s of silence, SILENT after twice that, each once.
 */

/** After a transition that could not be stored, as with a full disk. */
const RETRY_MS = 10_000;

/** The two deadlines, in milliseconds since the last sign of life. */
export interface SilenceDeadlines {
  disconnectedMs: number;
  silentMs: number;
}

/** The deadlines of a heartbeat interval. Source: design README section 1, promise 7. */
export function silenceDeadlines(heartbeatIntervalMs: number): SilenceDeadlines {
  const disconnectedMs = 2 * heartbeatIntervalMs + 5_000;
  return { disconnectedMs, silentMs: 2 * disconnectedMs };
}

/** The state that silence alone gives, and how long until the next one; pure. */
export function silenceState(
  silentForMs: number,
  d: SilenceDeadlines,
): { state: LinkState; nextInMs: number | undefined } {
  if (silentForMs >= d.silentMs) return { state: LinkState.SILENT, nextInMs: undefined };
  if (silentForMs >= d.disconnectedMs)
    return { state: LinkState.DISCONNECTED, nextInMs: d.silentMs - silentForMs };
  return { state: LinkState.CONNECTED, nextInMs: d.disconnectedMs - silentForMs };
}

interface Watched {
  seenMonotonicMs: number;
  seenWallMs: number;
  /** State last stored by this process. */
  stored: LinkState;
  timer: Timer | undefined;
  streamEnded: boolean;
  deadlines: SilenceDeadlines;
  /** A transition is being stored. */
  busy: Promise<void> | undefined;
}

/** What {@link Silence} needs. */
export interface SilenceOptions {
  store: Store;
  clock: Clock;
  log: Logger;
  deadlines: SilenceDeadlines;
  /** After a start agents have this long to come back before silence counts. */
  graceMs: number;
  /** The first deadline of a data plane passed: its stream, if one stands, is dead. */
  onDisconnected: (dataPlaneUid: string) => void;
}

/** Follows the silence of every data plane until it is stored as SILENT, or the data plane is gone. */
export class Silence {
  readonly #o: SilenceOptions;
  readonly #watched = new Map<string, Watched>();
  #stopped = false;

  constructor(options: SilenceOptions) {
    this.#o = options;
  }

  /** Takes up what is stored: whoever was connected gets the grace, then the deadlines. */
  async start(): Promise<void> {
    const { kvs } = await this.#o.store.range(prefix(prefixes.links));
    const at = this.#o.clock.monotonicMs() + this.#o.graceMs;
    for (const kv of kvs) {
      const uid = keyText(kv.key).slice(prefixes.links.length);
      const link = fromBinary(StoredLinkSchema, kv.value);
      if (this.#watched.has(uid) || link.state === LinkState.SILENT || link.state === LinkState.UNSPECIFIED)
        continue;
      const seenWallMs = Number(link.lastSeenTime?.seconds ?? 0n) * 1000;
      this.#watch(uid, {
        seenMonotonicMs: at,
        seenWallMs,
        stored: link.state,
        timer: undefined,
        streamEnded: true,
        deadlines: this.#o.deadlines,
        busy: undefined,
      });
    }
  }

  /**
   * A stream is up. Called before its link is stored as CONNECTED; settles once no older transition
   * of the data plane is under way, so that none lands after it.
   */
  async up(uid: string): Promise<void> {
    const before = this.#watched.get(uid);
    before?.timer?.cancel();
    const seenMonotonicMs = this.#o.clock.monotonicMs();
    const seenWallMs = this.#o.clock.now();
    const stored = LinkState.CONNECTED;
    this.#watch(uid, {
      seenMonotonicMs,
      seenWallMs,
      stored,
      timer: undefined,
      streamEnded: false,
      // The newcomer may not be admitted: then the stream that stands goes by what it was told.
      deadlines: before?.deadlines ?? this.#o.deadlines,
      busy: undefined,
    });
    await before?.busy?.catch(() => undefined);
  }

  /** Any frame of the agent arrived. */
  seen(uid: string): void {
    const w = this.#watched.get(uid);
    if (w === undefined) return;
    w.seenMonotonicMs = this.#o.clock.monotonicMs();
    w.seenWallMs = this.#o.clock.now();
  }

  /** The agent was told to send signs of life at this interval; the deadlines follow. */
  told(uid: string, heartbeatIntervalMs: number): void {
    const w = this.#watched.get(uid);
    if (w === undefined) return;
    w.deadlines = silenceDeadlines(heartbeatIntervalMs);
    w.timer?.cancel();
    this.#arm(uid, w);
  }

  /** The stream ended; the deadlines run from the last frame all the same. */
  ended(uid: string): void {
    const w = this.#watched.get(uid);
    if (w !== undefined) w.streamEnded = true;
  }

  /** Cancels every timer. */
  stop(): void {
    this.#stopped = true;
    for (const w of this.#watched.values()) w.timer?.cancel();
    this.#watched.clear();
  }

  #watch(uid: string, w: Watched): void {
    this.#watched.set(uid, w);
    this.#arm(uid, w);
  }

  #arm(uid: string, w: Watched): void {
    const { nextInMs } = silenceState(this.#o.clock.monotonicMs() - w.seenMonotonicMs, w.deadlines);
    if (nextInMs !== undefined) this.#lookAgain(uid, w, nextInMs);
  }

  #lookAgain(uid: string, w: Watched, inMs: number): void {
    if (this.#stopped || this.#watched.get(uid) !== w) return;
    w.timer = this.#o.clock.setTimer(inMs, () => void this.#check(uid, w));
  }

  async #check(uid: string, w: Watched): Promise<void> {
    const { state } = silenceState(this.#o.clock.monotonicMs() - w.seenMonotonicMs, w.deadlines);
    if (state !== LinkState.CONNECTED && state !== w.stored) {
      try {
        w.busy = this.#store(uid, w, state);
        await w.busy;
      } catch (error) {
        this.#o.log.error("Cannot store the silence of an agent", { dataPlaneUid: uid, error });
        return this.#lookAgain(uid, w, RETRY_MS);
      } finally {
        w.busy = undefined;
      }
    }
    this.#arm(uid, w);
  }

  async #store(uid: string, w: Watched, state: LinkState): Promise<void> {
    const { clock, store, log } = this.#o;
    const reason = w.streamEnded ? "StreamEnded" : "NoHeartbeat";
    if (state === LinkState.DISCONNECTED) this.#o.onDisconnected(uid);
    const link = await changeLink(store, uid, (stored) => {
      // A stream that came up meanwhile has replaced the entry, or will store CONNECTED after this.
      const stale =
        this.#watched.get(uid) !== w || stored.state === state || stored.state === LinkState.UNSPECIFIED;
      return stale
        ? undefined
        : transition(stored, { state, reason, nowMs: clock.now(), seenMs: w.seenWallMs });
    });
    w.stored = state;
    log.info("Agent is silent", { dataPlaneUid: uid, state, reason });
    // Nothing follows until the next stream.
    const over = state === LinkState.SILENT || link.state === LinkState.UNSPECIFIED;
    if (over && this.#watched.get(uid) === w) this.#watched.delete(uid);
  }
}
