/**
 * Room in a data plane: refuses a resource beyond `limits.resourcesPerDataPlane`. Counting rows at
 * each create would cost more than the create; so an upper bound is kept here, raised by each committed
 * create and counted anew only when it reaches the limit. One process owns the store, so that no other
 * creates; creates under way at the same time may exceed the limit by their number.
 */
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import type { Rev, Store } from "../store/store.ts";

/** Rows read at a time while counting. */
const PAGE = 500;

/** See the module's text. */
export class Room {
  readonly #store: Pick<Store, "resAll" | "status">;
  readonly #limit: number;
  readonly #bounds = new Map<string, { most: number; countedAt: Rev }>();

  /** `limit`: resources a data plane, those that are being removed included. */
  constructor(store: Pick<Store, "resAll" | "status">, limit: number = limits.resourcesPerDataPlane) {
    this.#store = store;
    this.#limit = limit;
  }

  /** RESOURCE_EXHAUSTED when there is no room for one more resource. */
  async check(dataPlane: { name: string; uid: string }): Promise<void> {
    let bound = this.#bounds.get(dataPlane.uid);
    const isOld = async (countedAt: Rev) => countedAt !== (await this.#store.status()).rev;
    if (bound === undefined || (bound.most >= this.#limit && (await isOld(bound.countedAt)))) {
      bound = await this.#count(dataPlane.uid);
      this.#bounds.set(dataPlane.uid, bound);
    }
    if (bound.most >= this.#limit) throw this.#full(dataPlane.name, bound.most);
  }

  /** A create in a data plane is committed. */
  took(uid: string): void {
    const bound = this.#bounds.get(uid);
    if (bound !== undefined) bound.most += 1;
  }

  async #count(dp: string): Promise<{ most: number; countedAt: Rev }> {
    const { rev } = await this.#store.status();
    let most = 0;
    let afterUid = "";
    for (;;) {
      const rows = await this.#store.resAll(dp, { limit: PAGE, ...(afterUid === "" ? {} : { afterUid }) });
      most += rows.length;
      const last = rows.at(-1);
      if (rows.length < PAGE || last === undefined) break;
      afterUid = last.uid;
    }
    return { most, countedAt: rev };
  }

  #full(dataPlane: string, count: number): MoorageError {
    const description = `it holds ${count} resources, the limit resourcesPerDataPlane is ${this.#limit}`;
    return new MoorageError(
      Code.RESOURCE_EXHAUSTED,
      `Cannot place another resource in "${dataPlane}": ${description}`,
      {
        reason: "DATA_PLANE_FULL",
        metadata: { resource: dataPlane },
        quota: [{ subject: dataPlane, description }],
        // Room comes with a removal, which a person decides on.
        retryAfterMs: 60_000,
      },
    );
  }
}
