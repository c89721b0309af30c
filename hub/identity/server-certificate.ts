import type { Clock, Timer } from "@moorage/shared/clock";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { CertifiedKey } from "@moorage/shared/x509";
import { issueServerCertificate } from "@moorage/shared/x509";
import type { AuthorityKeeper } from "./authority.ts";
import { joinPem } from "./ca.ts";
import type { ServerCertificate } from "./identity.ts";

/** The listeners' certificate: renewed in time, and at each change of the authority. */

/** Life of a listener's certificate; renewed at two thirds of it. */
const SERVER_MS = 30 * 24 * 3_600_000;
/** Delay before a failed renewal is tried again. */
const RETRY_MS = 60_000;

/** What {@link serverCertificate} needs. */
export interface ServerCertificateOptions {
  authority: AuthorityKeeper;
  clock: Clock;
  rng: Rng;
  log: Logger;
  dnsNames: string[];
  ipAddresses?: string[];
}

/**
 * Issues a listener's certificate now, at two thirds of its life and with each change of what signs or is
 * trusted, until `stop`. It is followed by the cross-certificates: see authority.ts.
 */
export async function serverCertificate(
  o: ServerCertificateOptions,
): Promise<ServerCertificate & { stop(): void }> {
  const issue = async (): Promise<CertifiedKey> => {
    const { ca, crossPem } = o.authority.current;
    const leaf = await issueServerCertificate(
      {
        ca,
        dnsNames: o.dnsNames,
        ttlMs: SERVER_MS,
        ...(o.ipAddresses === undefined ? {} : { ipAddresses: o.ipAddresses }),
      },
      o,
    );
    // The authority itself is no part of a verified chain; who pins its fingerprint finds it here.
    return { certPem: joinPem([leaf.certPem, crossPem === "" ? ca.certPem : crossPem]), keyPem: leaf.keyPem };
  };
  const listeners = new Set<(certificate: CertifiedKey) => void>();
  let current = await issue();
  let timer: Timer | undefined;
  let stopped = false;
  const arm = (delayMs: number) => {
    timer?.cancel();
    if (!stopped) timer = o.clock.setTimer(delayMs, () => void renew());
  };
  const renew = async () => {
    try {
      current = await issue();
      for (const fn of listeners) fn(current);
      arm((SERVER_MS * 2) / 3);
    } catch (error) {
      o.log.error("server certificate could not be renewed, it is tried again", { error });
      arm(RETRY_MS);
    }
  };
  arm((SERVER_MS * 2) / 3);
  const unsubscribe = o.authority.onChange(() => (stopped ? undefined : renew()));
  return {
    current: () => current,
    onRenewed(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    stop() {
      stopped = true;
      unsubscribe();
      timer?.cancel();
    },
  };
}
