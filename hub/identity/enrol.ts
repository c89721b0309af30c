import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { EnrolmentService, EnrolRequest } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import type { StoredJoinToken } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredJoinTokenSchema, StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { CallContext, Handlers } from "@moorage/shared/grpc/types";
import { csrThumbprint } from "@moorage/shared/x509";
import { linkKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { Compare, KV, Op, Store } from "../store/store.ts";
import { auditOp, markAudited } from "./audit.ts";
import type { AuthorityContext, IssuedAgent } from "./context.ts";
import { issueAgent, RENEW_AFTER_MS, sameBytes, secretHash } from "./context.ts";
import type { CredentialsAt } from "./credentials.ts";
import {
  credentialsWrite,
  dataPlaneByUid,
  hasKey,
  readCredentials,
  TRIES,
  unknownDataPlane,
  validThumbprints,
  withKey,
} from "./credentials.ts";
import { peerHost, TryLimiter } from "./rate.ts";
import { tokenHashKey } from "./tokens.ts";

/**
 * Admission of agents. A join: consuming the token and registering the key are one transaction with
 * compares on both, so of any number of tries with different keys one succeeds. A rejoin: the
 * request is signed by the registered key.
 */

const METHOD = "moorage.agent.v1.EnrolmentService/Enrol";
/** Tokens that a host may use in vain at once, and each further one: unknown, expired, or another's. */
const WRONG = { burst: 20, everyMs: 3_000, what: "enrolment" };
/** Answers to one token, all to the one key that used it. */
const REPEATS = { burst: 5, everyMs: 12_000, what: "repeated enrolment" };
/** Rejoins of a data plane from one host. */
const REJOIN = { burst: 5, everyMs: 12_000, what: "rejoin" };

/** The handlers of EnrolmentService. */
export function createEnrolment(ctx: AuthorityContext): Handlers<typeof EnrolmentService> {
  const wrong = new TryLimiter({ clock: ctx.clock, ...WRONG });
  const repeats = new TryLimiter({ clock: ctx.clock, ...REPEATS });
  const rejoins = new TryLimiter({ clock: ctx.clock, ...REJOIN });
  return {
    async enrol(request: EnrolRequest, call: CallContext) {
      const host = peerHost(call.peer);
      if (request.joinToken !== "") {
        const onWrong = () => wrong.take(host);
        const onRepeat = ({ dataPlaneUid, id }: StoredJoinToken) => repeats.take(`${dataPlaneUid} ${id}`);
        const issued = await join(ctx, request, { host, onWrong, onRepeat });
        return answer(ctx, issued.uid, issued.agent);
      }
      rejoins.take(`${request.dataPlaneUid.slice(0, 64)} ${host}`);
      return answer(ctx, request.dataPlaneUid, await rejoin(ctx, request, host));
    },
  };
}

/** Where a token comes from, and what counts its uses: both calls throw RESOURCE_EXHAUSTED when there were too many. */
interface Joining {
  host: string;
  onWrong(): void;
  onRepeat(token: StoredJoinToken): void;
}

function answer(ctx: AuthorityContext, dataPlaneUid: string, agent: IssuedAgent) {
  return {
    certificateChainPem: Buffer.from(agent.chainPem),
    trustBundlePem: Buffer.from(ctx.authority.bundlePem),
    renewAfter: durationFromMs(RENEW_AFTER_MS),
    dataPlaneUid,
  };
}

function refusal(code: Code, why: string, reason: string): MoorageError {
  return new MoorageError(code, `Cannot enrol the agent: ${why}`, { reason });
}

/**
 * Keeps a record of a refusal that points to theft or misuse, and throws it. Whoever asked has not shown to
 * be the data plane's agent, so where it asked from is the actor.
 */
async function refuseAudited(
  ctx: AuthorityContext,
  of: { host: string; dataPlane: string },
  error: MoorageError,
): Promise<never> {
  const { host, dataPlane } = of;
  const actor = `peers/${host}`;
  const audit = auditOp(ctx, { actor, method: METHOD, resource: dataPlane, outcome: error.reason });
  await ctx.store.txn({ then: [audit] });
  markAudited(error);
  ctx.log.warn("Enrolment refused", { dataPlane, host, reason: error.reason });
  throw error;
}

async function findToken(
  store: Store,
  secret: string,
): Promise<{ kv: KV; token: StoredJoinToken } | undefined> {
  const hash = secretHash(secret);
  const index = (await store.range({ start: tokenHashKey(hash) })).kvs[0];
  if (index === undefined) return undefined;
  const kv = (await store.range({ start: index.value })).kvs[0];
  if (kv === undefined) return undefined;
  const token = fromBinary(StoredJoinTokenSchema, kv.value);
  return sameBytes(token.hash, hash) ? { kv, token } : undefined;
}

async function join(ctx: AuthorityContext, request: EnrolRequest, on: Joining) {
  const { store, clock } = ctx;
  let thumbprint: string | undefined;
  let agent: IssuedAgent | undefined;
  for (let i = 0; i < TRIES; i++) {
    const found = await findToken(store, request.joinToken);
    if (found === undefined) {
      on.onWrong();
      throw refusal(Code.UNAUTHENTICATED, "the join token is not known; create another one", "TOKEN_UNKNOWN");
    }
    const { kv, token } = found;
    const refuse = (error: MoorageError) => {
      on.onWrong();
      return refuseAudited(ctx, { host: on.host, dataPlane: token.dataPlane }, error);
    };
    const nowMs = clock.now();
    if (token.expireTime === undefined || nowMs >= timestampMs(token.expireTime)) {
      const why = "the join token has expired; create another one";
      return refuse(refusal(Code.UNAUTHENTICATED, why, "TOKEN_EXPIRED"));
    }
    const uid = token.dataPlaneUid;
    if ((await dataPlaneByUid(store, uid)) === undefined) return refuse(unknownDataPlane(uid));
    thumbprint ??= await csrThumbprint(request.csrDer);
    const at = await readCredentials(store, uid);
    const first = token.consumeTime === undefined;
    if (!first) {
      const wrong = wrongKey({ token, at, thumbprint });
      if (wrong !== undefined) return refuse(wrong);
      on.onRepeat(token);
    }
    agent ??= await issueAgent(ctx, uid, request.csrDer);
    const txn = await joinTxn(ctx, { kv, token, at, agent, nowMs });
    failpoint("identity/before-join-txn");
    const { ok } = await store.txn(txn);
    if (!ok) continue;
    failpoint("identity/after-join-txn");
    ctx.log.info("Agent enrolled", { dataPlane: token.dataPlane, first });
    return { uid, agent };
  }
  throw refusal(Code.ABORTED, "its credentials kept changing; try again", "CONFLICT");
}

/** The same token with the same key answers again; with another one it is theft, and shows as such. */
function wrongKey(of: {
  token: StoredJoinToken;
  at: CredentialsAt;
  thumbprint: string;
}): MoorageError | undefined {
  if (!sameBytes(of.token.consumerThumbprint, Buffer.from(of.thumbprint, "hex"))) {
    const used =
      "the join token was used by another key; if that was not you, revoke the agent's credentials";
    return refusal(Code.PERMISSION_DENIED, used, "TOKEN_ALREADY_USED");
  }
  if (validThumbprints(of.at.credentials).has(of.thumbprint)) return undefined;
  const why = "the key that used this join token was revoked or replaced";
  return refusal(Code.PERMISSION_DENIED, why, "CREDENTIALS_REVOKED");
}

async function joinTxn(
  ctx: AuthorityContext,
  of: { kv: KV; token: StoredJoinToken; at: CredentialsAt; agent: IssuedAgent; nowMs: number },
): Promise<{ if: Compare[]; then: Op[] }> {
  const { kv, token, at, agent, nowMs } = of;
  const uid = token.dataPlaneUid;
  const first = token.consumeTime === undefined;
  const added = { ...agent, candidate: false, nowMs };
  // A new token begins anew: former keys end, and so does a revocation.
  const base = first ? { ...at.credentials, keys: [], revokeReason: "" } : at.credentials;
  if (first) delete base.revokedTime;
  const write = credentialsWrite(uid, at, withKey(base, added));
  const outcome = first ? "OK" : "REPEATED";
  const audit = auditOp(ctx, { actor: token.dataPlane, method: METHOD, resource: token.dataPlane, outcome });
  if (!first) return { if: write.if, then: [write.then, audit] };
  const consumed = {
    ...token,
    consumeTime: timestampFromMs(nowMs),
    consumerThumbprint: new Uint8Array(Buffer.from(agent.thumbprint, "hex")),
  };
  const move = await allowMove(ctx.store, uid);
  return {
    if: [{ key: kv.key, target: "modRev", op: "=", to: kv.modRev }, ...write.if, ...move.if],
    then: [
      { put: { key: kv.key, value: toBinary(StoredJoinTokenSchema, consumed) } },
      write.then,
      audit,
      ...move.then,
    ],
  };
}

/** A new join is the deliberate way to another cluster: the link forgets the former one. */
async function allowMove(store: Store, uid: string): Promise<{ if: Compare[]; then: Op[] }> {
  const k = key(linkKey(uid));
  const kv = (await store.range({ start: k })).kvs[0];
  if (kv === undefined) return { if: [], then: [] };
  const link = { ...fromBinary(StoredLinkSchema, kv.value), clusterUid: "" };
  return {
    if: [{ key: k, target: "modRev", op: "=", to: kv.modRev }],
    then: [{ put: { key: k, value: toBinary(StoredLinkSchema, link) } }],
  };
}

async function rejoin(ctx: AuthorityContext, request: EnrolRequest, host: string): Promise<IssuedAgent> {
  const uid = request.dataPlaneUid;
  const dataPlane = await dataPlaneByUid(ctx.store, uid.slice(0, 64));
  const unregistered = refusal(
    Code.PERMISSION_DENIED,
    "the request is not signed by a key that is registered for the data plane; a join token is needed",
    "KEY_NOT_REGISTERED",
  );
  if (dataPlane === undefined) throw unregistered;
  // First of all the proof: whoever has none of its keys learns nothing of a data plane.
  const thumbprint = await csrThumbprint(request.csrDer);
  let agent: IssuedAgent | undefined;
  for (let i = 0; i < TRIES; i++) {
    const at = await readCredentials(ctx.store, uid);
    if (!hasKey(at.credentials, thumbprint)) return refuseAudited(ctx, { host, dataPlane }, unregistered);
    if (at.credentials.revokedTime !== undefined) {
      const why = "the agent's credentials were revoked; a join token is needed";
      const revoked = refusal(Code.PERMISSION_DENIED, why, "CREDENTIALS_REVOKED");
      return refuseAudited(ctx, { host, dataPlane }, revoked);
    }
    agent ??= await issueAgent(ctx, uid, request.csrDer);
    const added = { ...agent, candidate: false, nowMs: ctx.clock.now() };
    const write = credentialsWrite(uid, at, withKey(at.credentials, added));
    const audit = auditOp(ctx, {
      actor: dataPlane,
      method: METHOD,
      resource: dataPlane,
      outcome: "REJOINED",
    });
    failpoint("identity/before-rejoin-txn");
    const { ok } = await ctx.store.txn({ if: write.if, then: [write.then, audit] });
    if (ok) return agent;
  }
  throw refusal(Code.ABORTED, "its credentials kept changing; try again", "CONFLICT");
}
