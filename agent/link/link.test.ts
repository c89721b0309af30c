import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { BlobService } from "@moorage/proto/moorage/agent/v1/blob_pb";
import { ResourceStatusSchema, Resume, SyncService } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { ResourceStatus, SyncRequest, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { memoryConnect } from "@moorage/shared/grpc/memory-link";
import { bind } from "@moorage/shared/grpc/types";
import type { MemoryLink } from "@moorage/shared/grpc/memory-link";
import type { ServerDuplex } from "@moorage/shared/grpc/types";
import { memoryLogger } from "@moorage/shared/log";
import { seededRng } from "@moorage/shared/rng";
import { afterEach, describe, expect, it } from "vitest";
import { cursorAt, manualClock, settle, upsert } from "../mirror/testing.ts";
import type { Batch, StatusChange, SyncStore } from "../mirror/store.ts";
import { fetchBlob, READ_IDLE_MS } from "./blobs.ts";
import { createHubLink } from "./create-link.ts";

type Stream = ServerDuplex<SyncRequest, SyncResponse>;
const stops: AbortController[] = [];
afterEach(() => {
  for (const stop of stops.splice(0)) stop.abort(new DOMException("ended", "AbortError"));
});

/** A store in memory whose batches become durable when the test says so. */
function memoryStore() {
  const listeners = new Set<(c: StatusChange) => void>();
  const statuses = new Map<string, ResourceStatus>();
  const batches: { batch: Batch; durable: () => void }[] = [];
  let cursor: ReturnType<SyncStore["cursor"]>;
  const acknowledged: string[] = [];
  const store: SyncStore = {
    apply: (batch) =>
      new Promise((resolve) =>
        batches.push({
          batch,
          durable: () => {
            cursor = batch.cursor ?? cursor;
            resolve();
          },
        }),
      ),
    cursor: () => cursor,
    held: () => [{ name: "tenants/a", uid: "u-a", digest: new Uint8Array(32), revision: 3, removing: false }],
    status: (uid) => statuses.get(uid),
    statuses: () => [...statuses.values()],
    onStatus: (fn) => {
      listeners.add(fn);
      return () => listeners.delete(fn);
    },
    acknowledged: (s) => void acknowledged.push(s.uid),
  };
  const setStatus = (uid: string, message: string, settled: boolean) => {
    statuses.set(
      uid,
      create(ResourceStatusSchema, {
        uid,
        name: `tenants/${uid}`,
        conditions: [{ type: "Ready", status: "True", message }],
      }),
    );
    for (const fn of listeners) fn({ uid, settled });
  };
  return { store, batches, statuses, setStatus, acknowledged };
}

/** A hub that a test plays by hand. */
function rig(
  options: {
    resume?: Resume;
    statusKnown?: boolean;
    refuse?: () => MoorageError | undefined;
    fetchBlob?: () => Promise<readonly Uint8Array[]>;
  } = {},
) {
  const clock = manualClock();
  const memory = memoryStore();
  const streams: { received: SyncRequest[]; stream: Stream }[] = [];
  const dials: number[] = [];
  const links: MemoryLink[] = [];
  const service = bind(SyncService, {
    async sync(stream: Stream) {
      const refused = options.refuse?.();
      if (refused !== undefined) throw refused;
      const one = { received: [] as SyncRequest[], stream };
      streams.push(one);
      for await (const message of stream.read()) {
        one.received.push(message);
        if (message.message.case === "hello") {
          stream.write({
            message: {
              case: "hello",
              value: {
                protocolVersion: 1,
                resume: options.resume ?? Resume.DELTA,
                statusKnown: options.statusKnown ?? true,
                policy: { statusMinInterval: { seconds: 1n }, reconnectSpread: { seconds: 30n } },
              },
            },
          } as never);
        }
      }
    },
  } as never);
  const refusedGenerations: number[] = [];
  const log = memoryLogger();
  const link = createHubLink({
    store: memory.store,
    connect: () => {
      dials.push(clock.monotonicMs());
      const made = memoryConnect([service]);
      links.push(made);
      return Promise.resolve(made);
    },
    hello: () => ({
      dataPlaneUid: "dp",
      generation: 4,
      instanceId: new Uint8Array(16),
      agent: { version: "0.1.0", kubernetesVersion: "v1.37.0", labels: {}, clusterUid: "c" },
    }),
    fetchBlob: options.fetchBlob ?? (() => Promise.resolve([])),
    onRefusedGeneration: (known) => void refusedGenerations.push(known),
    clock,
    rng: seededRng(1),
    log,
  });
  const stop = new AbortController();
  stops.push(stop);
  void link.run(stop.signal);
  const sent = (kind: string, at = streams.length - 1) =>
    (streams[at]?.received ?? [])
      .filter((m) => m.message.case === kind)
      .map((m) => m.message.value as never as Record<string, unknown>);
  const write = (message: unknown) => streams.at(-1)?.stream.write({ message } as never);
  return { clock, link, log, sent, write, streams, dials, links, refusedGenerations, ...memory };
}

describe("the hub link", () => {
  it("acks in the order of the batches, and only what is durable", async () => {
    const { batches, write, sent } = rig();
    await settle();
    write({
      case: "changes",
      value: { seq: 1n, updates: [upsert("tenants/a", { uid: "u-a", revision: 1 })] },
    });
    write({
      case: "changes",
      value: { seq: 2n, updates: [upsert("tenants/b", { uid: "u-b", revision: 2 })], cursor: cursorAt(2) },
    });
    await settle();
    batches[1]?.durable();
    await settle();
    expect(sent("ack")).toEqual([]);
    batches[0]?.durable();
    await settle();
    expect(sent("ack").map((a) => a["seq"])).toEqual([1n, 2n]);
  });

  it.each([
    ["updates[1].revision", { revision: 2n ** 53n, generation: 1n, cursor: 2n }],
    ["updates[1].upsert.generation", { revision: 2n, generation: 2n ** 53n, cursor: 2n }],
    ["cursor.revision", { revision: 2n, generation: 1n, cursor: 2n ** 53n }],
  ])("takes nothing of a batch whose %s cannot be kept, and dials again", async (field, of) => {
    const { clock, batches, write, dials, log } = rig();
    await settle();
    const over = upsert("tenants/b", { uid: "u-b", revision: 2 });
    over.revision = of.revision;
    if (over.change.case === "upsert") over.change.value.generation = of.generation;
    const cursor = { ...cursorAt(2), revision: of.cursor };
    write({
      case: "changes",
      value: { seq: 1n, updates: [upsert("tenants/a", { uid: "u-a", revision: 1 }), over], cursor },
    });
    await settle();
    expect(batches).toEqual([]);
    expect(String(log.records.at(-1)?.fields["error"])).toContain(`The hub sent ${field} `);
    await clock.advance(120_000);
    expect(dials.length).toBeGreaterThan(1);
  });

  it("resumes a lost stream from the durable position after at most the spread", async () => {
    const { clock, batches, write, links, dials, streams, sent } = rig();
    await settle();
    write({ case: "changes", value: { seq: 1n, updates: [], cursor: cursorAt(9) } });
    await settle();
    batches[0]?.durable();
    await settle();
    links[0]?.cut();
    await clock.advance(30_000);
    expect(streams).toHaveLength(2);
    expect((dials[1] ?? 0) - (dials[0] ?? 0)).toBeLessThanOrEqual(30_000);
    expect(sent("hello", 1)[0]?.["cursor"]).toMatchObject({ revision: 9n });
  });

  it("dials for ever while the hub is away, at most two minutes apart", async () => {
    const { clock, dials } = rig({ refuse: () => new MoorageError(Code.UNAVAILABLE, "away") });
    await clock.advance(6 * 3_600_000);
    const gaps = dials.slice(1).map((at, i) => at - (dials[i] ?? 0));
    expect(gaps.length).toBeGreaterThan(180);
    expect(Math.max(...gaps)).toBeLessThanOrEqual(120_000);
  });

  it("comes back when the hub said so", async () => {
    const { clock, dials, write } = rig();
    await settle();
    write({ case: "goodbye", value: { reason: "DRAINING", reconnectAfter: { seconds: 7n } } });
    await clock.advance(20_000);
    expect(dials).toEqual([0, 7_000]);
  });

  it("comes back within a quarter of an hour whatever the hub said", async () => {
    const { clock, dials, write } = rig();
    await settle();
    write({ case: "goodbye", value: { reason: "DRAINING", reconnectAfter: { seconds: 2n ** 60n } } });
    await clock.advance(900_000);
    expect(dials).toEqual([0, 900_000]);
  });

  it("resumes from the newest bookmark, whatever bookmarks without a cursor follow", async () => {
    const { clock, batches, write, links, sent } = rig();
    await settle();
    write({ case: "changes", value: { seq: 1n, updates: [], cursor: cursorAt(9) } });
    await settle();
    batches[0]?.durable();
    write({ case: "bookmark", value: { cursor: cursorAt(12), echo: 1n } });
    write({ case: "bookmark", value: { echo: 2n } });
    await settle();
    expect(sent("heartbeat").at(-1)).toMatchObject({ bookmarkEcho: 2n });
    links[0]?.cut();
    await clock.advance(30_000);
    expect(sent("hello", 1)[0]?.["cursor"]).toMatchObject({ revision: 12n });
  });

  it("sends its inventory when the hub compares", async () => {
    const { sent } = rig({ resume: Resume.COMPARE });
    await settle();
    const [page] = sent("inventory");
    expect(page).toMatchObject({ last: true, held: [{ uid: "u-a", revision: 3n }] });
    expect(((page ?? {})["digest"] as Uint8Array).length).toBe(32);
  });

  it("sends its digest again once it has what changed while it was away, and only then", async () => {
    const { batches, write, sent, links, clock } = rig();
    await settle();
    const updates = [upsert("tenants/a", { uid: "u-a", revision: 1 })];
    write({ case: "changes", value: { seq: 1n, updates, cursor: cursorAt(1), initialEnd: true } });
    await settle();
    expect(sent("inventory")).toEqual([]);
    batches[0]?.durable();
    await settle();
    expect(sent("inventory")).toMatchObject([
      { last: true, held: [], digest: sent("hello")[0]?.["heldDigest"] },
    ]);
    links[0]?.cut();
    await clock.advance(30_000);
    write({ case: "changes", value: { seq: 1n, updates: [], cursor: cursorAt(1), initialEnd: true } });
    await settle();
    batches[1]?.durable();
    await settle();
    expect(sent("ack", 1)).toHaveLength(1);
    expect(sent("inventory", 1)).toEqual([]);
  });

  it("sends a settled status at once and an intermediate one after the interval", async () => {
    const { clock, setStatus, sent, write } = rig();
    await settle();
    setStatus("u-a", "working", false);
    await settle();
    expect(sent("status")).toEqual([]);
    setStatus("u-b", "done", true);
    await settle();
    expect(sent("status")).toHaveLength(1);
    setStatus("u-a", "done", true);
    await clock.advance(5_000);
    expect(sent("status")).toHaveLength(1);
    write({ case: "statusAck", value: { seq: 1n } });
    await settle();
    expect(sent("status")).toHaveLength(2);
    expect(((sent("status")[1] ?? {})["statuses"] as ResourceStatus[]).map((s) => s.uid)).toEqual(["u-a"]);
  });

  it("sends a status again when the stream broke before the hub had it", async () => {
    const { clock, setStatus, sent, links } = rig();
    await settle();
    setStatus("u-a", "done", true);
    await settle();
    links[0]?.cut();
    await clock.advance(30_000);
    expect(sent("status", 1)).toHaveLength(1);
  });

  it("sends all status with a digest at the end when the hub knows none", async () => {
    const { statuses, sent, setStatus } = rig({ statusKnown: false });
    setStatus("u-a", "done", true);
    await settle();
    expect(statuses.size).toBe(1);
    const report = sent("status")[0];
    expect(report).toMatchObject({ full: true });
    expect(((report ?? {})["digest"] as Uint8Array).length).toBe(32);
  });

  it("leaves a stream on which nothing comes", async () => {
    const { clock, streams } = rig();
    await settle();
    await clock.advance(200_000);
    expect(streams.length).toBeGreaterThan(1);
  });

  const byReference = (uid: string, revision: bigint) => ({
    name: `tenants/${uid}`,
    uid,
    revision,
    change: {
      case: "upsert",
      value: { kind: "Tenant", version: "v1", content: { case: "blob", value: {} } },
    },
  });

  it("fetches a body that came by reference until it has it, and keeps the order of the batches", async () => {
    const body = Buffer.from("body");
    let away = true;
    const fetch = () =>
      away ? Promise.reject(new MoorageError(Code.UNAVAILABLE, "away")) : Promise.resolve([body]);
    const { batches, clock, streams, write } = rig({ fetchBlob: fetch });
    await settle();
    write({ case: "changes", value: { seq: 1n, updates: [byReference("u-a", 1n)] } });
    write({ case: "changes", value: { seq: 2n, updates: [], cursor: cursorAt(2) } });
    await clock.advance(20_000);
    expect(batches).toEqual([]);
    away = false;
    await clock.advance(100_000);
    expect(streams).toHaveLength(1);
    expect(batches.map(({ batch }) => batch.updates.length)).toEqual([1, 0]);
    const change = batches[0]?.batch.updates[0]?.change;
    expect(change?.case === "upsert" && change.value.content).toEqual({
      case: "body",
      value: new Uint8Array(body),
    });
  });

  it("hands on a body that the hub does not have as it came, for the store to reject", async () => {
    const missing = () => Promise.reject(new MoorageError(Code.NOT_FOUND, "no such blob"));
    const { batches, streams, write } = rig({ fetchBlob: missing });
    await settle();
    write({ case: "changes", value: { seq: 1n, updates: [byReference("u-a", 1n)], cursor: cursorAt(1) } });
    await settle();
    const change = batches[0]?.batch.updates[0]?.change;
    expect(change?.case === "upsert" && change.value.content.case).toBe("blob");
    expect(streams).toHaveLength(1);
  });

  it("tells of the generation that the hub knows", async () => {
    const { refusedGenerations } = rig({
      refuse: () =>
        new MoorageError(Code.FAILED_PRECONDITION, "older", {
          reason: "STALE_GENERATION",
          metadata: { agent_generation: "9" },
        }),
    });
    await settle(40);
    expect(refusedGenerations).toEqual([9]);
  });
});

describe("fetchBlob", () => {
  const content = Buffer.from("a chunk of a bundle");
  const digest = createHash("sha256").update(content).digest();
  const ref = {
    digest,
    sizeBytes: BigInt(content.length),
    chunks: [{ digest, sizeBytes: content.length }],
  } as never;

  it("goes on where a broken read ended", async () => {
    const offsets: bigint[] = [];
    const service = bind(BlobService, {
      async *readBlob(request: { offset: bigint }) {
        offsets.push(request.offset);
        const from = Number(request.offset);
        yield { data: content.subarray(from, from + 5) };
        if (from === 0) throw new MoorageError(Code.UNAVAILABLE, "broke");
        yield { data: content.subarray(from + 5) };
      },
    } as never);
    const chunks = await fetchBlob(ref, {
      connect: () => Promise.resolve(memoryConnect([service])),
      clock: manualClock(),
      signal: new AbortController().signal,
    });
    expect(Buffer.concat(chunks).toString()).toBe(content.toString());
    expect(offsets).toEqual([0n, 5n]);
  });

  it("refuses bytes with another digest", async () => {
    const service = bind(BlobService, {
      async *readBlob() {
        yield { data: Buffer.from("another chunk......") };
      },
    } as never);
    await expect(
      fetchBlob(ref, {
        connect: () => Promise.resolve(memoryConnect([service])),
        clock: manualClock(),
        signal: new AbortController().signal,
      }),
    ).rejects.toMatchObject({ reason: "DIGEST_MISMATCH" });
  });

  it("gives up reads on which nothing comes, and goes on where they ended", async () => {
    const clock = manualClock();
    const offsets: bigint[] = [];
    const service = bind(BlobService, {
      async *readBlob(request: { offset: bigint }) {
        offsets.push(request.offset);
        const from = Number(request.offset);
        if (from < 10) yield { data: content.subarray(from, from + 5) };
        await new Promise(() => undefined);
      },
    } as never);
    const fetched = fetchBlob(ref, {
      connect: () => Promise.resolve(memoryConnect([service])),
      clock,
      signal: new AbortController().signal,
    });
    const outcome = expect(fetched).rejects.toMatchObject({ code: Code.DEADLINE_EXCEEDED });
    await clock.advance(3 * READ_IDLE_MS);
    await outcome;
    expect(offsets).toEqual([0n, 5n, 10n]);
  });
});
