import { createSecureServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { systemClock } from "@moorage/shared/clock";
import { systemRng } from "@moorage/shared/rng";
import { createCa, issueServerCertificate } from "@moorage/shared/x509";
import { expect, onTestFinished, test } from "vitest";
import type { Closed } from "./connection.ts";
import { openConnection } from "./connection.ts";
import { frame } from "./framing.ts";

/** A peer that answers each stream as told, and leaves the client's half open. */
async function rig(answer: "trailers-only" | "message" | "nothing") {
  const ctx = { clock: systemClock, rng: systemRng };
  const ca = await createCa({ name: "test", ttlMs: 3_600_000 }, ctx);
  const own = await issueServerCertificate({ ca, dnsNames: ["localhost"], ttlMs: 3_600_000 }, ctx);
  const server = createSecureServer({ cert: own.certPem, key: own.keyPem });
  server.on("stream", (stream) => {
    stream.on("error", () => undefined);
    if (answer === "nothing") return stream.session?.destroy();
    const status = { "grpc-status": "14", "grpc-message": "come%20back" };
    if (answer === "trailers-only") return stream.respond({ ":status": 200, ...status }, { endStream: true });
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.once("wantTrailers", () => stream.sendTrailers(status));
    return stream.end(frame(Buffer.from("hello")));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => new Promise<void>((resolve) => void server.close(() => resolve())));
  const messages: string[] = [];
  const closed = new Promise<Closed>((resolve) => {
    openConnection(
      {
        host: "127.0.0.1",
        port: (server.address() as AddressInfo).port,
        serverName: "localhost",
        caPem: ca.certPem,
        certPem: own.certPem,
        keyPem: own.keyPem,
      },
      { onSecure: () => undefined, onMessage: (m) => void messages.push(m.toString()), onClosed: resolve },
    );
  });
  return { messages, closed };
}

test("a refusal without a message ends the connection at once, with its status", async () => {
  const { closed, messages } = await rig("trailers-only");
  expect(await closed).toMatchObject({
    stage: "stream",
    ok: false,
    status: { code: 14, message: "come back" },
  });
  expect(messages).toEqual([]);
});

test("a status after messages ends the connection once they were read", async () => {
  const { closed, messages } = await rig("message");
  expect(await closed).toMatchObject({ stage: "up", ok: false, status: { code: 14 } });
  expect(messages).toEqual(["hello"]);
});

test("a connection that breaks has no status", async () => {
  const { closed } = await rig("nothing");
  expect(await closed).toMatchObject({ ok: false, status: undefined });
});
