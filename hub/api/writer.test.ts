import { create } from "@bufbuild/protobuf";
import { Role } from "@moorage/proto/moorage/hub/v1/api_key_service_pb";
import { TenantSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { CreateTenantRequestSchema } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { Code } from "@moorage/shared/errors";
import { seededRng } from "@moorage/shared/rng";
import { expect, test, vi } from "vitest";
import { prefixes } from "../core/keys.ts";
import { key, prefix } from "../store/bytes.ts";
import { openMemoryStore } from "../store/memory/memory.ts";
import { manualClock, settle } from "../sync/testing.ts";
import { Writer, requestIdMs } from "./writer.ts";

const record = key("k");

function start() {
  const clock = manualClock();
  const rng = seededRng(1);
  const store = openMemoryStore({ clock, rng });
  const writer = new Writer({ store, clock, rng });
  /** Counts up in a key; `meanwhile` happens between its read and its write. */
  const count = (requestId = "", meanwhile: () => Promise<unknown> = async () => {}) =>
    writer.write({
      principal: { actor: "apiKeys/test", role: Role.ADMIN, scopes: [] },
      method: "m",
      requestId,
      request: { schema: CreateTenantRequestSchema, message: create(CreateTenantRequestSchema) },
      answer: TenantSchema,
      validateOnly: false,
      plan: async () => {
        const [kv] = (await store.range({ start: record })).kvs;
        await meanwhile();
        const next = Number(kv === undefined ? 0 : Buffer.from(kv.value).toString()) + 1;
        return {
          change: {
            if: [{ key: record, target: "modRev" as const, op: "=" as const, to: kv?.modRev ?? 0 }],
            then: [{ put: { key: record, value: key(String(next)) } }],
            rows: [],
            resource: "tenants/a",
            answer: (at: { rev: number }) =>
              create(TenantSchema, { name: String(next), revision: BigInt(at.rev) }),
          },
        };
      },
    });
  const keysOf = async (p: string) => (await store.range({ ...prefix(p), keysOnly: true })).kvs.length;
  return { clock, store, count, keysOf, writer };
}

test("however many write one key at once, each write counts once, and each is in the audit", async () => {
  const { store, count, keysOf } = start();
  const answers = await Promise.all(Array.from({ length: 100 }, () => count()));
  expect(new Set(answers.map((a) => a.revision)).size).toBe(100);
  expect(Buffer.from((await store.range({ start: record })).kvs[0]?.value ?? []).toString()).toBe("100");
  expect(await keysOf(prefixes.audit)).toBe(100);
});

test("a write that another part of the hub keeps coming before is given up, with when to come back", async () => {
  const { store, count } = start();
  const between = () => store.txn({ then: [{ put: { key: record, value: key("0") } }] });
  await expect(count("", between)).rejects.toMatchObject({
    code: Code.ABORTED,
    reason: "CONTENTION",
    retryAfterMs: 100,
  });
  expect(await count()).toMatchObject({ name: "1" });
});

test("the sweep deletes request ids that are a day old, and no others, in pages with a pause between", async () => {
  const { clock, store, count, keysOf, writer } = start();
  for (let i = 0; i < 250; i++) await count(`old-${i}`);
  await clock.advance(requestIdMs - 60_000);
  await count("new");
  const sweep = async (): Promise<number> => {
    const swept = writer.sweep();
    await settle();
    await clock.advance(1_000);
    return swept;
  };
  expect(await sweep()).toBe(0);
  await clock.advance(60_000);
  const read = vi.spyOn(store, "range");
  const swept = writer.sweep();
  await settle();
  expect(read.mock.calls).toMatchObject([[{ limit: 100 }]]);
  await clock.advance(1_000);
  expect(await swept).toBe(250);
  expect(await keysOf(prefixes.requests)).toBe(1);
});
