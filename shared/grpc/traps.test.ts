import { readFileSync } from "node:fs";
import { createSecureServer, type ServerHttp2Session } from "node:http2";
import { connect as tcpConnect, type AddressInfo } from "node:net";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { EnrolmentService, EnrolResponseSchema } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import type { SyncRequest, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { create, toBinary } from "@bufbuild/protobuf";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { systemClock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { limits } from "../limits.ts";
import { systemRng } from "../rng.ts";
import {
  createCa,
  createCsr,
  generateKeyPem,
  issueClientCertificate,
  issueServerCertificate,
} from "../x509.ts";
import type { ConnectOptions } from "./client.ts";
import { connect } from "./client.ts";
import type { WireLimits } from "./options.ts";
import { agentLimits, agentPortLimits, apiLimits, channelOptions, enrolmentPortLimits } from "./options.ts";
import type { ServerOptions } from "./server.ts";
import { startServer } from "./server.ts";
import { rawCall, rawSession } from "./testing.ts";
import type { BoundService, CallContext, ServerDuplex } from "./types.ts";
import { bind } from "./types.ts";

/**
 * One test for each trap of grpc-js that this folder closes (numbers as in the design's list). TG8,
 * TG9, TG10 and TG20 are also tried from outside in test/security; TG18 is a price, not a trap.
 */

const ctx = { clock: systemClock, rng: systemRng };
const loopback = { host: "127.0.0.1", port: 0 };
const hourMs = 3_600_000;
const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function makePki() {
  const ca = await createCa({ name: "test", ttlMs: hourMs }, ctx);
  const names = { dnsNames: ["localhost"], ipAddresses: ["127.0.0.1"] };
  const server = await issueServerCertificate({ ca, ...names, ttlMs: hourMs }, ctx);
  const { keyPem } = await generateKeyPem();
  const csrDer = await createCsr(keyPem);
  const certPem = await issueClientCertificate({ ca, csrDer, uri: "moorage:agent/1", ttlMs: hourMs }, ctx);
  return {
    server,
    mutual: { ...server, clientCaPem: ca.certPem },
    client: { caPem: ca.certPem, certPem, keyPem },
  };
}
let pki: Awaited<ReturnType<typeof makePki>>;
beforeAll(async () => {
  pki = await makePki();
});

async function serve(services: BoundService[], options: Partial<ServerOptions> = {}) {
  const server = await startServer({
    address: loopback,
    tls: pki.mutual,
    services,
    limits: agentPortLimits,
    clock: systemClock,
    ...options,
  });
  closers.push(() => server.drain(0));
  return server;
}

function client(port: number, options: Partial<ConnectOptions> = {}) {
  const target = { host: "127.0.0.1", port };
  const link = connect({ target, tls: pki.client, limits: agentLimits, clock: systemClock, ...options });
  closers.push(() => link.close());
  return link;
}

const enrolment = bind(EnrolmentService, { enrol: () => ({ dataPlaneUid: "u" }) });
const turn = () => new Promise((resolve) => setImmediate(resolve));

test("TG1: grpc-js has the fixes of CVE-2026-48068 and -48069", () => {
  const at = new URL("../../node_modules/@grpc/grpc-js/package.json", import.meta.url);
  const { version } = JSON.parse(readFileSync(at, "utf8")) as { version: string };
  const [major = 0, minor = 0, patch = 0] = version.split(".").map(Number);
  expect(major === 1 && (minor > 14 || (minor === 14 && patch >= 7))).toBe(true);
});

test("TG2: a certificate that the port did not verify is no certificate", async () => {
  const shown: boolean[] = [];
  const service = bind(EnrolmentService, {
    enrol(_request, call) {
      shown.push(call.peerCertificateDer !== undefined);
      return {};
    },
  });
  const unverified = await serve([service], { tls: pki.server });
  const verified = await serve([service]);
  for (const server of [unverified, verified])
    await client(server.address.port).client(EnrolmentService).enrol({});
  expect(shown).toEqual([false, true]);
});

test.each([new Error("password=1"), "password=1", { password: 1 }, undefined])(
  "TG3: the text of what a handler throws stays inside: %s",
  async (thrown) => {
    const service = bind(EnrolmentService, { enrol: () => Promise.reject(thrown) });
    const { address } = await serve([service]);
    const error = await client(address.port)
      .client(EnrolmentService)
      .enrol({})
      .catch((e: MoorageError) => e);
    expect(error).toMatchObject({ code: Code.INTERNAL });
    expect(JSON.stringify(error) + (error as Error).message).not.toContain("password");
  },
);

test("TG4: a port cannot change whether it demands client certificates", async () => {
  const mutual = await serve([enrolment]);
  expect(() => mutual.replaceTls(pki.server)).toThrow(/whether it demands client certificates$/);
  const open = await serve([enrolment], { tls: pki.server });
  expect(() => open.replaceTls(pki.mutual)).toThrow(/whether it demands client certificates$/);
});

test("TG5: material that does not load leaves the last good one in place", async () => {
  const server = await serve([enrolment]);
  expect(() => server.replaceTls({ ...pki.mutual, certPem: "" })).toThrow();
  expect(() =>
    server.replaceTls({ ...pki.mutual, keyPem: (pki.client as { keyPem: string }).keyPem }),
  ).toThrow();
  expect(await client(server.address.port).client(EnrolmentService).enrol({})).toMatchObject({
    dataPlaneUid: "u",
  });
});

test("TG6: a handler, a check and an iterator that reject are a status, never an unhandled rejection", async () => {
  const unhandled: unknown[] = [];
  const note = (reason: unknown) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  closers.push(() => void process.off("unhandledRejection", note));
  const blobs = bind(BlobService, {
    async *readBlob() {
      yield { data: new Uint8Array(1) };
      throw new MoorageError(Code.DATA_LOSS, "Torn");
    },
  });
  const rejects = bind(EnrolmentService, {
    enrol: () => Promise.reject(new MoorageError(Code.ABORTED, "No")),
  });
  const checks: string[] = [];
  const server = await serve([blobs, rejects], {
    before: async (call) => {
      if (checks.push(call.method) > 2) throw new MoorageError(Code.UNAUTHENTICATED, "Who");
    },
  });
  const link = client(server.address.port);
  const read = async () => {
    for await (const _ of link.client(BlobService).readBlob({}));
  };
  await expect(read()).rejects.toMatchObject({ code: Code.DATA_LOSS });
  await expect(link.client(EnrolmentService).enrol({})).rejects.toMatchObject({ code: Code.ABORTED });
  await expect(read()).rejects.toMatchObject({ code: Code.UNAUTHENTICATED });
  await turn();
  expect(unhandled).toEqual([]);
});

test("TG7: encoded bytes are an answer", async () => {
  const encoded = Uint8Array.from(
    toBinary(EnrolResponseSchema, create(EnrolResponseSchema, { dataPlaneUid: "b" })),
  );
  const { address } = await serve([bind(EnrolmentService, { enrol: () => encoded as never })]);
  expect((await client(address.port).client(EnrolmentService).enrol({})).dataPlaneUid).toBe("b");
});

describe("TG8: a client that does not read", () => {
  type Stream = ServerDuplex<SyncRequest, SyncResponse>;
  const thrown = new MoorageError(Code.UNAUTHENTICATED, "Revoked", { reason: "CREDENTIALS_REVOKED" });

  /** A Sync service that writes until it must wait, and shows its end. */
  async function filling() {
    const full = Promise.withResolvers<{ stream: Stream; call: CallContext; written: number }>();
    const service = bind(SyncService, {
      async sync(stream: Stream, call: CallContext) {
        const frameOf64KiB = new Uint8Array(64 * 1024);
        frameOf64KiB.set([0x7a, 0xfc, 0xff, 0x03]);
        let written = 1;
        while (stream.write(frameOf64KiB as never)) written += 1;
        full.resolve({ stream, call, written });
        await new Promise<void>((resolve) => call.signal.addEventListener("abort", () => resolve()));
      },
    } as never);
    return { server: await serve([service]), full: full.promise };
  }

  test("holds a bounded number of messages, and does not hold up the end of its stream", async () => {
    const { server, full } = await filling();
    const stream = client(server.address.port).client(SyncService).sync();
    stream.write({});
    const { stream: served, call, written } = await full;
    expect(written * 64 * 1024).toBe(limits.streamQueuedBytes);
    const startMs = systemClock.monotonicMs();
    served.abort(thrown);
    await new Promise<void>((resolve) => call.signal.addEventListener("abort", () => resolve()));
    // S4: within a second, whatever the client does.
    expect(systemClock.monotonicMs() - startMs).toBeLessThan(1_000);
    const read = (async () => {
      for await (const _ of stream.read());
    })();
    await expect(read).rejects.toBeInstanceOf(MoorageError);
  });

  test("gets the status all the same when it reads again in time", async () => {
    const { server, full } = await filling();
    const stream = client(server.address.port).client(SyncService).sync();
    stream.write({});
    (await full).stream.abort(thrown);
    const read = (async () => {
      for await (const _ of stream.read());
    })();
    await expect(read).rejects.toMatchObject({ code: Code.UNAUTHENTICATED, reason: "CREDENTIALS_REVOKED" });
  });

  test("does not hold up a plain failure's neighbours on the same connection", async () => {
    const { server, full } = await filling();
    const sync = client(server.address.port).client(SyncService);
    const first = sync.sync();
    first.write({});
    (await full).stream.abort(thrown);
    const second = sync.sync();
    second.write({});
    const got = await second.read()[Symbol.asyncIterator]().next();
    expect(got.done).toBe(false);
  });
});

test("TG8: a stream of large messages that nobody reads holds one of them, and goes on when it is read", async () => {
  const part = new Uint8Array(limits.bundleChunkBytes);
  let made = 0;
  const blobs = bind(BlobService, {
    async *readBlob() {
      for (; made < 20; made++) yield { data: part };
    },
  });
  const server = await serve([blobs], { tls: "insecure" });
  const session = await rawSession(server.address.port);
  closers.push(() => session.destroy());
  const call = rawCall(session, BlobService.method.readBlob);
  call.send({});
  call.endRequest();
  await call.begun;
  await systemTurn(50);
  expect(made).toBe(0);
  call.read();
  expect(await call.ended).toBe(undefined);
  expect(made).toBe(20);
});

test("a call that is ended from outside is over for both ends, whatever its handler waits for", async () => {
  const calls: CallContext[] = [];
  const reports: (MoorageError | undefined)[] = [];
  const closed: string[] = [];
  let cleaned = 0;
  const services = [
    bind(EnrolmentService, {
      enrol(_request, call) {
        calls.push(call);
        call.onClosed(() => closed.push("enrol"));
        return new Promise((_resolve, reject) =>
          call.signal.addEventListener("abort", () => reject(call.signal.reason as Error)),
        );
      },
    }),
    bind(BlobService, {
      async *readBlob(_request: unknown, call: CallContext) {
        calls.push(call);
        call.onClosed(() => closed.push("readBlob"));
        try {
          for (;;) yield { data: new Uint8Array(limits.bundleChunkBytes) };
        } finally {
          cleaned += 1;
        }
      },
    }),
  ];
  const server = await serve(services, { tls: "insecure", onCall: ({ error }) => reports.push(error) });
  const session = await rawSession(server.address.port);
  closers.push(() => session.destroy());
  const enrol = rawCall(session, EnrolmentService.method.enrol);
  const stalled = rawCall(session, BlobService.method.readBlob);
  for (const call of [enrol, stalled]) {
    call.send({});
    call.endRequest();
  }
  await stalled.begun;
  while (calls.length < 2) await turn();
  expect(closed).toEqual([]);
  const error = new MoorageError(Code.ABORTED, "Enough", { reason: "ENOUGH" });
  for (const call of calls) call.end(error);
  expect(await enrol.ended).toMatchObject({ code: Code.ABORTED, reason: "ENOUGH" });
  while (reports.length < 2 || closed.length < 2) await turn();
  expect(reports).toMatchObject([{ reason: "ENOUGH" }, { reason: "ENOUGH" }]);
  expect(cleaned).toBe(1);
});

test.each([
  ["API", apiLimits],
  ["agent", agentPortLimits],
  ["enrolment", enrolmentPortLimits],
  ["agent's end", agentLimits],
] satisfies [string, WireLimits][])(
  "TG9, TG10, TG12, TG14, TG16, TG21: the options of the %s port",
  (_name, wire) => {
    const options = channelOptions(wire);
    expect(limits.keepaliveMs + limits.keepaliveTimeoutMs).toBeLessThanOrEqual(45_000);
    expect(options).toMatchObject({
      "grpc.keepalive_time_ms": limits.keepaliveMs,
      "grpc.keepalive_timeout_ms": limits.keepaliveTimeoutMs,
      "grpc.keepalive_permit_without_calls": 1,
      "grpc.max_receive_message_length": wire.maxReceiveBytes,
      "grpc.max_send_message_length": wire.maxSendBytes,
      "grpc.enable_channelz": 0,
      "grpc.enable_retries": 0,
    });
    expect(Object.keys(options).filter((o) => o.includes("connection_age"))).toEqual([]);
  },
);

test.each([2 ** 31 - 1, 2 ** 31, 2 ** 40, Number.MAX_SAFE_INTEGER])(
  "TG11: a time of %d ms is far away, not over",
  async (timeoutMs) => {
    const { address } = await serve([enrolment]);
    expect(await client(address.port).client(EnrolmentService).enrol({}, { timeoutMs })).toMatchObject({
      dataPlaneUid: "u",
    });
  },
);

test("TG13: a drain ends watches and whatever else stays, with a status, in its time", async () => {
  const called = Promise.withResolvers<void>();
  const stays = bind(SyncService, {
    sync() {
      called.resolve();
      return new Promise<void>(() => undefined);
    },
  });
  const server = await serve([stays]);
  const stream = client(server.address.port).client(SyncService).sync();
  stream.write({});
  const ended = (async () => {
    for await (const _ of stream.read());
  })();
  const refused = expect(ended).rejects.toMatchObject({ code: Code.UNAVAILABLE, reason: "SHUTTING_DOWN" });
  await called.promise;
  const startMs = systemClock.monotonicMs();
  await server.drain(50);
  expect(systemClock.monotonicMs() - startMs).toBeLessThan(2_000);
  await refused;
  expect(server.connections()).toBe(0);
});

test("TG13: a drain waits for a call under way, and no longer", async () => {
  const called = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const slow = bind(EnrolmentService, {
    async enrol() {
      called.resolve();
      await go.promise;
      return { dataPlaneUid: "slow" };
    },
  });
  const server = await serve([slow]);
  const answer = client(server.address.port).client(EnrolmentService).enrol({});
  await called.promise;
  const drained = server.drain(20_000);
  await systemTurn(20);
  go.resolve();
  expect(await answer).toMatchObject({ dataPlaneUid: "slow" });
  await drained;
});

/** Lets `ms` of real time pass on the clock, for what only the system does. */
const systemTurn = (ms: number) => new Promise<void>((resolve) => systemClock.setTimer(ms, resolve));

describe("TG14: what is too large to send", () => {
  const most = agentPortLimits.maxSendBytes;
  const refused = {
    code: Code.RESOURCE_EXHAUSTED,
    reason: "MESSAGE_TOO_LARGE",
    metadata: { bytes: String(most + 1), limit: String(most) },
  };
  /** A client that takes anything. */
  const taking = (port: number) => client(port, { limits: { ...agentLimits, maxReceiveBytes: 1 << 30 } });

  test("is refused before the hub sends it: with its details, and the call is known to have failed", async () => {
    const reports: (MoorageError | undefined)[] = [];
    // Field and length take four bytes.
    let dataPlaneUid = "u".repeat(most - 4);
    const { address } = await serve([bind(EnrolmentService, { enrol: () => ({ dataPlaneUid }) })], {
      onCall: ({ error }) => reports.push(error),
    });
    const enrol = taking(address.port).client(EnrolmentService);
    expect((await enrol.enrol({})).dataPlaneUid).toHaveLength(most - 4);
    dataPlaneUid += "u";
    await expect(enrol.enrol({})).rejects.toMatchObject(refused);
    expect(reports).toMatchObject([undefined, refused]);
  });

  test("ends a stream behind what was sent before", async () => {
    const blobs = bind(BlobService, {
      async *readBlob() {
        yield { data: new Uint8Array(1) };
        yield new Uint8Array(most + 1);
      },
    });
    const { address } = await serve([blobs]);
    const stream = taking(address.port).client(BlobService).readBlob({})[Symbol.asyncIterator]();
    expect((await stream.next()).value?.data).toHaveLength(1);
    await expect(stream.next()).rejects.toMatchObject(refused);
  });

  test("is refused before the agent sends it", async () => {
    const { address } = await serve([enrolment]);
    const csrDer = new Uint8Array(agentLimits.maxSendBytes + 1);
    await expect(client(address.port).client(EnrolmentService).enrol({ csrDer })).rejects.toMatchObject({
      code: Code.RESOURCE_EXHAUSTED,
    });
  });
});

test("TG15: a link of its own has the window it was given", async () => {
  const { certPem: cert, keyPem: key } = pki.server;
  const server = createSecureServer({ cert, key });
  const session = new Promise<ServerHttp2Session>((resolve) => server.once("session", resolve));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const flowControlWindowBytes = 4 * 1024 * 1024;
  const link = client((server.address() as AddressInfo).port, { ownConnection: { flowControlWindowBytes } });
  link
    .client(EnrolmentService)
    .enrol({})
    .catch(() => undefined);
  const got = await session;
  if (got.remoteSettings.initialWindowSize === 65_535)
    await new Promise((resolve) => got.once("remoteSettings", resolve));
  expect(got.remoteSettings.initialWindowSize).toBe(flowControlWindowBytes);
  got.destroy();
  server.close();
});

test("TG17: a connection that carried no call for its time is ended, one with a stream is not", async () => {
  const stays = bind(SyncService, {
    sync: (_stream, call) =>
      new Promise<void>((resolve) => call.signal.addEventListener("abort", () => resolve())),
  });
  const server = await serve([enrolment, stays], { limits: { ...agentPortLimits, idleMs: 100 } });
  const probing = client(server.address.port, { ownConnection: {} });
  await probing.client(EnrolmentService).enrol({});
  const stream = client(server.address.port, { ownConnection: {} }).client(SyncService).sync();
  stream.write({});
  while (server.connections() < 2) await turn();
  while (server.connections() > 1) await systemTurn(10);
  await systemTurn(150);
  expect(server.connections()).toBe(1);
  // The client that was ended comes back with its next call.
  expect(await probing.client(EnrolmentService).enrol({})).toMatchObject({ dataPlaneUid: "u" });
});

test("TG20: the injector serves sockets of our own listener, and names them as their peers", async () => {
  const peers: string[] = [];
  const { address } = await serve([
    bind(EnrolmentService, { enrol: (_r, call) => (peers.push(call.peer), {}) }),
  ]);
  await client(address.port).client(EnrolmentService).enrol({});
  expect(peers[0]).toMatch(/^127\.0\.0\.1:\d+$/);
  // A peer that says nothing does not disturb it.
  tcpConnect(address.port, "127.0.0.1")
    .on("error", () => undefined)
    .destroy();
});

test("a client sends no address as a server name (DEP0123)", async () => {
  const warnings: string[] = [];
  const note = (warning: Error & { code?: string }) => warnings.push(warning.code ?? "");
  process.on("warning", note);
  closers.push(() => void process.off("warning", note));
  const { address } = await serve([enrolment]);
  await client(address.port).client(EnrolmentService).enrol({});
  await turn();
  expect(warnings).not.toContain("DEP0123");
});
