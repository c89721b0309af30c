import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { JoinToken } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import { JoinTokenSchema } from "@moorage/proto/moorage/hub/v1/join_token_service_pb";
import type { StoredJoinToken } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredJoinTokenSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { DataPlaneSchema } from "@moorage/proto/moorage/hub/v1/data_plane_pb";
import { Code, invalidField, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import { othersTurn } from "@moorage/shared/pace";
import { prefixes, resourceKey } from "../core/keys.ts";
import { key, keyAfter, prefix } from "../store/bytes.ts";
import type { KV, Op } from "../store/store.ts";
import type { Plan } from "./act.ts";
import { carryOut } from "./act.ts";
import type { IdentityContext } from "./context.ts";
import { newSecret, secretHash } from "./context.ts";
import { credentialsWrite, dataPlaneStands, readCredentials } from "./credentials.ts";
import type { Actor, JoinTokens, NewToken } from "./identity.ts";

/**
 * Join tokens as the public API manages them; enrol.ts consumes them. A token is one of a data plane's uid: those
 * of a data plane that is gone open nothing, are shown nowhere, and go with the sweep.
 */

const SERVICE = "moorage.hub.v1.JoinTokenService";
/** Expired tokens are kept and shown for this long, at least. */
const KEPT_MS = 24 * 3_600_000;
/** Tokens ended or forgotten in one transaction: two operations each, and a compare each where they are swept. */
const MOST_PER_TXN = 50;

/** A token as stored, with its key. */
export interface TokenAt {
  kv: KV;
  token: StoredJoinToken;
}

/** The key that leads from a token's hash to the token. */
export const tokenHashKey = (hash: Uint8Array): Uint8Array =>
  key(prefixes.joinTokenHashes + Buffer.from(hash).toString("hex"));

const idOf = (dataPlane: string): string => dataPlane.slice("dataPlanes/".length);

function view(token: StoredJoinToken): JoinToken {
  return create(JoinTokenSchema, {
    name: `${token.dataPlane}/joinTokens/${token.id}`,
    ...(token.createTime === undefined ? {} : { createTime: token.createTime }),
    ...(token.expireTime === undefined ? {} : { expireTime: token.expireTime }),
    ...(token.consumeTime === undefined ? {} : { consumeTime: token.consumeTime }),
  });
}

const tokenAt = (kv: KV): TokenAt => ({ kv, token: fromBinary(StoredJoinTokenSchema, kv.value) });

/** The tokens of a data plane, and of former ones of its id. */
async function tokensOf(ctx: IdentityContext, dataPlane: string): Promise<TokenAt[]> {
  const { kvs } = await ctx.store.range(prefix(`${prefixes.joinTokens}${idOf(dataPlane)}/`));
  return kvs.map(tokenAt);
}

async function dataPlaneUid(ctx: IdentityContext, dataPlane: string, field: string): Promise<string> {
  if (!/^dataPlanes\/[a-z][a-z0-9-]{0,39}$/.test(dataPlane)) {
    throw invalidField(field, `"${dataPlane}" is not of the form dataPlanes/{id}`);
  }
  const { kvs } = await ctx.store.range({ start: key(resourceKey("DataPlane", dataPlane)) });
  if (kvs[0] === undefined) {
    throw new MoorageError(Code.NOT_FOUND, `Cannot find "${dataPlane}": there is no such data plane`, {
      reason: "DATA_PLANE_NOT_FOUND",
    });
  }
  return fromBinary(DataPlaneSchema, kvs[0].value).uid;
}

const deletes = (t: TokenAt): Op[] => [
  { delete: { key: t.kv.key } },
  { delete: { key: tokenHashKey(t.token.hash) } },
];

/** Join tokens over the store. */
export function createJoinTokens(ctx: IdentityContext): JoinTokens {
  const by = (actor: Actor, method: string) => ({ ...actor, method: `${SERVICE}/${method}` });
  return {
    create: (request, actor) => carryOut(ctx, by(actor, "CreateJoinToken"), creating(ctx, request)),
    creating: (request) => creating(ctx, request),
    list: async (dataPlane) => {
      const uid = await dataPlaneUid(ctx, dataPlane, "parent");
      const tokens = await tokensOf(ctx, dataPlane);
      return tokens.filter((t) => t.token.dataPlaneUid === uid).map((t) => view(t.token));
    },
    deleting: (name) => deleting(ctx, name),
    revoke: (request, actor) => carryOut(ctx, by(actor, "RevokeAgentCredentials"), revoking(ctx, request)),
    revoking: (request) => revoking(ctx, request),
    sweep: (signal) => sweep(ctx, signal),
  };
}

/** Forgets tokens, of whatever data plane, that expired long ago. */
async function sweep(ctx: IdentityContext, signal?: AbortSignal): Promise<number> {
  const { start, end } = prefix(prefixes.joinTokens);
  let swept = 0;
  for (let from = start; ;) {
    const { kvs, more } = await ctx.store.range({ start: from, end, limit: MOST_PER_TXN });
    const nowMs = ctx.clock.now();
    const old = kvs
      .map(tokenAt)
      .filter(({ token: { expireTime: at } }) => at !== undefined && timestampMs(at) + KEPT_MS < nowMs);
    if (old.length > 0) {
      const { ok } = await ctx.store.txn({
        if: old.map(({ kv }) => ({ key: kv.key, target: "modRev", op: "=", to: kv.modRev })),
        then: old.flatMap(deletes),
      });
      if (ok) swept += old.length;
    }
    const last = kvs.at(-1);
    if (!more || last === undefined) return swept;
    from = keyAfter(last.key);
    await othersTurn();
    signal?.throwIfAborted();
  }
}

function creating(ctx: IdentityContext, request: { dataPlane: string; lifetimeMs?: number }): Plan<NewToken> {
  return async () => {
    const lifetimeMs = request.lifetimeMs ?? limits.joinTokenMs;
    if (!(lifetimeMs > 0 && lifetimeMs <= limits.joinTokenMaxMs)) {
      throw invalidField(
        "lifetime",
        `is ${lifetimeMs} ms, must be above 0 and at most the limit joinTokenMaxMs of ${limits.joinTokenMaxMs}`,
      );
    }
    const uid = await dataPlaneUid(ctx, request.dataPlane, "parent");
    const nowMs = ctx.clock.now();
    const secret = newSecret("mj", ctx.rng);
    const id = Buffer.from(ctx.rng.bytes(6)).toString("hex");
    const token = create(StoredJoinTokenSchema, {
      hash: secretHash(secret),
      dataPlane: request.dataPlane,
      dataPlaneUid: uid,
      createTime: timestampFromMs(nowMs),
      expireTime: timestampFromMs(nowMs + lifetimeMs),
      id,
    });
    const k = key(`${prefixes.joinTokens}${idOf(request.dataPlane)}/${id}`);
    return {
      if: [dataPlaneStands(uid)],
      then: [
        { put: { key: k, value: toBinary(StoredJoinTokenSchema, token) } },
        { put: { key: tokenHashKey(token.hash), value: k } },
      ],
      resource: `${request.dataPlane}/joinTokens/${id}`,
      answer: { joinToken: view(token), token: secret, dataPlaneUid: uid },
    };
  };
}

function deleting(ctx: IdentityContext, name: string): Plan<JoinToken> {
  return async () => {
    const [, dataPlane, id] = /^(dataPlanes\/[a-z][a-z0-9-]*)\/joinTokens\/([0-9a-f]+)$/.exec(name) ?? [];
    const found = dataPlane === undefined ? [] : await tokensOf(ctx, dataPlane);
    const token = found.find((t) => t.token.id === id);
    if (token === undefined) {
      throw new MoorageError(
        Code.NOT_FOUND,
        `Cannot find "${name.slice(0, 128)}": there is no such join token`,
        {
          reason: "JOIN_TOKEN_NOT_FOUND",
        },
      );
    }
    return { if: [], then: deletes(token), resource: name, answer: view(token.token) };
  };
}

/** Ends the keys with the first part, and then what tokens are left. */
function revoking(ctx: IdentityContext, request: { dataPlane: string; reason: string }): Plan<number> {
  let before = 0;
  return async () => {
    const uid = await dataPlaneUid(ctx, request.dataPlane, "name");
    const at = await readCredentials(ctx.store, uid);
    const ended = at.credentials.revokedTime === undefined ? at.credentials.keys.length : 0;
    const write = credentialsWrite(uid, at, {
      ...at.credentials,
      revokedTime: at.credentials.revokedTime ?? timestampFromMs(ctx.clock.now()),
      revokeReason: request.reason.slice(0, 1_024),
    });
    const tokens = await tokensOf(ctx, request.dataPlane);
    const more = tokens.length > MOST_PER_TXN;
    failpoint("identity/before-revoke-txn");
    return {
      if: write.if,
      then: [write.then, ...tokens.slice(0, MOST_PER_TXN).flatMap(deletes)],
      resource: request.dataPlane,
      answer: before + ended,
      more,
      committed: () => {
        failpoint("identity/after-revoke-txn");
        if (more) before += ended;
      },
    };
  };
}
