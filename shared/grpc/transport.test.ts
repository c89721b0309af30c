import { createServer, type AddressInfo } from "node:net";
import { connect as tlsConnect } from "node:tls";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { BundleService } from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { afterEach, describe, expect, test } from "vitest";
import { systemClock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { systemRng } from "../rng.ts";
import {
  createCa,
  createCsr,
  generateKeyPem,
  issueClientCertificate,
  issueServerCertificate,
} from "../x509.ts";
import { connect } from "./client.ts";
import { memoryConnect } from "./memory-link.ts";
import { agentLimits, agentPortLimits } from "./options.ts";
import type { ServerTls } from "./credentials.ts";
import { startServer } from "./server.ts";
import { bind, type BoundService, type Link } from "./types.ts";

const ctx = { clock: systemClock, rng: systemRng };
const hourMs = 3_600_000;
const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function pki() {
  const ca = await createCa({ name: "test", ttlMs: hourMs }, ctx);
  const server = await issueServerCertificate(
    { ca, dnsNames: ["localhost"], ipAddresses: ["127.0.0.1"], ttlMs: hourMs },
    ctx,
  );
  const { keyPem } = await generateKeyPem();
  const csrDer = await createCsr(keyPem);
  const certPem = await issueClientCertificate({ ca, csrDer, uri: "moorage:agent/1", ttlMs: hourMs }, ctx);
  return {
    ca,
    serverTls: { ...server, clientCaPem: ca.certPem },
    clientTls: { caPem: ca.certPem, certPem, keyPem },
  };
}

async function start(services: BoundService[], tls: ServerTls | "insecure") {
  const address = { host: "127.0.0.1", port: 0 };
  const server = await startServer({ address, tls, services, limits: agentPortLimits, clock: systemClock });
  closers.push(() => server.drain(50));
  return server;
}

async function overTls(services: BoundService[]): Promise<Link> {
  const { serverTls, clientTls } = await pki();
  const server = await start(services, serverTls);
  const link = connect({ target: server.address, tls: clientTls, limits: agentLimits, clock: systemClock });
  closers.push(() => link.close());
  return link;
}

const links: [string, (services: BoundService[]) => Promise<Link>][] = [
  ["over mutual TLS", overTls],
  ["in memory", async (services) => memoryConnect(services, { certificateDer: new Uint8Array([1]) })],
];

describe.each(links)("a link %s", (_name, makeLink) => {
  test("answers a unary call and shows the certificate", async () => {
    const service = bind(EnrolmentService, {
      enrol: (request, ctx) => ({
        dataPlaneUid: `${request.joinToken}/${ctx.metadata.get("X-Test")}/${ctx.peerCertificateDer !== undefined}`,
      }),
    });
    const client = (await makeLink([service])).client(EnrolmentService);
    const answer = await client.enrol({ joinToken: "t" }, { headers: { "x-test": "h" } });
    expect(answer.dataPlaneUid).toBe("t/h/true");
  });

  test("carries a coded error with all its details", async () => {
    const thrown = new MoorageError(Code.ABORTED, 'Cannot enrol "a": ümlaut', {
      reason: "TWIN",
      metadata: { a: "b" },
      retryAfterMs: 2500,
    });
    const service = bind(EnrolmentService, { enrol: () => Promise.reject(thrown) });
    const client = (await makeLink([service])).client(EnrolmentService);
    await expect(client.enrol({})).rejects.toMatchObject({
      code: Code.ABORTED,
      message: thrown.message,
      reason: "TWIN",
      metadata: { a: "b" },
      retryAfterMs: 2500,
    });
  });

  test("carries an error whose text is longer than any header may be", async () => {
    const long = "x".repeat(3 * 1024 * 1024);
    const thrown = new MoorageError(Code.NOT_FOUND, long, { fields: [{ field: long, description: long }] });
    const service = bind(EnrolmentService, { enrol: () => Promise.reject(thrown) });
    const error = await (
      await makeLink([service])
    )
      .client(EnrolmentService)
      .enrol({})
      .catch((e: unknown) => e as MoorageError);
    expect(error).toMatchObject({
      code: Code.NOT_FOUND,
      message: expect.stringMatching(/^x{1000,}…$/) as string,
    });
  });

  test("hides the text of a foreign error", async () => {
    const service = bind(EnrolmentService, { enrol: () => Promise.reject(new Error("password=1")) });
    const client = (await makeLink([service])).client(EnrolmentService);
    const error = await client.enrol({}).catch((e: unknown) => e as MoorageError);
    expect(error).toMatchObject({ code: Code.INTERNAL });
    expect((error as MoorageError).message).not.toContain("password");
  });

  test("streams all of a long answer in order, then its error", async () => {
    const service = bind(BlobService, {
      async *readBlob() {
        for (let i = 0; i < 200; i++) yield { data: new Uint8Array([i]) };
        throw new MoorageError(Code.DATA_LOSS, "Torn");
      },
    });
    const client = (await makeLink([service])).client(BlobService);
    const seen: number[] = [];
    const reading = (async () => {
      for await (const part of client.readBlob({})) seen.push(part.data[0] as number);
    })();
    await expect(reading).rejects.toMatchObject({ code: Code.DATA_LOSS });
    expect(seen).toEqual(Array.from({ length: 200 }, (_, i) => i));
  });

  test("takes a client stream and answers once", async () => {
    const service = bind(BundleService, {
      createBundleVersion: async (
        requests: AsyncIterable<{ part: { case?: string | undefined; value?: unknown } }>,
      ) => {
        let bytes = 0;
        for await (const r of requests)
          if (r.part.case === "content") bytes += (r.part.value as Uint8Array).length;
        return { name: `bundles/${bytes}` };
      },
    } as never);
    const client = (await makeLink([service])).client(BundleService);
    const parts = (async function* () {
      for (let i = 0; i < 40; i++) yield { part: { case: "content" as const, value: new Uint8Array(1000) } };
    })();
    expect((await client.createBundleVersion(parts)).name).toBe("bundles/40000");
  });

  test("speaks both ways, and cancelling ends the handler", async () => {
    const aborted = Promise.withResolvers<void>();
    const service = bind(SyncService, {
      async sync(stream, ctx) {
        ctx.signal.addEventListener("abort", () => aborted.resolve());
        for await (const _ of stream.read()) if (!stream.write({})) await stream.drained();
      },
    });
    const stream = (await makeLink([service])).client(SyncService).sync();
    const reader = stream.read()[Symbol.asyncIterator]();
    for (let i = 0; i < 3; i++) {
      stream.write({});
      expect((await reader.next()).done).toBe(false);
    }
    stream.cancel();
    await aborted.promise;
    await expect(reader.next()).rejects.toMatchObject({ code: Code.CANCELLED });
  });

  test("tells a fast writer to wait and lets it go on", async () => {
    const go = Promise.withResolvers<void>();
    const refused = Promise.withResolvers<number>();
    const service = bind(SyncService, {
      async sync(stream) {
        let n = 0;
        const frame = new Uint8Array(0);
        while (stream.write(frame)) n += 1;
        refused.resolve(n);
        await stream.drained();
        await go.promise;
      },
    });
    const stream = (await makeLink([service])).client(SyncService).sync();
    expect(await refused.promise).toBeLessThan(64);
    go.resolve();
    stream.end();
    let seen = 0;
    for await (const _ of stream.read()) seen += 1;
    expect(seen).toBeGreaterThan(0);
  });

  test("answers UNIMPLEMENTED for a service that is not served", async () => {
    const client = (await makeLink([])).client(EnrolmentService);
    await expect(client.enrol({})).rejects.toMatchObject({ code: Code.UNIMPLEMENTED });
  });
});

const enrolment = bind(EnrolmentService, { enrol: () => ({ dataPlaneUid: "u" }) });

describe("a port", () => {
  test("that is taken is refused by name, address and option", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    closers.push(() => void taken.close());
    const { port } = taken.address() as AddressInfo;
    const address = { host: "127.0.0.1", port };
    await expect(
      startServer({
        address,
        option: "--api-address",
        tls: "insecure",
        services: [],
        limits: agentLimits,
        clock: systemClock,
      }),
    ).rejects.toThrow(`Cannot listen on "127.0.0.1:${port}": address already in use (option --api-address)`);
  });

  test("without TLS is loopback only", async () => {
    const address = { host: "0.0.0.0", port: 0 };
    const starting = startServer({
      address,
      tls: "insecure",
      services: [],
      limits: agentLimits,
      clock: systemClock,
    });
    await expect(starting).rejects.toThrow(/without TLS only loopback is served$/);
  });

  test("with mutual TLS refuses a client without certificate, and one of TLS 1.2", async () => {
    const { serverTls, clientTls } = await pki();
    const server = await start([enrolment], serverTls);
    const link = connect({
      target: server.address,
      tls: { caPem: clientTls.caPem },
      limits: agentLimits,
      clock: systemClock,
    });
    closers.push(() => link.close());
    await expect(link.client(EnrolmentService).enrol({})).rejects.toMatchObject({ code: Code.UNAVAILABLE });
    const old = tlsConnect({
      port: server.address.port,
      host: "127.0.0.1",
      ca: clientTls.caPem,
      cert: clientTls.certPem,
      key: clientTls.keyPem,
      maxVersion: "TLSv1.2",
      ALPNProtocols: ["h2"],
    });
    const code = await new Promise((resolve) => {
      old.once("error", (e: NodeJS.ErrnoException) => resolve(e.code));
      old.once("secureConnect", () => resolve("connected"));
    });
    old.destroy();
    expect(code).toBe("ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION");
  });

  test("takes a new certificate and client authority without restart, and keeps the last good one", async () => {
    const first = await pki();
    const second = await pki();
    const server = await start([enrolment], first.serverTls);
    const enrol = (tls: typeof first.clientTls) => {
      const link = connect({
        target: server.address,
        tls,
        limits: agentLimits,
        clock: systemClock,
        ownConnection: {},
      });
      closers.push(() => link.close());
      return link.client(EnrolmentService).enrol({});
    };
    await expect(enrol(second.clientTls)).rejects.toMatchObject({ code: Code.UNAVAILABLE });
    server.replaceTls(second.serverTls);
    expect((await enrol(second.clientTls)).dataPlaneUid).toBe("u");
    expect(() => server.replaceTls({ ...first.serverTls, keyPem: second.serverTls.keyPem })).toThrow();
    expect((await enrol(second.clientTls)).dataPlaneUid).toBe("u");
    await expect(enrol(first.clientTls)).rejects.toMatchObject({ code: Code.UNAVAILABLE });
  });

  test("drains: a stream that stays is ended after the grace", async () => {
    const service = bind(SyncService, {
      sync: (_stream, ctx) =>
        new Promise<void>((resolve) => ctx.signal.addEventListener("abort", () => resolve())),
    });
    const server = await start([service], "insecure");
    const link = connect({
      target: server.address,
      tls: "insecure",
      limits: agentLimits,
      clock: systemClock,
    });
    closers.push(() => link.close());
    const stream = link.client(SyncService).sync();
    stream.write({});
    const ended = (async () => {
      for await (const _ of stream.read());
    })();
    const refused = expect(ended).rejects.toBeInstanceOf(MoorageError);
    while (server.connections() === 0) await new Promise((resolve) => setImmediate(resolve));
    await server.drain(20);
    await refused;
  });

  test("refuses a message above its limit", async () => {
    const server = await start([enrolment], "insecure");
    const limits = { ...agentLimits, maxSendBytes: 4 << 20 };
    const link = connect({ target: server.address, tls: "insecure", limits, clock: systemClock });
    closers.push(() => link.close());
    const call = link.client(EnrolmentService).enrol({ csrDer: new Uint8Array(300 * 1024) });
    await expect(call).rejects.toMatchObject({ code: Code.RESOURCE_EXHAUSTED });
  });
});

test("a cut memory link fails both ends with UNAVAILABLE", async () => {
  const ended = Promise.withResolvers<unknown>();
  const service = bind(SyncService, {
    async sync(stream) {
      try {
        for await (const _ of stream.read());
      } catch (thrown) {
        ended.resolve(thrown);
      }
    },
  });
  const link = memoryConnect([service]);
  const stream = link.client(SyncService).sync();
  stream.write({});
  link.cut();
  await expect(stream.read()[Symbol.asyncIterator]().next()).rejects.toMatchObject({
    code: Code.UNAVAILABLE,
  });
  expect(await ended.promise).toMatchObject({ code: Code.UNAVAILABLE });
});
