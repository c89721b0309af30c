import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { describe, expect, it } from "vitest";
import { KubeError } from "../kube/errors.ts";
import { createMemoryCluster } from "../kube/memory-cluster.ts";
import { manualClock, settle } from "../mirror/testing.ts";
import { Lease } from "./lease.ts";

const namespace = "moorage-system";
const stop = new AbortController();

async function rig() {
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const session = cluster.client().asAgent();
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  const make = (holder: string, highest = 0) =>
    new Lease({
      session,
      namespace,
      name: "moorage-agent",
      holder,
      clock,
      log: memoryLogger(),
      highestTerm: () => Promise.resolve(highest),
    });
  return { clock, cluster, session, make };
}

describe("Lease", () => {
  it("is held by one agent at a time and passes on after its duration", async () => {
    const { clock, cluster, make } = await rig();
    const a = make("a");
    const held = await a.acquire(stop.signal);
    const b = make("b");
    const next = b.acquire(stop.signal);
    await clock.advance(60_000);
    expect([a.isHeld(), b.isHeld()]).toEqual([true, false]);
    cluster.faults.before = (call) => {
      if (call.verb === "update" && a.isHeld())
        throw new KubeError("Cannot update: the connection broke", { status: 0, reason: "ConnectionLost" });
    };
    const both: boolean[] = [];
    for (let i = 0; i < 40; i++) {
      await clock.advance(1_000);
      both.push(a.isHeld() && b.isHeld());
    }
    expect(both).not.toContain(true);
    expect(held.lost.aborted).toBe(true);
    expect((await next).term).toBe(2);
  });

  it("takes a term above everything that is known", async () => {
    const { make } = await rig();
    expect((await make("a", 41).acquire(stop.signal)).term).toBe(42);
  });

  it("makes a deleted Lease again and keeps it", async () => {
    const { clock, session, make } = await rig();
    const a = make("a");
    const held = await a.acquire(stop.signal);
    await session.delete({
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      namespace,
      name: "moorage-agent",
    });
    await clock.advance(20_000);
    expect([a.isHeld(), held.lost.aborted]).toEqual([true, false]);
  });

  it("lets the next agent start at once when released", async () => {
    const { clock, make } = await rig();
    const a = make("a");
    const held = await a.acquire(stop.signal);
    await held.release();
    const b = make("b");
    const next = await b.acquire(stop.signal);
    await clock.advance(1);
    await settle();
    expect([a.isHeld(), b.isHeld(), next.term]).toEqual([false, true, 2]);
  });
});
