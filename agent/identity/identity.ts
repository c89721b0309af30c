/**
 * Who the agent is to the hub: a key that never leaves the cluster and a certificate of a day.
 *
 * - The key is in its Secret before `Enrol` names it, so that a crash between the two, or a lost answer,
 *   asks again with the same key, which the hub answers again.
 * - At 2/3 of a certificate's life a new pair is asked for. It is a candidate until a stream came up
 *   with it, and dropped when the hub refuses it. One that no stream took up within an hour is tried on a
 *   connection of its own: a stream that lasts for days must not let it run out unused.
 * - A certificate that ran out while the hub was away is replaced by a rejoin: no token, the request
 *   signed by the registered key.
 * - Only the authority that the install pinned is trusted for the first step, then the bundle that the
 *   hub hands out.
 */
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { IdentityService } from "@moorage/proto/moorage/agent/v1/identity_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import { failpoint } from "@moorage/shared/failpoint";
import type { ClientTls } from "@moorage/shared/grpc/client";
import type { Link } from "@moorage/shared/grpc/types";
import { limits } from "@moorage/shared/limits";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { Service } from "@moorage/shared/service";
import { isAbort } from "@moorage/shared/service";
import { createCsr, generateKeyPem, parseCertificate } from "@moorage/shared/x509";
import type { IdentitySecret, StoredIdentity } from "./secret.ts";

/** How often the certificate's age is looked at. */
const LOOK_MS = 60_000;
/** How long a candidate waits for a stream. */
const CANDIDATE_MS = 3_600_000;

/** What the identity needs. */
export interface IdentityDeps {
  secret: IdentitySecret;
  /** The join token; undefined when there is none (any more). Never logged. */
  joinToken(): Promise<string | undefined>;
  /** The authority that the install pinned, PEM. */
  pinnedCa(signal: AbortSignal | undefined): Promise<string>;
  /** A connection to the enrolment port. */
  connectEnrolment(tls: ClientTls): Link;
  /** A connection to the agent port. */
  connectAgent(tls: ClientTls): Link;
  clock: Clock;
  rng: Rng;
  log: Logger;
}

/** A pair that the hub accepts, or a candidate. */
export interface Credentials {
  tls: ClientTls & { certPem: string; keyPem: string };
  dataPlaneUid: string;
}

