import type { InventoryPage } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { Code, MoorageError } from "@moorage/shared/errors";
import { limits } from "@moorage/shared/limits";
import { broken } from "./messages.ts";
import type { HeldResource } from "./plan-resume.ts";

/** Most resources an agent may list: what a data plane may have, and as many again of older uids. */
const MOST_HELD = 2 * limits.resourcesPerDataPlane;
/** Characters of a uid. */
const MOST_UID = 64;

/** The inventory of one compare: filled page by page, kept until the first part of the stream ends. */
export class Inventory {
  readonly #held = new Map<string, HeldResource>();
  readonly #unseen = new Set<string>();
  readonly #restamped = new Set<string>();
  /** Rows that were left out since the agent would ignore them at any revision of today. */
  leftOut = 0;
  #complete = false;

  /** All pages arrived. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Takes the next page. */
  add(page: InventoryPage): void {
    if (this.#held.size + page.held.length > MOST_HELD) {
      throw new MoorageError(
        Code.RESOURCE_EXHAUSTED,
        `Cannot compare: the inventory holds more than ${MOST_HELD} resources`,
      );
    }
    for (const item of page.held) {
      // They are kept, and listed when no row matches: their count alone would not bound them.
      if (
        item.uid === "" ||
        item.uid.length > MOST_UID ||
        Buffer.byteLength(item.name) > limits.resourceNameBytes ||
        item.digest.length > 64
      ) {
        throw broken(
          `the inventory: it names "${item.name.slice(0, 64)}" with a malformed name, uid or digest`,
        );
      }
      if (item.revision < 0n || item.revision > BigInt(Number.MAX_SAFE_INTEGER)) {
        throw broken(
          `the inventory: it holds "${item.name}" at revision "${item.revision}", which must be from 0 to ${Number.MAX_SAFE_INTEGER}`,
        );
      }
      this.#held.set(item.uid, {
        name: item.name,
        digestHex: Buffer.from(item.digest).toString("hex"),
        revision: Number(item.revision),
      });
      this.#unseen.add(item.uid);
    }
    this.#complete = page.last;
  }

  /** What the agent holds of a row's uid; the uid counts as known to the hub from here on. */
  match(uid: string): HeldResource | undefined {
    this.#unseen.delete(uid);
    return this.#held.get(uid);
  }

  /**
   * Whether the row of a uid may be written anew: once a compare. What the agent claims may lie above any
   * revision that the row can get, which would then come up again without end.
   */
  mayRestamp(uid: string): boolean {
    if (this.#restamped.has(uid)) return false;
    this.#restamped.add(uid);
    return true;
  }

  /** What no row matched: the hub does not know it, and it stays. In order of uid. */
  unmatched(): { uid: string; held: HeldResource }[] {
    return [...this.#unseen].sort().flatMap((uid) => {
      const held = this.#held.get(uid);
      return held === undefined ? [] : [{ uid, held }];
    });
  }
}
