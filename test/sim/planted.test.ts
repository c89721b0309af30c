/** Bugs planted around the product: a simulation that cannot find them proves nothing. */
import { create } from "@bufbuild/protobuf";
import type { LeadingParts } from "@moorage/agent/create-agent";
import type { AgentSession, KubeClient } from "@moorage/agent/kube/client";
import type { KubeObject } from "@moorage/agent/kube/object";
import type { Store } from "@moorage/hub/store/store";
import type { SyncRequest, SyncResponse } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { SyncRequestSchema, TombstoneSchema, UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Clock } from "@moorage/shared/clock";
import { sleep } from "@moorage/shared/clock";
import type { Service } from "@moorage/shared/service";
import { expect, it } from "vitest";
import { unpacked } from "./bundles.ts";
import type { Invariant } from "./invariants.ts";
import { RECORD_API, RECORD_KINDS } from "./invariants.ts";
import type { Wire } from "./network.ts";
import type { ScenarioName } from "./scenarios.ts";
import type { Planted } from "./world.ts";
import { runWorld } from "./world.ts";

const bundles = await unpacked();
/** A bug must show within so many seeds. */
const MOST = 8;
const timeout = 120_000;

/** Seeds tried until the invariant broke; fails when none of {@link MOST} breaks it. */
async function finds(
  invariant: Invariant,
  planted: Planted,
  scenario: ScenarioName = "steady",
): Promise<void> {
  const broken = new Set<Invariant>();
  for (let seed = 1; seed <= MOST; seed++) {
    for (const v of (await runWorld({ seed, bundles, scenario, planted })).violations)
      broken.add(v.invariant);
    if (broken.has(invariant)) break;
  }
  expect([...broken]).toContain(invariant);
}

const address = (parts: LeadingParts, kind: string, name: string) => ({
  apiVersion: RECORD_API,
  kind,
  namespace: parts.namespace,
  name,
});

/** Something that a leading agent does every 20 s. */
const habit =
  (act: (parts: LeadingParts) => Promise<unknown>) =>
  (parts: LeadingParts, clock: Clock): readonly Service[] => [
    {
      name: "habit",
      async run(signal) {
        for (;;) {
          await sleep(clock, 20_000, signal);
          await act(parts).catch(() => undefined);
        }
      },
    },
  ];

/** A client whose agent session is changed by `change`. */
const wrapped = (client: KubeClient, change: (session: AgentSession) => AgentSession): KubeClient => ({
  ...client,
  asAgent: () => change(client.asAgent()),
});

it("finds nothing where nothing is planted", { timeout }, async () => {
  for (const scenario of ["steady", "empty", "twins", "restored"] as const)
    expect((await runWorld({ seed: 5, bundles, scenario })).violations).toEqual([]);
});

it("finds a hub that hides a row from its agents", { timeout }, async () => {
  const store = (s: Store): Store => ({
    ...s,
    changes: async (q) => {
      const result = await s.changes(q);
      return { ...result, rows: result.rows.filter((r) => r.del || !r.name.includes("/applications/")) };
    },
  });
  await finds("converges", { store });
});

it("finds a hub that resumes one revision too far", { timeout }, async () => {
  await finds("cursor", {
    store: (s) => ({ ...s, changes: (q) => s.changes({ ...q, after: q.after + 1 }) }),
  });
});

it("finds an agent that deletes a record without an order", { timeout }, async () => {
  const leading = habit(async (parts) => {
    const [record] = parts.mirror.list("Application");
    if (record?.removal !== undefined || record === undefined) return;
    await parts.kube.asAgent().delete(address(parts, "Application", record.objectName));
  });
  await finds("no-deletion", { leading });
  await finds("lost-hub", { leading }, "empty");
});

it("finds an agent that takes a tombstone by its name instead of its uid", { timeout }, async () => {
  const leading = (parts: LeadingParts, clock: Clock): readonly Service[] => {
    const ordered = new Map<string, string>();
    return habit(async () => {
      for (const r of parts.mirror.list("Application")) {
        if (r.removal !== undefined) ordered.set(r.name, r.uid);
        else if (ordered.has(r.name) && ordered.get(r.name) !== r.uid)
          await parts.kube.asAgent().delete(address(parts, "Application", r.objectName));
      }
    })(parts, clock).concat([{ name: "note", run: noteRemovals(parts, ordered) }]);
  };
  await finds("no-deletion", { leading });
});

const noteRemovals = (parts: LeadingParts, ordered: Map<string, string>) => (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    const leave = parts.mirror.subscribe((uid) => {
      const record = parts.mirror.get(uid);
      if (record?.removal !== undefined) ordered.set(record.name, record.uid);
    });
    signal.addEventListener("abort", () => (leave(), resolve()), { once: true });
  });

it("finds an agent that puts an older revision over a newer one", { timeout }, async () => {
  const leading = habit(async (parts) => {
    const [record] = parts.mirror.list("Application");
    if (record === undefined) return;
    await parts.kube.asAgent().mergePatch(address(parts, "Application", record.objectName), {
      spec: { revision: record.revision - 1 },
    });
  });
  await finds("no-rollback", { leading });
});

