import { isDeepStrictEqual } from "node:util";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import { ChangeType } from "@moorage/proto/moorage/hub/v1/view_pb";
import { sleep } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { backoffMs } from "../service.ts";
import type { RetryDeps } from "./retry.ts";
import { defaultRetryPolicy } from "./retry.ts";

/** A change as every Watch method of the API tells it, beside the resource. */
export interface WatchChange {
  type: ChangeType;
  cursor?: Cursor | undefined;
}

/** A message of every Watch method of the API. */
export interface WatchMessage<C extends WatchChange> {
  event:
    | { case: "change"; value: C }
    | { case: "synced"; value: Cursor }
    | { case: "bookmark"; value: Cursor }
    | { case: undefined; value?: undefined };
}

/** What a watch tells its reader: no event lost, none twice. */
export type Watched<R> =
  { kind: "upserted"; resource: R } | { kind: "removed"; resource: R } | { kind: "synced" };

/** What to watch. */
export interface ResumableWatchOptions<C extends WatchChange, R extends { name: string }> extends RetryDeps {
  /** Calls the Watch method from a cursor; without one it begins with a listing. */
  open(cursor: Cursor | undefined, signal: AbortSignal): AsyncIterable<WatchMessage<C>>;
  /** The resource of a change. */
  resource(change: C): R | undefined;
  /** From an earlier List or watch; absent, the watch begins with a listing. */
  cursor?: Cursor | undefined;
  signal: AbortSignal;
}

/**
 * A watch that outlives restarts of the server. After a break it goes on from the last cursor, and
 * what a revision had told already is not told again. When there is no cursor yet, or the server no
 * longer has its history (`COMPACTED`), it lists anew and tells the difference: what changed, and as
 * removed what is gone. For that it keeps the newest state of each resource in memory. Ends when
 * `signal` aborts; rejects with an error that a new try would not mend, or UNAVAILABLE after the
 * policy's tries in a row without an event.
 */
export async function* resumableWatch<C extends WatchChange, R extends { name: string }>(
  options: ResumableWatchOptions<C, R>,
): AsyncGenerator<Watched<R>, void, void> {
  const { clock, rng, signal } = options;
  const policy = options.policy ?? defaultRetryPolicy;
  const position = new Position<C, R>(options);
  for (let failures = 0; !signal.aborted; failures++) {
    try {
      for await (const message of options.open(position.begin(), signal)) {
        failures = 0;
        yield* position.take(message);
      }
      throw new MoorageError(Code.UNAVAILABLE, "The server ended the watch");
    } catch (thrown) {
      if (signal.aborted) return;
      const error = MoorageError.from(thrown);
      if (error.reason === "COMPACTED") position.forget();
      else if (!isBreak(error) || failures + 1 >= policy.attempts) throw thrown;
      const waitMs = (error.retryAfterMs ?? 0) + backoffMs(policy, failures, rng);
      await sleep(clock, waitMs, signal).catch(() => undefined);
    }
  }
}

/** The stream broke, not the watch: CANCELLED is a reset by the server or a proxy, since the caller did not abort. */
function isBreak(error: MoorageError): boolean {
  return error.code === Code.UNAVAILABLE || error.code === Code.CANCELLED;
}

/** Where the watch is, and what its reader knows. */
class Position<C extends WatchChange, R extends { name: string }> {
  readonly #resource: (change: C) => R | undefined;
  readonly #known = new Map<string, R>();
  #cursor: Cursor | undefined;
  /** Names told since the cursor, a part of the next revision. */
  #told = new Set<string>();
  /** Names told before the last break: the server tells them again. */
  #again = new Set<string>();
  /** While listing anew: what was not listed yet of that which is known. */
  #unlisted: Set<string> | undefined;
  #hasSynced = false;

  constructor(options: ResumableWatchOptions<C, R>) {
    this.#resource = options.resource;
    this.#cursor = options.cursor;
  }

  /** A stream begins: from this cursor. */
  begin(): Cursor | undefined {
    for (const name of this.#told) this.#again.add(name);
    this.#told.clear();
    if (this.#cursor === undefined) {
      this.#again.clear();
      this.#unlisted = new Set(this.#known.keys());
    }
    return this.#cursor;
  }

  /** The server no longer has the cursor. */
  forget(): void {
    this.#cursor = undefined;
  }

  *take({ event }: WatchMessage<C>): Generator<Watched<R>, void, void> {
    switch (event.case) {
      case "change":
        yield* this.#change(event.value);
        return;
      case "synced":
        yield* this.#synced(event.value);
        return;
      case "bookmark":
        this.#at(event.value);
        return;
      case undefined:
        // An event of a later version of the API: what is known stays.
        return;
    }
  }

  *#change(change: C): Generator<Watched<R>, void, void> {
    const resource = this.#resource(change);
    if (resource !== undefined) {
      const { name } = resource;
      const listed = this.#unlisted;
      listed?.delete(name);
      const repeated =
        this.#again.has(name) || (listed !== undefined && isDeepStrictEqual(this.#known.get(name), resource));
      if (change.type === ChangeType.REMOVED) this.#known.delete(name);
      else this.#known.set(name, resource);
      if (listed === undefined) this.#told.add(name);
      if (!repeated) yield { kind: change.type === ChangeType.REMOVED ? "removed" : "upserted", resource };
    }
    if (change.cursor !== undefined) this.#at(change.cursor);
  }

  *#synced(cursor: Cursor): Generator<Watched<R>, void, void> {
    const first = !this.#hasSynced;
    this.#hasSynced = true;
    for (const name of this.#unlisted ?? []) {
      const resource = this.#known.get(name) as R;
      this.#known.delete(name);
      yield { kind: "removed", resource };
    }
    this.#unlisted = undefined;
    this.#at(cursor);
    if (first) yield { kind: "synced" };
  }

  #at(cursor: Cursor): void {
    this.#cursor = cursor;
    this.#told.clear();
    this.#again.clear();
  }
}
