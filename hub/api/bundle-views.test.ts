import { create, toBinary } from "@bufbuild/protobuf";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { expect, test } from "vitest";
import { prefixes } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import type { RangeResult, Store } from "../store/store.ts";
import { watchBundles } from "./bundle-views.ts";
import { Reader } from "./reader.ts";

test("a watch of bundle versions reads no more of them ahead than a page, and tells each once", async () => {
  const inner = openMemoryStore({ clock: systemClock, rng: seededRng(1) });
  const names = Array.from({ length: 120 }, (_, i) => `bundles/b/versions/1.0.${100 + i}`);
  for (const name of names) {
    const value = toBinary(BundleVersionSchema, create(BundleVersionSchema, { name }));
    await inner.txn({ then: [{ put: { key: key(prefixes.bundleVersions + name), value } }] });
  }
  const pages: number[] = [];
  const store: Store = {
    ...inner,
    async range(q): Promise<RangeResult> {
      const page = await inner.range(q);
      pages.push(page.kvs.length);
      return page;
    },
  };
  const deps = { store, reader: new Reader(store), clock: systemClock };
  const end = new AbortController();
  const told: string[] = [];
  for await (const event of watchBundles(deps, { below: "", cursor: undefined }, end.signal)) {
    if (event.kind !== "change") break;
    told.push(event.bundleVersion.name);
    expect(pages.reduce((a, b) => a + b)).toBeLessThan(told.length + 100);
  }
  expect(told).toEqual(names);
  await inner.close();
});
