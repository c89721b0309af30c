import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { systemClock, type Clock } from "@moorage/shared/clock";
import { accessOf, cachedAccess, staticCredentials, type Credentials } from "./credentials.ts";
import { createTransport, warningsOf, type Transport } from "./transport.ts";

const open: { server: Server; transport: Transport }[] = [];
afterEach(async () => {
  for (const { server, transport } of open.splice(0)) {
    await transport.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

/** A transport to a plain HTTP server that `answer` speaks for, and the sockets it saw. */
async function setUp(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  over: { clock?: Clock; credentials?: (url: string) => Credentials } = {},
) {
  const server = createServer(answer);
  let sockets = 0;
  server.on("connection", () => sockets++);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const transport = createTransport({
    credentials: over.credentials?.(url) ?? staticCredentials(url),
    clock: over.clock ?? systemClock,
  });
  open.push({ server, transport });
  return { transport, sockets: () => sockets };
}

const get = { what: "Cannot test", method: "GET" as const, path: "/x" };
async function collect(lines: AsyncIterable<string>): Promise<string[]> {
  const out: string[] = [];
  for await (const line of lines) out.push(line);
  return out;
}

describe("the transport", () => {
  it("joins lines that were cut inside a line and inside a character", async () => {
    const bytes = Buffer.from('{"a":"ä€😀"}\n{"b":1}\n');
    const { transport } = await setUp((_request, response) => {
      const step = (at: number) => {
        if (at >= bytes.length) response.end();
        else response.write(bytes.subarray(at, at + 1), () => setImmediate(() => step(at + 1)));
      };
      step(0);
    });
    expect(await collect(transport.lines({ ...get, signal: new AbortController().signal }))).toEqual([
      '{"a":"ä€😀"}',
      '{"b":1}',
    ]);
  });

  it("reports a stream that ends inside a line as a lost connection", async () => {
    const { transport } = await setUp((_request, response) => response.end('{"a":1}\n{"b"'));
    await expect(
      collect(transport.lines({ ...get, signal: new AbortController().signal })),
    ).rejects.toMatchObject({ status: 0, reason: "ConnectionLost" });
  });

  it("surfaces warnings, and reads Status, Retry-After and foreign bodies of refusals", async () => {
    const { transport } = await setUp((request, response) => {
      if (request.url === "/warn")
        return response.writeHead(200, { warning: '299 - "v1beta1 is \\"old\\""' }).end("{}");
      if (request.url === "/busy")
        return response.writeHead(429, { "retry-after": "3" }).end(
          JSON.stringify({
            kind: "Status",
            reason: "TooManyRequests",
            message: "later",
            details: { causes: [{ reason: "r", message: "m", field: "f" }] },
          }),
        );
      return response.writeHead(404).end("404 page not found");
    });
    expect((await transport.send({ ...get, path: "/warn" })).warnings).toEqual(['v1beta1 is "old"']);
    await expect(transport.send({ ...get, path: "/busy" })).rejects.toMatchObject({
      status: 429,
      reason: "TooManyRequests",
      retryAfterMs: 3_000,
      message: "Cannot test: later",
      causes: [{ field: "f" }],
    });
    await expect(transport.send(get)).rejects.toMatchObject({ status: 404, reason: "KindNotInstalled" });
  });

  it("gives up after 30 s without an answer, and passes the caller's own abort on unchanged", async () => {
    let fire = () => {};
    const clock: Clock = {
      ...systemClock,
      setTimer(delayMs, fn) {
        if (delayMs !== 30_000) return systemClock.setTimer(delayMs, fn);
        fire = fn;
        return { cancel: () => {} };
      },
    };
    const { transport } = await setUp(() => fire(), { clock });
    await expect(transport.send(get)).rejects.toMatchObject({
      status: 0,
      reason: "Timeout",
      ambiguous: true,
    });
    const stop = new AbortController();
    const pending = transport.send({ ...get, signal: stop.signal });
    stop.abort(new Error("enough"));
    await expect(pending).rejects.toThrow("enough");
  });

  it("reads the credentials anew after a 401", async () => {
    let token = 0;
    const seen: (string | undefined)[] = [];
    const { transport } = await setUp(
      (request, response) => {
        seen.push(request.headers.authorization);
        response.writeHead(request.headers.authorization === "Bearer 1" ? 401 : 200).end("{}");
      },
      {
        credentials: (url) => ({
          access: () => Promise.resolve(accessOf(url, { authorization: `Bearer ${++token}` }, {})),
        }),
      },
    );
    await expect(transport.send(get)).rejects.toMatchObject({ status: 401 });
    await transport.send(get);
    await transport.send(get);
    expect(seen).toEqual(["Bearer 1", "Bearer 2", "Bearer 2"]);
  });

  it("makes many calls over few connections", async () => {
    const { transport, sockets } = await setUp((_request, response) => response.end("{}"));
    await Promise.all(Array.from({ length: 500 }, () => transport.send(get)));
    expect(sockets()).toBeLessThanOrEqual(2);
  });
});

describe("cached credentials", () => {
  it("are read again after 50 s, and at once after a failure", async () => {
    let now = 0;
    let reads = 0;
    const clock: Clock = { ...systemClock, monotonicMs: () => now };
    const access = cachedAccess(
      {
        access: () =>
          ++reads === 2
            ? Promise.reject(new Error("no file"))
            : Promise.resolve(accessOf("https://x", {}, {})),
      },
      clock,
    );
    await access.get();
    now = 49_999;
    await access.get();
    expect(reads).toBe(1);
    now = 50_000;
    await expect(access.get()).rejects.toThrow("no file");
    await access.get();
    expect(reads).toBe(3);
  });
});

describe("warning headers", () => {
  it("may come several in a line, and other codes are left out", () => {
    expect(warningsOf('299 - "a, b", 299 host "c", 110 - "stale"')).toEqual(["a, b", "c"]);
    expect(warningsOf(undefined)).toEqual([]);
  });
});
