import type { AddressInfo } from "node:net";
import { createServer, type ServerResponse } from "node:http";
import { type Address, listenError } from "./grpc/listener.ts";
import type { Metrics } from "./metrics.ts";

/** A named condition of readiness: undefined when it holds, else the reason why not. */
export interface ReadyCheck {
  name: string;
  check(): string | undefined | Promise<string | undefined>;
}

/** An open operations port. */
export interface OpsServer {
  /** The address bound. */
  readonly address: Address;
  /** Closes the port and its connections. */
  close(): Promise<void>;
}

/**
 * Opens the operations port: `/healthz` (the process answers), `/readyz` (all checks hold; 503 with
 * the reasons otherwise) and `/metrics`. No credentials: bind it where only operators reach.
 */
export function startOpsServer(options: {
  address: Address;
  /** The setting that holds the address, named when the port cannot be opened. */
  option?: string;
  metrics: Metrics;
  ready: readonly ReadyCheck[];
}): Promise<OpsServer> {
  const server = createServer(
    { requestTimeout: 10_000, headersTimeout: 5_000, maxHeaderSize: 8_192 },
    (req, res) => {
      const path = (req.url ?? "/").split("?", 1)[0] as string;
      if (req.method !== "GET" && req.method !== "HEAD") send(res, 405, "method not allowed\n");
      else void respond(path, options, res).catch(() => send(res, 500, "internal error\n"));
    },
  );
  return new Promise((resolve, reject) => {
    server.once("error", (thrown) => reject(listenError(options.address, thrown, options.option)));
    server.listen(options.address.port, options.address.host, () => {
      resolve({
        address: { host: options.address.host, port: (server.address() as AddressInfo).port },
        close: () =>
          new Promise((done) => {
            server.close(() => done());
            server.closeAllConnections();
          }),
      });
    });
  });
}

async function respond(
  path: string,
  on: { metrics: Metrics; ready: readonly ReadyCheck[] },
  res: ServerResponse,
): Promise<void> {
  if (path === "/healthz") send(res, 200, "ok\n");
  else if (path === "/metrics") send(res, 200, await on.metrics.metricsText(), on.metrics.contentType);
  else if (path === "/readyz") {
    const results = await Promise.all(on.ready.map(async (c) => ({ name: c.name, reason: await c.check() })));
    const failed = results.some((r) => r.reason !== undefined);
    const lines = results.map((r) =>
      r.reason === undefined ? `[+] ${r.name} ok` : `[-] ${r.name} failed: ${r.reason}`,
    );
    send(res, failed ? 503 : 200, [...lines, failed ? "not ready" : "ready", ""].join("\n"));
  } else send(res, 404, "not found\n");
}

function send(res: ServerResponse, status: number, body: string, type = "text/plain; charset=utf-8"): void {
  if (res.headersSent) return;
  res.writeHead(status, { "Content-Type": type, "X-Content-Type-Options": "nosniff" }).end(body);
}
