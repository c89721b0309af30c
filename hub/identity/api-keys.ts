import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { ApiKey } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApiKeySchema, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { StoredApiKeySchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, invalidField, MoorageError } from "@moorage/shared/errors";
import { uuid } from "@moorage/shared/rng";
import { prefixes } from "../core/keys.ts";
import { PageRoom } from "../core/pages.ts";
import { lastMs } from "../core/times.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { KV, Rev } from "../store/store.ts";
import type { Plan } from "./act.ts";
import { carryOut } from "./act.ts";
import { isScope, scopeRule } from "./authorize.ts";
import type { IdentityContext } from "./context.ts";
import { newSecret, sameBytes, secretHash } from "./context.ts";
import type { Actor, ApiKeys, ApiPrincipal, NewApiKey } from "./identity.ts";

/** API keys: the secret's hash leads to the key; what was found stays in memory until the key changes. */

const SERVICE = "moorage.hub.v1.ApiKeyService";
const ID = /^[a-z][a-z0-9-]{0,39}$/;
const MOST_SCOPES = 64;
/** Characters of a name for people, as of the other free texts. */
const DISPLAY_NAME = 128;
/** Principals kept in memory; beyond, all are looked up anew. */
const MOST_CACHED = 10_000;
/** Name of the first key. */
const BOOTSTRAP = "bootstrap";

/** A JWS in compact form, signature included: three parts. */
const JWT = /^Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)$/i;

/** Callers that hold no API key. */
export interface OtherCallers {
  jwt?: (token: string) => Promise<ApiPrincipal>;
  certificate?: (der: Uint8Array) => Promise<ApiPrincipal>;
}

interface Cached {
  principal: ApiPrincipal;
  expireMs: number;
}

const hashKey = (hash: Uint8Array): Uint8Array =>
  key(prefixes.apiKeyHashes + Buffer.from(hash).toString("hex"));

function decodeKey(kv: KV): { apiKey: ApiKey; hash: Uint8Array } {
  const stored = fromBinary(StoredApiKeySchema, kv.value);
  return { apiKey: fromBinary(ApiKeySchema, stored.apiKey), hash: stored.hash };
}

function unauthenticated(why: string, reason: string): MoorageError {
  return new MoorageError(Code.UNAUTHENTICATED, `Cannot authenticate the call: ${why}`, { reason });
}

/** {@link ApiKeys} over the store; `follow` keeps the memory true and must run. */
export class StoredApiKeys implements ApiKeys {
  readonly #ctx: IdentityContext;
  readonly #cache = new Map<string, Cached>();
  readonly #listeners = new Set<(actor: string, revision: Rev) => void>();
  /** Counts changes, so that what was read before one is not kept after it. */
  #changes = 0;
  /** Only while changes are followed may anything be kept. */
  #following = false;

  readonly #others: OtherCallers;

  constructor(ctx: IdentityContext, others: OtherCallers = {}) {
    this.#ctx = ctx;
    this.#others = others;
  }

