/** What must hold in every simulated world, checked at each change and at rest. */
import { createHash } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import type { MemoryCall, MemoryCluster } from "@moorage/agent/kube/memory-cluster";
import type { KubeObject } from "@moorage/agent/kube/object";
import { dig } from "@moorage/agent/kube/object";
import type { Store } from "@moorage/hub/store/store";
import { ApplicationBodySchema } from "@moorage/proto/moorage/agent/v1/body_pb";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { History } from "./history.ts";

/** The invariants; the letters stand in messages. */
export type Invariant = "converges" | "no-deletion" | "no-rollback" | "durable" | "lost-hub";

/** A broken invariant. */
export interface Violation {
  invariant: Invariant;
  message: string;
}

const API = "moorage.dev/v1alpha1";
const RECORD_KINDS = ["DataPlane", "Tenant", "Application"];
const APPLICATION_LABEL = "moorage.dev/application";
const TENANT_LABEL = "moorage.dev/tenant";

/** Watches clusters and the hub's history. */
export class Invariants {
  readonly violations: Violation[] = [];
  readonly #history: History;
  /** Names of applications that were ever ordered to render fewer objects. */
  readonly shrunk = new Set<string>();
  /** Set after an empty or a restored hub came up: from then on nothing may be deleted. */
  hubLost = false;
  deletions = 0;

  constructor(history: History) {
    this.#history = history;
  }

  /** Notes a violation. */
  fail(invariant: Invariant, message: string): void {
    this.#history.event(`VIOLATION ${invariant} ${message}`);
    this.violations.push({ invariant, message });
  }

  /** Follows a cluster: its deletions and its records. */
  follow(name: string, cluster: MemoryCluster): void {
    const { store } = cluster;
    const told = store.onChange;
    const highest = new Map<string, number>();
    store.onChange = (change) => {
      told?.(change);
      const object = change.after ?? change.before;
      if (object === undefined) return;
      const gone = change.after === undefined ? "-" : "+";
      this.#history.event(
        `${name} ${gone}${change.kindKey} ${object.metadata.name} ${change.resourceVersion}`,
      );
      // A removal that was carried out ends the uid's history: a restored hub that knows nothing of it orders it anew.
      if (change.after === undefined && isRecord(object)) highest.delete(String(dig(object, "spec", "uid")));
      if (change.after === undefined || !isRecord(change.after)) return;
      const uid = String(dig(change.after, "spec", "uid"));
      const revision = Number(dig(change.after, "spec", "revision"));
      const before = highest.get(uid) ?? 0;
      if (revision < before)
        this.fail(
          "no-rollback",
          `${name}: "${change.after.metadata.name}" went from ${before} to ${revision}`,
        );
      highest.set(uid, Math.max(before, revision));
    };
  }

  /** Judges a call of an agent before it takes effect. */
  judge(name: string, cluster: MemoryCluster, call: MemoryCall): void {
    if (call.verb !== "delete" || call.dryRun || call.ref.name === undefined) return;
    let live: KubeObject;
    try {
      live = cluster.store.get(call.ref as Parameters<typeof cluster.store.get>[0]);
    } catch {
      return;
    }
    const what = `${name}: ${call.ref.kind} "${call.ref.name}"`;
    const owner = ownerOf(live);
    if (owner === undefined) return;
    this.deletions++;
    if (this.hubLost) this.fail("lost-hub", `${what} was deleted`);
    if (this.#history.tombstones.has(owner)) return;
    if (isRecord(live) || live.kind === "Namespace") {
      this.fail("no-deletion", `${what} was deleted without a tombstone`);
      return;
    }
    if (live.kind !== "ConfigMap") return;
    const application = this.#history.names.get(owner) ?? "";
    if (live.metadata.name.endsWith("-two") && this.shrunk.has(application)) return;
    this.fail(
      "no-deletion",
      `${what} of "${application}" was deleted without a tombstone or a newer revision`,
    );
  }
}

function isRecord(object: KubeObject): boolean {
  return (
    object.apiVersion === API && RECORD_KINDS.includes(object.kind) && dig(object, "spec", "origin") === "hub"
  );
}

/** The hub's uid of the resource that an object belongs to. */
function ownerOf(object: KubeObject): string | undefined {
  if (isRecord(object)) return String(dig(object, "spec", "uid"));
  const labels = object.metadata.labels ?? {};
  if (object.kind === "Namespace") return labels[TENANT_LABEL];
  return labels[APPLICATION_LABEL];
}

/** Live ConfigMaps of applications, `<application uid>/<name>` to text. */
export function liveTexts(cluster: MemoryCluster): Map<string, string> {
  const out = new Map<string, string>();
  for (const object of cluster.store.list({ apiVersion: "v1", kind: "ConfigMap" })) {
    const uid = object.metadata.labels?.[APPLICATION_LABEL];
    if (uid !== undefined) out.set(`${uid}/${object.metadata.name}`, String(dig(object, "data", "text")));
  }
  return out;
}

/** What keeps a data plane from being exactly what the hub wants; empty at rest. */
export async function differences(on: {
  store: Store;
  dataPlaneUid: string;
  cluster: MemoryCluster;
  namespace: string;
}): Promise<string[]> {
  const out: string[] = [];
  const rows = await on.store.resAll(on.dataPlaneUid, { limit: 10_000 });
  const wanted = new Map<string, string>();
  const texts = new Map<string, string>();
  for (const row of rows) {
    if (row.del) {
      out.push(`the removal of "${row.name}" is not confirmed`);
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
  const held = new Map<string, string>();
  for (const kind of RECORD_KINDS)
    for (const record of on.cluster.store.list({ apiVersion: API, kind }))
      if (isRecord(record) && record.metadata.namespace === on.namespace)
        held.set(String(dig(record, "spec", "uid")), String(dig(record, "spec", "digest")));
  compare({ what: "record", wanted, held, out });
  compare({ what: "object", wanted: texts, held: liveTexts(on.cluster), out });
  return out;
}

function compare(on: {
  what: string;
  wanted: ReadonlyMap<string, string>;
  held: ReadonlyMap<string, string>;
  out: string[];
}): void {
  for (const [key, value] of on.wanted)
    if (on.held.get(key) !== value)
      on.out.push(`${on.what} "${key}" is "${on.held.get(key) ?? "absent"}", wanted "${value}"`);
  for (const key of on.held.keys()) if (!on.wanted.has(key)) on.out.push(`${on.what} "${key}" is not wanted`);
}

/** A short form of a long list, for messages. */
export function summary(lines: readonly string[]): string {
  const hash = createHash("sha256").update(lines.join("\n")).digest("hex").slice(0, 8);
  return `${lines.length} differences (${hash}): ${lines.slice(0, 6).join("; ")}`;
}
