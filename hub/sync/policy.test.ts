/** How the agents of a fleet that changes its size learn what follows from that. */
import { expect, test } from "vitest";
import { testHub } from "./testing.ts";

test("tells its agents a new policy as the fleet grows, and asks for fewer heartbeats", async () => {
  const hub = await testHub({ policy: { heartbeatIntervalMs: 1 } });
  const uids = Array.from({ length: 4 }, (_, i) => `dp${i}`);
  for (const uid of uids) await hub.store.txn({ then: [], rows: [{ putDp: { uid } }] });
  const [first, ...rest] = uids.map((uid) => hub.connect(uid));
  if (first === undefined) throw new Error("no agent");
  await first.hello();
  const told = () => first.got.flatMap((m) => (m.case === "policy" ? [m.value] : []));
  const ms = (d: { seconds: bigint; nanos: number } | undefined) =>
    Number(d?.seconds ?? 0n) * 1_000 + (d?.nanos ?? 0) / 1e6;
  expect(ms(first.serverHello().policy?.reconnectSpread)).toBe(1_000);
  for (const agent of rest) await agent.hello();
  await hub.clock.advance(5_000);
  expect(told().map((p) => ms(p.heartbeatInterval))).toEqual([8]);
  await hub.clock.advance(60_000);
  expect(told()).toHaveLength(1);
  await hub.stop();
});

test("tells a fleet that grew at once within seconds, a part at a time, and then lets it be", async () => {
  const hub = await testHub({ policy: { heartbeatIntervalMs: 1 } });
  const uids = Array.from({ length: 450 }, (_, i) => `dp${i}`);
  for (const uid of uids) await hub.store.txn({ then: [], rows: [{ putDp: { uid } }] });
  const agents = uids.map((uid) => hub.connect(uid));
  for (const agent of agents) await agent.hello();
  const told = () => agents.filter((a) => a.got.some((m) => m.case === "policy")).length;
  const parts: number[] = [];
  for (let i = 0; i < 4; i++) {
    await hub.clock.advance(1_000);
    parts.push(told());
  }
  // Who came when the fleet had nearly its size knows the policy.
  expect(parts[0]).toBe(200);
  expect(parts[1]).toBeGreaterThan(340);
  expect(parts.slice(2)).toEqual([parts[1], parts[1]]);
  await hub.stop();
});
