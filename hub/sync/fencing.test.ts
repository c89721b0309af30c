import { create } from "@bufbuild/protobuf";
import { ResourceStatusSchema, Resume } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import { limits } from "@moorage/shared/limits";
import { describe, expect, test } from "vitest";
import { readLink } from "./links.ts";
import { readStatus } from "./rows.ts";
import { writeReport } from "./status.ts";
import { hubWith, settle, testHub, want } from "./testing.ts";

/** A hub that, once `held` was called, stops at its second look at a certificate until it may go on. */
async function holdingHub() {
  const { store, clock } = await hubWith("a");
  const look = { looks: 0, wait: undefined as Promise<void> | undefined };
  const atCertificate = async () => {
    if (look.wait !== undefined && ++look.looks === 2) await look.wait;
  };
  const held = () => {
    let goOn = () => {};
    look.wait = new Promise((resolve) => (goOn = resolve));
    return goOn;
  };
  return { hub: await testHub({ store, clock, atCertificate }), held };
}

describe("fencing", () => {
  test("of equal generations the newest stream wins; an older generation is refused by name", async () => {
    const hub = await hubWith("a");
    const first = hub.connect("a");
    await first.hello({ agentGeneration: 7n });
    const second = hub.connect("a");
    await second.hello({ agentGeneration: 7n });
    expect(first.state.error?.reason).toBe("REPLACED");
    const old = hub.connect("a");
    await old.hello({ agentGeneration: 6n });
    expect(old.state.error?.reason).toBe("STALE_GENERATION");
    expect(old.state.error?.metadata["agent_generation"]).toBe("7");
    expect(second.state.ended).toBe(false);
    expect(hub.sync.connected()).toHaveLength(1);
  });

  test("a generation that no agent can have come to is refused, and locks the next one out of nothing", async () => {
    const hub = await hubWith("a");
    const step = BigInt(limits.agentGenerationStep);
    const hello = async (agentGeneration: bigint) => {
      const agent = hub.connect("a");
      await agent.hello({ agentGeneration });
      return agent;
    };
    for (const generation of [1n << 60n, step + 1n]) {
      const { error } = (await hello(generation)).state;
      expect(error?.reason).toBe("INVALID_HELLO");
      expect(error?.message).toContain(
        `agent_generation "${generation}" must be at most ${step}, which is ${step} above the last one`,
      );
    }
    expect((await hello(5n)).serverHello().resume).toBe(Resume.SNAPSHOT);
    expect((await hello(step + 6n)).state.error?.reason).toBe("INVALID_HELLO");
    expect((await hello(step + 5n)).state.error).toBeUndefined();
    expect((await readLink(hub.store, "a")).link.agentGeneration).toBe(step + 5n);
    expect((await hello(step + 6n)).state.error).toBeUndefined();
  });

  test.each(["version", "kubernetesVersion", "clusterUid"])(
    "a hello's agent.%s is bounded",
    async (field) => {
      const hub = await hubWith("a");
      const hello = async (bytes: number) => {
        const agent = hub.connect("a");
        await agent.hello({ agent: { [field]: "x".repeat(bytes) } });
        return agent.state.error;
      };
      expect(await hello(limits.agentFactBytes + 1)).toMatchObject({
        reason: "INVALID_HELLO",
        message: expect.stringMatching(/agent\.[a-z_]+ must have at most 256 bytes$/) as string,
      });
      expect(await hello(limits.agentFactBytes)).toBeUndefined();
    },
  );

  test("another cluster under the same identity is refused and shows in the link", async () => {
    const hub = await hubWith("a");
    const first = hub.connect("a");
    await first.hello();
    const other = hub.connect("a");
    await other.hello({
      agent: { version: "", kubernetesVersion: "", labels: {}, clusterUid: "c2" },
    } as never);
    expect(other.state.error?.reason).toBe("CLUSTER_CHANGED");
    expect((await readLink(hub.store, "a")).link.conflict).toBe("ClusterChanged");
    expect(first.state.ended).toBe(false);
    const { rev } = await hub.store.status();
    const again = hub.connect("a");
    await again.hello({ agent: { clusterUid: "c2" } });
    expect(again.state.error?.reason).toBe("CLUSTER_CHANGED");
    expect((await hub.store.status()).rev).toBe(rev);
    for (let i = 0; i < 35; i++) {
      await hub.clock.advance(20_000);
      first.send({ case: "heartbeat", value: {} as never });
      await settle();
    }
    expect((await readLink(hub.store, "a")).link.conflict).toBe("");
  });

  test("two agents that live at once are found out: the one that is there stays, the other is refused", async () => {
    const hub = await hubWith("a");
    const ids = { one: Buffer.alloc(16, 1), two: Buffer.alloc(16, 2) };
    const first = hub.connect("a");
    await first.hello({ instanceId: ids.one });
    const second = hub.connect("a");
    await second.hello({ instanceId: ids.two });
    expect(first.state.error?.reason).toBe("REPLACED");
    for (let i = 0; i < 3; i++) {
      const back = hub.connect("a");
      await back.hello({ instanceId: ids.one });
      expect(back.state.error?.reason).toBe("TWIN_AGENTS");
      expect(back.state.error?.retryAfterMs).toBe(60_000);
    }
    expect(second.state.ended).toBe(false);
    const { link } = await readLink(hub.store, "a");
    expect(link.conflict).toBe("TwinAgents");
    expect(link.conflictMessage).toContain("two agents");
  });

  test("a refused twin leaves the stream that is there, its term and its silence as they were", async () => {
    const hub = await hubWith("a");
    const id = { one: Buffer.alloc(16, 1), two: Buffer.alloc(16, 2) };
    const open = async (instanceId: Buffer, agentGeneration: bigint) => {
      const agent = hub.connect("a");
      await agent.hello({ instanceId, agentGeneration });
      return agent;
    };
    for (const n of [1n, 3n]) {
      await open(id.one, n);
      await open(id.two, n + 1n);
    }
    for (let i = 0; i < 4; i++) {
      await hub.clock.advance(10_000);
      expect((await open(id.one, 5n)).state.error?.reason).toBe("TWIN_AGENTS");
    }
    expect((await readLink(hub.store, "a")).link.agentGeneration).toBe(4n);
    expect(hub.sync.connected()).toHaveLength(1);
    await hub.clock.advance(6_000);
    expect((await readLink(hub.store, "a")).link.state).toBe(LinkState.DISCONNECTED);
    expect(hub.sync.connected()).toEqual([]);
  });

  test("a stream that was given up while it opened replaces none", async () => {
    const { hub, held } = await holdingHub();
    const first = hub.connect("a");
    await first.hello();
    const goOn = held();
    const second = hub.connect("a");
    await second.hello();
    second.stream.cancel();
    goOn();
    await settle();
    expect(first.state.ended).toBe(false);
    expect(hub.sync.connected()).toHaveLength(1);
  });

  test("a stream that opens while the hub begins to go does not come up", async () => {
    const { hub, held } = await holdingHub();
    const goOn = held();
    const late = hub.connect("a");
    await late.hello();
    const stopped = hub.stop();
    await settle();
    goOn();
    await stopped;
    await settle();
    expect(late.got).toEqual([]);
    expect(late.state.error?.reason).toBe("DRAINING");
  });

  test("a status of an older agent than the one that reported is refused", async () => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const over = () => false;
    const newer = { dataPlaneUid: "a", agentGeneration: 9n };
    const status = create(ResourceStatusSchema, { uid: "t1", name: "tenants/t1" });
    const deps = { store: hub.store, clock: hub.clock, log: hub.log, finalise: async () => undefined };
    await writeReport(deps, newer, { statuses: [status], over });
    const late = { ...status, observedGeneration: 3n };
    await expect(
      writeReport(deps, { ...newer, agentGeneration: 8n }, { statuses: [late], over }),
    ).rejects.toMatchObject({
      reason: "STALE_GENERATION",
      metadata: { agent_generation: "9" },
    });
    expect((await readStatus(hub.store, "t1")).stored?.status?.observedGeneration).toBe(0n);
  });

  test("an agent in a loop of attempts is told when to come back", async () => {
    const hub = await hubWith("a", "b");
    for (let i = 0; i < limits.streamAttempts; i++) {
      const agent = hub.connect("a");
      await agent.hello({ protocolVersions: [99] });
      expect(agent.state.error?.reason).toBe("PROTOCOL_VERSION");
    }
    const throttled = hub.connect("a");
    await throttled.hello();
    expect(throttled.state.error?.reason).toBe("TOO_MANY_ATTEMPTS");
    expect(throttled.state.error?.retryAfterMs).toBeGreaterThan(0);
    const neighbour = hub.connect("b");
    await neighbour.hello();
    expect(neighbour.serverHello().protocolVersion).toBe(1);
  });

  test("a hello for another data plane than the certificate's is refused", async () => {
    const hub = await hubWith("a", "b");
    const agent = hub.connect("a");
    await agent.hello({ dataPlaneUid: "b" });
    expect(agent.state.error?.reason).toBe("DATA_PLANE_MISMATCH");
  });

  test("a revoked key ends its live stream at once", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello();
    hub.revoke("a");
    await settle();
    expect(agent.state.error?.reason).toBe("CREDENTIALS_REVOKED");
  });

  test.each([
    ["an ack of what was never sent", { case: "ack", value: { seq: 99n } }],
    ["a second hello", { case: "hello", value: {} }],
    ["an empty message", { case: undefined }],
    ["a report out of sequence", { case: "status", value: { seq: 5n } }],
    ["pages nobody asked for", { case: "inventory", value: { held: [{ uid: "x" }] } }],
  ])("%s ends the stream and names the rule", async (_what, message) => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello();
    agent.send(message as never);
    await settle();
    expect(agent.state.error?.message).toMatch(/^Cannot accept /);
    expect(hub.sync.connected()).toEqual([]);
  });
});
