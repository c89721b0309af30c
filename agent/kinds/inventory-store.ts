/**
 * Inventories as custom resources: what an application has in the cluster, written ahead.
 *
 * - An entry stays in the shard it was first written to and new ones fill the first shard with room,
 *   so that no write moves an entry and a crash between two shards loses none.
 * - Every write is a compare-and-set on `resourceVersion` and carries the Lease's term: the write of a
 *   stale agent fails, and with it the apply that would have followed.
 * - No ownerReference: a shard outlives its application until every member is gone or abandoned.
 */
import { limits } from "@moorage/shared/limits";
import type { InventoryEntry } from "../apply/types.ts";
import { idKey } from "../apply/types.ts";
import type { AgentSession } from "../kube/client.ts";
import { isNotFound } from "../kube/errors.ts";
import { equalJson } from "../kube/json.ts";
import type { KubeObject } from "../kube/object.ts";
import { dig, wholeNumber } from "../kube/object.ts";

/** Entries a shard; about 200 B each, far below etcd's 1.5 MiB an object. */
export const SHARD_ENTRIES = 1_500;

const apiVersion = "moorage.dev/v1alpha1";
const kind = "Inventory";

/** The application that an inventory belongs to. */
export interface InventoryOwner {
  uid: string;
  /** metadata.name of its custom resource; shards are named after it. */
  objectName: string;
  /** Resource name, for people. */
  name: string;
}

interface Shard {
  object: KubeObject;
  keys: readonly string[];
}

/** Reads all inventories once, then keeps them in memory: this agent is their only writer. */
export class InventoryStore {
  readonly #session: AgentSession;
  readonly #namespace: string;
  readonly #term: () => number;
  readonly #shards = new Map<string, Shard[]>();
  readonly #entries = new Map<string, readonly InventoryEntry[]>();
  /** Whose inventories were written or removed since the last list began. */
  readonly #written = new Set<string>();
  #loaded: Promise<void> = Promise.resolve();
  readonly #first = Promise.withResolvers<void>();

  constructor(deps: { session: AgentSession; namespace: string; term: () => number }) {
    this.#session = deps.session;
    this.#namespace = deps.namespace;
    this.#term = deps.term;
  }

  /**
   * Lists every shard. Call once before the first reconcile, and again when the Lease was regained or a write was
   * refused. Until the whole list is there all stays as it was, also when it fails: an inventory that seems empty for a
   * moment would end a removal whose objects are still there. What is written meanwhile is newer than the list.
   */
  load(): Promise<void> {
    const loaded = this.#loaded.then(() => this.#load());
    this.#loaded = loaded.catch(() => undefined);
    return loaded;
  }

