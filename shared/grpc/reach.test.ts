import { createServer } from "node:http";
import {
  connect as tcpConnect,
  createServer as createTcpServer,
  type AddressInfo,
  type Socket,
} from "node:net";
import { X509Certificate } from "node:crypto";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { afterEach, expect, test } from "vitest";
import type { Clock } from "../clock.ts";
import { systemClock } from "../clock.ts";
import { Code } from "../errors.ts";
import { systemRng } from "../rng.ts";
import { createCa, issueServerCertificate } from "../x509.ts";
import { connect } from "./client.ts";
import type { Listener } from "./listener.ts";
import { listen, sourceOf } from "./listener.ts";
import { agentLimits, agentPortLimits, enrolmentPortLimits } from "./options.ts";
import { certificateFingerprint, fetchPinnedCa } from "./pinned-ca.ts";
import { startServer } from "./server.ts";
import { bind } from "./types.ts";

const ctx = { clock: systemClock, rng: systemRng };
const loopback = { host: "127.0.0.1", port: 0 };
const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function serverTls() {
  const ca = await createCa({ name: "test", ttlMs: 3_600_000 }, ctx);
  const leaf = await issueServerCertificate({ ca, dnsNames: ["hub.test"], ttlMs: 3_600_000 }, ctx);
  const server = { certPem: `${leaf.certPem}\n${ca.certPem}`, keyPem: leaf.keyPem };
  return { ca, server, client: { caPem: ca.certPem, serverName: "hub.test" } };
}

async function tlsServer() {
  const { ca, server: tls } = await serverTls();
  const services = [bind(EnrolmentService, { enrol: () => ({ dataPlaneUid: "u" }) })];
  const server = await startServer({
    address: loopback,
    tls,
    services,
    limits: agentPortLimits,
    clock: systemClock,
  });
  closers.push(() => server.drain(50));
  return { server, ca };
}

test("a pinned authority is fetched, trusted, and refused when another is pinned", async () => {
  const { server, ca } = await tlsServer();
  const fingerprint = certificateFingerprint(new X509Certificate(ca.certPem).raw);
  const caPem = await fetchPinnedCa({ target: server.address, fingerprint, clock: systemClock });
  const tls = { caPem, serverName: "hub.test" };
  const link = connect({ target: server.address, tls, limits: agentLimits, clock: systemClock });
  closers.push(() => link.close());
  expect((await link.client(EnrolmentService).enrol({})).dataPlaneUid).toBe("u");
  const none = `sha256:${"0".repeat(64)}`;
  const wrong = fetchPinnedCa({ target: server.address, fingerprint: none, clock: systemClock });
  await expect(wrong).rejects.toMatchObject({ code: Code.UNAUTHENTICATED });
});

test("a server that says nothing in the handshake is left after a while, and at once when asked to", async () => {
  const silent = createTcpServer();
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  closers.push(() => void silent.close());
  const target = { host: "127.0.0.1", port: (silent.address() as AddressInfo).port };
  const fetched = async (signal?: AbortSignal) => {
    const fire: (() => void)[] = [];
    const clock: Clock = {
      ...systemClock,
      setTimer(ms, fn) {
        expect(ms).toBe(30_000);
        fire.push(fn);
        return { cancel: () => void fire.splice(fire.indexOf(fn), 1) };
      },
    };
    const accepted = new Promise<Socket>((resolve) => silent.once("connection", resolve));
    const more = signal === undefined ? {} : { signal };
    const pinned = fetchPinnedCa({ target, fingerprint: "sha256:00", clock, ...more });
    pinned.catch(() => undefined);
    const socket = await accepted;
    const closed = new Promise((resolve) => socket.resume().on("error", resolve).once("close", resolve));
    return { pinned, closed, fire };
  };
  const late = await fetched();
  for (const fn of [...late.fire]) fn();
  await expect(late.pinned).rejects.toMatchObject({ code: Code.DEADLINE_EXCEEDED });
  await late.closed;
  const stop = new AbortController();
  const left = await fetched(stop.signal);
  stop.abort(new Error("the agent stops"));
  await expect(left.pinned).rejects.toMatchObject({ code: Code.UNAVAILABLE });
  await left.closed;
  expect([late.fire, left.fire]).toEqual([[], []]);
});

