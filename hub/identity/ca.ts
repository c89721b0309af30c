import { chmod, mkdir, open, readFile, rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Clock } from "@moorage/shared/clock";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import { createCa, parseCertificate, splitBundle } from "@moorage/shared/x509";
import { syncPath } from "../store/durable.ts";
import type { Authority, KeyProvider } from "./identity.ts";

/** Where the certificate authority is kept: one P-256 key at a time, in files. */

const DAY_MS = 24 * 3_600_000;
/** Life of the authority's own certificate. */
export const CA_MS = 3650 * DAY_MS;

/** The subject of every authority of a trust domain: one, so that a cross-signed one is self-issued. */
export const caName = (trustDomain: string): string => `Moorage CA ${trustDomain}`;

const KEY_BLOCK = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----\n?/;

/**
 * Keeps the authority in files: `ca.key` (0600) is the signing key, its certificate and the cross-signed
 * ones, so that one rename changes them together; `ca-bundle.pem` is what is trusted; `ca.crt` is a copy
 * of the certificate for people.
 */
export function fileKeyProvider(dataDir: string): KeyProvider {
  const path = (name: string) => join(dataDir, name);
  return {
    async load() {
      const text = await read(path("ca.key"));
      if (text === undefined) return undefined;
      await chmod(path("ca.key"), 0o600);
      const keyPem = KEY_BLOCK.exec(text)?.[0];
      if (keyPem === undefined) throw broken(path("ca.key"), "it does not hold a private key");
      // Written by the first version, the key file holds the key alone.
      const own = text.includes("BEGIN CERTIFICATE") ? text : await read(path("ca.crt"));
      if (own === undefined) throw broken(path("ca.crt"), "it is missing although ca.key is there");
      const [certPem, ...cross] = splitBundle(own.replace(KEY_BLOCK, ""));
      if (certPem === undefined) throw broken(path("ca.key"), "it does not hold a certificate");
      return {
        ca: { certPem, keyPem },
        bundlePem: (await read(path("ca-bundle.pem"))) ?? certPem,
        crossPem: joinPem(cross),
      };
    },
    async save({ ca, bundlePem, crossPem }) {
      await mkdir(dataDir, { recursive: true, mode: 0o700 });
      // The bundle first: what signs after the rename of the key is trusted already. Nothing was signed
      // with a key that is absent, and all of it is made anew.
      await write(path("ca-bundle.pem"), bundlePem, 0o644);
      await write(path("ca.key"), joinPem([ca.keyPem, ca.certPem, crossPem]), 0o600);
      await write(path("ca.crt"), ca.certPem, 0o644);
    },
  };
}

/** PEM texts one below the other. */
export function joinPem(parts: readonly string[]): string {
  return parts
    .filter((p) => p.trim() !== "")
    .map((p) => `${p.trim()}\n`)
    .join("");
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
  syncPath(dirname(path));
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
  const ca = await createCa({ name: caName(on.trustDomain), ttlMs: CA_MS }, on);
  const made = { ca, bundlePem: ca.certPem, crossPem: "" };
  await provider.save(made);
  return made;
}
