import { isIP, type Socket } from "node:net";
import { connect, type SecureContext, type TLSSocket } from "node:tls";
import { CallCredentials, ChannelCredentials } from "@grpc/grpc-js";

/**
 * TLS of a client whose server's name is known. grpc-js would put the target's host into SNI even
 * when it is an IP address, which RFC 6066 forbids (DEP0123: Node will ignore it one day); here an
 * address is checked against the certificate and never sent.
 */
export class NamedServerCredentials extends ChannelCredentials {
  readonly #context: SecureContext;
  readonly #serverName: string;

  /** `serverName` is a DNS name or an IP address that the server's certificate must have. */
  constructor(context: SecureContext, serverName: string) {
    super();
    this.#context = context;
    this.#serverName = serverName;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(_target: unknown, _options: unknown, calls?: CallCredentials) {
    return {
      connect: (socket: Socket) => this.#connect(socket),
      waitForReady: () => Promise.resolve(),
      getCallCredentials: () => calls ?? CallCredentials.createEmpty(),
      destroy: () => undefined,
    };
  }

  #connect(socket: Socket): Promise<{ socket: TLSSocket; secure: boolean }> {
    const name = this.#serverName;
    return new Promise((resolve, reject) => {
      const tls = connect({
        socket,
        secureContext: this.#context,
        host: name,
        ...(isIP(name) === 0 ? { servername: name } : {}),
        ALPNProtocols: ["h2"],
      });
      tls.once("secureConnect", () => resolve({ socket: tls, secure: true }));
      tls.on("error", reject);
    });
  }
}
