import { authenticateAgent, confirmAgentKey } from "./agents.ts";
import { StoredApiKeys } from "./api-keys.ts";
import { fileKeyProvider, loadAuthority, serverCertificate } from "./ca.ts";
import type { AuthorityContext } from "./context.ts";
import { followCredentials } from "./credentials.ts";
import { createEnrolment } from "./enrol.ts";
import type { Identity, IdentityOptions } from "./identity.ts";
import { createRenewal } from "./renew.ts";
import { createJoinTokens } from "./tokens.ts";

/** Makes the hub's identity, and its authority on first use. See identity.ts for the contract. */
export async function createIdentity(options: IdentityOptions): Promise<Identity> {
  const { store, clock, rng, log, trustDomain, dataDir } = options;
  const provider = options.keyProvider ?? (dataDir === undefined ? undefined : fileKeyProvider(dataDir));
  if (provider === undefined)
    throw new Error("Cannot make an identity: neither dataDir nor keyProvider is given");
  const authority = await loadAuthority(provider, { clock, rng, trustDomain });
  const ctx: AuthorityContext = { store, clock, rng, log, trustDomain, authority };
  const apiKeys = new StoredApiKeys(ctx);
  const listeners = new Set<(uid: string, valid: ReadonlySet<string>) => void>();
  const certificates: { stop(): void }[] = [];
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
      const certificate = await serverCertificate({ authority, clock, rng, log, ...names });
      certificates.push(certificate);
      return certificate;
    },
    async run(signal) {
      // One that fails ends the other: a hub that no longer hears of revocations must not go on.
      const failed = new AbortController();
      const either = AbortSignal.any([signal, failed.signal]);
      const guard = (work: Promise<void>) =>
        work.catch((thrown: unknown) => {
          failed.abort(thrown);
          if (!signal.aborted) throw thrown;
        });
      const notify = (uid: string, valid: ReadonlySet<string>) => {
        for (const fn of listeners) fn(uid, valid);
      };
      try {
        await Promise.all([guard(followCredentials(store, notify, either)), guard(apiKeys.follow(either))]);
      } finally {
        for (const certificate of certificates) certificate.stop();
      }
    },
  };
}