/** See the module's text. As a service it renews. */
export class Identity implements Service {
  readonly name = "identity";
  readonly #deps: IdentityDeps;
  #stored: StoredIdentity | undefined;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(deps: IdentityDeps) {
    this.#deps = deps;
  }

  /** uid of the data plane, once enrolled. */
  get dataPlaneUid(): string | undefined {
    return this.#stored?.dataPlaneUid;
  }

  /** The credentials of now: enrols or rejoins when there are none that are valid, unless `signal` aborts. */
  credentials(signal?: AbortSignal): Promise<Credentials> {
    return this.#serial(async () => {
      let stored = await this.#load();
      const { clock } = this.#deps;
      if (
        stored.nextCertPem !== undefined &&
        stored.nextKeyPem !== undefined &&
        parseCertificate(stored.nextCertPem).notAfterMs > clock.now()
      ) {
        return credentialsOf(stored, { certPem: stored.nextCertPem, keyPem: stored.nextKeyPem });
      }
      if (stored.certPem === undefined || parseCertificate(stored.certPem).notAfterMs <= clock.now())
        stored = await this.#enrol(stored, signal);
      return credentialsOf(stored, { certPem: stored.certPem ?? "", keyPem: stored.keyPem ?? "" });
    });
  }

  /** A stream came up with `used`: a candidate takes the place of what was before. */
  accepted(used: Credentials): Promise<void> {
    return this.#serial(async () => {
      const stored = await this.#load();
      if (stored.nextCertPem === undefined || stored.nextCertPem !== used.tls.certPem) return;
      await this.#save({
        ...stored,
        keyPem: stored.nextKeyPem,
        certPem: stored.nextCertPem,
        nextKeyPem: undefined,
        nextCertPem: undefined,
      });
      this.#deps.log.info("renewed certificate is in use", {});
    });
  }

  /** The hub refused `used`: a candidate is dropped, and the pair before it is tried again. */
  refused(used: Credentials): Promise<void> {
    return this.#serial(async () => {
      const stored = await this.#load();
      if (stored.nextCertPem === undefined || stored.nextCertPem !== used.tls.certPem) return;
      await this.#save({ ...stored, nextKeyPem: undefined, nextCertPem: undefined });
      this.#deps.log.warn("renewed certificate was refused and dropped", {});
    });
  }

  /** Renews when it is time, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, rng, log } = this.#deps;
    const early = rng.float() * 0.05;
    while (!signal.aborted) {
      try {
        await this.#renewWhenDue(early, signal);
        await this.#confirmWhenDue(signal);
      } catch (thrown) {
        if (isAbort(thrown, signal)) return;
        log.warn("certificate could not be renewed, it is tried again", { error: thrown });
      }
      try {
        await sleep(clock, LOOK_MS, signal);
      } catch {
        return;
      }
    }
  }

  async #renewWhenDue(early: number, signal: AbortSignal): Promise<void> {
    const { clock, connectAgent, log } = this.#deps;
    const due = await this.#serial(async () => {
      const stored = await this.#load();
      if (stored.certPem === undefined || stored.keyPem === undefined) return undefined;
      if (stored.nextCertPem !== undefined && parseCertificate(stored.nextCertPem).notAfterMs > clock.now())
        return undefined;
      const { notBeforeMs, notAfterMs } = parseCertificate(stored.certPem);
      const at = notBeforeMs + (notAfterMs - notBeforeMs) * (2 / 3 - early);
      if (clock.now() < at || clock.now() >= notAfterMs) return undefined;
      if (stored.nextKeyPem !== undefined) return stored;
      return this.#save({ ...stored, nextKeyPem: (await generateKeyPem()).keyPem });
    });
    if (due?.nextKeyPem === undefined) return;
    const current = credentialsOf(due, { certPem: due.certPem ?? "", keyPem: due.keyPem ?? "" });
    const link = connectAgent(current.tls);
    try {
      const answer = await link
        .client(IdentityService)
        .renew({ csrDer: await createCsr(due.nextKeyPem) }, { signal, timeoutMs: limits.identityCallMs });
      await this.#serial(async () => {
        const stored = await this.#load();
        const caPem = text(answer.trustBundlePem) || stored.caPem;
        await this.#save({ ...stored, caPem, nextCertPem: text(answer.certificateChainPem) });
      });
      log.info("certificate renewed", {});
    } finally {
      link.close();
    }
  }

  /** Renewing again with the candidate itself is a connection that succeeded: from then on it is registered. */
  async #confirmWhenDue(signal: AbortSignal): Promise<void> {
    const { clock, connectAgent, log } = this.#deps;
    const stored = await this.#serial(() => this.#load());
    const { nextCertPem: certPem, nextKeyPem: keyPem } = stored;
    if (certPem === undefined || keyPem === undefined) return;
    const { notBeforeMs, notAfterMs } = parseCertificate(certPem);
    const dueMs = notBeforeMs + limits.certificateBackdateMs + CANDIDATE_MS;
    if (clock.now() < dueMs || clock.now() >= notAfterMs) return;
    const candidate = credentialsOf(stored, { certPem, keyPem });
    const link = connectAgent(candidate.tls);
    try {
      const answer = await link
        .client(IdentityService)
        .renew({ csrDer: await createCsr(keyPem) }, { signal, timeoutMs: limits.identityCallMs });
      await this.#serial(async () => {
        const now = await this.#load();
        if (now.nextCertPem !== certPem) return;
        await this.#save({
          ...now,
          caPem: text(answer.trustBundlePem) || now.caPem,
          keyPem,
          certPem: text(answer.certificateChainPem),
          nextKeyPem: undefined,
          nextCertPem: undefined,
        });
      });
      log.info("renewed certificate is confirmed", {});
    } catch (thrown) {
      const { code } = MoorageError.from(thrown);
      if (code !== Code.UNAUTHENTICATED && code !== Code.PERMISSION_DENIED) throw thrown;
      await this.refused(candidate);
    } finally {
      link.close();
    }
  }

  async #enrol(stored: StoredIdentity, signal: AbortSignal | undefined): Promise<StoredIdentity> {
    const { deps } = { deps: this.#deps };
    let known = stored;
    const rejoin = known.certPem !== undefined && known.dataPlaneUid !== undefined;
    const token = rejoin ? "" : await deps.joinToken();
    if (token === undefined || (!rejoin && token === "")) {
      throw new MoorageError(
        Code.FAILED_PRECONDITION,
        "Cannot enrol: there is no join token and no certificate",
        { reason: "NO_JOIN_TOKEN" },
      );
    }
    // Durable first: the key that the token is spent on must outlive this process.
    if (known.keyPem === undefined)
      known = await this.#save({ ...known, keyPem: (await generateKeyPem()).keyPem });
    const keyPem = known.keyPem ?? "";
    failpoint("agent/key-stored");
    const link = deps.connectEnrolment({ caPem: known.caPem ?? (await deps.pinnedCa(signal)) });
    try {
      const answer = await link
        .client(EnrolmentService)
        .enrol(
          { joinToken: token, csrDer: await createCsr(keyPem), dataPlaneUid: known.dataPlaneUid ?? "" },
          { timeoutMs: limits.identityCallMs, ...(signal === undefined ? {} : { signal }) },
        );
      failpoint("agent/enrolled");
      const saved = await this.#save({
        dataPlaneUid: answer.dataPlaneUid,
        caPem: text(answer.trustBundlePem),
        keyPem,
        certPem: text(answer.certificateChainPem),
        nextKeyPem: undefined,
        nextCertPem: undefined,
      });
      deps.log.info(rejoin ? "rejoined the hub" : "enrolled at the hub", {
        dataPlaneUid: answer.dataPlaneUid,
      });
      return saved;
    } finally {
      link.close();
    }
  }

  async #load(): Promise<StoredIdentity> {
    this.#stored ??= await this.#deps.secret.load();
    return this.#stored;
  }

  async #save(identity: StoredIdentity): Promise<StoredIdentity> {
    try {
      await this.#deps.secret.store(identity);
    } catch (thrown) {
      // Somebody else wrote it, or the answer was lost: read it anew before the next try.
      this.#stored = undefined;
      throw thrown;
    }
    this.#stored = identity;
    return identity;
  }

  #serial<T>(fn: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(fn);
    this.#queue = run.catch(() => undefined);
    return run;
  }
}

function credentialsOf(stored: StoredIdentity, pair: { certPem: string; keyPem: string }): Credentials {
  return {
    dataPlaneUid: stored.dataPlaneUid ?? "",
    tls: { ...pair, ...(stored.caPem === undefined ? {} : { caPem: stored.caPem }) },
  };
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString();
}
