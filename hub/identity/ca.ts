import { chmod, mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import type { Clock, Timer } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Logger } from "@moorage/shared/log";
import type { Rng } from "@moorage/shared/rng";
import type { CertifiedKey } from "@moorage/shared/x509";
import { createCa, issueServerCertificate, parseCertificate, splitBundle } from "@moorage/shared/x509";
import type { Authority, KeyProvider, ServerCertificate } from "./identity.ts";

/** The built-in certificate authority: one P-256 key, made once, and the listeners' certificates. */

const DAY_MS = 24 * 3_600_000;
/** Life of the authority's own certificate. */
const CA_MS = 3650 * DAY_MS;
/** Life of a listener's certificate; renewed at two thirds of it. */
const SERVER_MS = 30 * DAY_MS;
/** Delay before a failed renewal is tried again. */
const RETRY_MS = 60_000;

/** Keeps the authority in files: `ca.key` (0600), `ca.crt`, `ca-bundle.pem`. */
export function fileKeyProvider(dataDir: string): KeyProvider {
  const path = (name: string) => join(dataDir, name);
  return {
    async load() {
      const keyPem = await read(path("ca.key"));
      if (keyPem === undefined) return undefined;
      const certPem = await read(path("ca.crt"));
      if (certPem === undefined) throw broken(path("ca.crt"), "it is missing although ca.key is there");
      await chmod(path("ca.key"), 0o600);
      return { ca: { certPem, keyPem }, bundlePem: (await read(path("ca-bundle.pem"))) ?? certPem };
    },
    async save({ ca, bundlePem }) {
      await mkdir(dataDir, { recursive: true, mode: 0o700 });
      // The key last: as long as it is absent nothing was signed, and all of it is made anew.
      await write(path("ca-bundle.pem"), bundlePem, 0o644);
      await write(path("ca.crt"), ca.certPem, 0o644);
      await write(path("ca.key"), ca.keyPem, 0o600);
    },
  };
}

async function read(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw broken(path, "it cannot be read", thrown);
  }
}

async function write(path: string, text: string, mode: number): Promise<void> {
  const file = await open(`${path}.new`, "w", mode);
  try {
    await file.chmod(mode);
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.new`, path);
}

function broken(path: string, why: string, cause?: unknown): MoorageError {
  return new MoorageError(Code.FAILED_PRECONDITION, `Cannot use "${path}": ${why}`, {
    reason: "CA_UNUSABLE",
    cause,
  });
}

/** The authority that the provider keeps, made on first use. */
export async function loadAuthority(
  provider: KeyProvider,
  on: { clock: Clock; rng: Rng; trustDomain: string },
): Promise<Authority> {
  const kept = await provider.load();
  if (kept !== undefined) {
    const own = parseCertificate(kept.ca.certPem).keyThumbprint;
    if (!splitBundle(kept.bundlePem).some((pem) => parseCertificate(pem).keyThumbprint === own)) {
      throw broken("ca-bundle.pem", "it does not hold the certificate of the authority itself");
    }
    return kept;
  }
  const ca = await createCa({ name: `Moorage CA ${on.trustDomain}`, ttlMs: CA_MS }, on);
  const made = { ca, bundlePem: ca.certPem };
  await provider.save(made);
  return made;
}

/** What {@link serverCertificate} needs. */
export interface ServerCertificateOptions {
  authority: Authority;
  clock: Clock;
  rng: Rng;
  log: Logger;
  dnsNames: string[];
  ipAddresses?: string[];
}

/** Issues a listener's certificate now, and again at two thirds of its life until `stop`. */
export async function serverCertificate(
  o: ServerCertificateOptions,
): Promise<ServerCertificate & { stop(): void }> {
  const issue = (): Promise<CertifiedKey> =>
    issueServerCertificate(
      {
        ca: o.authority.ca,
        dnsNames: o.dnsNames,
        ttlMs: SERVER_MS,
        ...(o.ipAddresses === undefined ? {} : { ipAddresses: o.ipAddresses }),
      },
      o,
    );
  const listeners = new Set<(certificate: CertifiedKey) => void>();
  let current = await issue();
  let timer: Timer | undefined;
  let stopped = false;
  const arm = (delayMs: number) => {
    if (!stopped) timer = o.clock.setTimer(delayMs, () => void renew());
  };
  const renew = async () => {
    try {
      current = await issue();
      for (const fn of listeners) fn(current);
      arm((SERVER_MS * 2) / 3);
    } catch (error) {
      o.log.error("Cannot renew the server certificate", { error });
      arm(RETRY_MS);
    }
  };
  arm((SERVER_MS * 2) / 3);
  return {
    current: () => current,
    onRenewed(fn) {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    stop() {
      stopped = true;
      timer?.cancel();
    },
  };
}
