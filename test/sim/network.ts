/** The network between one agent and the hub: latency, cuts, holds and refusals, drawn from a seed. */
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { SyncRequest, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { MemoryLink } from "@moorage/shared/grpc/memory-link";
import type { BoundService, CallContext, ServerDuplex } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import type { Rng } from "@moorage/shared/rng";

/** One agent's path. Order holds inside a stream, as under TCP, and not between streams. */
export class Path {
  /** New connections are refused until then, milliseconds of the monotonic clock. */
  downUntilMs = 0;
  /** What is sent before then arrives then: a path that swallows without an error. */
  heldUntilMs = 0;
  readonly links = new Set<MemoryLink>();
  readonly #clock: Clock;
  readonly #rng: Rng;

  constructor(deps: { clock: Clock; rng: Rng }) {
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

  /** Breaks every connection. */
  cut(): void {
    for (const link of this.links) link.close();
    this.links.clear();
  }

  /** The stream's service with this path's delays in both directions; `seen` is told each arrival. */
  delayed(service: BoundService, seen: (line: string) => void): BoundService {
    type Serve = (stream: ServerDuplex<SyncRequest, SyncResponse>, ctx: CallContext) => Promise<void>;
    const serve = service.handlers["sync"] as unknown as Serve;
    const sync: Serve = (stream, ctx) => serve(this.#delay(stream, { ctx, seen }), ctx);
    return bind(SyncService, { sync } as never);
  }

  #delay(
    stream: ServerDuplex<SyncRequest, SyncResponse>,
    on: { ctx: CallContext; seen: (line: string) => void },
  ): ServerDuplex<SyncRequest, SyncResponse> {
    const clock = this.#clock;
    const delayMs = () => this.delayMs();
    let lastDueMs = 0;
    const later = (fn: () => void) => {
      lastDueMs = Math.max(lastDueMs, clock.monotonicMs() + delayMs());
      clock.setTimer(lastDueMs - clock.monotonicMs(), fn);
    };
    return {
      async *read() {
        for await (const message of stream.read()) {
          await sleep(clock, delayMs(), on.ctx.signal);
          on.seen(`up ${message.message.case ?? "none"}`);
          yield message;
        }
      },
      write(message) {
        later(() => {
          on.seen(`down ${message instanceof Uint8Array ? "frame" : (message.message.case ?? "none")}`);
          stream.write(message);
        });
        return true;
      },
      drained: () => stream.drained(),
      end: () => later(() => stream.end()),
      fail: (thrown) => later(() => stream.fail(thrown)),
      abort: (thrown) => later(() => stream.abort(thrown)),
    };
  }
}
