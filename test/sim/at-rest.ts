/** What must hold when nothing moves any more: hub, agents and clusters say the same. */
import { createHash } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import { dig } from "@moorage/agent/kube/object";
import { prefixes } from "@moorage/hub/core/keys";
import { keyText, prefix } from "@moorage/hub/store/bytes";
import type { Store } from "@moorage/hub/store/store";
import { ApplicationBodySchema } from "@moorage/proto/moorage/agent/v1/body_pb";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { NAMESPACE } from "./agent-process.ts";
import { APPLICATION_LABEL, isRecord, RECORD_API, RECORD_KINDS } from "./invariants.ts";
import type { Invariant } from "./invariants.ts";
import type { Plane } from "./plane.ts";

/** One thing that is not as it should be. */
export interface Difference {
  invariant: Invariant;
  what: string;
}

/** Live ConfigMaps of applications, `<application uid>/<name>` to text. */
export function liveTexts(plane: Plane): Map<string, string> {
  const out = new Map<string, string>();
  for (const object of plane.cluster.store.peekAll({ apiVersion: "v1", kind: "ConfigMap" })) {
    const uid = object.metadata.labels?.[APPLICATION_LABEL];
    if (uid !== undefined) out.set(`${uid}/${object.metadata.name}`, String(dig(object, "data", "text")));
  }
  return out;
}

/** `<type>=<status>/<reason>/<generation>` of each condition, sorted. */
type Shown = string;

function shown(
  conditions: readonly { type: string; status: string; reason: string; observedGeneration: unknown }[],
): Shown {
  return conditions
    .map((c) => `${c.type}=${c.status}/${c.reason}/${Number(c.observedGeneration)}`)
    .sort()
    .join(" ");
}

/** Conditions that the hub stores, by uid. */
export async function storedStatuses(store: Store): Promise<Map<string, Shown>> {
  const out = new Map<string, Shown>();
  for (const kv of (await store.range(prefix(prefixes.status))).kvs) {
    const { status } = fromBinary(StoredStatusSchema, kv.value);
    out.set(keyText(kv.key).slice(prefixes.status.length), shown(status?.conditions ?? []));
  }
  return out;
}

/**
 * What keeps a data plane from being exactly what the hub wants; empty at rest. `tolerated` says of a
 * uid that what it left may be there though the hub does not know it.
 */
export async function differences(
  plane: Plane,
  on: {
    store: Store;
    statuses: ReadonlyMap<string, Shown>;
    tolerated: (plane: Plane, uid: string) => boolean;
  },
): Promise<Difference[]> {
  const out: Difference[] = [];
  const differs = (what: string, invariant: Invariant = "converges") =>
    out.push({ invariant, what: `${plane.name}: ${what}` });
  const { wanted, texts, removing } = await wantedOf(plane, on.store);
  for (const name of removing) differs(`the removal of "${name}" is not confirmed`);
  const held = new Map<string, string>();
  const written = new Map<string, Shown>();
  for (const kind of RECORD_KINDS)
    for (const record of plane.cluster.store.peekAll({ apiVersion: RECORD_API, kind })) {
      if (!isRecord(record) || record.metadata.namespace !== NAMESPACE) continue;
      const uid = String(dig(record, "spec", "uid"));
      held.set(uid, String(dig(record, "spec", "digest")));
      const conditions = dig(record, "status", "conditions") as Parameters<typeof shown>[0] | undefined;
      written.set(uid, shown(conditions ?? []));
      if (dig(record, "spec", "rejected") !== undefined) differs(`record "${uid}" is rejected`);
    }
  const leader = plane.agents.find((a) => a.leading !== undefined)?.leading;
  if (leader === undefined) differs("no agent leads");
  for (const uid of wanted.keys()) {
    if (leader === undefined) break;
    const own = shown(leader.mirror.get(uid)?.status?.conditions ?? []);
    const stored = on.statuses.get(uid) ?? "";
    if (own !== stored) differs(`status of "${uid}" is "${stored}", computed "${own}"`, "status");
    if (own !== written.get(uid))
      differs(
        `status of "${uid}" in the cluster is "${written.get(uid) ?? ""}", computed "${own}"`,
        "status",
      );
  }
  const extra = (uid: string) => on.tolerated(plane, uid);
  compare({ what: "record", wanted, held }, { differs, extra });
  compare({ what: "object", wanted: texts, held: liveTexts(plane) }, { differs, extra });
  return out;
}

async function wantedOf(plane: Plane, store: Store) {
  const wanted = new Map<string, string>();
  const texts = new Map<string, string>();
  const removing: string[] = [];
  for (const row of await store.resAll(plane.uid, { limit: 10_000 })) {
    if (row.del) {
      removing.push(row.name);
      continue;
    }
    const { change } = fromBinary(UpdateSchema, row.update);
    if (change.case !== "upsert") continue;
    wanted.set(row.uid, Buffer.from(change.value.digest).toString("hex"));
    if (change.value.kind !== "Application" || change.value.content.case !== "body") continue;
    const { spec } = fromBinary(ApplicationBodySchema, change.value.content.value);
    const id = row.name.split("/").at(-1) ?? "";
    const text = String(spec?.parameters?.["text"]);
    texts.set(`${row.uid}/${id}-one`, text);
    if (spec?.version === "1.0.0") texts.set(`${row.uid}/${id}-two`, text);
  }
  return { wanted, texts, removing };
}

function compare(
  sets: { what: string; wanted: ReadonlyMap<string, string>; held: ReadonlyMap<string, string> },
  on: { differs: (what: string) => void; extra: (uid: string) => boolean },
): void {
  const { what, wanted, held } = sets;
  for (const [key, value] of wanted)
    if (held.get(key) !== value)
      on.differs(`${what} "${key}" is "${held.get(key) ?? "absent"}", wanted "${value}"`);
  for (const key of held.keys())
    if (!wanted.has(key) && !on.extra(key.split("/")[0] ?? "")) on.differs(`${what} "${key}" is not wanted`);
}

/** A short form of a long list, for messages. */
export function summary(lines: readonly string[]): string {
  const hash = createHash("sha256").update(lines.join("\n")).digest("hex").slice(0, 8);
  return `${lines.length} differences (${hash}): ${lines.slice(0, 6).join("; ")}`;
}