it("finds an agent that prunes what an empty first part does not name", { timeout }, async () => {
  const wire: Planted["wire"] = (plane, world) => {
    let updates = 0;
    return {
      down(message) {
        if (message.message.case !== "changes") return message;
        updates += message.message.value.updates.length;
        if (message.message.value.initialEnd && updates === 0) void prune();
        return message;
      },
    };
    async function prune() {
      const session = plane.cluster.client(plane.agent.name).asAgent();
      if (world.hub?.connected().find((a) => a.dataPlaneUid === plane.uid)?.mode === "DELTA") return;
      for (const record of plane.agent.leading?.mirror.list("Application") ?? [])
        await session
          .delete({
            apiVersion: RECORD_API,
            kind: "Application",
            namespace: "moorage-system",
            name: record.objectName,
          })
          .catch(() => undefined);
    }
  };
  await finds("lost-hub", { wire }, "empty");
});

it("finds a hub that infers a removal from what it does not know", { timeout }, async () => {
  const wire: Planted["wire"] = (plane, world): Wire => {
    const held = new Map<string, string>();
    return {
      up(message: SyncRequest) {
        if (message.message.case === "inventory")
          for (const h of message.message.value.held) held.set(h.uid, h.name);
        return message;
      },
      down(message: SyncResponse) {
        if (message.message.case !== "changes" || !message.message.value.initialEnd) return message;
        const revision = BigInt(10 ** 12);
        for (const [uid, name] of held)
          if (world.history.rows.get(plane.uid)?.has(uid) !== true)
            message.message.value.updates.push(
              create(UpdateSchema, {
                name,
                uid,
                revision,
                change: { case: "removed", value: create(TombstoneSchema) },
              }),
            );
        return message;
      },
    };
  };
  await finds("lost-hub", { wire }, "empty");
});

it("finds an agent that acknowledges before it has stored", { timeout }, async () => {
  const kube = (client: KubeClient, clock: Clock) =>
    wrapped(client, (session) => {
      /** Answers as if it were done, and does it later. */
      const late = (object: KubeObject, write: AgentSession["update"]) => {
        void sleep(clock, 300).then(() => write(object).catch(() => undefined));
        return write(object, { dryRun: true });
      };
      const records = (object: KubeObject) =>
        object.apiVersion === RECORD_API && RECORD_KINDS.includes(object.kind);
      return {
        ...session,
        create: (o, options) => (records(o) ? late(o, session.create) : session.create(o, options)),
        update: (o, options) => (records(o) ? late(o, session.update) : session.update(o, options)),
      };
    });
  await finds("ack", { kube });
  await finds("cursor", { kube });
});

it("finds two agents that both believe to lead", { timeout }, async () => {
  const kube = (client: KubeClient) =>
    wrapped(client, (session) => ({
      ...session,
      async get(ref, options) {
        const object = await session.get(ref, options);
        if (ref.kind !== "Lease") return object;
        // As if nobody held it.
        return { ...object, spec: { ...(object["spec"] as object), holderIdentity: "" } } as KubeObject;
      },
    }));
  await finds("single-writer", { kube }, "twins");
});

it("finds a hub whose acknowledged writes do not outlive it", { timeout }, async () => {
  await finds("durable", { lostAtRestart: 4 });
});

it("finds a restored hub that removes before an operator accepted its epoch", { timeout }, async () => {
  await finds("lost-hub", { acceptsItself: true }, "restored");
});

it("finds more removals than may pass that nobody authorized", { timeout }, async () => {
  await finds("guard", { authorizesItself: true }, "guarded");
});

it("finds a status that never reaches the hub", { timeout }, async () => {
  let lost = 0;
  const wire = (): Wire => ({
    up(message) {
      if (message.message.case !== "status" || ++lost % 3 !== 0) return message;
      const value = { ...message.message.value, statuses: [] };
      return create(SyncRequestSchema, { message: { case: "status", value } });
    },
  });
  await finds("status", { wire });
});

it("finds an agent that writes although it may only observe", { timeout }, async () => {
  const leading = habit(async (parts) => {
    const [tenant] = parts.mirror.list("Tenant");
    const namespace = tenant?.status?.namespaces?.[0];
    if (namespace === undefined) return;
    const metadata = { name: "mark", namespace };
    await parts.kube.asAgent().create({ apiVersion: "v1", kind: "ConfigMap", metadata });
  });
  await finds("policy", { leading }, "observe");
});

it("finds an orphan that did not stay", { timeout }, async () => {
  const wire = (): Wire => ({
    down(message) {
      if (message.message.case === "changes")
        for (const { change } of message.message.value.updates)
          if (change.case === "removed") change.value.orphan = false;
      return message;
    },
  });
  await finds("orphan", { wire }, "orphaned");
});

it("finds a hub that serves a clone", { timeout }, async () => {
  const wire = (): Wire => ({
    up(message) {
      // As if the hub did not look at the cluster's uid.
      if (message.message.case === "hello" && message.message.value.agent !== undefined)
        message.message.value.agent.clusterUid = "";
      return message;
    },
  });
  await finds("identity", { wire }, "clone");
});

it("finds a hub that sends every state to a slow reader", { timeout }, async () => {
  const wire = (): Wire => ({
    down(message) {
      if (message.message.case !== "changes") return message;
      const { updates } = message.message.value;
      // A queue of all states ends in the same newest one.
      for (const u of [...updates]) updates.unshift(u, u, u);
      return message;
    },
  });
  await finds("flow", { wire }, "stalled");
});

it("finds a hub that sends everything to one who returns", { timeout }, async () => {
  const wire = (): Wire => ({
    up(message) {
      // As if the hub had no use for a cursor.
      if (message.message.case === "hello") {
        delete message.message.value.cursor;
        message.message.value.heldDigest = new Uint8Array();
      }
      return message;
    },
  });
  await finds("resume", { wire }, "partition");
});
