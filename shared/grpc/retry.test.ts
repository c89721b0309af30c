import { create } from "@bufbuild/protobuf";
import { CreateTenantRequestSchema, TenantService } from "@moorage/proto/moorage/hub/v1/tenant_service_pb";
import { expect, test } from "vitest";
import type { Clock } from "../clock.ts";
import { Code, MoorageError } from "../errors.ts";
import { seededRng } from "../rng.ts";
import { memoryConnect } from "./memory-link.ts";
import type { RetryPolicy } from "./retry.ts";
import { retryingLink } from "./retry.ts";
import type { CallContext } from "./types.ts";
import { bind } from "./types.ts";

const policy: RetryPolicy = { attempts: 5, baseMs: 100, capMs: 1_000, totalMs: 10_000 };
const gone = (details = {}) => new MoorageError(Code.UNAVAILABLE, "Gone", details);

/** A clock that sleeps in no time and notes how long it was asked to. */
function fastClock() {
  let nowMs = 0;
  const sleeps: number[] = [];
  const clock: Clock = {
    now: () => nowMs,
    monotonicMs: () => nowMs,
    setTimer(ms, fn) {
      sleeps.push(ms);
      let live = true;
      queueMicrotask(() => {
        if (!live) return;
        nowMs += ms;
        fn();
      });
      return { cancel: () => void (live = false) };
    },
  };
  return { clock, sleeps };
}

/** A tenant service whose first calls fail with `errors`, and what it was asked. */
function failing(errors: MoorageError[]) {
  const seen: { method: string; requestId?: string }[] = [];
  const serve = (request: { requestId?: string }, ctx: CallContext) => {
    seen.push({
      method: ctx.method,
      ...(request.requestId === undefined ? {} : { requestId: request.requestId }),
    });
    const error = errors.shift();
    if (error !== undefined) throw error;
    return {};
  };
  const handlers = { getTenant: serve, createTenant: serve, listTenants: serve };
  const { clock, sleeps } = fastClock();
  const service = bind(TenantService, handlers as never);
  const link = retryingLink(memoryConnect([service]), { clock, rng: seededRng(7), policy });
  return { client: link.client(TenantService), seen, sleeps };
}

test("a read and a write with a request_id are tried again, the write under the same id", async () => {
  const { client, seen } = failing([gone(), gone(), gone()]);
  await client.createTenant(create(CreateTenantRequestSchema, { tenantId: "a", requestId: "mine" }));
  expect(seen.map((s) => s.requestId)).toEqual(["mine", "mine", "mine", "mine"]);
  const read = failing([gone()]);
  await read.client.getTenant({ name: "tenants/a" });
  expect(read.seen.length).toBe(2);
});

test("a write without a request_id is given one, and the caller's request stays as it was", async () => {
  const { client, seen } = failing([gone()]);
  const request = create(CreateTenantRequestSchema, { tenantId: "a" });
  await client.createTenant(request);
  await client.createTenant({ tenantId: "b" });
  expect(request.requestId).toBe("");
  expect(seen[0]?.requestId).toMatch(/^[0-9a-f-]{36}$/);
  expect(seen[1]?.requestId).toBe(seen[0]?.requestId);
  expect(seen[2]?.requestId).not.toBe(seen[0]?.requestId);
});

test("no other error is tried again", async () => {
  const { client, seen } = failing([new MoorageError(Code.ABORTED, "Twin", { retryAfterMs: 1 })]);
  await expect(client.getTenant({})).rejects.toMatchObject({ code: Code.ABORTED });
  expect(seen.length).toBe(1);
});

test("the wait is RetryInfo plus jitter below a doubling bound, and the tries are bounded", async () => {
  const { client, seen, sleeps } = failing([
    gone({ retryAfterMs: 700 }),
    ...Array<MoorageError>(9).fill(gone()),
  ]);
  await expect(client.listTenants({})).rejects.toMatchObject({ code: Code.UNAVAILABLE });
  expect(seen.length).toBe(policy.attempts);
  expect(sleeps.length).toBe(policy.attempts - 1);
  expect(sleeps[0]).toBeGreaterThanOrEqual(700);
  expect(sleeps[0]).toBeLessThan(800);
  sleeps.slice(1).forEach((ms, i) => expect(ms).toBeLessThan(200 * 2 ** i));
});

test("no try begins after the caller's own time, nor after its abort", async () => {
  const late = failing([gone({ retryAfterMs: 5_000 })]);
  await expect(late.client.getTenant({}, { timeoutMs: 1_000 })).rejects.toMatchObject({ message: "Gone" });
  expect(late.seen.length).toBe(1);
  const stopped = failing([gone()]);
  const signal = AbortSignal.abort();
  await expect(stopped.client.getTenant({}, { signal })).rejects.toBeInstanceOf(MoorageError);
  expect(stopped.sleeps).toEqual([]);
});
