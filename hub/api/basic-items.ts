/**
 * Lists of view BASIC as bytes. What an entry shows changes seldom and is asked for often, so that
 * entries are kept encoded, under the revisions of all that they show; a list of what has not changed
 * reads keys and copies bytes. For tenants and applications: a data plane's view rests on more.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import type { DescMessage } from "@bufbuild/protobuf";
import { View } from "@moorage/proto/moorage/hub/v1/view_pb";
import type { StoredLink } from "@moorage/proto/moorage/internal/v1/record_pb";
import { LinkState } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { BasicKind } from "../core/basic-bytes.ts";
import { BasicEncoder, Bytes, HEADER_BYTES } from "../core/basic-bytes.ts";
import { resourceKey } from "../core/keys.ts";
import { PageRoom } from "../core/pages.ts";
import { decode, schemas } from "../core/resources.ts";
import { viewInto } from "../core/views.ts";
import { keyAfter, keyText } from "../store/bytes.ts";
import type { KV, KeyRange, Rev, Store } from "../store/store.ts";
import type { Page } from "./lists.ts";
import type { Found, Reader } from "./reader.ts";
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

/** Links by the name that leads to them. */
type Links = Map<string, Found<StoredLink> | undefined>;

/** Encoded entries by key; those least used go first. */
export class BasicItems {
  readonly #store: Store;
  readonly #reader: Reader;
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;
  /** Nothing of what was read last was kept, as after a start: the next part is read with its values at once. */
  #cold = true;

  constructor(deps: { store: Store; reader: Reader }) {
    this.#store = deps.store;
    this.#reader = deps.reader;
  }

  /** The entries of at most `limit` keys of `range` at a revision, in order, as far as a page has room. */
  async page(
    kind: BasicKind,
    at: { range: Required<KeyRange>; rev: Rev; limit: number; signal: AbortSignal },
  ): Promise<{ items: Uint8Array[]; last: string; more: boolean }> {
    const { range, rev } = at;
    const room = new PageRoom(at.limit);
    const on = { snapshot: new Snapshot(this.#reader, rev), links: new Map() };
    const items: Uint8Array[] = [];
    let last: Uint8Array | undefined;
    for (let { start } = range; ;) {
      const keysOnly = !this.#cold;
      const limit = Math.min(READ, at.limit - items.length);
      const read = await this.#store.range({ start, end: range.end, rev, limit, keysOnly });
      const found = await this.#entriesOf(kind, { ...read, keysOnly }, on);
      const fit = room.fits(found.map((bytes) => bytes.length));
      items.push(...found.slice(0, fit));
      last = read.kvs[fit - 1]?.key ?? last;
      const more = read.more || fit < found.length;
      if (!more || fit < found.length || items.length === at.limit || last === undefined) {
        const name = last === undefined ? "" : keyText(last).slice(resourceKey(kind, "").length);
        return { items, last: name, more };
      }
      start = keyAfter(last);
      // Between two parts of a page others have their turn.
      await new Promise((resolve) => setImmediate(resolve));
      at.signal.throwIfAborted();
    }
  }

  /** The entries of what was read, those kept and those made. */
  async #entriesOf(
    kind: BasicKind,
    read: { kvs: readonly KV[]; more: boolean; keysOnly: boolean },
    on: { snapshot: Snapshot; links: Links },
  ): Promise<Uint8Array[]> {
    const { kvs, more, keysOnly } = read;
    const { snapshot, links } = on;
    if (!keysOnly && kvs.length >= FEW) await snapshot.readStatuses();
    const statusRevision = await this.#statusRevisions(kvs.length, snapshot);
    const items: (Uint8Array | undefined)[] = [];
    for (const kv of kvs) {
      const text = keyText(kv.key);
      const entry = this.#entries.get(text);
      let bytes: Uint8Array | undefined;
      const known = entry?.modRev === kv.modRev ? statusRevision(entry.uid) : undefined;
      if (entry !== undefined && entry.statusRev === (known instanceof Promise ? await known : known)) {
        // Waited for once a parent: a wait for each entry would cost as much as the rest.
        if (!links.has(entry.parent)) links.set(entry.parent, await snapshot.linkOf(entry.parent));
        if (entry.linkRev === (links.get(entry.parent)?.modRev ?? 0)) bytes = this.#use(text, entry);
      }
      items.push(bytes);
    }
    const missing = kvs.filter((_, i) => items[i] === undefined);
    this.#cold = more && missing.length === kvs.length;
    const records = keysOnly ? await this.#records(missing, snapshot.rev) : missing;
    const made = await this.#make(kind, records, { snapshot, links });
    return items.map((bytes) => bytes ?? (made.shift() as Uint8Array));
  }

  /** The revision of a resource's status; of many resources all are read at once. */
  async #statusRevisions(count: number, snapshot: Snapshot): Promise<StatusRevision> {
    if (count >= FEW && !snapshot.hasStatuses) {
      const all = await this.#reader.statusRevisions(snapshot.rev);
      return (uid) => all.get(uid) ?? 0;
    }
    return (uid) => {
      const status = snapshot.status(uid);
      return status instanceof Promise ? status.then((kv) => kv?.modRev ?? 0) : (status?.modRev ?? 0);
    };
  }

