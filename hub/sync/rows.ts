import { fromBinary } from "@bufbuild/protobuf";
import type { Resource, ResourceStatus, Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { UpdateSchema, Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { StoredStatus } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { statusKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { ResRow, Store } from "../store/store.ts";

/** A data plane's rows and statuses as the stream's opening needs them. */

/** Reason of the hub's own verdict on a resource that the agent cannot take. */
export const AGENT_TOO_OLD = "AgentTooOld";

/** Rows a page while all of a data plane are read. */
const PAGE = 500;

/** What an agent announced that it can take. */
export interface Abilities {
  capabilities: ReadonlySet<number>;
  /** Body versions by kind. */
  kinds: ReadonlyMap<string, ReadonlySet<string>>;
}

/** The update of a row; its revision is 0, the row has it. */
export function decodeRow(row: ResRow): Update {
  return fromBinary(UpdateSchema, row.update, { readUnknownFields: false });
}

/** Why the agent cannot take a resource, as a message for people; undefined when it can. */
export function cannotTake(resource: Resource, abilities: Abilities): string | undefined {
  const versions = abilities.kinds.get(resource.kind);
  if (versions === undefined) return `The agent does not know the kind "${resource.kind}": upgrade the agent`;
  if (!versions.has(resource.version)) {
    return `The agent does not know version "${resource.version}" of kind "${resource.kind}": upgrade the agent`;
  }
  const missing = resource.requiredCapabilities.filter((c) => !abilities.capabilities.has(c));
  if (missing.length === 0) return undefined;
  return `The agent lacks the capabilities ${missing.join(", ")} that the resource requires: upgrade the agent`;
}

/** All rows of a data plane, in order of uid. */
export async function* allRows(store: Store, dataPlaneUid: string): AsyncGenerator<ResRow, void, void> {
  let afterUid: string | undefined;
  for (;;) {
    const q = afterUid === undefined ? { limit: PAGE } : { afterUid, limit: PAGE };
    const page = await store.resAll(dataPlaneUid, q);
    yield* page;
    if (page.length < PAGE) return;
    afterUid = page.at(-1)?.uid;
  }
}

/** The stored status of a resource and the revision of its key (0: none). */
export async function readStatus(
  store: Store,
  uid: string,
): Promise<{ stored: StoredStatus | undefined; modRev: number }> {
  const { kvs } = await store.range({ start: key(statusKey(uid)) });
  const kv = kvs[0];
  if (kv === undefined) return { stored: undefined, modRev: 0 };
  return { stored: fromBinary(StoredStatusSchema, kv.value), modRev: kv.modRev };
}

/** Whether a status holds the hub's own verdict that the agent cannot take the resource. */
export function isWithheld(status: ResourceStatus | undefined): boolean {
  return status?.verdict?.state === Verdict_State.REJECTED && status.verdict.reason === AGENT_TOO_OLD;
}
