import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { Code, MoorageError } from "../errors.ts";

/**
 * Counts the elements of an encoded message before it is decoded. Decoding costs by element, not by
 * byte: 4 MiB of empty sub-messages would hold up the process for a second, although its size is
 * legal. An element is a field as encoded, known or not, at any depth, and each value of a packed
 * list. The scan follows the descriptor, so that `bytes` and strings are never read as messages;
 * nothing is allocated.
 */

/** What a message may hold. */
export interface ElementLimits {
  /** Elements at most, at all depths together. */
  elements: number;
  /** Messages within messages at most. */
  depth: number;
}

/** How the bytes of a length-delimited field are read. */
const OPAQUE = 0;
const MESSAGE = 1;
const VARINTS = 2;
const FIXED32 = 3;
const FIXED64 = 4;

interface FieldPlan {
  readonly read: number;
  /** Of a message or a map entry; made when first met, since messages may nest in themselves. */
  readonly sub: (() => MessagePlan) | undefined;
  /** 1 for a message, 0 for a map entry, which the decoder does not count as nesting either. */
  readonly nests: number;
}

type MessagePlan = ReadonlyMap<number, FieldPlan>;

const opaque: FieldPlan = { read: OPAQUE, sub: undefined, nests: 0 };
const none: MessagePlan = new Map();
const plans = new WeakMap<DescMessage, MessagePlan>();

function planOf(schema: DescMessage): MessagePlan {
  const known = plans.get(schema);
  if (known !== undefined) return known;
  const plan = new Map<number, FieldPlan>();
  plans.set(schema, plan);
  // Fields that are one opaque element are the ones that the table does not have.
  for (const field of schema.fields) {
    const made = fieldPlan(field);
    if (made !== opaque) plan.set(field.number, made);
  }
  return plan;
}

function fieldPlan(field: DescField): FieldPlan {
  switch (field.fieldKind) {
    case "message":
      return messagePlan(field.message);
    case "list":
      if (field.listKind === "message") return messagePlan(field.message);
      return { ...opaque, read: field.listKind === "enum" ? VARINTS : packing(field.scalar) };
    case "map": {
      const value = field.mapKind === "message" ? messagePlan(field.message) : undefined;
      const entry: MessagePlan = value === undefined ? none : new Map([[2, value]]);
      return { read: MESSAGE, sub: () => entry, nests: 0 };
    }
    default:
      return opaque;
  }
}

function messagePlan(message: DescMessage): FieldPlan {
  return { read: MESSAGE, sub: () => planOf(message), nests: 1 };
}

function packing(type: ScalarType): number {
  switch (type) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return OPAQUE;
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
    case ScalarType.FLOAT:
      return FIXED32;
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
    case ScalarType.DOUBLE:
      return FIXED64;
    default:
      return VARINTS;
  }
}

/**
 * The number of elements of `data`, an encoded `schema`. Errors: RESOURCE_EXHAUSTED
 * `MESSAGE_ELEMENTS` or `MESSAGE_DEPTH` as soon as a limit is passed, INVALID_ARGUMENT
 * `MALFORMED_MESSAGE` for bytes that are no message.
 */
export function scanElements(schema: DescMessage, data: Uint8Array, limits: ElementLimits): number {
  const scan = new Scan(schema, data, limits);
  scan.message(planOf(schema), { end: data.length, depth: 1, group: 0 });
  return scan.count;
}

class Scan {
  count = 0;
  #at = 0;
  readonly #schema: DescMessage;
  readonly #data: Uint8Array;
  readonly #limits: ElementLimits;

  constructor(schema: DescMessage, data: Uint8Array, limits: ElementLimits) {
    this.#schema = schema;
    this.#data = data;
    this.#limits = limits;
  }

  /** Reads fields up to `end`, or up to the end of group number `group`. */
  message(plan: MessagePlan, on: { end: number; depth: number; group: number }): void {
    const { end, depth, group } = on;
    if (depth > this.#limits.depth) throw this.#tooDeep();
    while (this.#at < end) {
      const tag = this.#varint(end);
      const number = tag >>> 3;
      if (number === 0) throw this.#malformed("field number 0");
      if ((tag & 7) === 4) {
        if (number !== group) throw this.#malformed("a group ends that did not begin");
        return;
      }
      this.#add(1);
      switch (tag & 7) {
        case 0:
          this.#varint(end);
          break;
        case 1:
          this.#skip(8, end);
          break;
        case 2:
          this.#delimited(plan.get(number) ?? opaque, end, depth);
          break;
        case 3:
          this.message(none, { end, depth: depth + 1, group: number });
          break;
        case 5:
          this.#skip(4, end);
          break;
        default:
          throw this.#malformed("unknown wire type");
      }
    }
    if (group !== 0) throw this.#malformed("a group does not end");
  }

  #delimited(field: FieldPlan, end: number, depth: number): void {
    const length = this.#varint(end);
    const stop = this.#at + length;
    if (stop > end) throw this.#malformed("a field is longer than its message");
    switch (field.read) {
      case MESSAGE:
        this.message((field.sub as () => MessagePlan)(), { end: stop, depth: depth + field.nests, group: 0 });
        break;
      case VARINTS: {
        // A varint ends at its first byte without the high bit.
        let values = 0;
        for (let i = this.#at; i < stop; i++) if ((this.#data[i] as number) < 0x80) values += 1;
        this.#add(values);
        break;
      }
      case FIXED32:
        this.#add(length >>> 2);
        break;
      case FIXED64:
        this.#add(length >>> 3);
        break;
    }
    this.#at = stop;
  }

  /** An unsigned varint; only its low 32 bits count, as for tags and lengths. */
  #varint(end: number): number {
    const data = this.#data;
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#at >= end) break;
      const byte = data[this.#at++] as number;
      if (shift < 32) value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
    throw this.#malformed("a varint does not end");
  }

  #skip(bytes: number, end: number): void {
    this.#at += bytes;
    if (this.#at > end) throw this.#malformed("a field is longer than its message");
  }

  #add(elements: number): void {
    this.count += elements;
    if (this.count <= this.#limits.elements) return;
    throw new MoorageError(
      Code.RESOURCE_EXHAUSTED,
      `Cannot read a message of "${this.#schema.typeName}": it has ${this.count} elements or more, the limit is ${this.#limits.elements}`,
      {
        reason: "MESSAGE_ELEMENTS",
        metadata: { limit: String(this.#limits.elements), elements: String(this.count) },
      },
    );
  }

  #tooDeep(): MoorageError {
    return new MoorageError(
      Code.RESOURCE_EXHAUSTED,
      `Cannot read a message of "${this.#schema.typeName}": it nests deeper than ${this.#limits.depth} levels`,
      { reason: "MESSAGE_DEPTH", metadata: { limit: String(this.#limits.depth) } },
    );
  }

  #malformed(why: string): MoorageError {
    return malformed(this.#schema, why);
  }
}

/** INVALID_ARGUMENT `MALFORMED_MESSAGE`: the bytes are no message of this type. */
export function malformed(schema: DescMessage, why: string, cause?: unknown): MoorageError {
  return new MoorageError(
    Code.INVALID_ARGUMENT,
    `Cannot read a message of "${schema.typeName}": malformed, ${why}`,
    {
      reason: "MALFORMED_MESSAGE",
      cause,
    },
  );
}
