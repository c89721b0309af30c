/**
 * Reads of the store as the API needs them: a resource with all that its view depends on, as of one
 * revision. Every answer of the API about a resource starts here.
 */
import { fromBinary } from "@bufbuild/protobuf";
import type { Tombstone } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { UpdateSchema } from "@moorage/proto/moorage/agent/v1/sync_pb";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import type { StoredLink } from "@moorage/proto/moorage/internal/v1/record_pb";
import {
  StoredCredentialsSchema,
  StoredLinkSchema,
  StoredStatusSchema,
} from "@moorage/proto/moorage/internal/v1/record_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import type { Rng } from "@moorage/shared/rng";
import type { Kind } from "../core/keys.ts";
import {
  credentialsKey,
  linkKey,
  pageTokenKey,
  placementKey,
  prefixes,
  resourceKey,
  statusKey,
} from "../core/keys.ts";
import { parseName } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { decode } from "../core/resources.ts";
import type { Stored } from "../core/views.ts";
import { key, keyAfter, keyText, prefix } from "../store/bytes.ts";
import type { KV, Rev, Store } from "../store/store.ts";

/** A stored record and the revision it was written at. */
export interface Found<T> {
  value: T;
  modRev: Rev;
}

/** Parts of a view that were read already. */
export interface Known {
  dataPlaneUid?: string | undefined;
  status?: KV | undefined;
  link?: Found<StoredLink> | undefined;
  credentials?: KV | undefined;
  /** Number of tenants in a data plane. */
  tenants?: number;
}

/** Data planes whose number of tenants is kept in memory. */
const MOST_COUNTS = 10_000;

/** Statuses read from the store at a time. */
const STATUSES = 1_000;

/** Reads as of `rev` (the head when undefined). */
export class Reader {
  readonly #store: Store;
  readonly #rng: Rng | undefined;
  #pageKey: Promise<Uint8Array> | undefined;
  readonly #counts = new Map<string, { stamp: Rev; tenants: number }>();
  #statusRevisions: { rev: Rev; byUid: ReadonlyMap<string, Rev> } | undefined;
  #readingStatuses = Promise.resolve();
  #statuses: { rev: Rev; byUid: WeakRef<ReadonlyMap<string, KV>> } | undefined;

  /** `rng`: for the key of page tokens; without it their digest has no key. */
  constructor(store: Store, rng?: Rng) {
    this.#store = store;
    this.#rng = rng;
  }