  /** The records of keys that are all there at a revision, with their values. */
  async #records(wanted: readonly KV[], rev: Rev): Promise<KV[]> {
    const [first, last] = [wanted[0], wanted.at(-1)];
    if (first === undefined || last === undefined) return [];
    if (wanted.length < FEW)
      return Promise.all(wanted.map(async (kv) => (await this.#reader.kv(keyText(kv.key), rev)) as KV));
    const names = new Set(wanted.map((kv) => keyText(kv.key)));
    const { kvs } = await this.#store.range({ start: first.key, end: keyAfter(last.key), rev });
    return kvs.filter((kv) => names.has(keyText(kv.key)));
  }

  #use(text: string, entry: Entry): Uint8Array {
    this.#entries.delete(text);
    this.#entries.set(text, entry);
    return entry.bytes;
  }

  async #make(
    kind: BasicKind,
    records: readonly KV[],
    on: { snapshot: Snapshot; links: Links },
  ): Promise<Uint8Array[]> {
    const { snapshot, links } = on;
    if (records.length >= FEW) await snapshot.readStatuses();
    const out: Uint8Array[] = [];
    const encoder = new BasicEncoder(kind);
    for (const kv of records) {
      encoder.read(kv.value);
      const { uid, placedBy: parent } = encoder;
      const found = snapshot.status(uid);
      const status = found instanceof Promise ? await found : found;
      if (!links.has(parent)) links.set(parent, await snapshot.linkOf(parent));
      const link = links.get(parent);
      const silent = link?.value.state === LinkState.SILENT;
      const revision = Math.max(kv.modRev, status?.modRev ?? 0);
      const bytes =
        (silent || status === undefined ? undefined : encoder.view(status.value, revision)) ??
        (await this.#decoded(kind, kv, snapshot));
      const revisions = { statusRev: status?.modRev ?? 0, linkRev: link?.modRev ?? 0 };
      this.#keep(keyText(kv.key), { uid, parent, modRev: kv.modRev, ...revisions, bytes });
      out.push(bytes);
    }
    return out;
  }

  /** Where view BASIC says more than a selection of what is stored. */
  async #decoded(kind: BasicKind, kv: KV, snapshot: Snapshot): Promise<Uint8Array> {
    const found = { value: decode(kind, kv.value), modRev: kv.modRev };
    const stored = await snapshot.stored(found);
    return toBinary(schemas[kind] as DescMessage, viewInto(found.value, stored, View.BASIC));
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

/** Records read from the store at a time: each may have 64 KiB that view BASIC does not show. */
const READ = 250;
/** From this number on, records and statuses are read as a range instead of each by its key. */
const FEW = 64;

/** A List response from encoded entries: its field 1 is the entries in every service. */
export function encodePage(
  schema: DescMessage,
  items: readonly Uint8Array[],
  rest: Omit<Page, "resources">,
): Uint8Array {
  const tail = toBinary(schema, create(schema, rest as never));
  const page = new Bytes().begin(items.reduce((n, item) => n + item.length + HEADER_BYTES, tail.length));
  for (const item of items) page.message(1, item);
  return page.raw(tail).done();
}
