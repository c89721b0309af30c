/**
 * How a write of the API is made durable: one transaction that compares what was read, puts what
 * changes, and keeps the request's id and the audit record; tried again when another write came
 * between. An answer leaves only after the commit.
 */
import { createHash } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { StoredRequestSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import type { Rng } from "@moorage/shared/rng";
import { prefixes } from "../core/keys.ts";
import { ordered } from "../core/resources.ts";
import { auditOp } from "../identity/audit.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import { Gate } from "./gate.ts";
import { key, keyAfter, prefix } from "../store/bytes.ts";
import type { Compare, KV, Op, Rev, RowOp, Store, TxnRequest, TxnResult } from "../store/store.ts";
import { Reader } from "./reader.ts";
import { Reads, RecordMemory } from "./reads.ts";

/** Tries together with other writes; a write that loses them all goes alone. */
const TRIES = 4;
/** Tries alone: only sync and identity, which seldom write what the API does, can come between. */
const TRIES_ALONE = 16;
/** How long a request id is kept with its answer. */
export const requestIdMs = 24 * 3_600_000;

/** Transactions of one write; with 25 resources in each, what a data plane may hold fits into 800. */
const MOST_PARTS = 1_000;

/** Bytes of records kept in memory for plans. */
const MEMORY_BYTES = 8 * 1024 * 1024;

/** The store as of a write's commit, as far as its answer needs it. */
export interface Committed {
  /** 0 for a write that only was to be checked. */
  rev: Rev;
  /** The value of one of the change's `needs`. */
  get(text: string): KV | undefined;
}

/** What a write changes. */
export interface Change<A> {
  /** Beside those of all that the plan read. */
  if: Compare[];
  then: Op[];
  rows: RowOp[];
  /** Name that the audit record names. */
  resource: string;
  /** Keys that the answer shows beside the record; read in the transaction. None of them may be in `then`. */
  needs?: readonly string[];
  /** What is kept with a request id, for {@link Write.repeat}; by default the answer. */
  kept?: A;
  /** Called once it is durable. */
  committed?(rev: Rev): void;
  /** The answer once it is durable. */
  answer(at: Committed): A | Promise<A>;
}

/**
 * What a plan came to. With `more` the change is a part: it is committed, and the plan is made anew. The
 * request's id is kept with the last part, so that a repeated request goes on where the first one stopped.
 */
export type Planned<A> = { change: Change<A>; more?: boolean } | { unchanged: A };

/** One write. */
export interface Write<A extends Message> {
  principal: ApiPrincipal;
  /** e.g. `moorage.hub.v1.TenantService/CreateTenant`. */
  method: string;
  requestId: string;
  /** The whole request; its hash tells whether an id was used for another one. */
  request: { schema: DescMessage; message: Message };
  answer: DescMessage;
  validateOnly: boolean;
  /** True for a plan that counts, or relies on the absence of, other resources: no other write meanwhile. */
  alone?: boolean;
  /** Reads, checks, and says what to change; `unchanged` when there is nothing to write. */
  plan(reads: Reads): Promise<Planned<A>>;
  /** The answer of a repeated request from what was kept of its change; by default that. */
  repeat?(kept: A, rev: Rev): Promise<A>;
}

/** An answer, or that of an earlier request with the same id; or the revision of an expired one. */
type Known<A> = { answer: A } | { modRev: Rev };

/** What a try came to: the answer, or a part of the write; undefined when it was lost. */
type Tried<A> = { answer: A } | "part" | undefined;

/** Makes writes durable. */
export class Writer {
  readonly #store: Store;
  readonly #reader: Reader;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #gate = new Gate();
  readonly #memory = new RecordMemory(MEMORY_BYTES);

  #fullSinceMs: number | undefined;

  constructor(deps: { store: Store; clock: Clock; rng: Rng }) {
    this.#store = deps.store;
    this.#reader = new Reader(deps.store);
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  /** Since when the store has no room, as far as the last write knows. */
  get fullSinceMs(): number | undefined {
    return this.#fullSinceMs;
  }

  /** Carries a write out. ABORTED when others keep coming between. */
  async write<A extends Message>(w: Write<A>): Promise<A> {
    const request = this.#requestOf(w);
    const go = (alone: boolean, tries: number) =>
      this.#gate.through(alone, () => this.#write(w, { request, tries, guess: !alone && !w.validateOnly }));
    for (let part = 0; part < MOST_PARTS; part++) {
      const shared = w.alone === true ? undefined : await go(false, TRIES);
      const done = shared ?? (await go(true, TRIES_ALONE));
      if (done === undefined) break;
      if (done !== "part") return done.answer;
    }
    throw new MoorageError(Code.ABORTED, "Cannot write: other writes came between; retry", {
      reason: "CONTENTION",
      retryAfterMs: 100,
    });
  }

  /** Undefined when all tries were lost. */
  async #write<A extends Message>(
    w: Write<A>,
    on: { request: Requested | undefined; tries: number; guess: boolean },
  ): Promise<Tried<A>> {
    if (on.guess) {
      const done = await this.#try(w, { request: on.request, known: 0, guessing: true });
      if (done !== undefined) return done;
    }
    for (let i = 0; i < on.tries; i++) {
      const known = await this.#known<A>(w, on.request);
      if ("answer" in known) return known;
      const done = await this.#try(w, { request: on.request, known: known.modRev, guessing: false });
      if (done !== undefined) return done;
    }
    return undefined;
  }

  /** One plan and its transaction; undefined when that, or the guess under it, failed. */
  async #try<A extends Message>(
    w: Write<A>,
    on: { request: Requested | undefined; known: Rev; guessing: boolean },
  ): Promise<Tried<A>> {
    const reads = new Reads({ reader: this.#reader, memory: this.#memory, guessing: on.guessing });
    // A guess settles nothing, neither does the plan of a request that may be a repeated one.
    const unsettled = () => on.guessing && (reads.guessed || on.request !== undefined);
    let planned;
    try {
      planned = await w.plan(reads);
    } catch (thrown) {
      if (unsettled()) return undefined;
      throw thrown;
    }
    if ("unchanged" in planned) {
      if (unsettled()) return undefined;
      const settled = await this.#keepUnchanged(w, { ...on, answer: planned.unchanged, reads });
      return settled ? { answer: planned.unchanged } : undefined;
    }
    const { change, more } = planned;
    if (w.validateOnly) return { answer: await change.answer(await this.#asIs(change)) };
    const needs = change.needs ?? [];
    const compares = [...reads.compares(), ...change.if];
    const then = [...change.then, this.#audit(w, change)];
    if (on.request !== undefined) {
      compares.push(isAt(on.request, on.known));
      // The revision is not known before the commit; a repeated request takes it from this record's own.
      const kept = change.kept ?? (await change.answer(await this.#asIs(change)));
      const { resource } = change;
      if (more !== true) then.push(this.#requestOp(w, on.request, { resource, kept, unchanged: false }));
    }
    const gets = needs.map((text): Op => ({ get: { key: key(text) } }));
    const txn = { if: compares, then: [...then, ...gets], rows: change.rows };
    failpoint("api/before-txn");
    const { ok, rev, results } = await this.#commit(txn);
    failpoint("api/after-txn");
    if (!ok) return undefined;
    change.committed?.(rev);
    if (more === true) return "part";
    const get = (text: string): KV | undefined => {
      const result = results[then.length + needs.indexOf(text)];
      return result?.kind === "get" ? result.kv : undefined;
    };
    return { answer: await change.answer({ rev, get }) };
  }

  /**
   * Keeps the id of a request that changes nothing: repeated when others have written, it must not act on
   * what it finds then. False when what it read has changed.
   */
  async #keepUnchanged<A extends Message>(
    w: Write<A>,
    on: { request: Requested | undefined; known: Rev; answer: A; reads: Reads },
  ): Promise<boolean> {
    if (on.request === undefined || w.validateOnly) return true;
    const op = this.#requestOp(w, on.request, { resource: "", kept: on.answer, unchanged: true });
    const compares = [...on.reads.compares(), isAt(on.request, on.known)];
    return (await this.#commit({ if: compares, then: [op] })).ok;
  }

  async #commit(txn: TxnRequest): Promise<TxnResult> {
    try {
      const result = await this.#store.txn(txn);
      this.#fullSinceMs = undefined;
      return result;
    } catch (thrown) {
      if (thrown instanceof MoorageError && thrown.reason === "STORE_FULL")
        this.#fullSinceMs ??= this.#clock.now();
      throw thrown;
    }
  }

  /** What an answer needs, without a commit. */
  async #asIs<A>(change: Change<A>): Promise<Committed> {
    const found = new Map<string, KV | undefined>();
    for (const text of change.needs ?? []) found.set(text, await this.#reader.kv(text));
    return { rev: 0, get: (text) => found.get(text) };
  }

  #audit<A extends Message>(w: Write<A>, change: Change<A>): Op {
    const { actor } = w.principal;
    const facts = { actor, method: w.method, resource: change.resource, requestId: w.requestId };
    return auditOp({ clock: this.#clock, rng: this.#rng }, { ...facts, outcome: "OK" });
  }

  /** Keeps a request's id with its answer. */
  #requestOp<A extends Message>(
    w: Write<A>,
    request: Requested,
    at: { resource: string; kept: A; unchanged: boolean },
  ): Op {
    const record = create(StoredRequestSchema, {
      requestHash: request.hash,
      responseName: at.resource,
      response: toBinary(w.answer, at.kept),
      expireTime: timestampFromMs(this.#clock.now() + requestIdMs),
      unchanged: at.unchanged,
    });
    return { put: { key: key(request.key), value: toBinary(StoredRequestSchema, record) } };
  }

  #requestOf<A extends Message>(w: Write<A>): Requested | undefined {
    const text = this.#requestKey(w.principal, w.requestId);
    if (text === undefined) return undefined;
    // Not over the bytes: clients write maps in any order, a repeated request need not be the same bytes.
    const hash = createHash("sha256")
      .update(`${w.method}\0`)
      .update(toBinary(w.request.schema, ordered(w.request.message)))
      .digest();
    return { key: text, hash };
  }

  #requestKey(principal: ApiPrincipal, requestId: string): string | undefined {
    if (requestId === "") return undefined;
    if (Buffer.byteLength(requestId) > limits.requestIdBytes)
      throw invalidField(
        "request_id",
        `has ${Buffer.byteLength(requestId)} bytes, the limit requestIdBytes is ${limits.requestIdBytes}`,
      );
    if (!/^[\x21-\x7e]+$/.test(requestId))
      throw invalidField("request_id", "must be printable ASCII without spaces; a UUID is advised");
    return `${prefixes.requests}${principal.actor}/${requestId}`;
  }

  async #known<A extends Message>(w: Write<A>, request: Requested | undefined): Promise<Known<A>> {
    if (request === undefined) return { modRev: 0 };
    const kv = await this.#reader.kv(request.key);
    if (kv === undefined) return { modRev: 0 };
    const stored = fromBinary(StoredRequestSchema, kv.value);
    if (stored.expireTime !== undefined && timestampMs(stored.expireTime) <= this.#clock.now())
      return { modRev: kv.modRev };
    if (!request.hash.equals(stored.requestHash)) {
      throw new MoorageError(
        Code.INVALID_ARGUMENT,
        `Cannot repeat request "${w.requestId}": the id was used for another request; use a new id`,
        {
          reason: "REQUEST_ID_REUSED",
          fields: [{ field: "request_id", description: "was used for another request" }],
        },
      );
    }
    const answer = fromBinary(w.answer, stored.response) as unknown as A & { revision?: bigint };
    if (stored.unchanged) return { answer };
    if (answer.revision !== undefined) answer.revision = BigInt(kv.modRev);
    return { answer: (await w.repeat?.(answer, kv.modRev)) ?? answer };
  }

  /** Deletes expired request ids, a page at a time with a pause after each; answers how many. */
  async sweep(signal?: AbortSignal): Promise<number> {
    const { start, end } = prefix(prefixes.requests);
    let swept = 0;
    for (let from = start; ;) {
      const { kvs, more } = await this.#store.range({ start: from, end, limit: SWEEP_PAGE });
      swept += await this.#deleteExpired(kvs);
      const last = kvs.at(-1);
      if (!more || last === undefined) return swept;
      from = keyAfter(last.key);
      await sleep(this.#clock, SWEEP_PAUSE_MS, signal);
    }
  }

  async #deleteExpired(kvs: readonly KV[]): Promise<number> {
    const expired = kvs.filter((kv) => {
      const at = fromBinary(StoredRequestSchema, kv.value).expireTime;
      return at !== undefined && timestampMs(at) <= this.#clock.now();
    });
    if (expired.length === 0) return 0;
    // An id that was used anew meanwhile stays, and the rest of its page until the next time.
    const { ok } = await this.#store.txn({
      if: expired.map((kv) => ({ key: kv.key, target: "modRev", op: "=", to: kv.modRev })),
      then: expired.map((kv) => ({ delete: { key: kv.key } })),
    });
    return ok ? expired.length : 0;
  }
}

/** A request that may be repeated: the key of its id, and the hash of what it asks. */
interface Requested {
  key: string;
  hash: Buffer;
}

/** That nobody has kept the request's id since it was looked up: of several repeated requests one does. */
const isAt = (request: Requested, known: Rev): Compare => ({
  key: key(request.key),
  target: "modRev",
  op: "=",
  to: known,
});

/** Request ids, with their answers, that the sweep reads at a time and at most deletes in one transaction. */
const SWEEP_PAGE = 100;
/** Between two pages, so that streams and calls have the thread. */
const SWEEP_PAUSE_MS = 10;
