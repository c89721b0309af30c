/**
 * Lists of view BASIC as bytes. What an entry shows changes seldom and is asked for often, so that
 * entries are kept encoded, under the revisions of all that they show; a list of what has not changed
 * reads keys and copies bytes. For tenants and applications: a data plane's view rests on more.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { Kind } from "../core/keys.ts";
import { resourceKey, statusKey } from "../core/keys.ts";
import { PageRoom } from "../core/pages.ts";
import { decode, schemas } from "../core/resources.ts";
import { viewInto } from "../core/views.ts";
import { keyAfter, keyText } from "../store/bytes.ts";
import type { KV, KeyRange, Rev, Store } from "../store/store.ts";
import type { Page } from "./lists.ts";
import type { Reader } from "./reader.ts";
import { Snapshot } from "./snapshot.ts";

/** Bytes of entries that are kept. */
const KEPT_BYTES = 32 * 1024 * 1024;
/** Charged for each entry beside its bytes. */
const ENTRY_BYTES = 200;

interface Entry {
  uid: string;
  /** Name of the data plane or tenant that places it. */
  parent: string;
  modRev: Rev;
  statusRev: Rev;
  linkRev: Rev;
  bytes: Uint8Array;
}

/** 0 without a status. */
type StatusRevision = (uid: string) => Rev | Promise<Rev>;

/** Encoded entries by key; those least used go first. */
export class BasicItems {
  readonly #store: Store;
  readonly #reader: Reader;
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(deps: { store: Store; reader: Reader }) {
    this.#store = deps.store;
    this.#reader = deps.reader;
  }

  /** The entries of at most `limit` keys of `range` at a revision, in order, as far as a page has room. */
  async page(
    kind: Kind,
    at: { range: Required<KeyRange>; rev: Rev; limit: number },
  ): Promise<{ items: Uint8Array[]; last: string; more: boolean }> {
    const { rev } = at;
    const keys = await this.#store.range({ ...at.range, rev, limit: at.limit, keysOnly: true });
    const snapshot = new Snapshot(this.#reader, rev);
    const statuses = await this.#statuses(keys.kvs.length, rev);
    const items: (Uint8Array | undefined)[] = [];
    const links = new Map<string, Rev>();
    for (const kv of keys.kvs) {
      const text = keyText(kv.key);
      const entry = this.#entries.get(text);
      let bytes: Uint8Array | undefined;
      const known = entry?.modRev === kv.modRev ? statuses(entry.uid) : undefined;
      if (entry !== undefined && entry.statusRev === (known instanceof Promise ? await known : known)) {
        // Waited for once a parent: a wait for each entry would cost as much as the rest.
        const linkRev = links.get(entry.parent) ?? (await snapshot.linkRevision(entry.parent));
        links.set(entry.parent, linkRev);
        if (entry.linkRev === linkRev) bytes = this.#use(text, entry);
      }
      items.push(bytes);
    }
    const missing = keys.kvs.filter((_, i) => items[i] === undefined);
    const made = await this.#make(kind, missing, { snapshot, statuses });
    const all = items.map((bytes) => bytes ?? (made.shift() as Uint8Array));
    const fit = new PageRoom(at.limit).fits(all.map((bytes) => bytes.length));
    const last = keys.kvs[fit - 1];
    return {
      items: all.slice(0, fit),
      last: last === undefined ? "" : keyText(last.key).slice(resourceKey(kind, "").length),
      more: keys.more || fit < all.length,
    };
  }

  /** The revision of a resource's status; of many resources all are read at once. */
  async #statuses(count: number, rev: Rev): Promise<StatusRevision> {
    if (count < FEW) return async (uid) => (await this.#reader.kv(statusKey(uid), rev))?.modRev ?? 0;
    const all = await this.#reader.statusRevisions(rev);
    return (uid) => all.get(uid) ?? 0;
  }

  #use(text: string, entry: Entry): Uint8Array {
    this.#entries.delete(text);
    this.#entries.set(text, entry);
    return entry.bytes;
  }

  /** Entries of keys that are all there at the snapshot's revision. */
  async #make(
    kind: Kind,
    wanted: readonly KV[],
    on: { snapshot: Snapshot; statuses: StatusRevision },
  ): Promise<Uint8Array[]> {
    const [first, last] = [wanted[0], wanted.at(-1)];
    if (first === undefined || last === undefined) return [];
    const { rev } = on.snapshot;
    const span = { start: first.key, end: keyAfter(last.key), rev };
    const records =
      wanted.length < FEW
        ? await Promise.all(wanted.map(async (kv) => (await this.#reader.kv(keyText(kv.key), rev)) as KV))
        : (await this.#store.range(span)).kvs;
    const names = new Set(wanted.map((kv) => keyText(kv.key)));
    if (wanted.length >= FEW) await on.snapshot.readStatuses();
    const out: Uint8Array[] = [];
    for (const kv of records) {
      const text = keyText(kv.key);
      if (!names.has(text)) continue;
      const found = { value: decode(kind, kv.value), modRev: kv.modRev };
      const stored = await on.snapshot.stored(found);
      const { uid } = found.value;
      const parent = Snapshot.placedBy(found.value);
      const bytes = toBinary(schemas[kind] as DescMessage, viewInto(found.value, stored, View.BASIC));
      const revisions = {
        statusRev: await on.statuses(uid),
        linkRev: await on.snapshot.linkRevision(parent),
      };
      this.#keep(text, { uid, parent, modRev: kv.modRev, ...revisions, bytes });
      out.push(bytes);
    }
    return out;
  }

  #keep(text: string, entry: Entry): void {
    this.#drop(text);
    this.#entries.set(text, entry);
    this.#bytes += entry.bytes.length + ENTRY_BYTES;
    for (const [oldest] of this.#entries) {
      if (this.#bytes <= KEPT_BYTES) break;
      this.#drop(oldest);
    }
  }

  #drop(text: string): void {
    const old = this.#entries.get(text);
    if (old === undefined) return;
    this.#bytes -= old.bytes.length + ENTRY_BYTES;
    this.#entries.delete(text);
  }
}

/** From this number on, records and statuses are read as a range instead of each by its key. */
const FEW = 64;

/** A List response from encoded entries: its field 1 is the entries in every service. */
export function encodePage(
  schema: DescMessage,
  items: readonly Uint8Array[],
  rest: Omit<Page, "resources">,
): Uint8Array {
  const writer = new BinaryWriter();
  for (const item of items) writer.tag(1, WireType.LengthDelimited).bytes(item);
  return writer.raw(toBinary(schema, create(schema, rest as never))).finish();
}
