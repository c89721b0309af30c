import { fromBinary } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { StoredCredentials } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredCredentialsSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { isAbort } from "@moorage/shared/service";
import { prefixes } from "../core/keys.ts";
import { keyAfter, prefix } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import { auditOp } from "./audit.ts";
import type { AuthorityKeeper } from "./authority.ts";
import type { AuthorityContext } from "./context.ts";
import type { Actor, CertificateAuthorities, CertificateAuthorityState } from "./identity.ts";

/** Rotation of the certificate authority: who may start one, how far it is, when the former one ends. */

const NAME = "hub/certificateAuthority";
const METHOD = "moorage.hub.v1.HubService/RotateCertificateAuthority";
/** How often, while two authorities are trusted, it is looked whether the former one is still needed. */
const LOOK_MS = 30_000;
/** Credentials read from the store at a time. */
const PAGE = 1_000;

/**
 * True when the newest certificate that a data plane is known to use was signed by another authority than
 * `signing` and has not run out. A candidate does not count: its agent may yet go back to the pair before it.
 */
export function needsFormer(credentials: StoredCredentials, on: { signing: string; nowMs: number }): boolean {
  if (credentials.revokedTime !== undefined) return false;
  const ends = credentials.keys
    .filter((k) => !k.candidate && k.notAfter !== undefined)
    .map((k) => ({
      ca: Buffer.from(k.caFingerprint).toString("hex"),
      endMs: k.notAfter === undefined ? 0 : timestampMs(k.notAfter),
    }))
    .sort((a, b) => b.endMs - a.endMs);
  const newest = ends[0];
  return newest !== undefined && newest.endMs > on.nowMs && newest.ca !== on.signing;
}

async function countRemaining(store: Store, on: { signing: string; nowMs: number }): Promise<number> {
  const all = prefix(prefixes.credentials);
  let remaining = 0;
  for (let start = all.start; ;) {
    const { kvs, more } = await store.range({ start, end: all.end, limit: PAGE });
    for (const kv of kvs) if (needsFormer(fromBinary(StoredCredentialsSchema, kv.value), on)) remaining += 1;
    const last = kvs.at(-1);
    if (!more || last === undefined) return remaining;
    start = keyAfter(last.key);
  }
}

/** See {@link CertificateAuthorities}; `run` ends the former authority when its time has come. */
export function createRotation(
  ctx: AuthorityContext,
  keeper: AuthorityKeeper,
): CertificateAuthorities & { run(signal: AbortSignal): Promise<void> } {
  const { store, clock, log } = ctx;

  async function describe(): Promise<CertificateAuthorityState> {
    const certificates = keeper.trusted();
    const signing = certificates[0]?.info.fingerprint ?? "";
    const rotating = certificates.length > 1;
    const remaining = rotating ? await countRemaining(store, { signing, nowMs: clock.now() }) : 0;
    return { certificates, bundlePem: keeper.current.bundlePem, rotating, remaining };
  }

  const record = (by: Actor, outcome: string) =>
    store.txn({ then: [auditOp(ctx, { ...by, method: METHOD, resource: NAME, outcome })] });

  async function retireWhenDue(): Promise<void> {
    if (!keeper.rotating) return;
    const state = await describe();
    const latestMs = Math.max(...state.certificates.map((c) => c.retireMs ?? 0));
    if (state.remaining > 0 && clock.now() < latestMs) return;
    await record({ actor: "hub" }, "FORMER_RETIRED");
    await keeper.retire();
    log.info("former certificate authority retired", { remaining: state.remaining });
  }

  return {
    describe,
    async rotate(request, by) {
      if (keeper.rotating && !request.force) {
        throw new MoorageError(
          Code.FAILED_PRECONDITION,
          `Cannot rotate "${NAME}": a rotation is under way; wait for its end, or force another one`,
          {
            reason: "ROTATION_UNDER_WAY",
            preconditions: [
              { type: "ROTATION", subject: NAME, description: "more than one authority is trusted" },
            ],
          },
        );
      }
      // The act is on files, its record in the store: recorded before, so that none goes unrecorded.
      await record(by, "STARTED");
      try {
        await keeper.rotate();
      } catch (thrown) {
        await record(by, MoorageError.from(thrown).reason);
        throw thrown;
      }
      log.info("certificate authority rotated", { actor: by.actor });
      return describe();
    },
    retireWhenDue,
    async run(signal) {
      while (!signal.aborted) {
        try {
          await retireWhenDue();
          await sleep(clock, LOOK_MS, signal);
        } catch (thrown) {
          if (isAbort(thrown, signal)) return;
          log.error("former certificate authority could not be retired, it is tried again", {
            error: thrown,
          });
          await sleep(clock, LOOK_MS, signal).catch(() => undefined);
        }
      }
    },
  };
}
