/** Many views of one revision: what they share is read once. */
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

  /** Reads all statuses now: cheaper than each by its key when many are asked for. */
  async readStatuses(): Promise<void> {
    this.#statuses ??= await this.#reader.statuses(this.rev);
  }

  /** All that the view of a record of this revision depends on. */
  async stored(found: Found<Resource>): Promise<Stored> {
    const dataPlaneUid = await this.#place(found.value);
    if (dataPlaneUid !== undefined && !this.#links.has(dataPlaneUid))
      this.#links.set(dataPlaneUid, await this.#reader.link(dataPlaneUid, this.rev));
    return this.#reader.stored(found, this.rev, {
      dataPlaneUid,
      link: dataPlaneUid === undefined ? undefined : this.#links.get(dataPlaneUid),
      ...(this.#statuses === undefined ? {} : { status: this.#statuses.get(found.value.uid) }),
    });
  }

  async #place(record: Resource): Promise<string | undefined> {
    if (record.$typeName === "moorage.hub.v1.DataPlane") return record.uid;
    const by =
      record.$typeName === "moorage.hub.v1.Tenant"
        ? (record.spec?.dataPlane ?? "")
        : record.name.split("/").slice(0, 2).join("/");
    if (!this.#places.has(by))
      this.#places.set(by, (await this.#reader.placeOf(record, this.rev)).dataPlane?.value.uid);
    return this.#places.get(by);
  }
}
