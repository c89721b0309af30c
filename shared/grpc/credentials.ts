import { createPrivateKey, X509Certificate } from "node:crypto";
import type { SecureServerOptions } from "node:http2";
import { createSecureContext } from "node:tls";
import { ServerCredentials } from "@grpc/grpc-js";

/** TLS of a port, in PEM. With `clientCaPem` the handshake demands a certificate signed by it. */
export interface ServerTls {
  certPem: string;
  keyPem: string;
  clientCaPem?: string;
}

/** TLS 1.3 alone: both ends are ours, and grpc-js has no option of its own for it. */
const MIN_VERSION = "TLSv1.3";

function contextOptions(tls: ServerTls) {
  return {
    cert: tls.certPem,
    key: tls.keyPem,
    minVersion: MIN_VERSION,
    ...(tls.clientCaPem === undefined ? {} : { ca: tls.clientCaPem }),
  } as const;
}

/** Server credentials whose material can be replaced while the port is open. */
export class ReloadableCredentials extends ServerCredentials {
  readonly #mutual: boolean;

  /** `http2` are options of the HTTP/2 server, for which grpc-js has no way of its own either. */
  constructor(tls: ServerTls, http2: SecureServerOptions = {}) {
    const mutual = tls.clientCaPem !== undefined;
    super(
      { ...http2, requestCert: mutual, rejectUnauthorized: mutual, minVersion: MIN_VERSION },
      contextOptions(tls),
    );
    this.#mutual = mutual;
  }

  /**
   * Uses `tls` for handshakes from now on; connections that stand are left alone. Throws, keeping
   * the last good material, when the pair does not load or the port would stop demanding certificates.
   */
  replace(tls: ServerTls): void {
    if ((tls.clientCaPem !== undefined) !== this.#mutual) {
      throw new Error(
        "Cannot replace TLS material: a port cannot change whether it demands client certificates",
      );
    }
    // An empty certificate would load, and the port would then refuse every handshake.
    if (!new X509Certificate(tls.certPem).checkPrivateKey(createPrivateKey(tls.keyPem)))
      throw new Error("Cannot replace TLS material: the key is not the certificate's");
    const options = contextOptions(tls);
    createSecureContext(options);
    this.updateSecureContextOptions(options);
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}
