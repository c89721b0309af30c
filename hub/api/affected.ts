/** What a revision means to those who watch: the resources whose view it touches, found once for all of them. */
import { fromBinary } from "@bufbuild/protobuf";
import { LinkState, StoredLinkSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import type { Kind } from "../core/keys.ts";
import { kindPrefix, prefixes, uidKey } from "../core/keys.ts";
import { keyText } from "../store/bytes.ts";
import type { Rev, StoreEvent } from "../store/store.ts";
import type { Reader } from "./reader.ts";

/** Revisions of a kind whose names are kept, for the watches that follow. */
const KEPT_REVISIONS = 256;
/** Names that are kept in all; a data plane that falls silent touches all that live in it. */
const KEPT_NAMES = 50_000;

type Revision = { rev: Rev; events: readonly StoreEvent[] };

/** The names that revisions touch; those asked for first go first. */
export class Affected {
  readonly #reader: Reader;
  readonly #kept = new Map<string, { names: Promise<readonly string[]>; count: number }>();
  #count = 0;

  constructor(reader: Reader) {
    this.#reader = reader;
  }

  /** Names of the resources of `kind` whose view a whole revision touches, each once, in order of name. */
  names(kind: Kind, batch: Revision): Promise<readonly string[]> {
    const of = `${batch.rev} ${kind}`;
    const kept = this.#kept.get(of);
    if (kept !== undefined) return kept.names;
    const entry = { names: affected(this.#reader, kind, batch), count: 0 };
    this.#kept.set(of, entry);
    entry.names.then(
      (names) => {
        if (this.#kept.get(of) !== entry) return;
        entry.count = names.length;
        this.#count += entry.count;
        this.#trim();
      },
      () => this.#drop(of),
    );
    this.#trim();
    return entry.names;
  }

  #trim(): void {
    for (const [oldest] of this.#kept) {
      if (this.#kept.size <= KEPT_REVISIONS && this.#count <= KEPT_NAMES) break;
      this.#drop(oldest);
    }
  }

  #drop(of: string): void {
    this.#count -= this.#kept.get(of)?.count ?? 0;
    this.#kept.delete(of);
  }
}

/** Names of the resources of `kind` whose view a revision touches, each once, in order of name. */
async function affected(reader: Reader, kind: Kind, batch: Revision): Promise<readonly string[]> {
  const names = new Set<string>();
  for (const event of batch.events) {
    const text = keyText(event.kv.key);
    if (text.startsWith(kindPrefix(kind))) names.add(text.slice(kindPrefix(kind).length));
    else if (text.startsWith(prefixes.status))
      await addByUid(reader, kind, { uid: text.slice(prefixes.status.length), rev: batch.rev, names });
    else if (text.startsWith(prefixes.links))
      await addByLink(reader, kind, { event, rev: batch.rev, uid: text.slice(prefixes.links.length), names });
    else if (kind === "DataPlane" && text.startsWith(prefixes.credentials))
      await addByUid(reader, kind, { uid: text.slice(prefixes.credentials.length), rev: batch.rev, names });
    // A tenant that comes or goes changes the number that its data plane shows.
    else if (kind === "DataPlane" && text.startsWith(prefixes.placements))
      names.add(text.split("/").slice(1, 3).join("/"));
  }
  return [...names].sort();
}

async function addByUid(
  reader: Reader,
  kind: Kind,
  at: { uid: string; rev: Rev; names: Set<string> },
): Promise<void> {
  const kv = await reader.kv(uidKey(at.uid), at.rev);
  if (kv === undefined) return;
  const text = keyText(kv.value);
  if (text.startsWith(kindPrefix(kind))) at.names.add(text.slice(kindPrefix(kind).length));
}

/** A link changes its data plane's view; entering or leaving silence changes those of all that live in it. */
async function addByLink(
  reader: Reader,
  kind: Kind,
  at: { event: StoreEvent; rev: Rev; uid: string; names: Set<string> },
): Promise<void> {
  if (kind === "DataPlane") return addByUid(reader, kind, at);
  const before = at.event.prevRev === 0 ? undefined : await reader.kv(keyText(at.event.kv.key), at.rev - 1);
  const state = (value: Uint8Array | undefined) =>
    value === undefined || value.length === 0
      ? LinkState.UNSPECIFIED
      : fromBinary(StoredLinkSchema, value).state;
  if (
    (state(before?.value) === LinkState.SILENT) ===
    (state(at.event.type === "put" ? at.event.kv.value : undefined) === LinkState.SILENT)
  )
    return;
  const uid = await reader.kv(uidKey(at.uid), at.rev);
  if (uid === undefined) return;
  const dataPlane = keyText(uid.value).slice(prefixes.dataPlanes.length);
  const tenants = await reader.tenantsOf(dataPlane, at.rev);
  const parents = [dataPlane, ...tenants];
  if (kind === "Tenant") for (const name of tenants) at.names.add(name);
  else
    for (const parent of parents)
      for (const found of await reader.all(kind, at.rev, `${parent}/applications/`))
        at.names.add(found.value.name);
}
