import type { AddressInfo, Socket } from "node:net";
import { connect, createServer } from "node:net";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { systemClock } from "@moorage/shared/clock";
import type { MoorageError } from "@moorage/shared/errors";
import { Code } from "@moorage/shared/errors";
import { connect as connectLink } from "@moorage/shared/grpc/client";
import type { WireLimits } from "@moorage/shared/grpc/options";
import { agentLimits, agentPortLimits } from "@moorage/shared/grpc/options";
import { startServer } from "@moorage/shared/grpc/server";
import { bind } from "@moorage/shared/grpc/types";
import { systemRng } from "@moorage/shared/rng";
import {
  createCa,
  createCsr,
  generateKeyPem,
  issueClientCertificate,
  issueServerCertificate,
} from "@moorage/shared/x509";
import { afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import type { Fault, Proxy } from "../world/proxy.ts";
import { startProxy } from "../world/proxy.ts";

/** The fault proxy itself, then R8: a connection whose other end is gone without a word. */

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const closed = (socket: Socket) => new Promise<void>((resolve) => socket.once("close", () => resolve()));
const now = () => systemClock.monotonicMs();

describe("the fault proxy", () => {
  /** An echo behind a proxy, a client, and the echo's end of the connection. */
  async function echo() {
    const served = Promise.withResolvers<Socket>();
    const server = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.pipe(socket);
      served.resolve(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    closers.push(() => void server.close());
    const proxy = await startProxy((server.address() as AddressInfo).port);
    closers.push(() => proxy.close());
    const socket = connect(proxy.port, "127.0.0.1").on("error", () => undefined);
    closers.push(() => void socket.destroy());
    let got = Buffer.alloc(0);
    let wake: (() => void) | undefined;
    socket.on("data", (data: Buffer) => {
      got = Buffer.concat([got, data]);
      wake?.();
    });
    const read = async (n: number): Promise<Buffer> => {
      while (got.length < n) await new Promise<void>((resolve) => (wake = resolve));
      const out = got.subarray(0, n);
      got = got.subarray(n);
      return out;
    };
    const round = async (text: string) => {
      socket.write(text);
      return (await read(text.length)).toString();
    };
    expect(await round("hello")).toBe("hello");
    return { proxy, socket, served: await served.promise, round, read, got: () => got };
  }

  test("passes bytes, delays them, and limits their rate", async () => {
    const { proxy, round } = await echo();
    const timed = async (fault: Fault, text: string) => {
      proxy.set("up", fault);
      const startMs = now();
      expect(await round(text)).toBe(text);
      return now() - startMs;
    };
    expect(await timed({ latencyMs: 100 }, "x")).toBeGreaterThanOrEqual(95);
    proxy.set("up", {});
    proxy.set("down", { bytesPerSecond: 100_000 });
    const startMs = now();
    const chunk = "y".repeat(5_000);
    expect(await round(chunk)).toBe(chunk);
    expect(await round(chunk)).toBe(chunk);
    expect(now() - startMs).toBeGreaterThanOrEqual(45);
    expect(proxy.bytes("down")).toBe(5 + 1 + 10_000);
  });

  test("loses one direction: nobody is told, and what was lost does not come later", async () => {
    const { proxy, socket, read, got } = await echo();
    proxy.set("down", { lost: true });
    socket.write("lost");
    while (proxy.lostBytes("down") < 4) await new Promise((resolve) => setImmediate(resolve));
    proxy.set("down", {});
    socket.write("found");
    expect((await read(5)).toString()).toBe("found");
    expect(got().length).toBe(0);
  });

  test("keeps a half-open connection: the client's end is not passed on", async () => {
    const { proxy, socket, served } = await echo();
    proxy.set("both", { lost: true });
    const gone = closed(socket);
    socket.destroy();
    await gone;
    await new Promise((resolve) => systemClock.setTimer(50, () => resolve(undefined)));
    expect(served.destroyed).toBe(false);
    expect(proxy.connections()).toBe(1);
  });

  test.each(["rst", "fin"] as const)("cuts by %s at both ends", async (how) => {
    const { proxy, socket, served } = await echo();
    const ends = Promise.all([closed(socket), closed(served)]);
    proxy.cut(how);
    await ends;
    proxy.refuse(true);
    await closed(connect(proxy.port, "127.0.0.1").on("error", () => undefined));
  });

  test("flips one bit, once", async () => {
    const { proxy, round } = await echo();
    proxy.set("up", { flipBit: true });
    expect(await round("abc")).toBe("acc");
    expect(await round("abc")).toBe("abc");
  });
});

/** A server and a client of the Sync service through a proxy, with mutual TLS. */
async function through(keepalive: NonNullable<WireLimits["keepalive"]> | undefined) {
  const ctx = { clock: systemClock, rng: systemRng };
  const ca = await createCa({ name: "test", ttlMs: 3_600_000 }, ctx);
  const leaf = await issueServerCertificate({ ca, dnsNames: ["localhost"], ttlMs: 3_600_000 }, ctx);
  const { keyPem } = await generateKeyPem();
  const csrDer = await createCsr(keyPem);
  const certPem = await issueClientCertificate({ ca, csrDer, uri: "moorage:a/1", ttlMs: 3_600_000 }, ctx);
  const own = keepalive === undefined ? {} : { keepalive };
  const hubEnd = Promise.withResolvers<number>();
  const up = Promise.withResolvers<void>();
  const service = bind(SyncService, {
    async sync(stream, call) {
      call.signal.addEventListener("abort", () => hubEnd.resolve(now()));
      stream.write({});
      for await (const _ of stream.read()) up.resolve();
    },
  });
  const server = await startServer({
    address: { host: "127.0.0.1", port: 0 },
    tls: { ...leaf, clientCaPem: ca.certPem },
    services: [service],
    limits: { ...agentPortLimits, ...own },
    clock: systemClock,
  });
  closers.push(() => server.drain(0));
  const proxy = await startProxy(server.address.port);
  closers.push(() => proxy.close());
  const link = connectLink({
    target: { host: "127.0.0.1", port: proxy.port },
    tls: { caPem: ca.certPem, certPem, keyPem, serverName: "localhost" },
    limits: { ...agentLimits, ...own },
    clock: systemClock,
  });
  closers.push(() => link.close());
  const stream = link.client(SyncService).sync();
  stream.write({});
  const reader = stream.read()[Symbol.asyncIterator]();
  await reader.next();
  await up.promise;
  return { proxy, reader, hubEnd: hubEnd.promise };
}

describe("R8", () => {
  const lost: [string, (proxy: Proxy) => void][] = [
    ["both directions lost", (proxy) => proxy.set("both", { lost: true })],
    ["what the agent says is lost", (proxy) => proxy.set("up", { lost: true })],
    ["what the hub says is lost", (proxy) => proxy.set("down", { lost: true })],
  ];

  test.each(lost)("with the ports' own limits, %s: both ends notice within 45 s", async (_name, break_) => {
    // Timers go by hand, sockets by themselves: nobody waits for half a minute.
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    onTestFinished(() => void vi.useRealTimers());
    const { proxy, reader, hubEnd } = await through(undefined);
    break_(proxy);
    let ended = 0;
    const agentEnd = reader.next().catch((e: unknown) => e as MoorageError);
    for (const end of [agentEnd, hubEnd]) void end.then(() => (ended += 1));
    await vi.advanceTimersByTimeAsync(20_000);
    expect(ended).toBe(0);
    await vi.advanceTimersByTimeAsync(25_000);
    expect(await agentEnd).toMatchObject({ code: Code.UNAVAILABLE });
    await hubEnd;
  });

  test.each([
    ...lost,
    ["nothing is read any more", (proxy: Proxy) => proxy.set("both", { bytesPerSecond: 0 })],
  ] as [string, (proxy: Proxy) => void][])(
    "a half-open connection, %s: both ends notice within keepalive and its timeout",
    async (_name, break_) => {
      const keepalive = { timeMs: 300, timeoutMs: 200 };
      const { proxy, reader, hubEnd } = await through(keepalive);
      const startMs = now();
      break_(proxy);
      await expect(reader.next()).rejects.toMatchObject({ code: Code.UNAVAILABLE });
      const agentMs = now() - startMs;
      const hubMs = (await hubEnd) - startMs;
      // Three times the 0.5 s that it takes, on a machine with other things to do.
      for (const ms of [agentMs, hubMs])
        expect(ms).toBeLessThan(3 * (keepalive.timeMs + keepalive.timeoutMs));
    },
  );

  test("a slow connection is not a dead one", async () => {
    const { proxy, reader } = await through({ timeMs: 100, timeoutMs: 400 });
    proxy.set("both", { latencyMs: 60 });
    const next = reader.next().then(
      () => "ended",
      () => "ended",
    );
    const quiet = new Promise<string>((resolve) => systemClock.setTimer(1_500, () => resolve("alive")));
    expect(await Promise.race([next, quiet])).toBe("alive");
    proxy.cut("rst");
    expect(await next).toBe("ended");
  });

  test("a flipped bit breaks the connection and is never read as a message", async () => {
    const { proxy, reader, hubEnd } = await through({ timeMs: 300, timeoutMs: 200 });
    proxy.set("down", { flipBit: true });
    await expect(reader.next()).rejects.toMatchObject({ code: Code.UNAVAILABLE });
    await hubEnd;
  });
});