  /** The key that page tokens are signed with, made when it is first needed and kept in the store. */
  pageKey(): Promise<Uint8Array> {
    if (this.#rng === undefined) return Promise.resolve(new Uint8Array(0));
    const made = (this.#pageKey ??= this.#makePageKey(this.#rng));
    made.catch(() => (this.#pageKey = undefined));
    return made;
  }

  async #makePageKey(rng: Rng): Promise<Uint8Array> {
    const kept = await this.kv(pageTokenKey);
    if (kept !== undefined) return kept.value;
    const k = key(pageTokenKey);
    const value = rng.bytes(32);
    const { ok } = await this.#store.txn({
      if: [{ key: k, target: "version", op: "=", to: 0 }],
      then: [{ put: { key: k, value } }],
    });
    // Another hub was first; its key is the one.
    return ok ? value : this.#makePageKey(rng);
  }

  /** One key's value. */
  async kv(text: string, rev?: Rev): Promise<KV | undefined> {
    const { kvs } = await this.#store.range({ start: key(text), ...(rev === undefined ? {} : { rev }) });
    return kvs[0];
  }

  /** A data plane, tenant or application by name. */
  async resource(name: string, rev?: Rev): Promise<Found<Resource> | undefined> {
    const parsed = parseName(name);
    if (parsed === undefined) return undefined;
    const kv = await this.kv(resourceKey(parsed.kind, name), rev);
    return kv === undefined ? undefined : { value: decode(parsed.kind, kv.value), modRev: kv.modRev };
  }

  /** A published bundle version. */
  async bundle(name: string, rev?: Rev): Promise<Found<BundleVersion> | undefined> {
    const kv = await this.kv(prefixes.bundleVersions + name, rev);
    return kv === undefined
      ? undefined
      : { value: fromBinary(BundleVersionSchema, kv.value), modRev: kv.modRev };
  }

  /** The data plane that a resource lives in, by way of its tenant. */
  async placeOf(
    resource: Resource,
    rev?: Rev,
  ): Promise<{ dataPlane: Found<Resource> | undefined; tenant: Found<Tenant> | undefined }> {
    if (resource.$typeName === "moorage.hub.v1.DataPlane")
      return { dataPlane: await this.resource(resource.name, rev), tenant: undefined };
    if (resource.$typeName === "moorage.hub.v1.Tenant")
      return { dataPlane: await this.resource(resource.spec?.dataPlane ?? "", rev), tenant: undefined };
    const parent = parseName(resource.name)?.parent ?? "";
    if (parent.startsWith("dataPlanes/"))
      return { dataPlane: await this.resource(parent, rev), tenant: undefined };
    const tenant = (await this.resource(parent, rev)) as Found<Tenant> | undefined;
    const dataPlane =
      tenant === undefined ? undefined : await this.resource(tenant.value.spec?.dataPlane ?? "", rev);
    return { dataPlane, tenant };
  }

  /** The uid of the data plane that a name leads to: a data plane's own, or a tenant's place. */
  async placeUid(name: string, rev?: Rev): Promise<string | undefined> {
    const found = await this.resource(name, rev);
    if (found?.value.$typeName === "moorage.hub.v1.DataPlane") return found.value.uid;
    if (found?.value.$typeName !== "moorage.hub.v1.Tenant") return undefined;
    return (await this.resource(found.value.spec?.dataPlane ?? "", rev))?.value.uid;
  }

  /** All that the view of a record depends on, as of `rev`. What `known` holds is not read again. */
  async stored(found: Found<Resource>, rev: Rev | undefined, known: Known = {}): Promise<Stored> {
    const record = found.value;
    const dataPlaneUid =
      "dataPlaneUid" in known ? known.dataPlaneUid : (await this.placeOf(record, rev)).dataPlane?.value.uid;
    const statusKv = "status" in known ? known.status : await this.kv(statusKey(record.uid), rev);
    const link =
      "link" in known
        ? known.link
        : dataPlaneUid === undefined
          ? undefined
          : await this.link(dataPlaneUid, rev);
    const stored: Stored = {
      record,
      recordRevision: found.modRev,
      status: statusKv === undefined ? undefined : fromBinary(StoredStatusSchema, statusKv.value),
      statusBytes: statusKv?.value.length ?? 0,
      link: link?.value,
      revision: Math.max(found.modRev, statusKv?.modRev ?? 0),
    };
    if (record.$typeName !== "moorage.hub.v1.DataPlane") return stored;
    const credentialsKv =
      "credentials" in known ? known.credentials : await this.kv(credentialsKey(record.uid), rev);
    return {
      ...stored,
      ...(credentialsKv === undefined
        ? {}
        : { credentials: fromBinary(StoredCredentialsSchema, credentialsKv.value) }),
      tenants: known.tenants ?? (await this.tenantsOf(record.name, rev)).length,
      revision: Math.max(stored.revision, link?.modRev ?? 0, credentialsKv?.modRev ?? 0),
    };
  }

  /** What the standing order to remove a resource says; undefined when there is none. */
  async removal(dataPlaneUid: string, uid: string): Promise<Tombstone | undefined> {
    const row = await this.#store.resByUid(dataPlaneUid, uid);
    if (row?.del !== true) return undefined;
    const { change } = fromBinary(UpdateSchema, row.update);
    return change.case === "removed" ? change.value : undefined;
  }

  /** A data plane's link. */
  async link(dataPlaneUid: string, rev?: Rev): Promise<Found<StoredLink> | undefined> {
    const kv = await this.kv(linkKey(dataPlaneUid), rev);
    return linkOf(kv);
  }

  /**
   * The statuses of all resources, by uid. The pages of one list ask for the same revision again and
   * again; the newest answer is kept for them as long as memory is not needed.
   */
  async statuses(rev: Rev): Promise<ReadonlyMap<string, KV>> {
    // One at a time: together they could hold the statuses of many revisions.
    const before = this.#readingStatuses;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#readingStatuses = promise;
    await before;
    try {
      const kept = this.#statuses?.rev === rev ? this.#statuses.byUid.deref() : undefined;
      if (kept !== undefined) return kept;
      const byUid = await this.#allStatuses({ rev, keysOnly: false }, (kv) => kv);
      this.#statuses = { rev, byUid: new WeakRef(byUid) };
      return byUid;
    } finally {
      resolve();
    }
  }

  /** The revisions of the statuses of all resources, by uid. The newest answer is kept. */
  async statusRevisions(rev: Rev): Promise<ReadonlyMap<string, Rev>> {
    if (this.#statusRevisions?.rev === rev) return this.#statusRevisions.byUid;
    const byUid = await this.#allStatuses({ rev, keysOnly: true }, (kv) => kv.modRev);
    this.#statusRevisions = { rev, byUid };
    return byUid;
  }

  /** Something of each status, by uid; others have their turn between two pages. */
  async #allStatuses<T>(
    at: { rev: Rev; keysOnly: boolean },
    of: (kv: KV) => T,
  ): Promise<ReadonlyMap<string, T>> {
    const byUid = new Map<string, T>();
    const { start: first, end } = prefix(prefixes.status);
    for (let start = first; ;) {
      const { kvs, more } = await this.#store.range({ start, end, limit: STATUSES, ...at });
      for (const kv of kvs) byUid.set(keyText(kv.key).slice(prefixes.status.length), of(kv));
      const last = kvs.at(-1);
      if (!more || last === undefined) return byUid;
      start = keyAfter(last.key);
      await new Promise((resolved) => setImmediate(resolved));
    }
  }

  /** The names of the tenants placed in a data plane, in order. */
  async tenantsOf(dataPlane: string, rev?: Rev): Promise<string[]> {
    const below = placementKey(dataPlane, "");
    const { kvs } = await this.#store.range({
      ...prefix(below),
      keysOnly: true,
      ...(rev === undefined ? {} : { rev }),
    });
    return kvs.map((kv) => keyText(kv.key).slice(below.length));
  }

  /** How many tenants are placed in a data plane at `rev`, at which its placement stamp is of `stamp`. */
  async tenantCount(dataPlane: string, at: { rev: Rev; stamp: Rev }): Promise<number> {
    const kept = this.#counts.get(dataPlane);
    if (kept?.stamp === at.stamp) return kept.tenants;
    const tenants = (await this.tenantsOf(dataPlane, at.rev)).length;
    if (this.#counts.size >= MOST_COUNTS) this.#counts.clear();
    this.#counts.set(dataPlane, { stamp: at.stamp, tenants });
    return tenants;
  }

  /** All records of a kind whose name begins with `below`. */
  async all(kind: Kind, rev?: Rev, below = ""): Promise<Found<Resource>[]> {
    const { kvs } = await this.#store.range({
      ...prefix(resourceKey(kind, below)),
      ...(rev === undefined ? {} : { rev }),
    });
    return kvs.map((kv) => ({ value: decode(kind, kv.value), modRev: kv.modRev }));
  }

  /** The head; OUT_OF_RANGE when it is below what the caller has seen. */
  async head(minRevision: bigint): Promise<{ rev: Rev; epoch: Uint8Array }> {
    const { rev, epoch } = await this.#store.status();
    if (minRevision > BigInt(rev)) {
      throw new MoorageError(
        Code.OUT_OF_RANGE,
        `Cannot read at revision ${minRevision}: the hub is at ${rev}`,
        { reason: "FUTURE_REVISION", metadata: { revision: String(rev) } },
      );
    }
    return { rev, epoch };
  }
}

/** A stored link, decoded. */
export const linkOf = (kv: KV | undefined): Found<StoredLink> | undefined =>
  kv === undefined ? undefined : { value: fromBinary(StoredLinkSchema, kv.value), modRev: kv.modRev };

/** NOT_FOUND for a name. */
export function notFound(name: string): MoorageError {
  return new MoorageError(Code.NOT_FOUND, `Cannot find "${name}": there is no such resource`, {
    reason: "NOT_FOUND",
    metadata: { resource: name },
  });
}
