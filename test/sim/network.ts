/** The network between one agent's process and the hub: latency, cuts, holds, stalls and refusals. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { SyncResponseSchema, SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { SyncRequest, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { MemoryLink } from "@moorage/shared/grpc/memory-link";
import { MessageQueue } from "@moorage/shared/grpc/queue";
import type { BoundService, CallContext, ServerDuplex } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import type { Rng } from "@moorage/shared/rng";
import type { VirtualClock } from "./virtual-clock.ts";

type Stream = ServerDuplex<SyncRequest, SyncResponse>;

/** Changes messages on one stream: where bugs of either end are planted. Nothing returned: dropped. */
export interface Wire {
  /** A message of the agent, at the hub's end; `more` gives the hub another one. */
  up?(message: SyncRequest, more: (message: SyncRequest) => void): SyncRequest | undefined;
  /** A message of the hub, at the agent's end. */
  down?(message: SyncResponse): SyncResponse | undefined;
}

/** Who looks at a stream. */
export interface PathEvents {
  /** A message arrived. */
  arrived(line: string): void;
  /** The agent handed a message over to be sent. */
  sent(message: SyncRequest): void;
  wire?: Wire | undefined;
}

/** One agent's path. Order holds inside a stream, as under TCP, and not between streams. */
export class Path {
  /** New connections are refused until then, milliseconds of the monotonic clock. */
  downUntilMs = 0;
  /** What is sent before then arrives then: a path that swallows without an error. */
  heldUntilMs = 0;
  /** The agent reads nothing until then, and its buffers are full. */
  stalledUntilMs = 0;
  /** Bytes and messages that arrived at the agent. */
  readonly down = { bytes: 0, messages: 0 };
  /** Called with each message at the agent's end while set. */
  onDown: ((message: SyncResponse) => void) | undefined;
  readonly links = new Set<MemoryLink>();
  readonly #clock: VirtualClock;
  readonly #rng: Rng;
  /** The hub learns of the end of today's connections so much later. */
  #lingerMs = 0;

  constructor(deps: { clock: VirtualClock; rng: Rng }) {
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  /** Milliseconds that a message sent now is under way. */
  delayMs(): number {
    const held = Math.max(0, this.heldUntilMs - this.#clock.monotonicMs());
    const slow = this.#rng.float() < 0.02 ? 2_000 : 40;
    return held + 1 + Math.floor(this.#rng.float() * slow);
  }

  /** Rejects while the path is down. */
  async connect(signal: AbortSignal): Promise<void> {
    await sleep(this.#clock, this.delayMs(), signal);
    if (this.downUntilMs > this.#clock.monotonicMs())
      throw new MoorageError(Code.UNAVAILABLE, "Cannot connect: the path is down");
  }

  /** Breaks every connection; the hub hears of it `lingerMs` later. */
  cut(lingerMs = 0): void {
    this.#lingerMs = lingerMs;
    for (const link of this.links) link.close();
    this.links.clear();
    this.#lingerMs = 0;
  }

  /** The stream's service with this path's delays in both directions. */
  delayed(service: BoundService, on: PathEvents): BoundService {
    type Serve = (stream: Stream, ctx: CallContext) => Promise<void>;
    const serve = service.handlers["sync"] as unknown as Serve;
    const sync: Serve = async (stream, ctx) => {
      const end = new AbortController();
      const abort = () => this.#linger(() => end.abort(ctx.signal.reason));
      if (ctx.signal.aborted) abort();
      ctx.signal.addEventListener("abort", abort, { once: true });
      const down = this.#down(stream, on);
      const up = this.#up(stream, on);
      const delayed: Stream = { ...down.end, read: () => up.read() };
      try {
        await serve(delayed, { ...ctx, signal: end.signal });
      } finally {
        // What was said before the end arrives before it.
        const left = down.lastDueMs() - this.#clock.monotonicMs();
        if (left > 0 && !end.signal.aborted) await sleep(this.#clock, left);
      }
    };
    return bind(SyncService, { sync } as never);
  }

  #linger(fn: () => void): void {
    if (this.#lingerMs === 0) fn();
    else this.#clock.setTimer(this.#lingerMs, fn);
  }

  #up(stream: Stream, on: PathEvents): MessageQueue<SyncRequest> {
    const queue = new MessageQueue<SyncRequest>();
    let dueMs = 0;
    const later = (fn: () => void) => {
      dueMs = Math.max(dueMs, this.#clock.monotonicMs() + this.delayMs());
      this.#clock.setTimer(dueMs - this.#clock.monotonicMs(), fn);
    };
    const arrive = (message: SyncRequest) => {
      const passed = on.wire?.up === undefined ? message : on.wire.up(message, (more) => queue.push(more));
      if (passed === undefined) return;
      on.arrived(`up ${passed.message.case ?? "none"}`);
      queue.push(passed);
    };
    const pump = async () => {
      for await (const message of stream.read()) {
        on.sent(message);
        later(() => arrive(message));
      }
      later(() => queue.end());
    };
    pump().catch((error: unknown) => this.#linger(() => queue.fail(error, true)));
    return queue;
  }

  #down(stream: Stream, on: PathEvents): { end: Omit<Stream, "read">; lastDueMs(): number } {
    const clock = this.#clock;
    let dueMs = 0;
    const later = (fn: () => void) => {
      const free = Math.max(clock.monotonicMs() + this.delayMs(), this.stalledUntilMs);
      dueMs = Math.max(dueMs, free);
      clock.setTimer(dueMs - clock.monotonicMs(), fn);
    };
    const arrive = (given: SyncResponse | Uint8Array) => {
      // Frames are looked into only where somebody wants to see.
      const open = on.wire?.down !== undefined || this.onDown !== undefined;
      const bytes = given instanceof Uint8Array ? given : undefined;
      let message = bytes === undefined ? create(SyncResponseSchema, given as SyncResponse) : undefined;
      if (open) message ??= fromBinary(SyncResponseSchema, bytes ?? new Uint8Array());
      if (message !== undefined && on.wire?.down !== undefined) message = on.wire.down(message);
      if (message === undefined && (open || bytes === undefined)) return;
      if (message !== undefined) this.onDown?.(message);
      const encoded = message === undefined ? (bytes as Uint8Array) : toBinary(SyncResponseSchema, message);
      this.down.messages++;
      this.down.bytes += encoded.length;
      on.arrived(`down ${message?.message.case ?? "frame"}`);
      stream.write(encoded);
    };
    const stalledMs = () => Math.max(0, this.stalledUntilMs - clock.monotonicMs());
    return {
      lastDueMs: () => dueMs,
      end: {
        write(message) {
          later(() => arrive(message));
          return stalledMs() === 0;
        },
        drained: () => sleep(clock, stalledMs()),
        end: () => later(() => stream.end()),
        fail: (thrown) => later(() => stream.fail(thrown)),
        abort: (thrown) => later(() => stream.abort(thrown)),
      },
    };
  }
}
