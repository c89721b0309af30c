import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { ApiKey } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { ApiKeySchema, Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import type { StoredApiKey } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredApiKeySchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, MoorageError, invalidField } from "@moorage/shared/errors";
import { uuid } from "@moorage/shared/rng";
import { prefixes } from "../core/keys.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import { auditOp } from "./audit.ts";
import type { IdentityContext } from "./context.ts";
import { newSecret, sameBytes, secretHash } from "./context.ts";
import type { Actor, ApiKeys, ApiPrincipal } from "./identity.ts";

/** Keys of the API's callers: 256 random bits behind `mk_`, kept as SHA-256. */

const SERVICE = "moorage.hub.v1.ApiKeyService";
/** Keys remembered between calls, so that most calls cost no read. */
const CACHED = 1_000;
const DISPLAY_NAME_LIMIT = 128;

const hashKey = (hash: Uint8Array): Uint8Array => key(prefixes.apiKeyHashes + Buffer.from(hash).toString("hex"));
const apiKeyOf = (stored: StoredApiKey): ApiKey => fromBinary(ApiKeySchema, stored.apiKey);

/** API keys over the store, and the Service part that follows their changes. */
export function createApiKeys(ctx: IdentityContext): ApiKeys & { follow(signal: AbortSignal): Promise<void> } {
  const cache = new Map<string, { stored: StoredApiKey; apiKey: ApiKey }>();
  const listeners = new Set<(actor: string) => void>();

  async function find(name: string): Promise<{ stored: StoredApiKey; key: Uint8Array; modRev: number }> {
    const k = key(prefixes.apiKeys + name.replace(/^apiKeys\//, ""));
    const { kvs } = await ctx.store.range({ start: k });
    const [kv] = kvs;
    if (!name.startsWith("apiKeys/") || kv === undefined) {
      throw new MoorageError(Code.NOT_FOUND, `Cannot find "${name.slice(0, 128)}": there is no such API key`, { reason: "API_KEY_NOT_FOUND" });
    }
    return { stored: fromBinary(StoredApiKeySchema, kv.value), key: k, modRev: kv.modRev };
  }

  async function make(
    request: { id: string; displayName: string; role: Role; scopes: readonly string[]; expireMs?: number },
    by: Actor,
  ): Promise<{ apiKey: ApiKey; secret: string }> {
    if (request.displayName.length > DISPLAY_NAME_LIMIT) throw invalidField("api_key.display_name", `has ${request.displayName.length} characters, at most ${DISPLAY_NAME_LIMIT} are taken`);
    if (request.expireMs !== undefined && request.expireMs <= ctx.clock.now()) throw invalidField("api_key.expire_time", "must lie in the future");
    const secret = newSecret("mk", ctx.rng);
    const name = `apiKeys/${request.id}`;
    const apiKey = create(ApiKeySchema, {
      name,
      uid: uuid(ctx.rng),
      displayName: request.displayName,
      role: request.role,
      scopes: [...request.scopes],
      createTime: timestampFromMs(ctx.clock.now()),
      ...(request.expireMs === undefined ? {} : { expireTime: timestampFromMs(request.expireMs) }),
    });
    const hash = secretHash(secret);
    const k = key(prefixes.apiKeys + request.id);
    const stored = create(StoredApiKeySchema, { apiKey: toBinary(ApiKeySchema, apiKey), hash });
    const { ok } = await ctx.store.txn({
      if: [{ key: k, target: "createRev", op: "=", to: 0 }],
      then: [
        { put: { key: k, value: toBinary(StoredApiKeySchema, stored) } },
        { put: { key: hashKey(hash), value: k } },
        auditOp(ctx, { ...by, method: `${SERVICE}/CreateApiKey`, resource: name, outcome: "OK" }),
      ],
    });
    if (!ok) throw new MoorageError(Code.ALREADY_EXISTS, `Cannot create "${name}": it exists already`, { reason: "ALREADY_EXISTS", metadata: { resource: name } });
    return { apiKey, secret };
  }

  async function read(hash: Uint8Array): Promise<{ stored: StoredApiKey; apiKey: ApiKey } | undefined> {
    const cached = cache.get(Buffer.from(hash).toString("hex"));
    if (cached !== undefined) return cached;
    const pointer = (await ctx.store.range({ start: hashKey(hash) })).kvs[0];
    if (pointer === undefined) return undefined;
    const kv = (await ctx.store.range({ start: pointer.value })).kvs[0];
    if (kv === undefined) return undefined;
    const stored = fromBinary(StoredApiKeySchema, kv.value);
    const found = { stored, apiKey: apiKeyOf(stored) };
    if (cache.size >= CACHED) cache.delete(cache.keys().next().value as string);
    cache.set(Buffer.from(hash).toString("hex"), found);
    return found;
  }

  async function authenticate(authorization: string | undefined): Promise<ApiPrincipal> {
    const refuse = (why: string) => new MoorageError(Code.UNAUTHENTICATED, `Cannot authenticate: ${why}`, { reason: "UNAUTHENTICATED" });
    if (authorization === undefined) throw refuse('the call has no header "authorization: Bearer <secret>"');
    const secret = /^Bearer (mk_[A-Za-z0-9_-]{43})$/.exec(authorization)?.[1];
    if (secret === undefined) throw refuse("the authorization header holds no API key");
    const hash = secretHash(secret);
    const found = await read(hash);
    if (found === undefined || !sameBytes(hash, found.stored.hash)) throw refuse("the API key is unknown or was deleted");
    const { apiKey } = found;
    if (apiKey.expireTime !== undefined && timestampMs(apiKey.expireTime) <= ctx.clock.now()) throw refuse("the API key has expired");
    return { actor: apiKey.name, role: apiKey.role, scopes: apiKey.scopes };
  }

  async function follow(signal: AbortSignal): Promise<void> {
    const all = prefix(prefixes.apiKeys);
    while (!signal.aborted) {
      const { rev } = await ctx.store.range({ ...all, limit: 1 });
      cache.clear();
      for await (const batch of ctx.store.watch({ ...all, from: rev + 1, signal })) {
        if (batch.kind !== "events") continue;
        cache.clear();
        for (const e of batch.events) {
          if (e.prevRev === 0) continue;
          for (const fn of listeners) fn(`apiKeys/${keyText(e.kv.key).slice(prefixes.apiKeys.length)}`);
        }
      }
    }
  }

  return {
    create: make,
    get: async (name) => apiKeyOf((await find(name)).stored),
    async list(q) {
      const all = prefix(prefixes.apiKeys);
      const start = q.afterName === undefined ? all.start : keyAfter(key(prefixes.apiKeys + q.afterName.replace(/^apiKeys\//, "")));
      const { kvs, more } = await ctx.store.range({ start, end: all.end, limit: q.limit });
      return { apiKeys: kvs.map((kv) => apiKeyOf(fromBinary(StoredApiKeySchema, kv.value))), more };
    },
    async delete(name, by) {
      const found = await find(name);
      const apiKey = apiKeyOf(found.stored);
      await ctx.store.txn({
        if: [{ key: found.key, target: "modRev", op: "=", to: found.modRev }],
        then: [
          { delete: { key: found.key } },
          { delete: { key: hashKey(found.stored.hash) } },
          auditOp(ctx, { ...by, method: `${SERVICE}/DeleteApiKey`, resource: name, outcome: "OK" }),
        ],
      });
      // At once here; other readers of the cache learn it from the watch.
      cache.clear();
      for (const fn of listeners) fn(apiKey.name);
      return apiKey;
    },
    authenticate,
    onChange(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    async bootstrap() {
      const { kvs } = await ctx.store.range({ ...prefix(prefixes.apiKeys), limit: 1 });
      if (kvs.length > 0) return undefined;
      const made = await make({ id: "bootstrap", displayName: "Made at the hub's first start", role: Role.ADMIN, scopes: [] }, { actor: "hub" });
      return made.secret;
    },
    follow,
  };
}
