/**
 * View BASIC from bytes to bytes. Most resources show what is stored of them, less a few fields: these
 * are copied field by field, without the objects that decoding makes of all the others. Where the view
 * says more than a selection, views.ts alone makes it. Pure.
 */
import type { DescMessage } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { ResourceStatusSchema, VerdictSchema, Verdict_State } from "@moorage/proto/moorage/agent/v1/sync_pb";
import { ConditionSchema } from "@moorage/proto/moorage/common/v1/condition_pb";
import {
  AppliedBundleSchema,
  ApplicationSpecSchema,
  ApplicationStatusSchema,
} from "@moorage/proto/moorage/hub/v1/application_pb";
import { TenantSchema, TenantSpecSchema, TenantStatusSchema } from "@moorage/proto/moorage/hub/v1/tenant_pb";
import { StoredStatusSchema } from "@moorage/proto/moorage/internal/v1/record_pb";
import { basicConditions } from "./views.ts";

/** The kinds whose view rests on record, status and link alone. */
export type BasicKind = "Tenant" | "Application";

/** Numbers of the fields of a message. */
const numbers = <M extends DescMessage>(schema: M): { [F in keyof M["field"]]: number } =>
  Object.fromEntries(schema.fields.map((f) => [f.localName, f.number])) as never;

const record = numbers(TenantSchema);
const tenantSpec = numbers(TenantSpecSchema);
const tenantStatus = numbers(TenantStatusSchema);
const applicationSpec = numbers(ApplicationSpecSchema);
const applicationStatus = numbers(ApplicationStatusSchema);
const applied = numbers(AppliedBundleSchema);
const stored = numbers(StoredStatusSchema);
const reported = numbers(ResourceStatusSchema);
const verdict = numbers(VerdictSchema);
const conditionField = numbers(ConditionSchema);

/** Not shown, or written anew. */
const dropped: ReadonlySet<number> = new Set([
  record.annotations,
  record.status,
  record.reconciling,
  record.revision,
]);

/**
 * The fields of an encoded message, one after the other, as places in the bytes: a list has thousands of
 * resources, and an object for each field would cost more than all else.
 */
class Fields {
  readonly bytes: Buffer;
  readonly #end: number;
  #next: number;
  /** Number of the field. */
  no = 0;
  /** Where all of it begins; where its content begins, and where both end. */
  from = 0;
  start = 0;
  end = 0;
  /** Of a varint, above the safe integers where it is negative; 0 of any other. */
  value = 0;

  constructor(bytes: Buffer, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.#next = start;
    this.#end = end;
  }

