import { limits } from "@moorage/shared/limits";
import { describe, expect, test } from "vitest";
import { hubWith, settle, want } from "./testing.ts";

describe("a stream whose agent lives and takes nothing", () => {
  type Agent = ReturnType<Awaited<ReturnType<typeof hubWith>>["connect"]>;
  /** Time passes; the agent shows that it lives, and does `more` each time. */
  const live = async (
    hub: Awaited<ReturnType<typeof hubWith>>,
    agent: Agent,
    more = () => Promise.resolve(),
  ) => {
    for (let t = 0; t < limits.streamStuckMs + 3 * 60_000; t += 30_000) {
      agent.send({ case: "heartbeat", value: {} as never });
      await settle();
      await more();
      await hub.clock.advance(30_000);
    }
  };

  test.each<[string, (hub: Awaited<ReturnType<typeof hubWith>>, agent: Agent) => Promise<unknown>]>([
    ["acks nothing", async (_, agent) => agent.hello()],
    [
      "reads nothing",
      async (hub, agent) => {
        await agent.hello();
        await agent.ack();
        agent.setReading(false);
        for (let i = 0; i < 40; i++) {
          await want(hub.store, "a", { t1: `${i}` });
          await settle();
        }
      },
    ],
    [
      "sends no inventory",
      async (_, agent) => agent.hello({ cursor: { epoch: new Uint8Array(16), revision: 9n } }),
    ],
  ])("is ended: it %s", async (_what, before) => {
    const hub = await hubWith("a");
    await want(hub.store, "a", { t1: "one" });
    const agent = hub.connect("a");
    await before(hub, agent);
    await live(hub, agent);
    expect(hub.sync.connected()).toEqual([]);
    agent.setReading(true);
    await settle();
    expect(agent.state.error?.reason).toBe("STUCK");
  });

  test("is left alone as long as it goes on, however slowly, or has nothing to take", async () => {
    const hub = await hubWith("a");
    const agent = hub.connect("a");
    await agent.hello();
    await agent.ack();
    await live(hub, agent);
    for (let i = 0; i < 8; i++) await want(hub.store, "a", { [`t${i}`]: "one" });
    await settle();
    const acks = agent.changes().map((c) => c.seq);
    let step = 0;
    await live(hub, agent, async () => {
      if (++step % 10 !== 0) return;
      const seq = acks.find((s) => s > BigInt(step / 10));
      if (seq !== undefined) agent.send({ case: "ack", value: { seq } as never });
      await settle();
    });
    expect(agent.state.ended).toBe(false);
  });
});
