import { gzipSync } from "node:zlib";
import { constants } from "node:http2";
import { connect as tlsConnect, type ConnectionOptions } from "node:tls";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { sleep, systemClock } from "@moorage/shared/clock";
import type { MoorageError } from "@moorage/shared/errors";
import { Code } from "@moorage/shared/errors";
import { connect } from "@moorage/shared/grpc/client";
import { agentLimits } from "@moorage/shared/grpc/options";
import { limits } from "@moorage/shared/limits";
import { seededRng, systemRng } from "@moorage/shared/rng";
import { createCa, createCsr, generateKeyPem, issueClientCertificate } from "@moorage/shared/x509";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RawConnection } from "./raw-http2.ts";
import {
  call,
  callHeaders,
  END_HEADERS,
  frame,
  headerBlock,
  message,
  rawConnect,
  session,
  Setting,
  settingsOf,
  Type,
  uint32,
} from "./raw-http2.ts";
import type { WireWorld } from "./wire-world.ts";
import { startWireWorld } from "./wire-world.ts";

/** S6 and S13: what a client may do to the wire of a real hub process, and what the good ones feel of it. */

const ENROL = "/moorage.agent.v1.EnrolmentService/Enrol";
const GET_TENANT = "/moorage.hub.v1.TenantService/GetTenant";
/** What the handler of Enrol says to nobody: no token, or too many tries. */
const refusals = [Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED];
/** What an attack on one connection may cost. */
const MOST_MB = 128;

let world: WireWorld;
beforeAll(async () => {
  world = await startWireWorld();
}, 60_000);
afterAll(() => world.close());

const ports = () => world.hub.ports;

describe("S6", () => {
  test.each([
    [
      "a length prefix of 4 GiB",
      message(Buffer.alloc(10), { length: 0xffffffff }),
      {},
      Code.RESOURCE_EXHAUSTED,
    ],
    [
      "a message of more than the limit",
      message(Buffer.alloc(limits.enrolmentMessageBytes + 1)),
      {},
      Code.RESOURCE_EXHAUSTED,
    ],
    [
      "gzip of 1000:1",
      message(gzipSync(Buffer.alloc(16 * 1024 * 1024)), { flag: 1 }),
      { "grpc-encoding": "gzip" },
      Code.UNIMPLEMENTED,
    ],
    [
      "an encoding that nobody knows",
      message(Buffer.alloc(3)),
      { "grpc-encoding": "snappy" },
      Code.UNIMPLEMENTED,
    ],
    ["bytes that are no message", message(Buffer.from([0x0a, 0xff, 0x01])), {}, Code.INVALID_ARGUMENT],
    ["a number where a string belongs", message(Buffer.from([0x08, 0x01])), {}, Code.INVALID_ARGUMENT],
    [
      "one element too many",
      message(Buffer.alloc(2 * (limits.enrolmentMessageElements + 1), Buffer.from([0x78, 1]))),
      {},
      Code.RESOURCE_EXHAUSTED,
    ],
    ["unknown groups, nested without end", message(Buffer.alloc(8_000, 0x7b)), {}, Code.RESOURCE_EXHAUSTED],
    ["a broken timeout", message(Buffer.alloc(0)), { "grpc-timeout": "soon" }, Code.INTERNAL],
  ])(
    "%s is refused with a status, and the connection serves the next call",
    async (_name, body, headers, code) => {
      const to = await session(ports().enrolment, world.anyone);
      expect((await call(to, ENROL, body, headers)).status).toBe(code);
      // Nothing to enrol: a plain refusal of the handler.
      expect((await call(to, ENROL, message(Buffer.alloc(0)))).status).toBeOneOf(refusals);
      to.close();
    },
  );

  test("another content type, an unknown method and two requests for one are refused", async () => {
    const to = await session(ports().api, world.anyone);
    expect((await call(to, GET_TENANT, Buffer.alloc(0), { "content-type": "application/json" })).http).toBe(
      415,
    );
    expect((await call(to, "/no.Service/Method", Buffer.alloc(5))).status).toBe(Code.UNIMPLEMENTED);
    expect((await call(to, GET_TENANT, message(Buffer.alloc(0)))).status).toBe(Code.UNAUTHENTICATED);
    to.close();
  });

  test("a compressed flood inflates to nothing: 16 streams of messages that would be 256 KiB each", async () => {
    const bomb = message(gzipSync(Buffer.alloc(limits.agentToHubMessageBytes)), { flag: 1 });
    const flood = Buffer.concat(Array<Buffer>(400).fill(bomb));
    const cost = await world.under(async () => {
      const to = await session(ports().agent, world.agent);
      const path = "/moorage.agent.v1.SyncService/Sync";
      const answers = await Promise.all(
        Array.from({ length: limits.agentStreamsPerConnection }, () =>
          call(to, path, flood, { "grpc-encoding": "gzip" }),
        ),
      );
      expect(new Set(answers.map((a) => a.status))).toEqual(new Set([Code.UNIMPLEMENTED]));
      to.close();
    });
    expect(cost.grewMb).toBeLessThan(64);
  });

  test("random bytes for messages, on every port, never end the process nor a handler", async () => {
    const rng = seededRng(42);
    const targets: [number, ConnectionOptions, string][] = [
      [ports().enrolment, world.anyone, ENROL],
      [ports().api, world.anyone, GET_TENANT],
      [ports().agent, world.agent, "/moorage.agent.v1.SyncService/Sync"],
      [ports().agent, world.agent, "/moorage.agent.v1.IdentityService/Renew"],
      [ports().agent, world.agent, "/moorage.agent.v1.BlobService/ReadBlob"],
    ];
    const cost = await world.under(async () => {
      for (const [port, tls, path] of targets) {
        const to = await session(port, tls);
        for (let i = 0; i < 150; i++) {
          const body = Buffer.from(rng.bytes(1 + Math.floor(rng.float() * 200)));
          const framed = rng.float() < 0.8 ? message(body) : body;
          const { status } = await call(to, path, framed);
          expect(status).not.toBe(0);
        }
        to.close();
      }
    });
    expect(cost.grewMb).toBeLessThan(MOST_MB);
  });

  test("a header block without end (CONTINUATION flood) and one of a million fields end their connection", async () => {
    const cost = await world.under(async () => {
      const endless = await rawConnect(ports().enrolment, world.anyone);
      endless.send(frame(Type.HEADERS, 0, 1, headerBlock(callHeaders(ENROL))));
      const filler = headerBlock(Array.from({ length: 400 }, (_, i) => [`x-${i}`, "a".repeat(30)] as const));
      await floodUntilClosed(endless, frame(Type.CONTINUATION, 0, 1, filler.subarray(0, 16_384)), 2_000);
      const wide = await rawConnect(ports().api, world.anyone);
      const fields = headerBlock([...callHeaders(GET_TENANT), ...Array(1_000).fill(["x", "y"] as const)]);
      const blocks = Array.from({ length: 1_000 }, (_, i) =>
        frame(Type.HEADERS, END_HEADERS, 2 * i + 1, fields),
      );
      for (const block of blocks) await pushed(wide, block);
      // Each stream is refused or the connection ends: none is answered.
      const got = await Promise.race([
        wide.first((f) => f.type === Type.GOAWAY || f.type === Type.RST_STREAM),
        wide.closed.then(() => undefined),
      ]);
      expect(
        wide.frames.some((f) => f.type === Type.HEADERS && f.flags & END_HEADERS && f.payload.length < 20),
      ).toBe(false);
      expect(got === undefined || got.type !== Type.DATA).toBe(true);
      wide.socket.destroy();
    });
    expect(cost.grewMb).toBeLessThan(MOST_MB);
  });
});