  async #load(): Promise<void> {
    this.#written.clear();
    const listed = new Map<string, Shard[]>();
    let token: string | undefined;
    do {
      const page = await this.#session.list(
        { apiVersion, kind },
        { namespace: this.#namespace, limit: 100, ...(token === undefined ? {} : { continue: token }) },
      );
      for (const object of page.items) {
        const uid = dig(object, "spec", "applicationUid");
        if (typeof uid !== "string") continue;
        const shard = { object, keys: entriesOf(object).map(idKey) };
        listed.set(uid, [...(listed.get(uid) ?? []), shard]);
      }
      token = page.continue;
    } while (token !== undefined);
    for (const uid of this.#shards.keys()) if (!listed.has(uid) && !this.#written.has(uid)) this.#forget(uid);
    for (const [uid, shards] of listed) {
      if (this.#written.has(uid)) continue;
      // By name, whatever `spec.shard` says: people can edit and copy a shard, and none may hide another.
      shards.sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
      this.#shards.set(uid, shards);
      this.#entries.set(uid, entriesOfAll(shards));
    }
    this.#first.resolve();
  }

  /** Resolves when the first list is there. */
  async whenLoaded(signal: AbortSignal): Promise<void> {
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => aborted.reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await Promise.race([this.#first.promise, aborted.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** The inventory of an application; empty when it has none. */
  entries(uid: string): readonly InventoryEntry[] {
    return this.#entries.get(uid) ?? [];
  }

  /** Whether anything of `uid` is listed, or may be: its shards are there. */
  has(uid: string): boolean {
    return this.#shards.has(uid);
  }

  /** uids of all applications with an inventory: those without a resource are orphans, to be reported and kept. */
  owners(): readonly string[] {
    return [...this.#entries.keys()];
  }

  /** The highest term in any shard, for the choice of a new one. */
  highestTerm(): number {
    let highest = 0;
    for (const shards of this.#shards.values()) {
      for (const s of shards) highest = Math.max(highest, wholeNumber(dig(s.object, "spec", "term")) ?? 0);
    }
    return highest;
  }

  /** Stores the whole inventory of `owner`. Rejects with KubeError 409 when another agent wrote it. */
  async write(owner: InventoryOwner, entries: readonly InventoryEntry[]): Promise<void> {
    const shards = this.#shards.get(owner.uid) ?? [];
    const wanted = assign(
      shards.map((s) => s.keys),
      entries,
    );
    for (let i = 0; i < wanted.length; i++) {
      const next = wanted[i] as readonly InventoryEntry[];
      const old = shards[i];
      if (old !== undefined && equalJson(dig(old.object, "spec", "entries"), next) && this.#sameTerm(old)) {
        continue;
      }
      shards[i] = await this.#put(owner, { entries: next, old, taken: shards });
      this.#shards.set(owner.uid, shards);
      this.#written.add(owner.uid);
    }
    this.#entries.set(owner.uid, entries);
  }

  /** Removes an empty inventory: every member is gone or abandoned. */
  async drop(uid: string): Promise<void> {
    for (const shard of this.#shards.get(uid) ?? []) {
      const { name, uid: objectUid } = shard.object.metadata;
      try {
        await this.#session.delete(
          { apiVersion, kind, namespace: this.#namespace, name },
          objectUid === undefined ? {} : { uid: objectUid },
        );
      } catch (error) {
        if (!isNotFound(error)) throw error;
      }
    }
    this.#written.add(uid);
    this.#forget(uid);
  }

  #forget(uid: string): void {
    this.#shards.delete(uid);
    this.#entries.delete(uid);
  }

  #sameTerm(shard: Shard): boolean {
    return dig(shard.object, "spec", "term") === this.#term();
  }

  async #put(
    owner: InventoryOwner,
    shard: { entries: readonly InventoryEntry[]; old: Shard | undefined; taken: readonly Shard[] },
  ): Promise<Shard> {
    let index = 0;
    const name = () => (index === 0 ? owner.objectName : `${owner.objectName}.${index}`);
    if (shard.old === undefined) while (shard.taken.some((s) => nameOf(s) === name())) index++;
    else index = wholeNumber(dig(shard.old.object, "spec", "shard")) ?? 0;
    const object: KubeObject = {
      apiVersion,
      kind,
      metadata: {
        ...(shard.old === undefined
          ? {
              name: name(),
              namespace: this.#namespace,
            }
          : { ...shard.old.object.metadata }),
      },
      spec: {
        applicationUid: owner.uid,
        applicationName: owner.name,
        shard: Math.min(index, limits.inventoryShards - 1),
        term: this.#term(),
        entries: shard.entries,
      },
    } as KubeObject;
    delete object.metadata.managedFields;
    const answer =
      shard.old === undefined ? await this.#session.create(object) : await this.#session.update(object);
    return { object: answer.object, keys: shard.entries.map(idKey) };
  }
}

const entriesOf = (shard: KubeObject): InventoryEntry[] =>
  (dig(shard, "spec", "entries") ?? []) as InventoryEntry[];

const nameOf = (shard: Shard): string => shard.object.metadata.name;

/** Each entry once: of two, the one that knows its object. */
function entriesOfAll(shards: readonly Shard[]): InventoryEntry[] {
  const out = new Map<string, InventoryEntry>();
  for (const entry of shards.flatMap((s) => entriesOf(s.object))) {
    const key = idKey(entry);
    if ((out.get(key)?.uid ?? "") === "") out.set(key, entry);
  }
  return [...out.values()];
}

/** Entries by shard: each stays where its key is, new ones fill the first shard with room. Pure. */
export function assign(
  shards: readonly (readonly string[])[],
  entries: readonly InventoryEntry[],
): InventoryEntry[][] {
  const home = new Map<string, number>();
  shards.forEach((keys, i) => keys.forEach((k) => home.set(k, i)));
  const out: InventoryEntry[][] = shards.map(() => []);
  const fresh: InventoryEntry[] = [];
  for (const e of entries) {
    const at = home.get(idKey(e));
    if (at === undefined) fresh.push(e);
    else (out[at] as InventoryEntry[]).push(e);
  }
  let at = 0;
  for (const e of fresh) {
    while ((out[at]?.length ?? 0) >= SHARD_ENTRIES) at++;
    if (out[at] === undefined) out[at] = [];
    (out[at] as InventoryEntry[]).push(e);
  }
  if (out.length === 0) out.push([]);
  return out;
}
