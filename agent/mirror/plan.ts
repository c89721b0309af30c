/** What a received update makes of a record: pure. */
import type { Update } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { canonicalJson } from "../kube/json.ts";
import type { MirrorRecord } from "./mirror.ts";
import { decodeBody, encodeBody, judge, kindOfName, objectName, sha256Hex, toObject } from "./record.ts";
import type { Entry } from "./record.ts";

/** `write`: make the entry durable. `gone`: nothing is here to remove, tell the hub. */
export type Step = { kind: "ignore" } | { kind: "gone" } | { kind: "write"; entry: Entry };

/** The newest revision received for a record, whether body, tombstone or refusal. */
export function newestRevision(entry: Entry): number {
  const { record, rejected } = entry;
  return Math.max(record.revision, record.removal?.revision ?? 0, rejected?.revision ?? 0);
}

/** No body of the record was ever accepted: the kinds do not see it. */
export function neverAccepted(entry: Entry): boolean {
  return entry.body === undefined && !entry.damaged;
}

/**
 * The step for `update`. `localName`: a record of origin local bears its name. `inventory`: it has
 * objects here, whatever the mirror knows of it. `tenantUid`: of the tenant that its name is in.
 */
export function planUpdate(
  old: Entry | undefined,
  update: Update,
  here: { localName: boolean; inventory?: boolean; tenantUid?: string },
): Step {
  const revision = Number(update.revision);
  if (update.change.case === "removed") {
    const { orphan, removalAuthorization } = update.change.value;
    const removal = { revision, orphan, authorization: removalAuthorization };
    const lost = old === undefined || (neverAccepted(old) && revision > newestRevision(old));
    if (lost && here.inventory === true) {
      const entry = bodyless(old, update, here.tenantUid ?? "");
      if (entry !== undefined)
        return { kind: "write", entry: { ...entry, record: { ...entry.record, removal } } };
    }
    if (old === undefined || old.gone) return { kind: "gone" };
    if (revision <= newestRevision(old)) return { kind: "ignore" };
    return { kind: "write", entry: { ...old, record: { ...old.record, removal } } };
  }
  if (update.change.case !== "upsert") return { kind: "ignore" };
  if (old !== undefined && !old.damaged && revision <= newestRevision(old)) return { kind: "ignore" };
  const resource = update.change.value;
  const judged = here.localName
    ? {
        reason: "OriginMismatch",
        message: `Cannot take "${update.name}": a resource of origin local has that name`,
      }
    : judge(update.name, resource);
  if ("reason" in judged) {
    const kind = kindOfName(update.name);
    if (kind === undefined) return { kind: "ignore" };
    const rejected = { revision, digest: Buffer.from(resource.digest).toString("hex"), ...judged };
    const base: Entry = old ?? {
      record: blank(update, { kind, body: decodeBody(kind, new Uint8Array()) }),
      body: undefined,
      rejected,
      gone: false,
      metadata: { name: objectName(update.name, update.uid) },
      damaged: false,
    };
    return {
      kind: "write",
      entry: { ...base, rejected, damaged: false, record: { ...base.record, removal: undefined, rejected } },
    };
  }
  const record: MirrorRecord = {
    ...(old?.record ?? blank(update, { kind: judged.body.kind, body: judged.body })),
    revision,
    generation: Number(resource.generation),
    digest: Buffer.from(resource.digest).toString("hex"),
    body: judged.body,
    removal: undefined,
    rejected: undefined,
  };
  const entry: Entry = {
    record,
    body: judged.bytes,
    rejected: undefined,
    gone: false,
    metadata: old?.metadata ?? { name: record.objectName },
    damaged: false,
  };
  return { kind: "write", entry };
}

/** An entry that can be removed without the body that was lost: its name and its inventory say what and where. */
function bodyless(old: Entry | undefined, update: Update, tenantUid: string): Entry | undefined {
  const kind = kindOfName(update.name);
  if (kind === undefined) return undefined;
  const body = decodeBody(kind, new Uint8Array());
  if (body.kind === "Application") body.value.tenantUid = tenantUid;
  const bytes = encodeBody(body);
  return {
    rejected: undefined,
    metadata: { name: objectName(update.name, update.uid) },
    ...old,
    record: { ...(old?.record ?? blank(update, { kind, body })), body, digest: sha256Hex(bytes) },
    body: bytes,
    gone: false,
    damaged: false,
  };
}

function blank(update: Update, of: Pick<MirrorRecord, "kind" | "body">): MirrorRecord {
  return {
    ...of,
    objectName: objectName(update.name, update.uid),
    objectUid: "",
    name: update.name,
    uid: update.uid,
    origin: "hub",
    revision: 0,
    generation: 0,
    digest: "",
    removal: undefined,
    status: undefined,
    rejected: undefined,
  };
}

/** Whether two entries are the same order: everything but metadata, status and the readable copy. */
export function sameOrder(a: Entry, b: Entry): boolean {
  return order(a) === order(b);
}

function order(entry: Entry): string {
  const spec = { ...(toObject(entry, "")["spec"] as Record<string, unknown>) };
  delete spec["desired"];
  return canonicalJson(spec);
}
