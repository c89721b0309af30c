import { create, fromBinary } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import {
  DeleteBundleVersionRequestSchema,
  UpdateBundleVersionRequestSchema,
} from "@moorage/proto/moorage/hub/v1/bundle_service_pb";
import { packBundle } from "@moorage/shared/bundle/pack";
import { bundleYaml, filesOf } from "@moorage/shared/bundle/testing";
import { seededRng } from "@moorage/shared/rng";
import fc from "fast-check";
import { expect, test } from "vitest";
import { blobKey, prefixes } from "../core/keys.ts";
import { key, keyText, prefix } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { Store } from "../store/store.ts";
import { manualClock } from "../sync/testing.ts";
import { Bundles } from "./bundles.ts";
import { BundleCollector, COLLECT_GRACE_MS } from "./collector.ts";
import { Reader } from "./reader.ts";
import { upload } from "./testing.ts";
import { Writer } from "./writer.ts";

const principal = { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] };
const facts = { principal, requestId: "", validateOnly: false };
const name = "bundles/small/versions/1.0.0";

/** Two contents of one version: which of them it is, the first to publish decides. */
const packed = ["a: 1\n", "a: 2\n"].map((text) =>
  packBundle(filesOf({ "bundle.yaml": bundleYaml(), "manifests/a.yaml": text })),
);

/** Who calls the store. */
type Caller = "bundles" | "collector";

/** `between` is waited for before each call of the store. */
function start(on: { graceMs?: number; between?: (caller: Caller) => Promise<unknown> } = {}) {
  const clock = manualClock();
  const rng = seededRng(1);
  const store = openMemoryStore({ clock, rng });
  const slowed = (caller: Caller): Store => ({
    ...store,
    range: async (q) => (await on.between?.(caller), store.range(q)),
    txn: async (t) => (await on.between?.(caller), store.txn(t)),
  });
  const deps = { store: slowed("bundles"), clock, rng };
  const bundles = new Bundles({
    ...deps,
    reader: new Reader(deps.store),
    writer: new Writer(deps),
    chunkBytes: 64,
  });
  const collector = new BundleCollector({
    store: slowed("collector"),
    clock,
    ...(on.graceMs === undefined ? {} : { graceMs: on.graceMs }),
  });
  const chunks = async () => (await store.range({ ...prefix(prefixes.blobs), keysOnly: true })).kvs.length;
  return {
    clock,
    store,
    bundles,
    collector,
    chunks,
    publish: (which: number) => {
      const { bytes, digest } = packed[which] as (typeof packed)[number];
      return bundles.create(upload(bytes, digest), { principal, method: "m", authorize: () => {} });
    },
    remove: () =>
      bundles.delete(
        {
          ...facts,
          method: "m",
          request: {
            schema: DeleteBundleVersionRequestSchema,
            message: create(DeleteBundleVersionRequestSchema),
          },
        },
        { name, etag: "", allowMissing: true },
      ),
  };
}

/** Replays the whole log; throws where a version is there without one of its chunks. */
async function checkEveryRevision(store: Store): Promise<number> {
  const { rev: head } = await store.status();
  const present = new Set<string>();
  const versions = new Map<string, string[]>();
  let looked = 0;
  for await (const batch of store.watch({ ...prefix(""), from: 2, progress: true })) {
    if (batch.kind === "events")
      for (const { type, kv } of batch.events) {
        const text = keyText(kv.key);
        if (text.startsWith(prefixes.blobs)) present[type === "put" ? "add" : "delete"](text);
        if (!text.startsWith(prefixes.bundleVersions)) continue;
        const named =
          type === "put"
            ? fromBinary(BundleVersionSchema, kv.value).chunks.map((c) =>
                blobKey(Buffer.from(c.digest).toString("hex")),
              )
            : [];
        versions.set(text, named);
      }
    for (const named of versions.values())
      for (const chunk of named)
        if (!present.has(chunk)) throw new Error(`${chunk} is missing at ${batch.kind}`);
    looked += 1;
    if (batch.kind !== "compacted" && batch.rev >= head) return looked;
  }
  return looked;
}

test("wherever the collector comes between uploads and deletions, no version ever lacks a chunk", async () => {
  const act = fc.constantFrom("publish 0", "publish 1", "remove");
  await fc.assert(
    fc.asyncProperty(
      fc.array(act, { minLength: 2, maxLength: 10 }),
      fc.infiniteStream(fc.integer({ min: 0, max: 40 })),
      async (acts, waits) => {
        // With no grace at all it collects whatever it may; each step of either takes its own time, and
        // it starts between any two steps of an upload.
        const collections: Promise<unknown>[] = [];
        const next = (): number => waits.next().value as number;
        const between = async (caller: Caller) => {
          if (caller === "bundles" && next() < 8) collections.push(hub.collector.collect());
          for (let n = next(); n > 0; n--) await Promise.resolve();
        };
        const hub = start({ graceMs: 0, between });
        const ignore = (p: Promise<unknown>) => p.catch(() => {});
        const run = (a: string) => (a === "remove" ? hub.remove() : hub.publish(a === "publish 0" ? 0 : 1));
        for (let i = 0; i < acts.length; i += 2)
          await Promise.all(acts.slice(i, i + 2).map((a) => ignore(run(a))));
        await Promise.all(collections);
        await hub.collector.collect();
        await checkEveryRevision(hub.store);
        const found = await hub.bundles.get(name, 0n).catch(() => undefined);
        expect(await hub.chunks()).toBe(
          found === undefined ? 0 : new Set(found.chunks.map((c) => c.digest)).size,
        );
      },
    ),
    { numRuns: 150 },
  );
});

test("what nobody names stays for an hour, what is named stays", async () => {
  const hub = start();
  await hub.publish(0);
  const named = await hub.chunks();
  await hub.store.txn({ then: [{ put: { key: key(blobKey("ab".repeat(32))), value: new Uint8Array(8) } }] });
  expect(await hub.collector.collect()).toBe(0);
  await hub.clock.advance(COLLECT_GRACE_MS - 1);
  expect(await hub.collector.collect()).toBe(0);
  await hub.clock.advance(1);
  expect(await hub.collector.collect()).toBe(1);
  expect(await hub.chunks()).toBe(named);
  await hub.remove();
  expect(await hub.collector.collect()).toBe(0);
  await hub.clock.advance(COLLECT_GRACE_MS);
  expect(await hub.collector.collect()).toBe(named);
  expect(await hub.chunks()).toBe(0);
});

test("a yanked version keeps its chunks", async () => {
  const hub = start({ graceMs: 0 });
  const version = await hub.publish(0);
  version.yanked = true;
  await hub.bundles.update(
    {
      ...facts,
      method: "m",
      request: {
        schema: UpdateBundleVersionRequestSchema,
        message: create(UpdateBundleVersionRequestSchema),
      },
    },
    version,
    undefined,
  );
  expect(await hub.collector.collect()).toBe(0);
  const parts: Uint8Array[] = [];
  for await (const part of hub.bundles.download(name)) parts.push(part);
  expect(Buffer.concat(parts)).toEqual(Buffer.from(packed[0]?.bytes ?? []));
});
