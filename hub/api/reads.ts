/**
 * What the plan of a write reads. A plan is first made from memory, then, when that led to a refusal
 * or to a transaction whose compares failed, from the store: memory may be old, but all that a plan
 * has read is compared, so that no write rests on what is not so.
 */
import { fromBinary } from "@bufbuild/protobuf";
import type { BundleVersion } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import { BundleVersionSchema } from "@moorage/proto/moorage/hub/v1/bundle_pb";
import type { Tenant } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { prefixes, resourceKey } from "../core/keys.ts";
import { parseName } from "../core/names.ts";
import type { Resource } from "../core/resources.ts";
import { decode, kindOf } from "../core/resources.ts";
import { key } from "../store/bytes.ts";
import type { Compare, KV, Rev } from "../store/store.ts";
import type { Found, Reader } from "./reader.ts";

type Record_ = Resource | BundleVersion;

/** Records in memory by key, as of some revision; those least used go first. Nobody changes them. */
export class RecordMemory {
  readonly #maxBytes: number;
  readonly #entries = new Map<string, { found: Found<Record_>; bytes: number }>();
  #bytes = 0;

  /** `maxBytes`: of the records as they are encoded; decoded they take a few times that. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get(text: string): Found<Record_> | undefined {
    const entry = this.#entries.get(text);
    if (entry === undefined) return undefined;
    this.#entries.delete(text);
    this.#entries.set(text, entry);
    return entry.found;
  }

  /** Keeps a record unless a newer one is there. */
  put(text: string, found: Found<Record_>, bytes: number): void {
    const old = this.#entries.get(text);
    if (old !== undefined && old.found.modRev >= found.modRev) return;
    this.drop(text);
    this.#entries.set(text, { found, bytes });
    this.#bytes += bytes;
    for (const [oldest] of this.#entries) {
      if (this.#bytes <= this.#maxBytes) break;
      this.drop(oldest);
    }
  }

  drop(text: string): void {
    this.#bytes -= this.#entries.get(text)?.bytes ?? 0;
    this.#entries.delete(text);
  }
}

/** Reads for one try of one plan. */
export class Reads {
  readonly #reader: Reader;
  readonly #memory: RecordMemory;
  readonly #guessing: boolean;
  readonly #compares = new Map<string, Compare>();
  #guessed = false;

  /** `guessing`: from memory where it has the record. */
  constructor(deps: { reader: Reader; memory: RecordMemory; guessing: boolean }) {
    this.#reader = deps.reader;
    this.#memory = deps.memory;
    this.#guessing = deps.guessing;
  }

  /** Whether something was not read from the store. */
  get guessed(): boolean {
    return this.#guessed;
  }

  /** One for each key that was read. */
  compares(): Compare[] {
    return [...this.#compares.values()];
  }

  /** A data plane, tenant or application by name. */
  async resource(name: string): Promise<Found<Resource> | undefined> {
    const parsed = parseName(name);
    if (parsed === undefined) return undefined;
    const read = (kv: KV): Record_ => decode(parsed.kind, kv.value);
    return (await this.#find(resourceKey(parsed.kind, name), read)) as Found<Resource> | undefined;
  }

  /** As {@link resource}, of a name that is most likely free: memory alone is asked when guessing. */
  async taken(name: string): Promise<Found<Resource> | undefined> {
    const parsed = parseName(name);
    if (parsed === undefined || !this.#guessing) return this.resource(name);
    this.#guessed = true;
    const text = resourceKey(parsed.kind, name);
    const kept = this.#memory.get(text) as Found<Resource> | undefined;
    this.#compare(text, kept?.modRev ?? 0);
    return kept;
  }

  /** A published bundle version. */
  async bundle(name: string): Promise<Found<BundleVersion> | undefined> {
    const read = (kv: KV): Record_ => fromBinary(BundleVersionSchema, kv.value);
    return (await this.#find(prefixes.bundleVersions + name, read)) as Found<BundleVersion> | undefined;
  }

  /** The data plane that a tenant or an application lives in, by way of its tenant. */
  async placeOf(
    record: Resource,
  ): Promise<{ dataPlane: Found<Resource> | undefined; tenant: Found<Tenant> | undefined }> {
    const of = async (name: string) => ({ dataPlane: await this.resource(name), tenant: undefined });
    if (record.$typeName === "moorage.hub.v1.DataPlane") return of(record.name);
    if (record.$typeName === "moorage.hub.v1.Tenant") return of(record.spec?.dataPlane ?? "");
    const parent = parseName(record.name)?.parent ?? "";
    if (parent.startsWith("dataPlanes/")) return of(parent);
    const tenant = (await this.resource(parent)) as Found<Tenant> | undefined;
    if (tenant === undefined) return { dataPlane: undefined, tenant };
    return { dataPlane: await this.resource(tenant.value.spec?.dataPlane ?? ""), tenant };
  }

  /** Keeps a record that was committed at `rev`. */
  keep(record: Resource, at: { rev: Rev; bytes: number }): void {
    this.#memory.put(resourceKey(kindOf(record), record.name), { value: record, modRev: at.rev }, at.bytes);
  }

  async #find(text: string, read: (kv: KV) => Record_): Promise<Found<Record_> | undefined> {
    const kept = this.#guessing ? this.#memory.get(text) : undefined;
    if (kept !== undefined) {
      this.#guessed = true;
      this.#compare(text, kept.modRev);
      return kept;
    }
    const kv = await this.#reader.kv(text);
    this.#compare(text, kv?.modRev ?? 0);
    if (kv === undefined) {
      this.#memory.drop(text);
      return undefined;
    }
    const found = { value: read(kv), modRev: kv.modRev };
    this.#memory.put(text, found, kv.value.length);
    return found;
  }

  #compare(text: string, modRev: Rev): void {
    this.#compares.set(text, { key: key(text), target: "modRev", op: "=", to: modRev });
  }
}
