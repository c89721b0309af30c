import { createHash, hash } from "node:crypto";
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

/** Lines that are hashed at once. */
const LINES = 256;

function byUid(a: { uid: string }, b: { uid: string }): number {
  return a.uid < b.uid ? -1 : a.uid > b.uid ? 1 : 0;
}

/**
 * `ClientHello.held_digest` and `InventoryPage.digest`: SHA-256 over (name, uid, digest) of every
 * resource held without an order to remove it, in order of uid. Resources with such an order are
 * left out, since their tombstone carries no digest.
 */
export function heldDigest(items: Iterable<HeldItem>): Uint8Array {
  return overLines(
    [...items].sort(byUid),
    (item) => `${item.uid}\0${item.name}\0${Buffer.from(item.digest).toString("hex")}\n`,
  );
}

/**
 * `ClientHello.status_digest` and `StatusReport.digest`: SHA-256 over the encoded status of every
 * resource that was reported and is not gone, in order of uid.
 */
export function statusDigest(statuses: Iterable<ResourceStatus>): Uint8Array {
  const left = [...statuses].filter((s) => !s.gone);
  return encodedStatusDigest(
    left.map((s) => ({ uid: s.uid, digestHex: encodedDigest(toBinary(ResourceStatusSchema, s)) })),
  );
}

/** The digest of one encoded status. */
export const encodedDigest = (encoded: Uint8Array): string => hash("sha256", encoded, "hex");

/** {@link statusDigest} for whoever keeps statuses encoded: over the {@link encodedDigest} of each. */
export function encodedStatusDigest(statuses: Iterable<{ uid: string; digestHex: string }>): Uint8Array {
  return overLines([...statuses].sort(byUid), (s) => `${s.uid}\0${s.digestHex}\n`);
}

/** SHA-256 over a line for each item. */
function overLines<T>(items: readonly T[], line: (item: T) => string): Uint8Array {
  const all = createHash("sha256");
  for (let at = 0; at < items.length; at += LINES)
    all.update(
      items
        .slice(at, at + LINES)
        .map(line)
        .join(""),
    );
  return new Uint8Array(all.digest());
}
