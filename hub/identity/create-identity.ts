import { authenticateAgent, confirmAgentKey } from "./agents.ts";
import { StoredApiKeys } from "./api-keys.ts";
import { AuthorityKeeper } from "./authority.ts";
import { fileKeyProvider, loadAuthority } from "./ca.ts";
import { clientCertificates } from "./client-certs.ts";
import type { AuthorityContext } from "./context.ts";
import { followCredentials } from "./credentials.ts";
import { createEnrolment } from "./enrol.ts";
import type { Identity, IdentityOptions } from "./identity.ts";
import { createJwtVerifier } from "./oidc.ts";
import { createRenewal } from "./renew.ts";
import { createRotation } from "./rotation.ts";
import { serverCertificate } from "./server-certificate.ts";
import { createJoinTokens } from "./tokens.ts";

/** Makes the hub's identity, and its authority on first use. See identity.ts for the contract. */
export async function createIdentity(options: IdentityOptions): Promise<Identity> {
  const { store, clock, rng, log, trustDomain, dataDir } = options;
  const provider = options.keyProvider ?? (dataDir === undefined ? undefined : fileKeyProvider(dataDir));
  if (provider === undefined)
    throw new Error("Cannot make an identity: neither dataDir nor keyProvider is given");
  const loaded = await loadAuthority(provider, { clock, rng, trustDomain });
  const keeper = new AuthorityKeeper(loaded, { provider, clock, rng, trustDomain });
  const ctx: AuthorityContext = {
    store,
    clock,
    rng,
    log,
    trustDomain,
    get authority() {
      return keeper.current;
    },
  };
  const rotation = createRotation(ctx, keeper);
  const { oidc, clientCertificates: callers } = options;
  const apiKeys = new StoredApiKeys(ctx, {
    ...(oidc === undefined ? {} : { jwt: createJwtVerifier(oidc, { clock, log }) }),
    ...(callers === undefined ? {} : { certificate: clientCertificates(callers, clock) }),
  });
  const listeners = new Set<(uid: string, valid: ReadonlySet<string>) => void>();
  const certificates: { stop(): void }[] = [];
  return {
    name: "identity",
    trustDomain,
    get trustBundlePem() {
      return keeper.current.bundlePem;
    },
    certificateAuthorities: rotation,
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
    onTrustBundle: (fn) => keeper.onChange(({ bundlePem }) => fn(bundlePem)),
    async serverCertificate(names) {
      const certificate = await serverCertificate({ authority: keeper, clock, rng, log, ...names });
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
        await Promise.all([
          guard(followCredentials(store, notify, either)),
          guard(apiKeys.follow(either)),
          guard(rotation.run(either)),
        ]);
      } finally {
        for (const certificate of certificates) certificate.stop();
      }
    },
  };
}