  create(request: NewApiKey, by: Actor): Promise<{ apiKey: ApiKey; secret: string }> {
    return carryOut(this.#ctx, { ...by, method: `${SERVICE}/CreateApiKey` }, this.creating(request));
  }

  creating(
    request: NewApiKey,
    keep?: (secret: string) => Promise<void>,
  ): Plan<{ apiKey: ApiKey; secret: string }> {
    const { store, clock, rng } = this.#ctx;
    return async () => {
      check(request, clock.now());
      const name = prefixes.apiKeys + request.id;
      const k = key(name);
      if ((await store.range({ start: k })).kvs.length > 0)
        throw new MoorageError(Code.ALREADY_EXISTS, `Cannot create "${name}": the name is taken`, {
          reason: "API_KEY_EXISTS",
        });
      const secret = newSecret("mk", rng);
      await keep?.(secret);
      const hash = secretHash(secret);
      const apiKey = create(ApiKeySchema, {
        name,
        uid: uuid(rng),
        displayName: request.displayName,
        role: request.role,
        scopes: [...request.scopes],
        createTime: timestampFromMs(clock.now()),
        ...(request.expireMs === undefined ? {} : { expireTime: timestampFromMs(request.expireMs) }),
      });
      const stored = create(StoredApiKeySchema, { apiKey: toBinary(ApiKeySchema, apiKey), hash });
      return {
        if: [{ key: k, target: "version", op: "=", to: 0 }],
        then: [
          { put: { key: k, value: toBinary(StoredApiKeySchema, stored) } },
          { put: { key: hashKey(hash), value: k } },
        ],
        resource: name,
        answer: { apiKey, secret },
      };
    };
  }

  async get(name: string): Promise<ApiKey> {
    return decodeKey(await this.#read(name)).apiKey;
  }

  async list(q: { afterName?: string; limit: number }): Promise<{ apiKeys: ApiKey[]; more: boolean }> {
    const all = prefix(prefixes.apiKeys);
    const start = q.afterName === undefined ? all.start : keyAfter(key(q.afterName));
    if (Buffer.compare(start, all.start) < 0 || Buffer.compare(start, all.end) >= 0)
      return { apiKeys: [], more: false };
    const { kvs, more } = await this.#ctx.store.range({ start, end: all.end, limit: q.limit });
    const fit = new PageRoom(q.limit).fits(kvs.map((kv) => kv.value.length));
    return { apiKeys: kvs.slice(0, fit).map((kv) => decodeKey(kv).apiKey), more: more || fit < kvs.length };
  }

  delete(name: string, by: Actor): Promise<ApiKey> {
    return carryOut(this.#ctx, { ...by, method: `${SERVICE}/DeleteApiKey` }, this.deleting(name));
  }

  deleting(name: string): Plan<ApiKey> {
    return async () => {
      const kv = await this.#read(name);
      const { apiKey, hash } = decodeKey(kv);
      return {
        if: [{ key: kv.key, target: "modRev", op: "=", to: kv.modRev }],
        then: [{ delete: { key: kv.key } }, { delete: { key: hashKey(hash) } }],
        resource: name,
        answer: apiKey,
        committed: (rev) => this.#changed(name, rev),
      };
    };
  }

  async authenticate(authorization: string | undefined, certificateDer?: Uint8Array): Promise<ApiPrincipal> {
    const { jwt, certificate } = this.#others;
    if (certificateDer !== undefined && certificate !== undefined) return certificate(certificateDer);
    const token = JWT.exec(authorization ?? "")?.[1];
    if (token !== undefined && jwt !== undefined) return jwt(token);
    const secret = /^Bearer (mk_[A-Za-z0-9_-]{43})$/i.exec(authorization ?? "")?.[1];
    if (secret === undefined) {
      throw unauthenticated(
        'the header "authorization: Bearer mk_..." is missing or malformed',
        "API_KEY_MISSING",
      );
    }
    const hash = secretHash(secret);
    const cacheKey = Buffer.from(hash).toString("hex");
    const found = this.#cache.get(cacheKey) ?? (await this.#lookUp(hash, cacheKey));
    if (this.#ctx.clock.now() >= found.expireMs)
      throw unauthenticated("the API key has expired", "API_KEY_EXPIRED");
    return found.principal;
  }

  onChange(fn: (actor: string, revision: Rev) => void): () => void {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  async bootstrap(keep?: (secret: string) => Promise<void>): Promise<string | undefined> {
    if ((await this.list({ limit: 1 })).apiKeys.length > 0) return undefined;
    const request = { id: BOOTSTRAP, displayName: "First administrator", role: Role.ADMIN, scopes: [] };
    const by = { actor: "hub", method: `${SERVICE}/CreateApiKey` };
    return (await carryOut(this.#ctx, by, this.creating(request, keep))).secret;
  }

  /** Forgets what is in memory of keys that change, until `signal` aborts. */
  async follow(signal: AbortSignal): Promise<void> {
    const all = { ...prefix(prefixes.apiKeys), keysOnly: true, limit: 1 };
    try {
      while (!signal.aborted) {
        const { rev } = await this.#ctx.store.range(all);
        this.#changes++;
        this.#cache.clear();
        this.#following = true;
        for await (const batch of this.#ctx.store.watch({
          ...prefix(prefixes.apiKeys),
          from: rev + 1,
          signal,
        })) {
          if (batch.kind !== "events") continue;
          for (const event of batch.events) this.#changed(keyText(event.kv.key), batch.rev);
        }
      }
    } finally {
      this.#following = false;
      this.#cache.clear();
    }
  }

  #changed(actor: string, revision: Rev): void {
    this.#changes++;
    for (const [k, cached] of this.#cache) if (cached.principal.actor === actor) this.#cache.delete(k);
    for (const fn of this.#listeners) fn(actor, revision);
  }

  async #lookUp(hash: Uint8Array, cacheKey: string): Promise<Cached> {
    const { store } = this.#ctx;
    const changes = this.#changes;
    const index = (await store.range({ start: hashKey(hash) })).kvs[0];
    const kv = index === undefined ? undefined : (await store.range({ start: index.value })).kvs[0];
    const found = kv === undefined ? undefined : decodeKey(kv);
    if (kv === undefined || found === undefined || !sameBytes(found.hash, hash)) {
      throw unauthenticated("the API key is not known", "API_KEY_UNKNOWN");
    }
    const { name, role, scopes, expireTime } = found.apiKey;
    const expireMs = expireTime === undefined ? Number.POSITIVE_INFINITY : timestampMs(expireTime);
    const ends = Number.isFinite(expireMs) ? { expireMs } : {};
    const cached = { principal: { actor: name, role, scopes, revision: kv.modRev, ...ends }, expireMs };
    if (this.#following && changes === this.#changes) {
      if (this.#cache.size >= MOST_CACHED) this.#cache.clear();
      this.#cache.set(cacheKey, cached);
    }
    return cached;
  }

  async #read(name: string): Promise<KV> {
    if (!name.startsWith(prefixes.apiKeys))
      throw invalidField("name", `"${name.slice(0, 128)}" is not of the form apiKeys/{id}`);
    const kv = (await this.#ctx.store.range({ start: key(name) })).kvs[0];
    if (kv === undefined) throw notFound(name);
    return kv;
  }
}

function notFound(name: string): MoorageError {
  return new MoorageError(Code.NOT_FOUND, `Cannot find "${name.slice(0, 128)}": there is no such API key`, {
    reason: "API_KEY_NOT_FOUND",
  });
}

function check(
  request: { id: string; displayName: string; role: Role; scopes: readonly string[]; expireMs?: number },
  nowMs: number,
): void {
  if (!ID.test(request.id)) {
    throw invalidField(
      "api_key_id",
      "must be 1 to 40 lower-case letters, digits and hyphens and start with a letter",
    );
  }
  const length = request.displayName.length;
  if (length > DISPLAY_NAME)
    throw invalidField("api_key.display_name", `has ${length} characters, at most ${DISPLAY_NAME} are taken`);
  const roles: Role[] = [Role.ADMIN, Role.OPERATOR, Role.VIEWER, Role.BILLING];
  if (!roles.includes(request.role))
    throw invalidField("api_key.role", "must be one of ADMIN, OPERATOR, VIEWER, BILLING");
  if (request.scopes.length > MOST_SCOPES)
    throw invalidField("api_key.scopes", `at most ${MOST_SCOPES} are taken`);
  for (const [i, scope] of request.scopes.entries())
    if (!isScope(scope)) throw invalidField(`api_key.scopes[${i}]`, `"${scope.slice(0, 64)}" ${scopeRule}`);
  if (request.expireMs !== undefined && request.expireMs <= nowMs) {
    throw invalidField("api_key.expire_time", "must be in the future");
  }
  if (request.expireMs !== undefined && request.expireMs > lastMs)
    throw invalidField("api_key.expire_time", "must be within the years 1 to 9999");
}
