import { describe, expect, it } from "vitest";
import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import type { KubeSession } from "./client.ts";
import { KubeError } from "./errors.ts";
import { createMemoryCluster } from "./memory-cluster.ts";
import type { KubeObject } from "./object.ts";
import { createReflector, reflectorStats, type ReflectorEvent } from "./reflector.ts";

/** No back-off: its delay is a fraction of a random number that is always 0. */
const eager = { float: () => 0, bytes: (n: number) => new Uint8Array(n) };
const configMap = (name: string): KubeObject => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, namespace: "default", labels: { keep: "yes" } },
});

/** A running reflector on an in-memory cluster, and a way to wait for its events. */
function setUp(wrap: (session: KubeSession) => KubeSession = (s) => s) {
  const cluster = createMemoryCluster({ clock: systemClock, rng: seededRng(5) });
  const agent = cluster.client().asAgent();
  const stats = reflectorStats();
  const seen: string[] = [];
  let wake = () => {};
  const reflector = createReflector<string>({
    session: wrap(agent),
    kind: { apiVersion: "v1", kind: "ConfigMap" },
    labelSelector: "keep=yes",
    reduce: (o) => o.metadata.resourceVersion as string,
    onEvent: (event: ReflectorEvent<string>) => {
      seen.push(event.type === "synced" ? "synced" : `${event.type} ${event.key}`);
      wake();
    },
    clock: systemClock,
    rng: eager,
    stats,
  });
  const stop = new AbortController();
  const ended = reflector.run(stop.signal);
  return {
    cluster,
    agent,
    stats,
    seen,
    reflector,
    async until(condition: () => boolean) {
      while (!condition()) await new Promise<void>((resolve) => (wake = resolve));
    },
    async end() {
      stop.abort(new Error("end"));
      await ended;
    },
  };
}

describe("the reflector", () => {
  it("syncs by a streaming list, follows changes, and forgets an object that lost the label", async () => {
    const t = setUp();
    await t.reflector.whenSynced(new AbortController().signal);
    await t.agent.create(configMap("a"));
    await t.until(() => t.reflector.get("default", "a") !== undefined);
    await t.agent.mergePatch(configMapRef("a"), { metadata: { labels: { keep: "no" } } });
    await t.until(() => t.reflector.size === 0);
    expect(t.seen).toEqual(["synced", "set default/a", "delete default/a"]);
    expect(t.stats).toMatchObject({ lists: 1, watches: 1 });
    await t.end();
  });

  it("resumes after the server closed the watch, without a relist", async () => {
    const t = setUp();
    await t.agent.create(configMap("a"));
    await t.until(() => t.reflector.synced);
    // An object that arrives after the list proves that the watch is open, and not about to be opened.
    await t.agent.create(configMap("b"));
    await t.until(() => t.reflector.size === 2);
    const before = t.stats.watches;
    t.cluster.dropWatches();
    await t.agent.create(configMap("c"));
    await t.until(() => t.reflector.size === 3);
    expect(t.stats.lists).toBe(1);
    expect(t.stats.watches).toBeGreaterThan(before);
    await t.end();
  });

  it("lists anew after 410 and drops what vanished meanwhile", async () => {
    const t = setUp();
    await t.agent.create(configMap("a"));
    await t.until(() => t.reflector.size === 1);
    t.cluster.faults = {
      before: (call) => {
        if (call.verb !== "watch") return;
        t.cluster.faults = {};
        t.cluster.store.delete(configMapRef("a"), {});
        t.cluster.store.create(configMap("b"), { manager: "x" });
        t.cluster.compact();
      },
    };
    t.cluster.dropWatches();
    await t.until(() => t.reflector.get("default", "b") !== undefined && t.reflector.size === 1);
    expect(t.stats.lists).toBe(2);
    await t.end();
  });

  it("lists anew when a line cannot be read, and counts it", async () => {
    let broken = true;
    const t = setUp((session) => ({
      ...session,
      async *watch(kind, options) {
        for await (const line of session.watch(kind, options)) {
          const cut = broken && line.includes('"MODIFIED"');
          if (cut) broken = false;
          yield cut ? line.slice(0, 40) : line;
        }
      },
    }));
    const { object } = await t.agent.create(configMap("a"));
    await t.until(() => t.reflector.size === 1);
    const { object: changed } = await t.agent.mergePatch(configMapRef("a"), { data: { a: "1" } });
    expect(changed.metadata.resourceVersion).not.toBe(object.metadata.resourceVersion);
    await t.until(() => t.reflector.get("default", "a") === changed.metadata.resourceVersion);
    expect(t.stats).toMatchObject({ unparsable: 1, lists: 2 });
    await t.end();
  });

  it("falls back to pages where the server has no streaming list", async () => {
    const t = setUp((session) => ({
      ...session,
      watch(kind, options) {
        if (options.sendInitialEvents === true)
          throw new KubeError("sendInitialEvents is forbidden", { status: 422, reason: "Invalid" });
        return session.watch(kind, options);
      },
    }));
    await t.agent.create(configMap("a"));
    await t.until(() => t.reflector.size === 1);
    await t.agent.create(configMap("b"));
    await t.until(() => t.reflector.size === 2);
    expect(t.stats.lists).toBeGreaterThanOrEqual(1);
    await t.end();
  });

  it("relists on demand", async () => {
    const t = setUp();
    await t.agent.create(configMap("a"));
    await t.until(() => t.reflector.size === 1 && t.reflector.synced);
    t.reflector.relist();
    await t.until(() => t.seen.filter((s) => s === "synced").length === 2);
    expect(t.reflector.size).toBe(1);
    await t.end();
  });
});

function configMapRef(name: string) {
  return { apiVersion: "v1", kind: "ConfigMap", namespace: "default", name };
}
