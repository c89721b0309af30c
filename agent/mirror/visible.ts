import type { MirrorKind, MirrorRecord } from "./mirror.ts";

/** The records that the kinds see, by uid, kind and name: looked up for each write, whatever their number. */
export class Visible {
  readonly #byUid = new Map<string, MirrorRecord>();
  readonly #byKind = new Map<MirrorKind, Map<string, MirrorRecord>>();
  readonly #byName = new Map<string, Map<string, MirrorRecord>>();

  get(uid: string): MirrorRecord | undefined {
    return this.#byUid.get(uid);
  }

  list(kind: MirrorKind): MirrorRecord[] {
    return [...(this.#byKind.get(kind)?.values() ?? [])];
  }

  byName(name: string): MirrorRecord[] {
    return [...(this.#byName.get(name)?.values() ?? [])];
  }

  /** Shows `record`, or nothing of that uid. */
  set(uid: string, record: MirrorRecord | undefined): void {
    const old = this.#byUid.get(uid);
    if (old !== undefined && old.name !== record?.name) {
      const named = this.#byName.get(old.name);
      named?.delete(uid);
      if (named?.size === 0) this.#byName.delete(old.name);
    }
    if (old !== undefined && old.kind !== record?.kind) this.#byKind.get(old.kind)?.delete(uid);
    if (record === undefined) {
      this.#byUid.delete(uid);
      return;
    }
    this.#byUid.set(uid, record);
    put(this.#byKind, record.kind, record);
    put(this.#byName, record.name, record);
  }
}

function put<K>(into: Map<K, Map<string, MirrorRecord>>, key: K, record: MirrorRecord): void {
  const records = into.get(key) ?? new Map<string, MirrorRecord>();
  records.set(record.uid, record);
  into.set(key, records);
}
