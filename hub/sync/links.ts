import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { StoredLink } from "@moorage/proto/moorage/internal/v1/record_pb";
import { LinkState, StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { failpoint } from "@moorage/shared/failpoint";
import { linkKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { Compare, Op, Store } from "../store/store.ts";

/** The stored links of data planes: written on transitions only, always by compare-and-set. */

/** Tries before a write that keeps losing its compare is given up. */
const TRIES = 16;

/** The stored link and the revision it was written at (0: none yet). */
export interface LinkAt {
  link: StoredLink;
  modRev: number;
}

/** Reads a data plane's link; an empty one when it never connected. */
export async function readLink(store: Store, dataPlaneUid: string): Promise<LinkAt> {
  const { kvs } = await store.range({ start: key(linkKey(dataPlaneUid)) });
  const kv = kvs[0];
  if (kv === undefined) return { link: create(StoredLinkSchema), modRev: 0 };
  return { link: fromBinary(StoredLinkSchema, kv.value), modRev: kv.modRev };
}

/** The compare and the put that replace the link read as `at`. */
export function linkWrite(dataPlaneUid: string, at: LinkAt, link: StoredLink): { if: Compare; then: Op } {
  const k = key(linkKey(dataPlaneUid));
  return {
    if: { key: k, target: "modRev", op: "=", to: at.modRev },
    then: { put: { key: k, value: toBinary(StoredLinkSchema, link) } },
  };
}

/**
 * Changes a link: `change` gets the stored one and answers the new one, or undefined to leave it.
 * What `change` throws is passed on. Resolves with the link as stored.
 */
export async function changeLink(
  store: Store,
  dataPlaneUid: string,
  change: (link: StoredLink) => StoredLink | undefined,
): Promise<StoredLink> {
  for (let i = 0; i < TRIES; i++) {
    const at = await readLink(store, dataPlaneUid);
    const next = change(at.link);
    if (next === undefined) return at.link;
    const write = linkWrite(dataPlaneUid, at, next);
    failpoint("sync/before-link-txn");
    const { ok } = await store.txn({ if: [write.if], then: [write.then] });
    failpoint("sync/after-link-txn");
    if (ok) return next;
  }
  throw new Error(`Cannot write the link of "${dataPlaneUid}": ${TRIES} compares failed`);
}

/** A transition of the link's state; `seenMs` is the wall time of the last sign of life. */
export function transition(
  link: StoredLink,
  to: { state: LinkState; reason: string; nowMs: number; seenMs: number },
): StoredLink {
  return {
    ...link,
    state: to.state,
    reason: to.reason,
    transitionTime: timestampFromMs(to.nowMs),
    lastSeenTime: timestampFromMs(to.seenMs),
  };
}

/** What a hello says of agent and cluster. */
export interface HelloFacts {
  agentGeneration: bigint;
  agentVersion: string;
  kubernetesVersion: string;
  clusterUid: string;
}

/** The link once a stream is up; undefined when the stored one says all of it already. */
export function connectedLink(link: StoredLink, hello: HelloFacts, nowMs: number): StoredLink | undefined {
  const same =
    link.state === LinkState.CONNECTED &&
    link.agentGeneration === hello.agentGeneration &&
    link.agentVersion === hello.agentVersion &&
    link.kubernetesVersion === hello.kubernetesVersion &&
    (hello.clusterUid === "" || link.clusterUid === hello.clusterUid);
  if (same) return undefined;
  const facts = {
    agentGeneration: hello.agentGeneration,
    agentVersion: hello.agentVersion,
    kubernetesVersion: hello.kubernetesVersion,
    clusterUid: hello.clusterUid === "" ? link.clusterUid : hello.clusterUid,
  };
  if (link.state === LinkState.CONNECTED) return { ...link, ...facts };
  const to = { state: LinkState.CONNECTED, reason: "StreamUp", nowMs, seenMs: nowMs } as const;
  return { ...transition(link, to), ...facts };
}

/** Why two agents are at odds over one identity. */
export type Conflict = "TwinAgents" | "ClusterChanged";

/** Makes a conflict visible in the stored link, or ends it; one transition each. */
export async function storeConflict(
  store: Store,
  dataPlaneUid: string,
  to: { conflict: Conflict; message: string; nowMs: number } | undefined,
): Promise<void> {
  const conflict = to?.conflict ?? "";
  await changeLink(store, dataPlaneUid, (link) => {
    if (link.state === LinkState.UNSPECIFIED || link.conflict === conflict) return undefined;
    if (to === undefined) return { ...link, conflict, conflictMessage: "" };
    return { ...link, conflict, conflictMessage: to.message, conflictTime: timestampFromMs(to.nowMs) };
  });
}

/** Stores how many resources the agent holds that the hub does not know. */
export async function storeUnknown(
  store: Store,
  dataPlaneUid: string,
  unknown: { count: number; nowMs: number },
): Promise<void> {
  await changeLink(store, dataPlaneUid, (link) =>
    link.state === LinkState.UNSPECIFIED || link.unknownResources === unknown.count
      ? undefined
      : { ...link, unknownResources: unknown.count, unknownTime: timestampFromMs(unknown.nowMs) },
  );
}
