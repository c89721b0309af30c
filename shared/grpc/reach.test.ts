import { createServer } from "node:http";
import { connect as tcpConnect, type AddressInfo } from "node:net";
import { X509Certificate } from "node:crypto";
import { EnrolmentService } from "@moorage/proto/moorage/agent/v1/enrolment_pb";
import { afterEach, expect, test } from "vitest";
import { systemClock } from "../clock.ts";
import { Code } from "../errors.ts";
import { systemRng } from "../rng.ts";
import { createCa, issueServerCertificate } from "../x509.ts";
import { connect } from "./client.ts";
import { listen } from "./listener.ts";
import { agentLimits, agentPortLimits } from "./options.ts";
import { certificateFingerprint, fetchPinnedCa } from "./pinned-ca.ts";
import { startServer } from "./server.ts";
import { bind } from "./types.ts";

const ctx = { clock: systemClock, rng: systemRng };
const loopback = { host: "127.0.0.1", port: 0 };
const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function tlsServer() {
  const ca = await createCa({ name: "test", ttlMs: 3_600_000 }, ctx);
  const leaf = await issueServerCertificate({ ca, dnsNames: ["hub.test"], ttlMs: 3_600_000 }, ctx);
  const tls = { certPem: `${leaf.certPem}\n${ca.certPem}`, keyPem: leaf.keyPem };
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
  const caPem = await fetchPinnedCa({ target: server.address, fingerprint });
  const tls = { caPem, serverName: "hub.test" };
  const link = connect({ target: server.address, tls, limits: agentLimits, clock: systemClock });
  closers.push(() => link.close());
  expect((await link.client(EnrolmentService).enrol({})).dataPlaneUid).toBe("u");
  const wrong = fetchPinnedCa({ target: server.address, fingerprint: `sha256:${"0".repeat(64)}` });
  await expect(wrong).rejects.toMatchObject({ code: Code.UNAUTHENTICATED });
});

test("a proxy is asked for exactly the one target, with TLS end to end", async () => {
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

test("connections above the rate are reset before they cost anything", async () => {
  let accepted = 0;
  const frozen = { ...systemClock, monotonicMs: () => 0 };
  const listener = await listen({
    address: loopback,
    acceptsPerSecond: 2,
    clock: frozen,
    accept: () => (accepted += 1),
  });
  closers.push(() => {
    listener.stopAccepting();
    listener.destroyAll();
  });
  const sockets = [1, 2, 3].map(() => tcpConnect(listener.address.port, "127.0.0.1"));
  await Promise.race(
    sockets.map(
      (s) => new Promise<void>((resolve) => s.on("error", () => undefined).once("close", () => resolve())),
    ),
  );
  expect(accepted).toBe(2);
  for (const s of sockets) s.destroy();
});
