import { create } from "@bufbuild/protobuf";
import type { Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { heldDigest, statusDigest } from "@moorage/shared/sync-digest";
import { describe, expect, it } from "vitest";
import { HeldSet, statusOf } from "./held.ts";

const upsert = (uid: string, revision: number, digest: string): Update =>
  create(UpdateSchema, {
    name: `tenants/${uid}`,
    uid,
    revision: BigInt(revision),
    change: {
      case: "upsert",
      value: { kind: "Tenant", version: "v1", generation: 1n, digest: Buffer.from(digest) },
    },
  });
const removed = (uid: string, revision: number): Update =>
  create(UpdateSchema, {
    name: `tenants/${uid}`,
    uid,
    revision: BigInt(revision),
    change: { case: "removed", value: {} },
  });

describe("the held set of a protocol-only agent", () => {
  it("tells new, changed, sent again and stale apart", () => {
    const held = new HeldSet();
    expect([
      held.apply(upsert("a", 5, "x")),
      held.apply(upsert("a", 6, "y")),
      held.apply(upsert("a", 7, "y")),
      held.apply(upsert("a", 7, "z")),
      held.apply(upsert("a", 3, "z")),
    ]).toEqual(["new", "changed", "unchanged", "stale", "stale"]);
    expect(Buffer.from(held.get("a")?.digest ?? []).toString()).toBe("y");
  });

  it("has the digest that the hub computes of the same rows, without what is to go", () => {
    const held = new HeldSet();
    held.apply(upsert("b", 2, "two"));
    held.apply(upsert("a", 3, "one"));
    held.apply(upsert("c", 4, "three"));
    held.apply(removed("c", 5));
    const expected = heldDigest([
      { uid: "a", name: "tenants/a", digest: Buffer.from("one") },
      { uid: "b", name: "tenants/b", digest: Buffer.from("two") },
    ]);
    expect(held.heldDigest()).toEqual(expected);
    held.apply(upsert("a", 6, "other"));
    expect(held.heldDigest()).not.toEqual(expected);
  });

  it("counts as reported what the hub acknowledged, and forgets a removal once it was", () => {
    const held = new HeldSet();
    held.apply(upsert("a", 2, "one"));
    held.apply(upsert("b", 3, "two"));
    expect(held.statusDigest()).toEqual(statusDigest([]));
    const a = held.get("a");
    held.acknowledged("a", 2n);
    expect(held.statusDigest()).toEqual(statusDigest(a === undefined ? [] : [statusOf(a)]));
    held.apply(removed("b", 4));
    held.acknowledged("b", 4n);
    expect(held.get("b")).toBeUndefined();
    held.forgetReported();
    expect(held.statusDigest()).toEqual(statusDigest([]));
  });

  it("keeps a removal whose withdrawal came before its acknowledgement", () => {
    const held = new HeldSet();
    held.apply(upsert("a", 2, "one"));
    held.apply(removed("a", 3));
    held.apply(upsert("a", 4, "one"));
    held.acknowledged("a", 3n);
    expect(held.get("a")?.removing).toBe(false);
  });
});
