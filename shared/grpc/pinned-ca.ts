import { createHash } from "node:crypto";
import { connect, type DetailedPeerCertificate } from "node:tls";
import type { Clock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import type { Address } from "./listener.ts";

/** `sha256:` and the SHA-256 of a certificate's DER in lower-case hex. */
export function certificateFingerprint(der: Uint8Array): string {
  return `sha256:${createHash("sha256").update(der).digest("hex")}`;
}

/**
 * The certificate, in PEM, of the server's chain that has `fingerprint`, to be trusted as authority
 * by a client that knows nothing else yet. Nothing is sent on the unverified connection. The server
 * must send its authority in its chain. UNAUTHENTICATED when no certificate of the chain matches,
 * DEADLINE_EXCEEDED after `limits.identityCallMs`.
 */
export function fetchPinnedCa(options: {
  target: Address;
  fingerprint: string;
  clock: Clock;
  serverName?: string;
  signal?: AbortSignal;
}): Promise<string> {
  return new Promise((resolve, reject) => {
    const { host, port } = options.target;
    const socket = connect({
      host,
      port,
      ...(options.serverName === undefined ? {} : { servername: options.serverName }),
      rejectUnauthorized: false,
      minVersion: "TLSv1.3",
      ALPNProtocols: ["h2"],
    });
    // Neither connecting nor the handshake ends by itself when the other side is silent.
    const timer = options.clock.setTimer(limits.identityCallMs, () => {
      const message = `Cannot read the certificates of "${host}:${port}": none came within ${limits.identityCallMs} ms`;
      reject(new MoorageError(Code.DEADLINE_EXCEEDED, message));
      socket.destroy();
    });
    const onAbort = () => socket.destroy(options.signal?.reason as Error);
    if (options.signal?.aborted) onAbort();
    options.signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("close", () => {
      timer.cancel();
      options.signal?.removeEventListener("abort", onAbort);
      reject(
        new MoorageError(Code.UNAVAILABLE, `Cannot read the certificates of "${host}:${port}": it hung up`),
      );
    });
    socket.once("error", (cause) => {
      reject(
        new MoorageError(Code.UNAVAILABLE, `Cannot connect to "${host}:${port}": TLS failed`, { cause }),
      );
    });
    socket.once("secureConnect", () => {
      const found = findPinned(socket.getPeerCertificate(true), options.fingerprint);
      if (found !== undefined) resolve(found);
      else {
        const message = `Cannot trust "${host}:${port}": no certificate of its chain has the fingerprint given`;
        reject(new MoorageError(Code.UNAUTHENTICATED, message, { reason: "CA_FINGERPRINT_MISMATCH" }));
      }
      socket.destroy();
    });
  });
}

function findPinned(leaf: DetailedPeerCertificate, fingerprint: string): string | undefined {
  const seen = new Set<string>();
  for (
    let cert = leaf;
    cert?.raw !== undefined && !seen.has(cert.fingerprint256);
    cert = cert.issuerCertificate
  ) {
    seen.add(cert.fingerprint256);
    if (certificateFingerprint(cert.raw) !== fingerprint) continue;
    const lines = cert.raw.toString("base64").match(/.{1,64}/g) ?? [];
    return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
  }
  return undefined;
}
