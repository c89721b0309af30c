import { fromBinary } from "@bufbuild/protobuf";
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import type { Resource, Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { StoredStatus } from "@moorage/proto/moorage/internal/v1/record_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { statusKey } from "../core/keys.ts";
import { key } from "../store/bytes.ts";
import type { ResRow, Store } from "../store/store.ts";

/**
 * A data plane's rows and statuses as its stream needs them. Of what is stored only the few fields are
 * read that decide something: all agents may come back at once, and each has its rows looked at.
 */

/** Reason of the hub's own verdict on a resource that the agent cannot take. */
export const AGENT_TOO_OLD = "AgentTooOld";

/** Rows a page while all of a data plane are read: few enough for one read of their statuses. */
const PAGE = 100;

/** What an agent announced that it can take. */
export interface Abilities {
  capabilities: ReadonlySet<number>;
  /** Body versions by kind. */
  kinds: ReadonlyMap<string, ReadonlySet<string>>;
}

/** What of a wanted resource decides whether and to whom it goes. */
export interface RowFacts extends Pick<Resource, "kind" | "version" | "digest"> {
  requiredCapabilities: number[];
}

/**
 * The facts of a row's update; undefined for a tombstone. Field numbers are those of moorage.agent.v1:
 * Update.upsert = 4; Resource.kind = 1, version = 2, digest = 4, required_capabilities = 8.
 */
export function rowFacts(row: ResRow): RowFacts | undefined {
  const update = new BinaryReader(row.update);
  let facts: RowFacts | undefined;
  while (update.pos < update.len) {
    const [field, type] = update.tag();
    if (field === 4) facts = resourceFacts(update.bytes());
    else update.skip(type, field);
  }
  return facts;
}

function resourceFacts(bytes: Uint8Array): RowFacts {
  const facts: RowFacts = { kind: "", version: "", digest: new Uint8Array(0), requiredCapabilities: [] };
  const resource = new BinaryReader(bytes);
  while (resource.pos < resource.len) {
    const [field, type] = resource.tag();
    if (field === 1) facts.kind = resource.string();
    else if (field === 2) facts.version = resource.string();
    else if (field === 4) facts.digest = resource.bytes();
    else if (field !== 8) resource.skip(type, field);
    else {
      const end = type === WireType.LengthDelimited ? resource.uint32() + resource.pos : 0;
      do facts.requiredCapabilities.push(resource.int32());
      while (resource.pos < end);
    }
  }
  return facts;
}

/** Why the agent cannot take a resource, as a message for people; undefined when it can. */
export function cannotTake(resource: RowFacts, abilities: Abilities): string | undefined {
  const versions = abilities.kinds.get(resource.kind);
  if (versions === undefined) return `The agent does not know the kind "${resource.kind}": upgrade the agent`;
  if (!versions.has(resource.version)) {
    return `The agent does not know version "${resource.version}" of kind "${resource.kind}": upgrade the agent`;
  }
  const missing = resource.requiredCapabilities.filter((c) => !abilities.capabilities.has(c));
  if (missing.length === 0) return undefined;
  return `The agent lacks the capabilities ${missing.join(", ")} that the resource requires: upgrade the agent`;
}

/** The whole update of a row; its revision is 0, the row has it. */
export function decodeRow(row: ResRow): Update {
  return fromBinary(UpdateSchema, row.update, { readUnknownFields: false });
}

/** All rows of a data plane in order of uid, page by page. */
export async function* rowPages(store: Store, dataPlaneUid: string): AsyncGenerator<ResRow[], void, void> {
  let afterUid = "";
  for (;;) {
    const page = await store.resAll(dataPlaneUid, { afterUid, limit: PAGE });
    yield page;
    if (page.length < PAGE) return;
    afterUid = page.at(-1)?.uid ?? afterUid;
  }
}

/** The stored status of a resource and the revision of its key (0: none). */
export async function readStatus(
  store: Store,
  uid: string,
): Promise<{ stored: StoredStatus | undefined; modRev: number }> {
  const [kv] = await store.getMany([key(statusKey(uid))]);
  if (kv === undefined) return { stored: undefined, modRev: 0 };
  return { stored: fromBinary(StoredStatusSchema, kv.value), modRev: kv.modRev };
}

/** The two parts of a stored status; `encoded` is the agent's own, as it was reported. */
export interface StatusParts {
  encoded: Uint8Array | undefined;
  /** There is a verdict of the hub. */
  withheld: boolean;
}

/** The parts of an encoded StoredStatus: status = 1, withheld = 4. */
export function statusParts(stored: Uint8Array): StatusParts {
  const parts: StatusParts = { encoded: undefined, withheld: false };
  const reader = new BinaryReader(stored);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1) parts.encoded = reader.bytes();
    else {
      if (field === 4) parts.withheld = true;
      reader.skip(type, field);
    }
  }
  return parts;
}