/** Writes one piece and waits while the socket is full. */
async function pushed(to: RawConnection, data: Buffer): Promise<void> {
  if (to.socket.destroyed) return;
  if (to.socket.write(data)) {
    // What the hub answers must have a chance to be read.
    await new Promise((resolve) => setImmediate(resolve));
    return;
  }
  await Promise.race([new Promise<void>((resolve) => to.socket.once("drain", () => resolve())), to.closed]);
}

/** Repeats a piece until the hub hangs up or says GOAWAY; answers how often it was sent. Fails when all were taken. */
async function floodUntilClosed(to: RawConnection, piece: Buffer, most: number): Promise<number> {
  let sent = 0;
  const over = () => to.socket.destroyed || to.frames.some((f) => f.type === Type.GOAWAY);
  while (!over() && sent < most) {
    await pushed(to, piece);
    sent += 1;
  }
  const ended = await Promise.race([
    to.first((f) => f.type === Type.GOAWAY).then(() => true),
    to.closed.then(() => true),
    sleep(systemClock, 8_000).then(() => false),
  ]);
  expect(ended).toBe(true);
  to.socket.destroy();
  return sent;
}

describe("S13", () => {
  test.each([
    ["API", () => [ports().api, world.anyone], limits.apiStreamsPerConnection],
    ["client-certificate", () => [world.clientCertPort, world.backend], limits.apiStreamsPerConnection],
    ["agent", () => [ports().agent, world.agent], limits.agentStreamsPerConnection],
    ["enrolment", () => [ports().enrolment, world.anyone], limits.agentStreamsPerConnection],
  ] as [string, () => [number, ConnectionOptions], number][])(
    "the %s port names its bounds in its settings",
    async (_name, port, streams) => {
      const raw = await rawConnect(...port());
      const settings = settingsOf(
        (await raw.first((f) => f.type === Type.SETTINGS))?.payload ?? Buffer.alloc(0),
      );
      expect(settings.get(Setting.MAX_CONCURRENT_STREAMS)).toBe(streams);
      expect(settings.get(Setting.MAX_HEADER_LIST_SIZE)).toBe(limits.headerListBytes);
      raw.socket.destroy();
    },
  );

  test("rapid reset (CVE-2023-44487) ends the attacker's connection, and nobody else's", async () => {
    const service = 'grpc_service="moorage.hub.v1.TenantService",grpc_method="GetTenant"';
    const counter = `grpc_server_started_total{grpc_type="unary",${service}}`;
    const taken = () => world.metric(counter).catch(() => 0);
    const before = await taken();
    const cost = await world.under(async () => {
      const raw = await rawConnect(ports().api, world.anyone);
      const block = headerBlock(callHeaders(GET_TENANT));
      let stream = 1;
      const next = () => {
        const id = stream;
        stream += 2;
        return Buffer.concat([
          frame(Type.HEADERS, END_HEADERS, id, block),
          frame(Type.RST_STREAM, 0, id, uint32(constants.NGHTTP2_CANCEL)),
        ]);
      };
      while (!raw.socket.destroyed && stream < 40_000 && !raw.frames.some((f) => f.type === Type.GOAWAY)) {
        await pushed(raw, Buffer.concat(Array.from({ length: 20 }, next)));
      }
      // What the hub had not read when it hung up makes a TCP reset of it, which may overtake its GOAWAY.
      const goaway = await raw.first((f) => f.type === Type.GOAWAY);
      if (goaway !== undefined) expect(goaway.payload.readUInt32BE(4)).toBe(constants.NGHTTP2_INTERNAL_ERROR);
      await raw.closed;
    });
    // Each that the hub took was a call to it: they were bounded.
    const count = (await taken()) - before;
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThan(5 * limits.streamResetBurst);
    expect(cost.grewMb).toBeLessThan(MOST_MB);
  });

  test("20,000 half-open streams of one connection without credentials: it is ended, memory stays", async () => {
    const cost = await world.under(async () => {
      const raw = await rawConnect(ports().enrolment, world.anyone);
      const block = headerBlock(callHeaders(ENROL));
      for (let i = 0; i < 20_000 && !raw.socket.destroyed; i++)
        await pushed(raw, frame(Type.HEADERS, END_HEADERS, 2 * i + 1, block));
      const reset = raw.frames.filter((f) => f.type === Type.RST_STREAM).length;
      const goaway = raw.frames.some((f) => f.type === Type.GOAWAY);
      expect(raw.socket.destroyed || goaway || reset > 0).toBe(true);
      raw.socket.destroy();
      await raw.closed;
    });
    expect(cost.grewMb).toBeLessThan(MOST_MB);
  });

  test.each([
    ["PING", () => frame(Type.PING, 0, 0, Buffer.alloc(8))],
    ["SETTINGS", () => frame(Type.SETTINGS, 0, 0, Buffer.from([0, 3, 0, 0, 0, 100]))],
  ])("a flood of %s is answered or ended, and costs nobody else anything", async (_name, make) => {
    const piece = Buffer.concat(Array.from({ length: 200 }, make));
    const cost = await world.under(async () => {
      const raw = await rawConnect(ports().enrolment, world.anyone);
      // It does not read the answers: they pile up until the hub ends it.
      raw.socket.pause();
      for (let i = 0; i < 500 && !raw.socket.destroyed; i++) {
        await Promise.race([pushed(raw, piece), sleep(systemClock, 50)]);
      }
      raw.socket.destroy();
      await raw.closed;
    });
    expect(cost.grewMb).toBeLessThan(MOST_MB);
  });

  test("a WINDOW_UPDATE beyond 2^31-1 is a connection error, 200 times over without a leak", async () => {
    const cost = await world.under(async () => {
      for (let i = 0; i < 200; i++) {
        const raw = await rawConnect(ports().enrolment, world.anyone);
        const most = frame(Type.WINDOW_UPDATE, 0, 0, uint32(0x7fffffff));
        raw.send(most, most);
        const goaway = await raw.first((f) => f.type === Type.GOAWAY);
        if (goaway !== undefined)
          expect(goaway.payload.readUInt32BE(4)).toBe(constants.NGHTTP2_FLOW_CONTROL_ERROR);
        raw.socket.destroy();
        await raw.closed;
      }
    });
    expect(cost.grewMb).toBeLessThan(MOST_MB);
  });

  test("without a valid client certificate the agent port is closed: none, another authority's, TLS 1.2", async () => {
    const other = await createCa({ name: "other", ttlMs: 3_600_000 }, { clock: systemClock, rng: systemRng });
    const { keyPem } = await generateKeyPem();
    const foreign = await issueClientCertificate(
      {
        ca: other,
        csrDer: await createCsr(keyPem),
        uri: `spiffe://moorage.local/data-plane/${world.identity.dataPlaneUid}`,
        ttlMs: 3_600_000,
      },
      { clock: systemClock, rng: systemRng },
    );
    const attempts: ConnectionOptions[] = [
      world.anyone,
      { ...world.anyone, cert: foreign, key: keyPem },
      { ...world.agent, maxVersion: "TLSv1.2" },
    ];
    for (const tls of attempts) {
      const startMs = systemClock.monotonicMs();
      const socket = tlsConnect({
        host: "127.0.0.1",
        port: ports().agent,
        servername: "localhost",
        ALPNProtocols: ["h2"],
        ...tls,
      });
      socket.on("error", () => undefined);
      let bytes = 0;
      socket.on("data", (data: Buffer) => (bytes += data.length));
      await new Promise<void>((resolve) => socket.once("close", () => resolve()));
      expect(bytes).toBe(0);
      expect(systemClock.monotonicMs() - startMs).toBeLessThan(limits.handshakeMs + 1_000);
    }
  });

  test("a silent connection, half a handshake and a handshake without a call are gone within 5 s", async () => {
    const startMs = systemClock.monotonicMs();
    const silent = await rawConnect(ports().agent, undefined);
    const halfway = await rawConnect(ports().agent, undefined);
    // The first bytes of a TLS record that never ends.
    halfway.send(Buffer.from([0x16, 0x03, 0x01, 0x40, 0x00, 0x01]));
    const idle = await rawConnect(ports().enrolment, world.anyone);
    const unknown = await rawConnect(ports().api, world.anyone);
    // A method that is not served does not count as a call.
    unknown.send(frame(Type.HEADERS, END_HEADERS, 1, headerBlock(callHeaders("/no.Service/Method"))));
    const plain = await rawConnect(ports().api, undefined);
    plain.send(Buffer.from("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    const backend = await rawConnect(world.clientCertPort, world.backend);
    const all = [silent, halfway, idle, unknown, plain, backend];
    await Promise.all(all.map((c) => c.closed));
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(limits.handshakeMs + 1_500);
    expect(
      await world.metric('moorage_hub_refused_total{reason="handshake_timeout"}'),
    ).toBeGreaterThanOrEqual(5);
  });

  test.each([
    ["whose message does not come", Buffer.from([0, 0, 0])],
    ["whose end does not come", message(Buffer.alloc(0))],
  ])("a call %s is ended, its connection serves others", async (_name, part) => {
    const to = await session(ports().enrolment, world.anyone);
    const request = to.request({
      ":method": "POST",
      ":path": ENROL,
      "content-type": "application/grpc",
      te: "trailers",
    });
    const status = new Promise((resolve) =>
      request.on("response", (h) => resolve(Number(h["grpc-status"]))).on("error", () => undefined),
    );
    request.write(part);
    expect(await status).toBe(Code.DEADLINE_EXCEEDED);
    expect((await call(to, ENROL, message(Buffer.alloc(0)))).status).toBeOneOf(refusals);
    to.close();
  });

  test("one address that opens connections without end gets so many, while its good agent goes on", async () => {
    const open: RawConnection[] = [];
    await world.under(async () => {
      for (let i = 0; i < limits.pendingConnectionsPerAddress + 100; i++)
        open.push(await rawConnect(ports().agent, undefined));
      await Promise.all(open.map((c) => c.closed));
    });
    expect(await world.metric('moorage_hub_refused_total{reason="address_pending"}')).toBeGreaterThanOrEqual(
      90,
    );
  });

  test("a client refuses a hub of another authority, and one whose certificate has another name", async () => {
    const other = await createCa({ name: "other", ttlMs: 3_600_000 }, { clock: systemClock, rng: systemRng });
    const target = { host: "127.0.0.1", port: ports().enrolment };
    const attempts = [
      { caPem: other.certPem, serverName: "localhost" },
      { caPem: world.hub.caPem, serverName: "not-the-hub.example" },
    ];
    for (const tls of attempts) {
      const link = connect({ target, tls, limits: agentLimits, clock: systemClock });
      await expect(link.client(EnrolmentService).enrol({}, { timeoutMs: 5_000 })).rejects.toMatchObject({
        code: Code.UNAVAILABLE,
      });
      link.close();
    }
    const byAddress = connect({
      target,
      tls: { caPem: world.hub.caPem },
      limits: agentLimits,
      clock: systemClock,
    });
    const answer = await byAddress
      .client(EnrolmentService)
      .enrol({})
      .catch((e: MoorageError) => e.code);
    expect(answer).toBeOneOf(refusals);
    byAddress.close();
  });
});
