/** What tests of the agent's outer half share. */
import { createHash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import {
  ApplicationBodySchema,
  DataPlaneBodySchema,
  TenantBodySchema,
} from "@moorage/proto/moorage/agent/v1/body_pb";
import { Encoding, UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { CursorSchema } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { Cursor } from "@moorage/proto/moorage/common/v1/cursor_pb";
import type { Clock } from "@moorage/shared/clock";

/** A clock that stands until it is moved. */
export interface ManualClock extends Clock {
  /** Moves time on, firing the timers in between in order and letting promises settle after each. */
  advance(ms: number): Promise<void>;
}

/** Lets promises and I/O callbacks that are ready run. */
export async function settle(turns = 20): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** See {@link ManualClock}. */
export function manualClock(startMs = Date.UTC(2030, 0, 1)): ManualClock {
  let at = 0;
  let next = 0;
  const timers = new Map<number, { due: number; fn: () => void }>();
  return {
    now: () => startMs + Math.floor(at),
    monotonicMs: () => at,
    setTimer(delayMs, fn) {
      const id = next++;
      timers.set(id, { due: at + Math.max(0, delayMs), fn });
      return { cancel: () => void timers.delete(id) };
    },
    async advance(ms) {
      const end = at + ms;
      await settle();
      for (;;) {
        const due = [...timers]
          .filter(([, t]) => t.due <= end)
          .sort((a, b) => a[1].due - b[1].due || a[0] - b[0])[0];
        if (due === undefined) break;
        at = Math.max(at, due[1].due);
        timers.delete(due[0]);
        due[1].fn();
        await settle(4);
      }
      at = end;
      await settle();
    },
  };
}

/** A position. */
export function cursorAt(revision: number, epoch = 1): Cursor {
  return create(CursorSchema, { epoch: new Uint8Array(16).fill(epoch), revision: BigInt(revision) });
}

/** An update that wants `name`, with a body of its kind carrying `label`. */
export function upsert(
  name: string,
  of: { uid: string; revision: number; label?: string; tenantUid?: string; body?: Uint8Array },
): Update {
  const labels = { release: of.label ?? "1" };
  const [kind, encoded]: [string, Uint8Array] = name.includes("/applications/")
    ? [
        "Application",
        toBinary(
          ApplicationBodySchema,
          create(ApplicationBodySchema, { labels, spec: {}, tenantUid: of.tenantUid ?? "" }),
        ),
      ]
    : name.startsWith("tenants/")
      ? ["Tenant", toBinary(TenantBodySchema, create(TenantBodySchema, { labels, spec: {} }))]
      : ["DataPlane", toBinary(DataPlaneBodySchema, create(DataPlaneBodySchema, { labels, spec: {} }))];
  const body = of.body ?? encoded;
  return create(UpdateSchema, {
    name,
    uid: of.uid,
    revision: BigInt(of.revision),
    change: {
      case: "upsert",
      value: {
        kind,
        version: "v1",
        generation: 1n,
        digest: new Uint8Array(createHash("sha256").update(body).digest()),
        encoding: Encoding.PROTO,
        content: { case: "body", value: body },
      },
    },
  });
}

/** The order to remove `name`. */
export function tombstone(name: string, of: { uid: string; revision: number }): Update {
  return create(UpdateSchema, {
    name,
    uid: of.uid,
    revision: BigInt(of.revision),
    change: { case: "removed", value: {} },
  });
}
