import type { AddressInfo, Socket } from "node:net";
import { createServer } from "node:net";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { expect, onTestFinished, test } from "vitest";
import { readAgentConfig } from "./config.ts";
import { createHubAccess } from "./hub-access.ts";
import { createMemoryCluster } from "./kube/memory-cluster.ts";
import { manualClock } from "./mirror/testing.ts";

test("an agent that is told to stop leaves a hub that says nothing in the handshake", async () => {
  const silent = createServer();
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void silent.close());
  const accepted = new Promise<Socket>((resolve) => silent.once("connection", resolve));
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const kube = cluster.client();
  await kube.asAgent().create({ apiVersion: "v1", kind: "Namespace", metadata: { name: "moorage-system" } });
  await kube.asAgent().create({
    apiVersion: "v1",
    kind: "Secret",
    metadata: { name: "join", namespace: "moorage-system" },
    data: { token: Buffer.from("mj_token").toString("base64") },
  });
  const target = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
  const config = readAgentConfig(
    [
      "--hub-address",
      target,
      "--hub-ca-fingerprint",
      `sha256:${"0".repeat(64)}`,
      "--join-token-secret",
      "join",
    ],
    {},
  );
  const access = createHubAccess(config, { kube, clock, rng: seededRng(2), log: memoryLogger() });
  const stop = new AbortController();
  const connected = access?.connect("sync", stop.signal);
  connected?.catch(() => undefined);
  const socket = await accepted;
  const closed = new Promise((resolve) => socket.resume().on("error", resolve).once("close", resolve));
  stop.abort(new Error("the agent stops"));
  await expect(connected).rejects.toThrow(/^Cannot connect to "127\.0\.0\.1:\d+"/);
  await closed;
});