test("TG19: a proxy is asked for exactly the one target, with TLS end to end", async () => {
  const { server, ca } = await tlsServer();
  const asked: (string | undefined)[] = [];
  const proxy = createServer();
  proxy.on("connect", (request, socket) => {
    asked.push(request.url);
    const upstream = tcpConnect(server.address.port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection Established\r\n\r\n");
      upstream.pipe(socket).pipe(upstream);
    });
    upstream.on("error", () => socket.destroy());
    socket.on("error", () => upstream.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  closers.push(() => void proxy.close());
  const link = connect({
    target: { host: "hub.test", port: server.address.port },
    tls: { caPem: ca.certPem },
    proxy: { host: "127.0.0.1", port: (proxy.address() as AddressInfo).port },
    limits: agentLimits,
    clock: systemClock,
  });
  closers.push(() => link.close());
  expect((await link.client(EnrolmentService).enrol({})).dataPlaneUid).toBe("u");
  expect(asked).toEqual([`hub.test:${server.address.port}`]);
});

/** A listener on loopback, and how to knock: resolves true when the connection was let in. */
async function door(
  options: Omit<Parameters<typeof listen>[0], "address" | "accept" | "clock"> & { clock?: Clock },
) {
  const accepted: Socket[] = [];
  const refused: string[] = [];
  const listener = await listen({
    clock: systemClock,
    ...options,
    address: loopback,
    accept: (socket) => accepted.push(socket),
    onRefused: (reason) => refused.push(reason),
  });
  closers.push(() => {
    listener.stopAccepting();
    listener.destroyAll();
  });
  const knock = async () => {
    const before = accepted.length;
    const socket = tcpConnect(listener.address.port, "127.0.0.1").on("error", () => undefined);
    closers.push(() => void socket.destroy());
    const ended = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    const said = refused.length;
    while (accepted.length === before && refused.length === said)
      await new Promise((resolve) => setImmediate(resolve));
    return { in: accepted.length > before, socket, ended, peer: `127.0.0.1:${socket.localPort}` };
  };
  return { listener, knock, accepted, refused };
}

/** A connection that is neither let in nor refused. */
async function wait(listener: Listener): Promise<Socket> {
  const before = listener.connections();
  const socket = tcpConnect(listener.address.port, "127.0.0.1").on("error", () => undefined);
  closers.push(() => void socket.destroy());
  while (listener.connections() === before) await new Promise((resolve) => setImmediate(resolve));
  return socket;
}

/** A clock that stands still until told; timers run when their time has come. */
function handClock() {
  let nowMs = 0;
  const timers = new Set<{ atMs: number; fn: () => void }>();
  const clock: Clock = {
    ...systemClock,
    monotonicMs: () => nowMs,
    setTimer(ms, fn) {
      const timer = { atMs: nowMs + ms, fn };
      timers.add(timer);
      return { cancel: () => void timers.delete(timer) };
    },
  };
  /** Goes on by `ms` at once, as a loop that was busy does, and runs what is due. */
  const go = (ms: number): void => {
    nowMs += ms;
    for (const timer of [...timers].filter((t) => t.atMs <= nowMs)) {
      timers.delete(timer);
      timer.fn();
    }
  };
  return { clock, go };
}

const pace = { perSecond: 100, burst: 2, loopDelayMs: 25, waiting: 3, waitMs: 1_000 };

test("connections above the rate wait unread, in their order, and some are too many", async () => {
  const { clock, go } = handClock();
  const { knock, accepted, refused, listener } = await door({ pace, clock });
  const first = [await knock(), await knock()];
  expect(first.map((k) => k.in)).toEqual([true, true]);
  const waiting = [await wait(listener), await wait(listener), await wait(listener)];
  waiting[0]?.write("hello");
  expect((await knock()).in).toBe(false);
  expect(refused).toEqual(["accept_rate"]);
  go(10);
  expect(accepted.map((s) => s.remotePort).slice(2)).toEqual([waiting[0]?.localPort]);
  go(20);
  expect(accepted.map((s) => s.remotePort).slice(2)).toEqual(waiting.map((s) => s.localPort));
});

test("while the event loop is late, one connection at a time begins", async () => {
  const { clock, go } = handClock();
  const { knock, accepted, listener } = await door({ pace, clock });
  await knock();
  await knock();
  for (let i = 0; i < 3; i++) await wait(listener);
  go(10 + pace.loopDelayMs + 1);
  expect(accepted.length).toBe(3);
  go(10);
  expect(accepted.length).toBe(5);
});

test("whoever waits for too long is reset", async () => {
  const { clock, go } = handClock();
  const { knock, accepted, refused, listener } = await door({ pace: { ...pace, perSecond: 0.1 }, clock });
  await knock();
  await knock();
  const late = await wait(listener);
  const ended = new Promise<void>((resolve) => late.once("close", () => resolve()));
  go(1_000);
  await ended;
  expect(refused).toEqual(["waiting_timeout"]);
  expect(accepted.length).toBe(2);
});

test("a connection that waited is served as any other", async () => {
  for (const tls of ["insecure", await serverTls()] as const) {
    const server = await startServer({
      address: loopback,
      tls: tls === "insecure" ? tls : tls.server,
      services: [bind(EnrolmentService, { enrol: () => ({ dataPlaneUid: "u" }) })],
      limits: enrolmentPortLimits,
      clock: systemClock,
      admission: { pace: { ...pace, burst: 1 } },
    });
    closers.push(() => server.drain(0));
    const call = () => {
      const link = connect({
        target: { host: "127.0.0.1", port: server.address.port },
        tls: tls === "insecure" ? tls : tls.client,
        limits: agentLimits,
        clock: systemClock,
        ownConnection: {},
      });
      closers.push(() => link.close());
      return link.client(EnrolmentService).enrol({});
    };
    const answers = await Promise.all([call(), call(), call()]);
    expect(answers.map((a) => a.dataPlaneUid)).toEqual(["u", "u", "u"]);
  }
});

test("one address has so many connections before their first call, and so many at all", async () => {
  const { knock, refused, listener } = await door({ pendingPerAddress: 2, connectionsPerAddress: 3 });
  const first = await knock();
  await knock();
  expect((await knock()).in).toBe(false);
  listener.established(first.peer);
  // Established twice is established once.
  listener.established(first.peer);
  const third = await knock();
  expect(third.in).toBe(true);
  listener.established(third.peer);
  expect((await knock()).in).toBe(false);
  expect(refused).toEqual(["address_pending", "address_connections"]);
  first.socket.destroy();
  while (listener.connections() > 2) await new Promise((resolve) => setImmediate(resolve));
  expect((await knock()).in).toBe(true);
});

test("a connection without a call is ended in time, one with a call is not", async () => {
  const fire: (() => void)[] = [];
  const clock: Clock = {
    ...systemClock,
    setTimer(ms, fn) {
      expect(ms).toBe(5_000);
      fire.push(fn);
      return { cancel: () => void fire.splice(fire.indexOf(fn), 1) };
    },
  };
  const { knock, refused, listener } = await door({ handshakeMs: 5_000, clock });
  const [silent, calling] = [await knock(), await knock()];
  listener.established(calling.peer);
  expect(fire.length).toBe(1);
  for (const fn of [...fire]) fn();
  await silent.ended;
  expect(refused).toEqual(["handshake_timeout"]);
  expect(listener.connections()).toBe(1);
});

test("a source is an IPv4 address or the first half of an IPv6 one", () => {
  expect(sourceOf("10.0.0.1")).toBe("10.0.0.1");
  expect(sourceOf("::ffff:10.0.0.1")).toBe("10.0.0.1");
  expect(sourceOf("2001:db8:1:2:3:4:5:6")).toBe("2001:db8:1:2::/64");
  expect(sourceOf("2001:db8:1:2::6")).toBe("2001:db8:1:2::/64");
  expect(sourceOf("2001:db8::6")).toBe("2001:db8:0:0::/64");
  expect(sourceOf("::1")).toBe("0:0:0:0::/64");
  expect(sourceOf("fe80::1%eth0")).toBe("fe80:0:0:0::/64");
});