  /** Goes to the next field; false when there is none. RangeError for what is no message. */
  next(): boolean {
    if (this.#next >= this.#end) return false;
    this.from = this.#next;
    const tag = this.#varint();
    this.no = Math.floor(tag / 8);
    this.value = 0;
    const type = tag % 8;
    let length = 0;
    if (type === WireType.Varint) this.value = this.#varint();
    else if (type === WireType.LengthDelimited) length = this.#varint();
    else if (type === WireType.Bit64) length = 8;
    else if (type === WireType.Bit32) length = 4;
    else throw new RangeError(`Read field ${this.no}: its wire type is ${type}`);
    this.start = this.#next;
    this.end = this.#next += length;
    if (this.end > this.#end) throw new RangeError(`Read field ${this.no}: it ends after its message`);
    return true;
  }

  /** The fields of the message that this field is. */
  inner(): Fields {
    return new Fields(this.bytes, this.start, this.end);
  }

  /** The content as text; names, uids and types of conditions are ASCII. */
  text(): string {
    return this.bytes.toString("latin1", this.start, this.end);
  }

  #varint(): number {
    let byte = this.bytes[this.#next++] as number;
    if (byte < 0x80) return byte;
    let value = byte - 0x80;
    for (let factor = 0x80; byte >= 0x80; factor *= 0x80) {
      byte = this.bytes[this.#next++] ?? 0;
      value += (byte % 0x80) * factor;
    }
    return value;
  }
}

/** Bytes as a Buffer over the same memory. */
const buffer = (b: Uint8Array): Buffer => Buffer.from(b.buffer, b.byteOffset, b.length);

/** Encodes the views of one record after the other, in the same room. */
export class BasicEncoder {
  /** Of the record that was read last. */
  uid = "";
  /** Name of the data plane or tenant that places it. */
  placedBy = "";
  readonly #kind: BasicKind;
  #generation = 0;
  #deleting = false;
  /** Its fields that view BASIC shows. */
  readonly #shown = new Bytes();
  readonly #status = new Bytes();
  readonly #part = new Bytes();
  readonly #view = new Bytes();

  constructor(kind: BasicKind) {
    this.#kind = kind;
  }

  /** Reads an encoded record. */
  read(bytes: Uint8Array): void {
    const shown = this.#shown.begin(bytes.length + HEADER_BYTES);
    this.uid = this.placedBy = "";
    this.#generation = 0;
    this.#deleting = false;
    const f = new Fields(buffer(bytes));
    while (f.next()) {
      if (dropped.has(f.no)) continue;
      if (f.no === record.uid) this.uid = f.text();
      else if (f.no === record.generation) this.#generation = f.value;
      else if (f.no === record.deleteTime) this.#deleting = true;
      else if (f.no === record.name && this.#kind === "Application")
        this.placedBy = f.text().split("/").slice(0, 2).join("/");
      else if (f.no === record.spec && this.#kind === "Tenant") {
        const spec = f.inner();
        while (spec.next()) if (spec.no === tenantSpec.dataPlane) this.placedBy = spec.text();
      } else if (f.no === record.spec) {
        const kept = this.#part.begin(f.end - f.start);
        const spec = f.inner();
        while (spec.next())
          if (spec.no !== applicationSpec.parameters) kept.copy(f.bytes, spec.from, spec.end);
        shown.nested(record.spec, kept);
        continue;
      }
      shown.copy(f.bytes, f.from, f.end);
    }
  }

  /**
   * The view of the record, whose data plane is not silent, with an encoded StoredStatus; `revision` is
   * that of the view. Undefined where the view is not what the agent said: decode, and ask views.ts.
   */
  view(status: Uint8Array, revision: number): Uint8Array | undefined {
    const tenant = this.#kind === "Tenant";
    const to = tenant ? tenantStatus : applicationStatus;
    const out = this.#status.begin(2 * status.length + HEADER_BYTES);
    const bundle = this.#part.begin(status.length);
    let ready: Condition | undefined;
    let reconciling = this.#deleting;
    let runs = false;
    const top = new Fields(buffer(status));
    while (top.next()) {
      if (top.no === stored.receivedTime) out.field(to.receivedTime, top);
      if (top.no !== stored.status) continue;
      const f = top.inner();
      while (f.next()) {
        if (f.value > Number.MAX_SAFE_INTEGER) return undefined;
        if (f.no === reported.observedGeneration) out.number(to.observedGeneration, f.value);
        else if (f.no === reported.verdict) {
          const said = f.inner();
          while (said.next())
            if (said.no === verdict.state && said.value === Verdict_State.REJECTED) return undefined;
        } else if (f.no === reported.conditions) {
          const condition = conditionOf(f);
          if (condition.type === "Ready") ready ??= condition;
          if (condition.type === "Reconciling" && condition.status === "True") reconciling = true;
          if (basicConditions.has(condition.type)) out.field(to.conditions, f);
        } else if (tenant && f.no === reported.namespaces) out.field(tenantStatus.namespaces, f);
        else if (f.no === reported.appliedVersion) bundle.field(applied.version, f);
        else if (f.no === reported.appliedGeneration) bundle.number(applied.generation, f.value);
        else if (f.no === reported.appliedDigest) {
          runs = f.end > f.start;
          bundle.field(applied.digest, f);
        }
      }
    }
    // Without one, or with one of an older generation, the view has a word of its own.
    if (ready === undefined || ready.generation > Number.MAX_SAFE_INTEGER) return undefined;
    const behind = ready.generation < this.#generation;
    if (behind && ready.status === "True") return undefined;
    if (!tenant && runs) out.nested(applicationStatus.applied, bundle);
    const whole = this.#view.begin(this.#shown.length + out.length + 3 * HEADER_BYTES);
    whole.append(this.#shown).nested(record.status, out);
    if (reconciling || behind) whole.number(record.reconciling, 1);
    return whole.number(record.revision, revision).done();
  }
}

interface Condition {
  type: string;
  status: string;
  generation: number;
}

function conditionOf(of: Fields): Condition {
  const out = { type: "", status: "", generation: 0 };
  const f = of.inner();
  while (f.next()) {
    if (f.no === conditionField.type) out.type = f.text();
    else if (f.no === conditionField.status) out.status = f.text();
    else if (f.no === conditionField.observedGeneration) out.generation = f.value;
  }
  return out;
}

/** A tag and a length, or a tag and a number below 2^53, in bytes at most. */
export const HEADER_BYTES = 16;

/** Encoded fields, written into room that is said beforehand to suffice. */
export class Bytes {
  #room = Buffer.alloc(0);
  length = 0;

  /** Begins anew. */
  begin(room: number): this {
    if (this.#room.length < room) this.#room = Buffer.allocUnsafeSlow(2 * room);
    this.length = 0;
    return this;
  }

  /** A part of other bytes. */
  copy(from: Buffer, start: number, end: number): this {
    this.length += from.copy(this.#room, this.length, start, end);
    return this;
  }

  /** All that was written there. */
  append(other: Bytes): this {
    return this.copy(other.#room, 0, other.length);
  }

  /** The content of a length-delimited field, under another number. */
  field(no: number, of: Fields): this {
    return this.#header(no, of.end - of.start).copy(of.bytes, of.start, of.end);
  }

  /** A message. */
  nested(no: number, content: Bytes): this {
    return this.#header(no, content.length).append(content);
  }

  /** A message, encoded. */
  message(no: number, content: Uint8Array): this {
    return this.#header(no, content.length).raw(content);
  }

  /** Bytes as they are. */
  raw(bytes: Uint8Array): this {
    this.#room.set(bytes, this.length);
    this.length += bytes.length;
    return this;
  }

  /** A field of a whole number, 0 or above. */
  number(no: number, value: number): this {
    this.#varint(no * 8 + WireType.Varint);
    this.#varint(value);
    return this;
  }

  /** A copy of what was written. Small ones share a block: memory of its own costs each of them more. */
  done(): Uint8Array {
    const out = Buffer.allocUnsafe(this.length);
    this.#room.copy(out, 0, 0, this.length);
    return out;
  }

  #header(no: number, length: number): this {
    this.#varint(no * 8 + WireType.LengthDelimited);
    this.#varint(length);
    return this;
  }

  #varint(value: number): void {
    let rest = value;
    for (; rest > 0x7f; rest = Math.floor(rest / 0x80)) this.#room[this.length++] = (rest % 0x80) + 0x80;
    this.#room[this.length++] = rest;
  }
}
