import type { Clock } from "@moorage/shared/clock";
import { failpoint } from "@moorage/shared/failpoint";
import { limits } from "@moorage/shared/limits";
import type { Rng } from "@moorage/shared/rng";
import type { CertificateInfo } from "@moorage/shared/x509";
import { createCa, crossSign, parseCertificate, splitBundle } from "@moorage/shared/x509";
import { CA_MS, caName, joinPem } from "./ca.ts";
import type { Authority, KeyProvider } from "./identity.ts";

/**
 * The authority as it changes. A rotation makes a new key; the former key signs the new one's
 * cross-certificate and is then forgotten. Servers send that certificate after their own, so that whoever
 * trusts only a former authority goes on trusting this hub, however late it comes back.
 */

/** Time after a rotation at which every certificate of the former authority has run out. */
export const OVERLAP_MS = limits.certificateMs + limits.certificateBackdateMs;
/** Certificates that are served after the leaf: each costs every handshake 400 bytes. */
const MOST_CROSS = 5;

/** One trusted certificate of an authority. */
export interface TrustedCa {
  pem: string;
  info: CertificateInfo;
  signing: boolean;
  /** Wall time at which it is trusted no more at the latest; undefined of the signing one. */
  retireMs: number | undefined;
}

/** Told after each change, before whoever changed it goes on. */
export type AuthorityListener = (authority: Authority) => Promise<void> | void;

/** Holds the authority of now, and changes it one step at a time. */
export class AuthorityKeeper {
  readonly #deps: { provider: KeyProvider; clock: Clock; rng: Rng; trustDomain: string };
  readonly #listeners = new Set<AuthorityListener>();
  #current: Authority;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(
    loaded: Authority,
    deps: { provider: KeyProvider; clock: Clock; rng: Rng; trustDomain: string },
  ) {
    this.#current = loaded;
    this.#deps = deps;
  }

  /** What signs and what is trusted now. */
  get current(): Authority {
    return this.#current;
  }

  /** The trusted certificates, the signing one first. */
  trusted(): TrustedCa[] {
    const { ca, bundlePem } = this.#current;
    const own = parseCertificate(ca.certPem);
    // Its certificate was made at the rotation; whatever it replaced signed nothing after that.
    const retireMs = own.notBeforeMs + limits.certificateBackdateMs + OVERLAP_MS;
    const all = splitBundle(bundlePem).map((pem): TrustedCa => {
      const info = parseCertificate(pem);
      const signing = info.fingerprint === own.fingerprint;
      return { pem, info, signing, retireMs: signing ? undefined : retireMs };
    });
    return all.sort((a, b) => Number(b.signing) - Number(a.signing));
  }

  /** True while more than one authority is trusted. */
  get rotating(): boolean {
    return this.trusted().length > 1;
  }

  /** Calls `fn` after each change. */
  onChange(fn: AuthorityListener): () => void {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  /** Makes a new authority; settles once it is durable and all listeners trust and use it. */
  rotate(): Promise<void> {
    return this.#serial(async () => {
      const { provider, trustDomain, rng, clock } = this.#deps;
      const former = this.#current;
      const on = { clock, rng };
      const ca = await createCa({ name: caName(trustDomain), ttlMs: CA_MS }, on);
      const cross = await crossSign({ former: former.ca, nextCertPem: ca.certPem }, on);
      failpoint("identity/ca-made");
      const bundlePem = joinPem([ca.certPem, former.bundlePem]);
      // Trusted everywhere before it signs anything: no certificate meets a port that does not know it yet.
      const trusting = { ...former, bundlePem };
      await provider.save(trusting);
      failpoint("identity/ca-trusted");
      await this.#publish(trusting);
      // The last one is the oldest authority itself, which clients that pin its fingerprint look for.
      const older = splitBundle(former.crossPem === "" ? former.ca.certPem : former.crossPem);
      const crosses = [cross, ...older]
        .filter((pem) => parseCertificate(pem).notAfterMs > clock.now())
        .slice(0, MOST_CROSS);
      const next = { ca, bundlePem, crossPem: joinPem(crosses) };
      await provider.save(next);
      failpoint("identity/ca-saved");
      await this.#publish(next);
    });
  }

  /** Ends the trust in all former authorities; false when there was none. */
  retire(): Promise<boolean> {
    return this.#serial(async () => {
      if (!this.rotating) return false;
      const alone = { ...this.#current, bundlePem: joinPem([this.#current.ca.certPem]) };
      await this.#deps.provider.save(alone);
      await this.#publish(alone);
      return true;
    });
  }

  async #publish(authority: Authority): Promise<void> {
    this.#current = authority;
    await Promise.all([...this.#listeners].map(async (fn) => fn(authority)));
  }

  #serial<T>(fn: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(fn);
    this.#queue = run.catch(() => undefined);
    return run;
  }
}
