import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { IdentityService, RenewRequest } from "@moorage/proto/moorage/agent/v1/identity_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { CallContext, Handlers } from "@moorage/shared/grpc/types";
import { authenticateAgent, confirmAgentKey } from "./agents.ts";
import { auditOp } from "./audit.ts";
import type { AuthorityContext } from "./context.ts";
import { issueAgent, RENEW_AFTER_MS } from "./context.ts";
import { credentialsWrite, readCredentials, TRIES, validThumbprints, withKey } from "./credentials.ts";
import { TryLimiter } from "./rate.ts";

/** Renewal of agents' certificates; a new key is a candidate until a connection with it succeeded. */

const METHOD = "moorage.agent.v1.IdentityService/Renew";
/** Renewals of a data plane. */
const RENEWALS = { burst: 10, everyMs: 60_000, what: "renewal" };

/** The handlers of IdentityService. */
export function createRenewal(ctx: AuthorityContext): Handlers<typeof IdentityService> {
  const limiter = new TryLimiter({ clock: ctx.clock, ...RENEWALS });
  return {
    async renew(request: RenewRequest, call: CallContext) {
      const principal = await authenticateAgent(ctx, call.peerCertificateDer);
      limiter.take(principal.dataPlaneUid);
      await confirmAgentKey(ctx, principal);
      const agent = await issueAgent(ctx, principal.dataPlaneUid, request.csrDer);
      for (let i = 0; i < TRIES; i++) {
        const at = await readCredentials(ctx.store, principal.dataPlaneUid);
        if (!validThumbprints(at.credentials).has(principal.thumbprint)) {
          throw new MoorageError(
            Code.UNAUTHENTICATED,
            "Cannot renew the certificate: the credentials were revoked",
            {
              reason: "CREDENTIALS_REVOKED",
            },
          );
        }
        const added = { ...agent, candidate: true, nowMs: ctx.clock.now() };
        const write = credentialsWrite(principal.dataPlaneUid, at, withKey(at.credentials, added));
        const { dataPlane } = principal;
        const audit = auditOp(ctx, { actor: dataPlane, method: METHOD, resource: dataPlane, outcome: "OK" });
        const { ok } = await ctx.store.txn({ if: write.if, then: [write.then, audit] });
        if (!ok) continue;
        failpoint("identity/after-renew-txn");
        return {
          certificateChainPem: Buffer.from(agent.chainPem),
          trustBundlePem: Buffer.from(ctx.authority.bundlePem),
          renewAfter: durationFromMs(RENEW_AFTER_MS),
        };
      }
      throw new MoorageError(
        Code.ABORTED,
        "Cannot renew the certificate: the credentials kept changing; try again",
      );
    },
  };
}
