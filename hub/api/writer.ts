/**
 * How a write of the API is made durable: one transaction that compares what was read, puts what
 * changes, and keeps the request's id and the audit record; tried again when another write came
 * between. An answer leaves only after the commit.
 */
import { createHash } from "node:crypto";
import { create, fromBinary, toBinary, toJson } from "@bufbuild/protobuf";
import type { DescMessage, Message } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { StoredRequestSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import type { Rng } from "@moorage/shared/rng";
import { prefixes } from "../core/keys.ts";
import { canonicalJson } from "../core/resources.ts";
import { auditOp } from "../identity/audit.ts";
import type { ApiPrincipal } from "../identity/identity.ts";
import { Gate } from "./gate.ts";
import { key, prefix } from "../store/bytes.ts";
import type { Compare, Op, RowOp, Store } from "../store/store.ts";

/** Tries together with other writes; a write that loses them all goes alone. */
const TRIES = 4;
/** Tries alone: only sync and identity, which seldom write what the API does, can come between. */
const TRIES_ALONE = 16;
/** How long a request id is kept with its answer. */
export const requestIdMs = 24 * 3_600_000;

/** What a write changes. */
export interface Change<A> {
  if: Compare[];
  then: Op[];
  rows: RowOp[];
  /** Name that the audit record names. */
  resource: string;
  /** The answer once it is durable, given its revision. */
  answer(rev: number): A | Promise<A>;
}

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
  /** Reads, checks, and says what to change; undefined with `unchanged` when there is nothing to write. */
  plan(): Promise<{ change: Change<A> } | { unchanged: A }>;
}

/** Makes writes durable. */
export class Writer {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #rng: Rng;
  readonly #gate = new Gate();

  constructor(deps: { store: Store; clock: Clock; rng: Rng }) {
    this.#store = deps.store;
    this.#clock = deps.clock;
    this.#rng = deps.rng;
  }

  /** Carries a write out. ABORTED when others keep coming between. */
  async write<A extends Message>(w: Write<A>): Promise<A> {
    const shared =
      w.alone === true ? undefined : await this.#gate.through(false, () => this.#write(w, TRIES));
    const done = shared ?? (await this.#gate.through(true, () => this.#write(w, TRIES_ALONE)));
    if (done !== undefined) return done.answer;
    throw new MoorageError(Code.ABORTED, "Cannot write: other writes came between; retry", {
      reason: "CONTENTION",
      retryAfterMs: 100,
    });
  }

  /** Undefined when all tries were lost. */
  async #write<A extends Message>(w: Write<A>, tries: number): Promise<{ answer: A } | undefined> {
    const requestKey = this.#requestKey(w.principal, w.requestId);
    // Not over the bytes: clients write maps in any order, a repeated request need not be the same bytes.
    const requestHash = createHash("sha256")
      .update(w.method)
      .update("\0")
      .update(canonicalJson(toJson(w.request.schema, w.request.message)))
      .digest();
    for (let i = 0; i < tries; i++) {
      const known = await this.#known<A>(w, { requestKey, requestHash });
      if (known.answer !== undefined) return { answer: known.answer };
      const planned = await w.plan();
      if ("unchanged" in planned) return { answer: planned.unchanged };
      const { change } = planned;
      if (w.validateOnly) return { answer: await change.answer(0) };
      const then = [
        ...change.then,
        auditOp(
          { clock: this.#clock, rng: this.#rng },
          {
            actor: w.principal.actor,
            method: w.method,
            resource: change.resource,
            outcome: "OK",
            requestId: w.requestId,
          },
        ),
      ];
      const compares = [...change.if];
      if (requestKey !== undefined) {
        // The revision is not known before the commit; a repeated request takes it from this record's own.
        const response = toBinary(w.answer, await change.answer(0));
        const record = create(StoredRequestSchema, {
          requestHash,
          responseName: change.resource,
          response,
          expireTime: timestampFromMs(this.#clock.now() + requestIdMs),
        });
        then.push({ put: { key: key(requestKey), value: toBinary(StoredRequestSchema, record) } });
        compares.push({ key: key(requestKey), target: "modRev", op: "=", to: known.modRev });
      }
      failpoint("api/before-txn");
      const { ok, rev } = await this.#store.txn({ if: compares, then, rows: change.rows });
      failpoint("api/after-txn");
      if (ok) return { answer: await change.answer(rev) };
    }
    return undefined;
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

  async #known<A extends Message>(
    w: Write<A>,
    at: { requestKey: string | undefined; requestHash: Buffer },
  ): Promise<{ answer: A | undefined; modRev: number }> {
    if (at.requestKey === undefined) return { answer: undefined, modRev: 0 };
    const { kvs } = await this.#store.range({ start: key(at.requestKey) });
    const [kv] = kvs;
    if (kv === undefined) return { answer: undefined, modRev: 0 };
    const stored = fromBinary(StoredRequestSchema, kv.value);
    if (stored.expireTime !== undefined && timestampMs(stored.expireTime) <= this.#clock.now())
      return { answer: undefined, modRev: kv.modRev };
    if (!at.requestHash.equals(stored.requestHash)) {
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
    if (answer.revision !== undefined) answer.revision = BigInt(kv.modRev);
    return { answer, modRev: kv.modRev };
  }

  /** Deletes expired request ids, in small transactions; answers how many. */
  async sweep(): Promise<number> {
    const { kvs } = await this.#store.range(prefix(prefixes.requests));
    const expired = kvs.filter((kv) => {
      const at = fromBinary(StoredRequestSchema, kv.value).expireTime;
      return at !== undefined && timestampMs(at) <= this.#clock.now();
    });
    for (let i = 0; i < expired.length; i += SWEEP_OPS) {
      const part = expired.slice(i, i + SWEEP_OPS);
      await this.#store.txn({ then: part.map((kv) => ({ delete: { key: kv.key } })) });
    }
    return expired.length;
  }
}

/** Deletes a transaction of the sweep. */
const SWEEP_OPS = 100;
