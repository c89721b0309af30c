import { Resume, SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { ResourceStatus, SyncRequest, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import type { ServerDuplex } from "@moorage/shared/grpc/types";
import { bind } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { createMetrics } from "@moorage/shared/metrics";
import { seededRng } from "@moorage/shared/rng";
import { describe, expect, it } from "vitest";
import { createAgent } from "./create-agent.ts";
import { createMemoryCluster } from "./kube/memory-cluster.ts";
import { cursorAt, manualClock, settle, upsert } from "./mirror/testing.ts";

const namespace = "moorage-system";
const dataPlaneUid = "33333333-cccc-4ccc-8ccc-cccccccccccc";
const tenantUid = "11111111-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

async function rig() {
  const clock = manualClock();
  const cluster = createMemoryCluster({ clock, rng: seededRng(1) });
  const session = cluster.client().asAgent();
  await session.create({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  await session.create({
    apiVersion: "moorage.dev/v1alpha1",
    kind: "AgentPolicy",
    metadata: { name: "policy", namespace },
    spec: { mode: "Auto" },
  });
  const received: SyncRequest[] = [];
  const service = bind(SyncService, {
    async sync(stream: ServerDuplex<SyncRequest, SyncResponse>) {
      for await (const message of stream.read()) {
        received.push(message);
        const { case: kind } = message.message;
        const write = (m: unknown) => stream.write({ message: m } as never);
        if (kind === "hello") {
          write({ case: "hello", value: { protocolVersion: 1, resume: Resume.SNAPSHOT, statusKnown: true } });
          const updates = [
            upsert("dataPlanes/here", { uid: dataPlaneUid, revision: 1 }),
            upsert("tenants/acme", { uid: tenantUid, revision: 2 }),
          ];
          write({ case: "changes", value: { seq: 1n, updates, cursor: cursorAt(2), initialEnd: true } });
        }
        if (message.message.case === "status")
          write({ case: "statusAck", value: { seq: message.message.value.seq } });
      }
    },
  } as never);
  const metrics = createMetrics();
  const start = (holder: string) => {
    const stop = new AbortController();
    const agent = createAgent({
      kube: cluster.client(),
      namespace,
      hub: { connect: () => Promise.resolve({ link: memoryConnect([service]), dataPlaneUid }) },
      holder,
      version: "0.1.0",
      clock,
      rng: seededRng(holder.length),
      log: memoryLogger(),
      ...(holder === "a" ? { metrics } : {}),
    });
    return {
      agent,
      ended: agent.run(stop.signal),
      stop: () => stop.abort(new DOMException("ended", "AbortError")),
    };
  };
  const statuses = () => {
    const out = new Map<string, ResourceStatus>();
    for (const m of received)
      if (m.message.case === "status") for (const s of m.message.value.statuses) out.set(s.uid, s);
    return out;
  };
  return { clock, cluster, session, received, metrics, start, statuses };
}

describe("the agent", () => {
  it("mirrors what the hub sends, acks it, and reports the data plane and its tenant", async () => {
    const { clock, received, metrics, start, statuses } = await rig();
    const { agent, ended, stop } = start("a");
    await clock.advance(10_000);
    expect(agent.ready()).toBeUndefined();
    expect(received.filter((m) => m.message.case === "ack")).toHaveLength(1);
    const ready = statuses()
      .get(dataPlaneUid)
      ?.conditions.find((c) => c.type === "Ready");
    expect(ready?.status).toBe("True");
    expect(
      statuses()
        .get(tenantUid)
        ?.conditions.map((c) => c.type),
    ).toContain("NamespaceReady");
    expect(await metrics.metricsText()).toContain("moorage_agent_applied_revision 2");
    stop();
    await clock.advance(1_000);
    await ended;
  });

  it("gives the Lease back on its way out, so that the next one starts at once with a higher term", async () => {
    const { clock, received, start } = await rig();
    const first = start("a");
    await clock.advance(5_000);
    first.stop();
    await clock.advance(1_000);
    await first.ended;
    const second = start("bb");
    await clock.advance(3_000);
    const terms = received.flatMap((m) =>
      m.message.case === "hello" ? [m.message.value.agentGeneration] : [],
    );
    expect(terms).toEqual([1n, 2n]);
    second.stop();
    await clock.advance(1_000);
    await second.ended;
    await settle();
  });
});
