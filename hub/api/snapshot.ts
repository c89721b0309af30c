/** Many views of one revision: what they share is read once. */
import { statusKey } from "../core/keys.ts";
import type { Resource } from "../core/resources.ts";
import type { Stored } from "../core/views.ts";
import type { StoredLink } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { KV, Rev } from "../store/store.ts";
import type { Found, Reader } from "./reader.ts";

/** The store at a revision. */
export class Snapshot {
  readonly rev: Rev;
  readonly #reader: Reader;
  /** By name of the data plane or tenant that places a resource. */
  readonly #places = new Map<string, string | undefined>();
  readonly #links = new Map<string, Found<StoredLink> | undefined>();
  #statuses: ReadonlyMap<string, KV> | undefined;

  constructor(reader: Reader, rev: Rev) {
    this.#reader = reader;
    this.rev = rev;
  }

  /** Whether {@link readStatuses} was called. */
  get hasStatuses(): boolean {
    return this.#statuses !== undefined;
  }

  /** Reads all statuses now: cheaper than each by its key when many are asked for. */
  async readStatuses(): Promise<void> {
    this.#statuses ??= await this.#reader.statuses(this.rev);
  }

  /** All that the view of a record of this revision depends on. */
  async stored(found: Found<Resource>): Promise<Stored> {
    const { value } = found;
    const dataPlaneUid =
      value.$typeName === "moorage.hub.v1.DataPlane"
        ? value.uid
        : await this.#uidOf(Snapshot.placedBy(value));
    const link = await this.#link(dataPlaneUid);
    return this.#reader.stored(found, this.rev, {
      dataPlaneUid,
      link,
      ...(this.#statuses === undefined ? {} : { status: this.#statuses.get(found.value.uid) }),
    });
  }

  /** The name that a resource is placed by: its data plane's, or its tenant's. */
  static placedBy(record: Resource): string {
    return record.$typeName === "moorage.hub.v1.Tenant"
      ? (record.spec?.dataPlane ?? "")
      : record.name.split("/").slice(0, 2).join("/");
  }

  /** The link that a placing data plane or tenant leads to. */
  async linkOf(placedBy: string): Promise<Found<StoredLink> | undefined> {
    return this.#link(await this.#uidOf(placedBy));
  }

  /** A resource's status; without waiting once all were read. */
  status(uid: string): KV | undefined | Promise<KV | undefined> {
    return this.#statuses === undefined ? this.#reader.kv(statusKey(uid), this.rev) : this.#statuses.get(uid);
  }

  async #link(dataPlaneUid: string | undefined): Promise<Found<StoredLink> | undefined> {
    if (dataPlaneUid !== undefined && !this.#links.has(dataPlaneUid))
      this.#links.set(dataPlaneUid, await this.#reader.link(dataPlaneUid, this.rev));
    return dataPlaneUid === undefined ? undefined : this.#links.get(dataPlaneUid);
  }

  async #uidOf(placedBy: string): Promise<string | undefined> {
    if (!this.#places.has(placedBy))
      this.#places.set(placedBy, await this.#reader.placeUid(placedBy, this.rev));
    return this.#places.get(placedBy);
  }
}
