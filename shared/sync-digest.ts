import { createHash } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import type { ResourceStatus } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ResourceStatusSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";

/**
 * The two digests by which agent and hub find out, in 32 bytes, that they agree. Both ends compute
 * them with this code; order of the input does not matter.
 */

/** One held resource; `digest` is the SHA-256 of its plain body. */
export interface HeldItem {
  name: string;
  uid: string;
  digest: Uint8Array;
}

function byUid(a: { uid: string }, b: { uid: string }): number {
  return a.uid < b.uid ? -1 : a.uid > b.uid ? 1 : 0;
}

/**
 * `ClientHello.held_digest` and `InventoryPage.digest`: SHA-256 over (name, uid, digest) of every
 * resource held without an order to remove it, in order of uid. Resources with such an order are
 * left out, since their tombstone carries no digest.
 */
export function heldDigest(items: Iterable<HeldItem>): Uint8Array {
  const hash = createHash("sha256");
  for (const item of [...items].sort(byUid)) {
    hash.update(`${item.uid}\0${item.name}\0${Buffer.from(item.digest).toString("hex")}\n`);
  }
  return new Uint8Array(hash.digest());
}

/**
 * `ClientHello.status_digest` and `StatusReport.digest`: SHA-256 over the encoded status of every
 * resource that was reported and is not gone, in order of uid.
 */
export function statusDigest(statuses: Iterable<ResourceStatus>): Uint8Array {
  const hash = createHash("sha256");
  for (const status of [...statuses].filter((s) => !s.gone).sort(byUid)) {
    const one = createHash("sha256").update(toBinary(ResourceStatusSchema, status)).digest("hex");
    hash.update(`${status.uid}\0${one}\n`);
  }
  return new Uint8Array(hash.digest());
}
