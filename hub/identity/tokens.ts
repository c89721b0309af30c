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
import { prefixes, resourceKey } from "../core/keys.ts";
import { key, prefix } from "../store/bytes.ts";
import type { KV, Op } from "../store/store.ts";
import { auditOp } from "./audit.ts";
import type { IdentityContext } from "./context.ts";
import { newSecret, secretHash } from "./context.ts";
import { credentialsWrite, readCredentials, TRIES } from "./credentials.ts";
import type { Actor, JoinTokens } from "./identity.ts";

/** Join tokens as the public API manages them; enrol.ts consumes them. */

const SERVICE = "moorage.hub.v1.JoinTokenService";
/** Expired tokens are shown for this long. */
const KEPT_MS = 24 * 3_600_000;
/** Tokens ended or forgotten in one transaction, two operations each. */
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

/** The tokens of a data plane. */
async function tokensOf(ctx: IdentityContext, dataPlane: string): Promise<TokenAt[]> {
  const { kvs } = await ctx.store.range(prefix(`${prefixes.joinTokens}${idOf(dataPlane)}/`));
  return kvs.map((kv) => ({ kv, token: fromBinary(StoredJoinTokenSchema, kv.value) }));
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
  return {
    create: (request, by) => createToken(ctx, request, by),
    list: async (dataPlane) => {
      await dataPlaneUid(ctx, dataPlane, "parent");
      return (await tokensOf(ctx, dataPlane)).map((t) => view(t.token));
    },
    delete: (name, by) => deleteToken(ctx, name, by),
    revoke: (request, by) => revoke(ctx, request, by),
  };
}

async function createToken(
  ctx: IdentityContext,
  request: { dataPlane: string; lifetimeMs?: number },
  by: Actor,
) {
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
  const old = (await tokensOf(ctx, request.dataPlane)).filter(
    (t) => t.token.expireTime !== undefined && timestampMs(t.token.expireTime) + KEPT_MS < nowMs,
  );
  const resource = `${request.dataPlane}/joinTokens/${id}`;
  await ctx.store.txn({
    then: [
      { put: { key: k, value: toBinary(StoredJoinTokenSchema, token) } },
      { put: { key: tokenHashKey(token.hash), value: k } },
      auditOp(ctx, { ...by, method: `${SERVICE}/CreateJoinToken`, resource, outcome: "OK" }),
      ...old.slice(0, MOST_PER_TXN).flatMap(deletes),
    ],
  });
  return { joinToken: view(token), token: secret, dataPlaneUid: uid };
}

async function deleteToken(ctx: IdentityContext, name: string, by: Actor): Promise<JoinToken> {
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
  const audit = auditOp(ctx, { ...by, method: `${SERVICE}/DeleteJoinToken`, resource: name, outcome: "OK" });
  await ctx.store.txn({ then: [...deletes(token), audit] });
  return view(token.token);
}

async function revoke(
  ctx: IdentityContext,
  request: { dataPlane: string; reason: string },
  by: Actor,
): Promise<number> {
  const uid = await dataPlaneUid(ctx, request.dataPlane, "name");
  for (let i = 0; i < TRIES; i++) {
    const at = await readCredentials(ctx.store, uid);
    const already = at.credentials.revokedTime !== undefined;
    const next = {
      ...at.credentials,
      revokedTime: at.credentials.revokedTime ?? timestampFromMs(ctx.clock.now()),
      revokeReason: request.reason.slice(0, 1_024),
    };
    const write = credentialsWrite(uid, at, next);
    const tokens = await tokensOf(ctx, request.dataPlane);
    failpoint("identity/before-revoke-txn");
    const { ok } = await ctx.store.txn({
      if: [write.if],
      then: [
        write.then,
        auditOp(ctx, {
          ...by,
          method: `${SERVICE}/RevokeAgentCredentials`,
          resource: request.dataPlane,
          outcome: "OK",
        }),
        ...tokens.slice(0, MOST_PER_TXN).flatMap(deletes),
      ],
    });
    if (!ok) continue;
    failpoint("identity/after-revoke-txn");
    // More tokens than one transaction takes: revoking again is harmless and ends the next ones.
    if (tokens.length > MOST_PER_TXN) await revoke(ctx, request, by);
    return already ? 0 : at.credentials.keys.length;
  }
  throw new MoorageError(Code.ABORTED, `Cannot revoke "${request.dataPlane}": its credentials kept changing`);
}
