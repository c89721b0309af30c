import { Code, MoorageError } from "@moorage/shared/errors";
import { authenticateAgent, confirmAgentKey } from "./agents.ts";
import { createApiKeys } from "./api-keys.ts";
import { fileKeyProvider, loadAuthority, serverCertificate } from "./ca.ts";
import { followCredentials } from "./credentials.ts";
import { createEnrolment } from "./enrol.ts";
import type { Identity, IdentityOptions } from "./identity.ts";
import { createRenewal } from "./renew.ts";
import { createJoinTokens } from "./tokens.ts";

/** Makes the hub's identity: loads or makes the authority, and binds the parts of this folder to it. */
export async function createIdentity(options: IdentityOptions): Promise<Identity> {
  const { store, clock, rng, log, trustDomain } = options;
  const provider = options.keyProvider ?? (options.dataDir === undefined ? undefined : fileKeyProvider(options.dataDir));
  if (provider === undefined) {
    throw new MoorageError(Code.FAILED_PRECONDITION, "Cannot start identity: neither a data directory nor a key provider is given", { reason: "CA_UNUSABLE" });
  }
  const authority = await loadAuthority(provider, { clock, rng, trustDomain });
  const ctx = { store, clock, rng, log, trustDomain, authority };
  const listeners = new Set<(dataPlaneUid: string, valid: ReadonlySet<string>) => void>();
  const certificates: { stop(): void }[] = [];
  const apiKeys = createApiKeys(ctx);
  return {
    name: "identity",
    trustDomain,
    trustBundlePem: authority.bundlePem,
    joinTokens: createJoinTokens(ctx),
    apiKeys,
    enrolmentHandlers: createEnrolment(ctx),
    identityHandlers: createRenewal(ctx),
    authenticateAgent: (der) => authenticateAgent(ctx, der),
    confirmAgentKey: (principal) => confirmAgentKey(ctx, principal),
    onCredentials(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    async serverCertificate(names) {
      const made = await serverCertificate({ ...ctx, ...names });
      certificates.push(made);
      return made;
    },
    async run(signal) {
      try {
        await Promise.all([
          followCredentials(
            store,
            (uid, valid) => {
              for (const fn of listeners) fn(uid, valid);
            },
            signal,
          ),
          apiKeys.follow(signal),
        ]);
      } finally {
        for (const c of certificates) c.stop();
      }
    },
  };
}
